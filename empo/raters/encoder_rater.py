"""A trained PairClassifier as a rater: batches by length, order restored, exact probabilities."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from empo.raters.classifier import PairClassifier
from empo.raters.encoders import load_saved_tokenizer, positions
from empo.raters.folder import (
    RATER_CONFIG,
    RaterConfig,
    attest,
    require_tokenizer,
    weights_digest,
)
from empo.raters.inputs import InputSettings, PairTokenizer, Row
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError, listed, make_readable, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND = "pair_classifier"
BARLESS = 1024
"""Inputs without a progress bar of their own: a chunk of a call that shows one."""


class EncoderRater:
    """Levels of every dimension by argmax, with the probabilities of all levels.

    A blank response, or one that does not fit into the encoder, gets NaN. Nothing is allocated on a
    device before the first score.
    """

    def __init__(
        self,
        model: PairClassifier,
        tokenizer: PreTrainedTokenizerBase,
        config: RaterConfig,
        *,
        weights: str,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.dimensions = config.dimensions
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.inputs = PairTokenizer(
            tokenizer,
            model.config.architecture,
            InputSettings(**config.settings["inputs"]),
            positions(model.encoder.config, tokenizer),
        )
        self.warnings = config.warnings(weights)
        self.signature = config.signature(weights)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order; the batch size changes nothing but the speed."""
        rows = self.inputs.rows(pairs)
        places = [i for i, row in enumerate(rows) if row is not None]
        places.sort(key=lambda i: rows[i].length)
        logits = np.full((len(rows), sum(self.model.config.classes)), np.nan)
        self.model.to(self.device).eval()
        small = len(places) <= BARLESS
        bar = tqdm(total=len(places), desc="rating", unit="input", delay=2, disable=small)
        with torch.inference_mode(), bar:
            if self.model.config.architecture == "bi_encoder":
                logits[places] = self._side_by_side([rows[i] for i in places], batch_size, bar)
            else:
                for chunk in chunks(places, batch_size):
                    batch = self.inputs.batch([rows[i] for i in chunk])
                    output = self.model(**{k: v.to(self.device) for k, v in batch.items()})
                    logits[chunk] = output.logits.float().cpu().numpy()
                    bar.update(len(chunk))
        edges = np.cumsum([0, *self.model.config.classes])
        parts = [logits[:, low:high] for low, high in itertools.pairwise(edges)]
        return level_ratings(
            self.dimensions,
            parts,
            self.signature,
            warnings=self.warnings,
            truncated=[row is not None and row.truncated for row in rows],
            response_truncated=[row is not None and row.response_truncated for row in rows],
        )

    def _side_by_side(self, rows: Sequence[Row], batch_size: int, bar: tqdm) -> np.ndarray:
        """Logits of a bi-encoder, every distinct text embedded once."""
        texts = {tuple(ids) for row in rows for ids in (row.ids, row.context_ids)}
        ordered = sorted(texts, key=lambda ids: (len(ids), ids))
        vectors: dict[tuple[int, ...], torch.Tensor] = {}
        for chunk in chunks(ordered, batch_size):
            ids, mask = self.inputs.single(chunk)
            embedded = self.model.embed(ids.to(self.device), mask.to(self.device))
            vectors |= zip(chunk, embedded, strict=True)
        found = []
        for chunk in chunks(rows, 1024):
            sides = [
                torch.stack([vectors[tuple(ids)] for ids in texts])
                for texts in zip(*((row.context_ids, row.ids) for row in chunk), strict=True)
            ]
            found.append(self.model.classify(torch.cat(sides, dim=-1)).float().cpu().numpy())
            bar.update(len(chunk))
        return np.concatenate(found) if found else np.empty((0, sum(self.model.config.classes)))

    def save(self, folder: str | Path, evidence: dict[str, Any] | None = None) -> None:
        """Write weights, tokenizer and, last, rater_config.json.

        `evidence` is that of `RaterConfig` without the digests, which are added here.
        """
        folder = Path(folder)
        (folder / RATER_CONFIG).unlink(missing_ok=True)  # there again only when all is written
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        make_readable(folder)
        dataclasses.replace(self.config, evidence=None).write(folder)
        if evidence is not None:
            attest(folder, evidence)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> EncoderRater:
        """The rater of a folder; see `PairClassifier.load` for what is refused.

        Raises UserError, too, where the tokenizer is missing or would need code of its own, or the
        settings of the inputs are wrong.
        """
        config = RaterConfig.read(folder)
        check_inputs(folder, config)
        require_tokenizer(folder)
        weights = weights_digest(folder)
        model = PairClassifier.load(folder)
        classes = [len(dimension.levels or ()) for dimension in config.dimensions]
        if classes != model.config.classes:
            raise UserError(
                f"{folder}: the heads have {model.config.classes} levels, but the dimensions in "
                f"rater_config.json have {classes}. These files do not belong together."
            )
        tokenizer = load_saved_tokenizer(folder)
        return cls(model, tokenizer, config, weights=weights, device=device)


def rater_config(
    name: str, dimensions: Sequence[Dimension], inputs: InputSettings, **settings: Any
) -> RaterConfig:
    """The config of an encoder rater without evidence; `settings` are kept as they are."""
    kept = {"inputs": dataclasses.asdict(inputs), **settings}
    return RaterConfig(KIND, name, tuple(dimensions), kept)


def level_ratings(
    dimensions: Sequence[Dimension], logits: Sequence[np.ndarray], signature: str, **others: Any
) -> Ratings:
    """Ratings by argmax of the logits, (n, levels) per dimension, NaN where there are none.

    `others` are `warnings` and flags of `Ratings.of`.
    """
    scores, probabilities = [], []
    for dimension, part in zip(dimensions, logits, strict=True):
        powers = np.exp(part - part.max(axis=1, keepdims=True))
        probabilities.append(powers / powers.sum(axis=1, keepdims=True))
        level = np.array(dimension.levels)[np.argmax(np.nan_to_num(part), axis=1)]
        scores.append(np.where(np.isfinite(part).all(axis=1), level, np.nan))
    n = len(logits[0])
    found = np.stack(scores, axis=1) if n else np.empty((0, len(dimensions)))
    return Ratings.of(dimensions, found, signature, probabilities=probabilities, **others)


def check_inputs(folder: str | Path, config: RaterConfig) -> None:
    """Raise UserError where the settings of the inputs in rater_config.json are wrong."""
    where = f"{Path(folder) / RATER_CONFIG}, settings, inputs"
    inputs = config.settings.get("inputs")
    if not isinstance(inputs, dict):
        raise UserError(f"{where}: an object is expected, not {shown(inputs)}.")
    known = [field.name for field in dataclasses.fields(InputSettings)]
    if unknown := sorted(inputs.keys() - set(known)):
        raise UserError(f"{where}: {listed(unknown)} is unknown; known are {', '.join(known)}.")
    try:
        TypeAdapter(InputSettings).validate_json(json.dumps(inputs), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}, {first['loc'][0]}: {first['msg']}, not {shown(first['input'])}."
        ) from None


def chunks(items: Sequence[Any], size: int) -> Iterator[Any]:
    """The items in parts of `size`."""
    return (items[k : k + size] for k in range(0, len(items), size))
