"""Intraclass correlations against printed values and values that a person can compute."""

from __future__ import annotations

import numpy as np
import pytest

from empo.survey.icc import intraclass

SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
"""Table 2 of Shrout and Fleiss (1979): ICC(1,1) .17, ICC(1,k) .44."""


def of(rows: list[list[float]]) -> dict:
    values = np.array([value for row in rows for value in row], dtype=float)
    return intraclass(values, np.repeat(np.arange(len(rows)), list(map(len, rows))))


def test_the_table_of_shrout_and_fleiss() -> None:
    found = of(SHROUT_FLEISS)
    assert found["single"] == pytest.approx(0.1657418)
    assert found["mean"] == pytest.approx(0.4427971)
    # as pingouin.intraclass_corr and R's irr::icc print them
    assert found["single_interval"] == pytest.approx([-0.13, 0.72], abs=0.005)
    assert found["mean_interval"] == pytest.approx([-0.88, 0.91], abs=0.005)
    assert (found["items"], found["ratings"], found["per_item"]) == (6, 24, 4)


def test_by_hand() -> None:
    # between 2 * ((1 - 3)^2 + (5 - 3)^2) / 1 = 16, within (4 * 1) / 2 = 2
    found = of([[0, 2], [4, 6]])
    assert found["single"] == pytest.approx((16 - 2) / (16 + 2))
    assert found["mean"] == pytest.approx((16 - 2) / 16)


def test_unequal_numbers_of_raters() -> None:
    # means 1, 4, grand 14 / 5 = 2.8; between 2 * 1.8^2 + 3 * 1.2^2 = 10.8, within (2 + 2) / 3
    found = of([[0, 2], [3, 4, 5]])
    k = 5 - (4 + 9) / 5
    assert found["per_item"] == pytest.approx(k)
    assert found["single"] == pytest.approx((10.8 - 4 / 3) / (10.8 + (k - 1) * 4 / 3))


def test_full_agreement_and_none() -> None:
    found = of([[1, 1], [2, 2], [5, 5]])
    assert (found["single"], found["mean"]) == (1, 1)
    found = of([[0, 2], [2, 0]])
    assert found["single"] == pytest.approx(-1) and found["mean"] is None
    assert found["reasons"] == {"mean": "no item differs from another"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0], [2.0]], "needs two items and an item that two have rated"),
        ([[1.0, 2.0]], "needs two items and an item that two have rated"),
        ([[3.0, 3.0], [3.0, 3.0]], "the ratings do not vary"),
    ],
)
def test_what_cannot_be_computed_has_a_reason(rows: list[list[float]], reason: str) -> None:
    found = of(rows)
    assert found["single"] is None and found["reasons"]["single"] == reason
