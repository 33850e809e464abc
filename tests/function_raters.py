"""Raters that are a function of the input: what a user may hand in, and what a person can compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from empo.rating import Dimension, RatingInput, Ratings

Function = Callable[[RatingInput], Sequence[float]]


class FunctionRater:
    """Scores by a function of one input; counts what it was asked."""

    def __init__(self, function: Function, *dimensions: Dimension) -> None:
        self.function = function
        self.dimensions = dimensions
        self.signature = "function"
        self.asked: list[RatingInput] = []

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        self.asked += pairs
        scores = np.array([self.function(pair) for pair in pairs], dtype=float)
        return Ratings.of(self.dimensions, scores.reshape(len(pairs), -1), self.signature)


def interval(name: str, low: float = 0.0, high: float = 100.0) -> Dimension:
    """A dimension of any value in a range."""
    return Dimension(name, low, high, "interval")


def by_table(**scores: float) -> FunctionRater:
    """One dimension, `worth`, 0 to 100; a text that is not in the table has no score."""
    return FunctionRater(lambda pair: [scores.get(pair.response, np.nan)], interval("worth"))
