"""Scores stand at their inputs, whatever shape they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from empo.rating import Dimension, Ratings
from empo.records import UserError

WARMTH = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
SORROW = Dimension("sorrow", 0, 1, "interval")


@pytest.mark.parametrize("scores", [[2, 0, 1], [[2], [0], [1]], np.array([2.0, 0.0, 1.0])])
def test_one_dimension_may_come_flat(scores: Any) -> None:
    assert Ratings.of([WARMTH], scores, "mine").scores.tolist() == [[2.0], [0.0], [1.0]]


def test_several_dimensions_are_a_row_per_input() -> None:
    ratings = Ratings.of([WARMTH, SORROW], [[2, 0.5], [0, 0.1], [1, float("nan")]], "mine")
    assert ratings.scores.shape == (3, 2) and ratings.scores[1].tolist() == [0.0, 0.1]


@pytest.mark.parametrize("dimensions", [[WARMTH], [WARMTH, SORROW]])
@pytest.mark.parametrize("scores", [[], np.empty((0, 2))])
def test_no_inputs(dimensions: list[Dimension], scores: Any) -> None:
    if np.shape(scores) in ((0,), (0, len(dimensions))):
        assert Ratings.of(dimensions, scores, "mine").scores.shape == (0, len(dimensions))
    else:
        with pytest.raises(UserError, match=r"scores of shape \(0, 2\) for 1 dimensions"):
            Ratings.of(dimensions, scores, "mine")


@pytest.mark.parametrize(
    ("scores", "shape"),
    [
        ([[2, 0, 1], [0.5, 0.1, 0.9]], r"\(2, 3\)"),  # turned round
        ([2, 0.5, 0, 0.1], r"\(4,\)"),
        ([[[2, 0.5]]], r"\(1, 1, 2\)"),
        (1.0, r"\(\)"),
        ([[2], [0]], r"\(2, 1\)"),
    ],
)
def test_another_shape_is_refused(scores: Any, shape: str) -> None:
    with pytest.raises(
        UserError, match=rf"scores of shape {shape} for 2 dimensions: the shape \(n, 2\).*\(mine\)"
    ):
        Ratings.of([WARMTH, SORROW], scores, "mine")
    with pytest.raises(UserError, match=r"scores of shape \(1, 3\) for 1 dimensions"):
        Ratings.of([WARMTH], [[2, 0, 1]], "mine")
