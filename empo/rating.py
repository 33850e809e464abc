"""What a rater is: pairs of a context and a response in, scores in named dimensions out.

Everything that judges text has this one shape: a trained encoder, a language model, a user's own
function. Evaluation, comparison, rewards, reranking and DIFF-EPITOME are functions over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np

from empo.dialogues import Turn
from empo.records import UserError, shown

MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
"""The three mechanisms of EPITOME (Sharma et al. 2020), each 0 none, 1 weak, 2 strong."""

Kind = Literal["ordinal", "interval", "binary"]
"""Levels in an order, any value of a range, or yes and no."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """What one score means: its name, native range, kind, and the label table if it has one.

    `levels` are the values a label can take, ascending, in native units; None where any value of
    the range can occur.
    """

    name: str
    low: float
    high: float
    kind: Kind
    levels: tuple[float, ...] | None = None

    def facts(self) -> dict[str, Any]:
        """The dimension as JSON."""
        return {
            "name": self.name,
            "low": self.low,
            "high": self.high,
            "kind": self.kind,
            "levels": None if self.levels is None else list(self.levels),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Dimension:
        """The dimension that `facts` describes; the inverse of `facts()`.

        Raises KeyError, TypeError or ValueError where they describe none.
        """
        levels = facts["levels"]
        found = cls(
            facts["name"],
            float(facts["low"]),
            float(facts["high"]),
            facts["kind"],
            None if levels is None else tuple(map(float, levels)),
        )
        if not isinstance(found.name, str) or found.kind not in get_args(Kind):
            raise ValueError(f"no dimension: name {shown(found.name)}, kind {shown(found.kind)}")
        return found


@dataclass(frozen=True, slots=True)
class RatingInput:
    """One thing to rate: a response to a context, and optionally the turns after it.

    `context` is a text or the turns before the response, the last of which it answers. For a
    symmetric rater (story pairs) `context` and `response` are the two texts. `background` is what
    all of it is about (a news article); encoders do not read it.
    """

    context: str | tuple[Turn, ...]
    response: str
    following: tuple[Turn, ...] = ()
    background: str = ""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The context as turns; a text is one turn of the speaker."""
        return (Turn("user", self.context),) if isinstance(self.context, str) else self.context

    @property
    def prompt(self) -> str:
        """The last turn of the context: what the response answers; empty without a context."""
        return self.turns[-1].text if self.turns else ""


@dataclass(frozen=True)
class Ratings:
    """What a rater says about n inputs.

    `scores` has shape (n, D), native units, NaN where the rater could not score. `probabilities`
    holds per dimension an array (n, levels) or None. Flags per input, shape (n,): `truncated`, part
    of the context was cut; `response_truncated`, part of the response was cut (only raters whose
    settings ask for it); `parse_failed`, an answer could not be read; `n_valid`, the number of
    judgements behind the scores. `signature` says all that is needed to get the same scores again.
    `warnings` are sentences that every report of these scores repeats.
    """

    dimensions: tuple[Dimension, ...]
    scores: np.ndarray
    probabilities: tuple[np.ndarray | None, ...]
    signature: str
    truncated: np.ndarray
    response_truncated: np.ndarray
    parse_failed: np.ndarray
    n_valid: np.ndarray
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls,
        dimensions: Sequence[Dimension],
        scores: Any,
        signature: str,
        *,
        probabilities: Sequence[np.ndarray | None] | None = None,
        warnings: Sequence[str] = (),
        **flags: Any,
    ) -> Ratings:
        """Ratings whose flags are all clear unless given.

        `scores` is anything of shape (n, D), or (n,) where D is 1. Raises UserError for another
        shape: turned round, scores would stand at the wrong inputs.
        """
        scores = np.asarray(scores, dtype=float)
        shape, width = scores.shape, len(dimensions)
        if shape == (0,) or (scores.ndim == 1 and width == 1):
            scores = scores.reshape(len(scores), width)
        if scores.ndim != 2 or scores.shape[1] != width:
            raise UserError(
                f"scores of shape {shape} for {width} dimensions: the shape (n, {width}) is "
                f"expected, a row per input. ({signature})"
            )
        n = len(scores)
        clear = {"truncated": np.zeros(n, bool), "response_truncated": np.zeros(n, bool)}
        clear |= {"parse_failed": np.zeros(n, bool)}
        clear |= {"n_valid": np.isfinite(scores).any(axis=1).astype(int)}
        return cls(
            tuple(dimensions),
            scores,
            tuple(probabilities) if probabilities is not None else (None,) * len(dimensions),
            signature,
            warnings=tuple(warnings),
            **(clear | {name: np.asarray(values) for name, values in flags.items()}),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def column(self, name: str) -> int:
        """The index of a dimension.

        Raises UserError naming the dimensions there are.
        """
        names = [dimension.name for dimension in self.dimensions]
        if name not in names:
            raise UserError(f"the rater has no dimension {name!r}; it has: {', '.join(names)}.")
        return names.index(name)


class Rater(Protocol):
    """Anything that scores pairs; only `score` is ever called, so no subclassing is needed."""

    dimensions: tuple[Dimension, ...]

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        ...


def checked(ratings: Ratings, n: int) -> Ratings:
    """The ratings themselves if they are what a rater may return for n inputs.

    Raises UserError where rows are missing or a score lies outside its dimension's range: a score
    out of range is a fault of the rater, and clipping would hide it.
    """
    if ratings.scores.shape != (n, len(ratings.dimensions)):
        raise UserError(
            f"the rater returned scores of shape {ratings.scores.shape} for {n} inputs and "
            f"{len(ratings.dimensions)} dimensions. ({ratings.signature})"
        )
    for d, dimension in enumerate(ratings.dimensions):
        values = ratings.scores[:, d]
        slack = 1e-6 * (dimension.high - dimension.low)
        outside = (values < dimension.low - slack) | (values > dimension.high + slack)
        if outside.any():
            row = int(np.argmax(outside))
            raise UserError(
                f"input {row + 1}: the rater's score {values[row]:g} in {dimension.name!r} lies "
                f"outside its range {dimension.low:g} to {dimension.high:g}. ({ratings.signature})"
            )
    return ratings
