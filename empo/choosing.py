"""One number per reply out of a rater's dimensions, and the choice of the best among several.

Best of n, and mined preference pairs, both let a rater choose. It chooses by its own taste: what it
has learnt to like beside empathy, length above all, is in the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from empo.dialogues import Exchange
from empo.length_effect import LengthEffect, spread_out
from empo.rating import Rater, RatingInput, Ratings, checked
from empo.records import UserError, finite, shown

Value = Literal["score", "expected"]
"""What is read of a dimension: the rater's score (of levels the most probable one), or the mean of
the levels weighted by their probabilities, which has fewer ties."""

BLOCK = 4_096
"""Inputs whose ratings are in memory at once."""


@dataclass(frozen=True)
class Judge:
    """A rater, and how its dimensions become one number.

    Of one dimension it is its value in native units. Of several it is the mean of their values, each
    scaled by its range to 0..1; NaN where one of them is NaN. `dimensions` empty: all of the rater.
    `length` is taken out of the number, so that it is one at the mean length; a blank reply, which is
    shorter than any, is then NaN.
    """

    rater: Rater
    dimensions: tuple[str, ...] = ()
    value: Value = "score"
    batch_size: int = 32
    length: LengthEffect | None = None

    def __post_init__(self) -> None:
        """Raises UserError where the rater has no such dimension, or one is named twice."""
        there = [dimension.name for dimension in self.rater.dimensions]
        for place, name in enumerate(self.dimensions):
            if name not in there:
                raise UserError(
                    f"--rater-dimension: the rater has no dimension {shown(name)}; it has: "
                    f"{', '.join(there)}."
                )
            if name in self.dimensions[:place]:
                raise UserError(f"--rater-dimension: {shown(name)} is named twice.")
        if not self.dimensions:
            object.__setattr__(self, "dimensions", tuple(there))

    @property
    def scale(self) -> tuple[float, float]:
        """Least and largest number that can come out."""
        if len(self.dimensions) > 1:
            return 0.0, 1.0
        (found,) = (d for d in self.rater.dimensions if d.name == self.dimensions[0])
        return found.low, found.high

    def facts(self) -> dict[str, Any]:
        """What the numbers are, as JSON."""
        found: dict[str, Any] = {"dimensions": list(self.dimensions), "value": self.value}
        if self.length is not None:
            return found | {"length_effect": self.length.facts()}
        low, high = self.scale
        return found | {"low": low, "high": high}

    def length_effect(self, exchanges: Sequence[Exchange]) -> LengthEffect | None:
        """How the number goes with length, on human replies; None where fewer than three have one.

        Raises UserError where the rater gives none of them a number: then it cannot choose.
        """
        some = spread_out(exchanges)
        pairs = [RatingInput(exchange.context, exchange.reply) for exchange in some]
        found, _ = self.judged(pairs, "rating human replies")
        known = np.isfinite(found).sum()
        if not known:
            raise UserError(
                f"the rater gives no score to any of {len(some):,} human replies, so nothing can be "
                "chosen by it. See its flags with `empo rate`, or take another one."
            )
        return (
            LengthEffect.fit(list(map(finite, found)), [e.reply for e in some])
            if known > 2
            else None
        )

    def judged(self, pairs: Sequence[RatingInput], told: str) -> tuple[np.ndarray, np.ndarray]:
        """The number of every pair, shape (n,), and its dimensions in native units, shape (n, D).

        NaN where the rater gives none. `told` names the work on the progress bar.
        """
        starts = range(0, len(pairs), BLOCK)
        parts = [np.empty((0, len(self.dimensions)))]
        with tqdm(total=len(pairs), desc=told, unit="reply", delay=2, disable=None) as bar:
            for start in starts:
                some = pairs[start : start + BLOCK]
                ratings = checked(self.rater.score(some, batch_size=self.batch_size), len(some))
                parts.append(self._values(ratings))
                bar.update(len(some))
        values = np.concatenate(parts)
        united = self.united(values)
        if self.length is not None:
            texts = [pair.response for pair in pairs]
            # replies that differ in nothing but rounding are ties
            span = self.scale[1] - self.scale[0]
            united = np.round((united - self.length.of(texts)) / span, 9) * span
            united[[not text.strip() for text in texts]] = np.nan
        return united, values

    def _values(self, ratings: Ratings) -> np.ndarray:
        """Shape (n, D) in native units, the dimensions in the order of this judge."""
        columns = []
        for name in self.dimensions:
            d = ratings.column(name)
            scores, levels = ratings.scores[:, d], ratings.dimensions[d].levels
            likely = ratings.probabilities[d]
            if self.value == "expected" and likely is not None and levels is not None:
                scores = np.where(np.isnan(scores), np.nan, likely @ np.asarray(levels))
            columns.append(scores)
        return np.stack(columns, axis=1)

    def united(self, values: np.ndarray) -> np.ndarray:
        """One number out of dimensions in native units, (n, D) to (n,), whatever the length."""
        if len(self.dimensions) == 1:
            return values[:, 0]
        of_name = {d.name: d for d in self.rater.dimensions}
        low = np.array([of_name[name].low for name in self.dimensions])
        high = np.array([of_name[name].high for name in self.dimensions])
        return ((values - low) / (high - low)).mean(axis=1)


def ranked(scores: Sequence[float] | np.ndarray) -> list[int]:
    """Places of the scores from the highest to the lowest; ties in their order, NaN left out."""
    known = [i for i, score in enumerate(scores) if not np.isnan(score)]
    return sorted(known, key=lambda i: -scores[i])  # sorted is stable


@dataclass(frozen=True)
class BestOf:
    """Of n replies to an exchange keep the one that the judge puts first.

    `selected_by` names the raters: a list of {name, weights, signature}. Whoever measures the chosen
    replies with the same weights measures the reward.
    """

    n: int
    judge: Judge
    selected_by: Sequence[Mapping[str, Any]]
    length_effect: LengthEffect | None = None
    """How the score goes with the length of human replies, for the manifest."""

    def __post_init__(self) -> None:
        """Raises UserError where there is nothing to choose from."""
        if self.n < 2:
            raise UserError(f"--best-of: of {self.n} nothing can be chosen; give 2 or more.")

    def facts(self) -> dict[str, Any]:
        """By what the replies of a file are chosen, as JSON."""
        return {"n": self.n, **self.judge.facts()}

    def choose(
        self, exchanges: Sequence[Exchange], replies: Sequence[Sequence[str]]
    ) -> list[dict[str, Any]]:
        """Of every exchange the `place` of the chosen reply, and what was chosen from.

        Ties go to the first reply. Where no reply has a score, the first is kept and `score` is
        None. `scores` has the chosen reply's dimensions in native units; `tied` counts the replies
        of another text with the same score as the chosen one; `replies` are all n as they were
        sampled, text and score.
        """
        pairs = [
            RatingInput(exchange.context, text)
            for exchange, texts in zip(exchanges, replies, strict=True)
            for text in texts
        ]
        united, values = self.judge.judged(pairs, f"rating {self.n} replies each")
        return [
            self._chosen(
                texts,
                united[i * self.n : (i + 1) * self.n],
                values[i * self.n : (i + 1) * self.n],
            )
            for i, texts in enumerate(replies)
        ]

    def _chosen(
        self, texts: Sequence[str], scores: np.ndarray, values: np.ndarray
    ) -> dict[str, Any]:
        order = ranked(scores)
        place = order[0] if order else 0
        known = scores[order]
        return {
            "place": place,
            "n": self.n,
            "distinct": len(set(texts)),
            "scored": len(order),
            "tied": len({texts[i] for i in order if scores[i] == scores[place]} - {texts[place]}),
            "score": finite(scores[place]),
            "mean_score": finite(known.mean()) if order else None,
            "lowest_score": finite(known.min()) if order else None,
            "scores": {
                name: finite(value)
                for name, value in zip(self.judge.dimensions, values[place], strict=True)
            },
            "replies": [
                {"response": text, "score": finite(score)}
                for text, score in zip(texts, scores, strict=True)
            ],
        }

    def summary(
        self, choices: Sequence[Mapping[str, Any]], replies: Sequence[Sequence[str]]
    ) -> dict[str, Any]:
        """What choosing did to a file: the mean score of the chosen replies beside that of all, and their
        mean lengths in characters, and how the score goes with length; `unrated` exchanges kept the first of replies without a score.

        Means of scores are over the exchanges that have one, of an exchange's replies first.
        """
        rated = [choice for choice in choices if choice["score"] is not None]
        chosen = [texts[c["place"]] for c, texts in zip(choices, replies, strict=True)]

        def mean(values: Iterator[float]) -> float | None:
            found = list(values)
            return round(fmean(found), 6) if found else None

        return {
            "exchanges": len(choices),
            "unrated": len(choices) - len(rated),
            "tied": sum(choice["tied"] > 0 for choice in choices),
            "first_kept": sum(choice["place"] == 0 for choice in choices),
            "mean_distinct": mean(choice["distinct"] for choice in choices),
            "mean_score": {
                "best": mean(choice["score"] for choice in rated),
                "all": mean(choice["mean_score"] for choice in rated),
            },
            "mean_characters": {
                "best": mean(len(text) for text in chosen),
                "all": mean(fmean(map(len, texts)) for texts in replies),
            },
            "length_effect": self.length_effect.facts() if self.length_effect else None,
        }
