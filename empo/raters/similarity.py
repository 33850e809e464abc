"""Raters on sentence-transformers: the cosine of two texts, and one encoder that reads both.

Both read the last turn of the context and the response; for a pair of stories these are the two
stories. Scores are never clipped: a dimension's range is what its rater can return.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.special import expit, softmax

from empo.raters.encoders import (
    encoder_identity,
    load_cross_encoder,
    load_embedder,
    require_head,
    resolve_encoder,
)
from empo.raters.fitting import fit_pair, token_counts
from empo.raters.folder import (
    RATER_CONFIG,
    UNSAVED,
    RaterConfig,
    require_tokenizer,
    weights_digest,
)
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError, make_readable

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

logger = logging.getLogger(__name__)

EMBEDDING = "embedding"
CROSS_ENCODER = "cross_encoder"
_SETTINGS: dict[str, dict[str, tuple[type, ...]]] = {
    EMBEDDING: {"max_length": (int,), "scale": (str,)},
    CROSS_ENCODER: {
        "max_length": (int,),
        "response_max_length": (int, type(None)),
        "symmetric": (bool,),
    },
}
"""What the scores of a kind need of `settings`, and of which types."""

Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True)
class ScoreScale:
    """How a cosine becomes a score: score = intercept + slope · cos.

    Thresholded scores depend on the scale, so its name is saved with the model. `low` and `high`
    are the scores of the cosines -1 and 1: wider than the labels, because a cosine can be negative.
    """

    name: str
    slope: float
    intercept: float

    @property
    def low(self) -> float:
        """The score of two opposite texts."""
        return self.intercept - self.slope

    @property
    def high(self) -> float:
        """The score of two equal texts."""
        return self.intercept + self.slope

    def score(self, cosine: Number) -> Number:
        """The score of a cosine in -1..1."""
        return self.intercept + self.slope * cosine

    def cosine(self, score: Number) -> Number:
        """The cosine of a score; of a label it is the target in training."""
        return (score - self.intercept) / self.slope

    def dimension(self, name: str) -> Dimension:
        """What a score on this scale means, under the name of the label it was trained on."""
        return Dimension(name, self.low, self.high, "interval")

    @classmethod
    def of(cls, name: str) -> ScoreScale:
        """The scale of a name. Raises UserError naming the scales there are."""
        if name not in SCALES:
            raise UserError(f"{name}: no such score scale; there are {', '.join(SCALES)}.")
        return SCALES[name]


SCALES = {
    scale.name: scale
    for scale in (
        ScoreScale("affine", 3.0, 1.0),
        ScoreScale("times4", 4.0, 0.0),
        ScoreScale("unit", 1.0, 0.0),
    )
}
"""affine: 1 + 3 cos for labels 1 to 4; times4: 4 cos, same labels; unit: cos for labels 0 to 1."""


class EmbeddingRater:
    """The cosine of the embeddings of two texts, on a named scale; symmetric in the two.

    One dimension of the scale's whole range. `config.settings` holds `scale` and `max_length`. A
    text longer than `max_length` tokens is cut on the right and flagged, whichever of the two it
    is. NaN where a text is blank.
    """

    def __init__(
        self, model: SentenceTransformer, config: RaterConfig, weights: str = UNSAVED
    ) -> None:
        self.scale = ScoreScale.of(config.settings["scale"])
        if len(config.dimensions) != 1 or config.dimensions != (
            self.scale.dimension(config.dimensions[0].name),
        ):
            raise UserError(
                f"rater {config.name}: on the scale {self.scale.name!r} it has one dimension from "
                f"{self.scale.low:g} to {self.scale.high:g}, but its config says "
                f"{[dimension.facts() for dimension in config.dimensions]}."
            )
        self.model = model
        self.config = config
        self.dimensions = config.dimensions
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)

    @classmethod
    def of(
        cls,
        model: SentenceTransformer,
        *,
        name: str,
        dimension: str,
        scale: ScoreScale,
        settings: Mapping[str, Any] | None = None,
    ) -> EmbeddingRater:
        """The rater of a model that is not saved yet; `settings` are kept in its config."""
        kept = {**(settings or {}), "scale": scale.name, "max_length": model.max_seq_length}
        return cls(model, RaterConfig(EMBEDDING, name, (scale.dimension(dimension),), kept))

    @classmethod
    def zero_shot(
        cls,
        encoder: str = "minilm",
        *,
        scale: str = "affine",
        dimension: str = "similarity",
        max_length: int | None = 512,
        device: str | None = None,
    ) -> EmbeddingRater:
        """An encoder as it was published, as a rater.

        It knows no aspect of similarity, so it has one dimension, to be compared with every label.
        """
        path, shown = resolve_encoder(encoder)
        model = load_embedder(path, max_length=max_length, device=device)
        named = ScoreScale.of(scale)
        settings = {"scale": scale, "max_length": model.max_seq_length}
        config = RaterConfig(EMBEDDING, shown, (named.dimension(dimension),), settings)
        return cls(model, config, encoder_identity(path))

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order; every distinct text is embedded once."""
        first = [pair.prompt for pair in pairs]
        second = [pair.response for pair in pairs]
        texts = list(dict.fromkeys(text for text in [*first, *second] if text.strip()))
        place = {text: i for i, text in enumerate(texts)}
        cosines = np.full(len(pairs), np.nan)
        if texts:
            vectors = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)
            vectors = vectors.astype(np.float64)
            with np.errstate(invalid="ignore"):  # a vector of zeros has no direction: NaN
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            for i, (a, b) in enumerate(zip(first, second, strict=True)):
                if a in place and b in place:
                    cosines[i] = vectors[place[a]] @ vectors[place[b]]
        lengths = token_counts(self.model.tokenizer, texts)
        cut = {t for t, n in zip(texts, lengths, strict=True) if n > self.model.max_seq_length}
        return Ratings.of(
            self.dimensions,
            self.scale.score(cosines),
            self.signature,
            warnings=self.warnings,
            truncated=[text in cut for text in first],
            response_truncated=[text in cut for text in second],
        )

    def save(self, folder: str | Path) -> str:
        """Write the model and, last, rater_config.json; return the digest of the weights."""
        return _save(self.model, self.config, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> EmbeddingRater:
        """The rater that `save` wrote. Raises UserError where the folder holds another kind."""
        config = _read(folder, EMBEDDING)
        weights = weights_digest(folder)
        model = load_embedder(str(folder), max_length=config.settings["max_length"], device=device)
        return cls(model, config, weights)


class CrossEncoderRater:
    """One encoder over both texts, with one output or one head of classes.

    One output: its sigmoid, stretched over the dimension's range. A head of classes (dimensions
    with levels): the level of the largest probability, and the probabilities. `config.settings`
    holds `max_length`, the tokens of both texts with special tokens, `response_max_length` (None: a
    response is never cut) and `symmetric`. What does not fit is cut from the left of the context; a
    response that leaves no room gets no score. Of two alike texts (`symmetric`) both are cut on the right, the longer one
    first. NaN where a text is blank.
    """

    def __init__(self, model: CrossEncoder, config: RaterConfig, weights: str = UNSAVED) -> None:
        (dimension,) = config.dimensions
        outputs = 1 if dimension.levels is None else len(dimension.levels)
        if model.num_labels != outputs:
            raise UserError(
                f"rater {config.name}: the model has {model.num_labels} outputs, but the dimension "
                f"{dimension.name!r} needs {outputs}. The head and rater_config.json do not belong "
                "together."
            )
        self.model = model
        self.config = config
        self.dimensions = config.dimensions
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)

    @classmethod
    def of(
        cls,
        model: CrossEncoder,
        *,
        name: str,
        dimension: Dimension,
        symmetric: bool = False,
        response_max_length: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> CrossEncoderRater:
        """The rater of a model that is not saved yet; with one output the levels do not matter."""
        if model.num_labels == 1:
            dimension = dataclasses.replace(dimension, kind="interval", levels=None)
        kept = {**(settings or {}), "max_length": model.max_seq_length, "symmetric": symmetric}
        kept["response_max_length"] = response_max_length
        return cls(model, RaterConfig(CROSS_ENCODER, name, (dimension,), kept))

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        from torch import nn

        (dimension,) = self.dimensions
        fitted = [
            fit_pair(
                self.model.tokenizer,
                pair.prompt,
                pair.response,
                self.model.max_seq_length,
                symmetric=self.config.settings["symmetric"],
                response_max_length=self.config.settings["response_max_length"],
            )
            for pair in pairs
        ]
        places = [i for i, pair in enumerate(fitted) if pair is not None]
        long = sum(bool(p.prompt.strip() and p.response.strip()) for p in pairs) - len(places)
        if long:
            logger.warning(
                "%d of %d responses leave no room for their context in %d tokens: no score",
                long,
                len(pairs),
                self.model.max_seq_length,
            )
        logits = np.full((len(pairs), self.model.num_labels), np.nan)
        if places:
            found = self.model.predict(
                [(fitted[i].context, fitted[i].response) for i in places],
                batch_size=batch_size,
                activation_fn=nn.Identity(),
                show_progress_bar=False,
            )
            logits[places] = found.reshape(len(places), -1)
        probabilities = None
        if dimension.levels is None:
            scores = dimension.low + (dimension.high - dimension.low) * expit(logits[:, 0])
        else:
            probabilities = [softmax(logits, axis=1)]
            level = np.array(dimension.levels)[np.argmax(logits, axis=1)]
            scores = np.where(np.isfinite(logits).all(axis=1), level, np.nan)
        return Ratings.of(
            self.dimensions,
            scores,
            self.signature,
            probabilities=probabilities,
            warnings=self.warnings,
            truncated=[pair is not None and pair.context_cut for pair in fitted],
            response_truncated=[pair is not None and pair.response_cut for pair in fitted],
        )

    def save(self, folder: str | Path) -> str:
        """Write the model and, last, rater_config.json; return the digest of the weights."""
        return _save(self.model, self.config, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> CrossEncoderRater:
        """The rater that `save` wrote.

        Raises UserError where the folder holds another kind, or a head that is not the one saved.
        """
        config = _read(folder, CROSS_ENCODER)
        weights = weights_digest(folder)
        model = load_cross_encoder(
            str(folder), max_length=config.settings["max_length"], device=device
        )
        require_head(model, folder)
        return cls(model, config, weights)


def _save(model: Any, config: RaterConfig, folder: Path) -> str:
    """Evidence belongs to the weights it was found with, so a saved rater begins without any."""
    (folder / RATER_CONFIG).unlink(missing_ok=True)  # there again only when all is written
    model.save_pretrained(str(folder), create_model_card=False)
    make_readable(folder)
    dataclasses.replace(config, evidence=None).write(folder)
    return weights_digest(folder)


def _read(folder: str | Path, kind: str) -> RaterConfig:
    config = RaterConfig.read(folder)
    if config.kind != kind:
        raise UserError(f"{folder}: this is a rater of the kind {config.kind!r}, not {kind!r}.")
    path = Path(folder) / RATER_CONFIG
    if len(config.dimensions) != 1:
        names = ", ".join(dimension.name for dimension in config.dimensions)
        raise UserError(f"{path}, dimensions: this kind has one, but there are {names}.")
    if missing := sorted(_SETTINGS[kind].keys() - config.settings.keys()):
        raise UserError(f"{path}: settings lacks {', '.join(missing)}.")
    for name, expected in _SETTINGS[kind].items():
        value = config.settings[name]
        if type(value) not in expected:  # true is an int, but no length
            kinds = " or ".join("null" if t is type(None) else t.__name__ for t in expected)
            raise UserError(f"{path}, settings, {name}: {kinds} is expected, not {value!r}.")
    require_tokenizer(folder)
    return config
