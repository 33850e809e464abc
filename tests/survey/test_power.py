"""The analysis over many simulated surveys: what is there is found, what is not there is not."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import simulated

from empo.survey.analysis import analyse

SURVEYS = 200
EFFECTS = {"a": 0.0, "b": 0.0, "c": 8.0}
"""c is 8 of 100 points better, about half a standard deviation of the item means; a and b are equal."""


def found_in(single: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of surveys with p < .05 for a - b, a - c, b - c: paired test, mixed model."""
    paired, mixed = [], []
    for seed in range(SURVEYS):
        ratings = simulated(EFFECTS, seed, items=45, single=single)
        rows = analyse(ratings, list(EFFECTS), seed=0, resamples=499)["comparisons"]
        paired.append([row["p"] < 0.05 for row in rows])
        mixed.append([row["mixed"]["p"] < 0.05 for row in rows])
    return np.mean(paired, axis=0), np.mean(mixed, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("single", [0, 1])
def test_effects_are_found_and_others_not(single: int, capsys: pytest.CaptureFixture[str]) -> None:
    paired, mixed = found_in(single)
    with capsys.disabled():
        print(
            f"\n{SURVEYS} surveys of 45 exchanges, {single} of 3 ratings from batches of one system, "
            "share with p < .05 without effect, with effect (two pairs): paired test "
            f"{paired[0]:.3f}, {paired[1]:.3f}, {paired[2]:.3f}; mixed model {mixed[0]:.3f}, "
            f"{mixed[1]:.3f}, {mixed[2]:.3f}"
        )
    # of 200 draws with probability .05, more than 20 come once in 500 times
    assert mixed[0] <= 0.10
    assert mixed[1:].min() >= 0.65
    assert paired[1:].min() >= 0.5
