"""A rater from its folder, whatever kind it is; several folders as one rater."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from empo.raters.folder import JOINED, RATER_CONFIG, RaterConfig, weights_digest
from empo.rating import Rater, RatingInput, Ratings
from empo.records import UserError


def load_rater(name: str | Path, device: str | None = None, scale: str | None = None) -> Rater:
    """The rater in a folder that recipes/rater.py wrote; its warnings are in every rating.

    `scale` takes a plain encoder instead (a preset, a sentence-transformers folder or a hub id) and
    rates the similarity of two texts with it, untrained. Raises UserError where the folder holds no
    rater, its files do not belong together, weights are pickled, or the device is not there.
    """
    _require_device(device)
    if scale is not None and not (Path(name) / RATER_CONFIG).is_file():
        from empo.raters.similarity import EmbeddingRater

        return EmbeddingRater.zero_shot(str(name), scale=scale, device=device)
    config = RaterConfig.read(name)
    if config.kind == JOINED:
        from empo.raters.combined import JoinedRater

        return JoinedRater(
            [load_rater(Path(name) / member, device) for member in config.settings["members"]]
        )
    if config.kind == "pair_classifier":
        from empo.raters.encoder_rater import EncoderRater

        return EncoderRater.load(name, device)
    if config.kind in ("embedding", "cross_encoder"):
        from empo.raters.similarity import CrossEncoderRater, EmbeddingRater

        kinds = {"embedding": EmbeddingRater, "cross_encoder": CrossEncoderRater}
        return kinds[config.kind].load(name, device)
    if config.kind == "seq2seq":
        from empo.raters.seq2seq_rater import Seq2SeqRater

        return Seq2SeqRater.load(name, device)
    if config.kind == "scoring_lm":
        from empo.raters.scoring_lm import ScoringLM

        return ScoringLM.load(name, device)
    if config.kind == "calibrated":
        from empo.raters.calibrated import CalibratedRater

        return CalibratedRater.load(name, device)
    if config.kind == "prompt":
        from empo.raters.prompt_rater import PromptRater

        return PromptRater.load(name, device)
    raise UserError(f"{name}: {config.kind!r} is no kind of rater that this version knows.")


class LazyRater:
    """A rater folder whose weights are loaded when something has to be scored, and not before.

    A cache in front of it answers without loading a framework at all.
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        self.folder = Path(folder)
        self.device = device
        config = RaterConfig.read(folder)
        weights = weights_digest(folder)
        self.dimensions = config.dimensions
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)
        self._loaded: Rater | None = None

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        if self._loaded is None:
            self._loaded = load_rater(self.folder, self.device)
        return self._loaded.score(pairs, batch_size=batch_size)


def lazy_rater(folder: str | Path, device: str | None = None) -> Rater:
    """The rater of a folder, loaded at its first score; see `load_rater` for what is refused."""
    config = RaterConfig.read(folder)
    if config.kind != JOINED:
        return LazyRater(folder, device)
    from empo.raters.combined import JoinedRater

    return JoinedRater(
        [lazy_rater(Path(folder) / member, device) for member in config.settings["members"]]
    )


def load_raters(folders: Sequence[str], device: str | None = None) -> Rater:
    """One rater from one or more folders.

    Raters of the same dimensions become their ensemble, raters of different ones stand side by side.
    """
    raters = [lazy_rater(folder, device) for folder in folders]
    if len(raters) == 1:
        return raters[0]
    from empo.raters.combined import EnsembleRater, JoinedRater

    if all(rater.dimensions == raters[0].dimensions for rater in raters):
        return EnsembleRater(raters)
    return JoinedRater(raters)


def _require_device(device: str | None) -> None:
    """Raise UserError for a device that torch does not know or this machine does not have."""
    if device is None:
        return
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UserError(
            f"device {device!r}: torch knows no such device ({str(error).splitlines()[0]})."
        ) from None
    found = torch.accelerator.current_accelerator(check_available=True)
    kinds = ["cpu"] if found is None else ["cpu", found.type]
    number = torch.accelerator.device_count() if wanted.type != "cpu" else 1
    if wanted.type not in kinds or (wanted.index or 0) >= number:
        raise UserError(
            f"device {device!r}: there is no such device here. There is: {', '.join(kinds)}."
        )
