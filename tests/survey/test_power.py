"""The analysis over many simulated surveys: what is there is found, what is not there is not."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import ITEM_SD, NOISE_SD, RATER_SD, TASTE_SD, simulated

from empo.survey.analysis import analyse

SURVEYS = 200
EFFECTS = {"a": 0.0, "b": 0.0, "c": 8.0}
"""c is 8 of 100 points better, about half a standard deviation of the item means; a and b are equal."""
SPREAD = np.sqrt(2 * ITEM_SD**2 + (RATER_SD**2 + TASTE_SD**2 + NOISE_SD**2) / 3)
"""Of item means: replies, exchanges, and a third of the variances of raters and noise."""
ASPECT = "emotion_understanding"


def measured(single: int) -> dict[str, np.ndarray]:
    """Shares of surveys: p < .05 of paired and mixed (a - b, a - c, b - c), and intervals that cover.

    `covered` are those of the mean of a, of a - c in the mixed model and in the paired test, of d, and
    of the ICC of a single rating.
    """
    shares: dict[str, list[list[bool]]] = {"paired": [], "mixed": [], "covered": []}
    of_item = 2 * ITEM_SD**2
    icc = of_item / (of_item + RATER_SD**2 + TASTE_SD**2 + NOISE_SD**2)
    for seed in range(SURVEYS):
        ratings = simulated(EFFECTS, seed, items=45, single=single)
        found = analyse(ratings, list(EFFECTS), seed=0, resamples=499)
        rows = found["comparisons"]
        shares["paired"].append([row["p"] < 0.05 for row in rows])
        shares["mixed"].append([row["mixed"]["p"] < 0.05 for row in rows])
        intervals = [
            (found["systems"]["a"][ASPECT]["mixed"]["interval"], 50.0),
            (rows[1]["mixed"]["interval"], -8.0),
            (rows[1]["interval"], -8.0),
            (rows[1]["d"]["pooled_interval"], -8.0 / SPREAD),
            (found["agreement"][ASPECT]["single_interval"], icc),
        ]
        shares["covered"].append([low < truth < high for (low, high), truth in intervals])
    return {key: np.mean(rows, axis=0) for key, rows in shares.items()}


@pytest.mark.slow
@pytest.mark.parametrize("single", [0, 1])
def test_effects_are_found_and_others_not(single: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(single)
    paired, mixed, covered = found["paired"], found["mixed"], found["covered"]
    with capsys.disabled():
        print(
            f"\n{SURVEYS} surveys of 45 exchanges, {single} of 3 ratings from batches of one system, "
            f"share with p < .05 without effect, with effect (two pairs): paired test {paired.round(3)}, "
            f"mixed model {mixed.round(3)}; intervals that cover: mean, difference, paired difference, d, "
            f"ICC(1) {covered.round(3)}"
        )
    # of 200 draws with probability .05, more than 20 come once in 500 times
    assert mixed[0] <= 0.10
    assert mixed[1:].min() >= 0.5
    assert covered[[0, 1, 3]].min() >= 0.90
    # what docs/survey.md and the report say of the paired test, which takes items for independent
    assert paired[0] >= 0.10 if single else paired[0] <= 0.12
    assert covered[2] < covered[1], "its interval is narrower than it should be"
    assert covered[4] < 0.95, "the interval of the ICC is approximate"
