"""The analysis on small tables by hand, and on simulated ones for what has to come out."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import ITEM_SD, NOISE_SD, RATER_SD, TASTE_SD, simulated

from empo.records import UserError
from empo.survey.analysis import analyse
from empo.survey.ratings import Ratings, ratings_of


def table(
    values: dict[str, list[list[float]]], characters: dict[str, float] | None = None
) -> Ratings:
    """System -> per exchange the values of its raters; rater j rates every exchange."""
    return ratings_of(
        {
            "exchange": f"e{i}",
            "system": system,
            "rater": f"r{j}-{system}",
            "aspect": "warm",
            "value": value,
            "seconds": None,
            "characters": None if characters is None else characters[system] + i,
        }
        for system, rows in values.items()
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
    )


A = [[10, 20], [30, 50], [60, 60], [20, 40]]
B = [[0, 10], [30, 30], [40, 50], [20, 20]]


def test_item_means_and_their_differences_by_hand() -> None:
    found = analyse(table({"a": A, "b": B}), ["a", "b"], seed=0, resamples=999)
    of_a = found["systems"]["a"]["warm"]
    assert (of_a["n"], of_a["mean"], of_a["ratings"], of_a["fewest"]) == (4, 36.25, 8, 2)
    assert of_a["sd"] == pytest.approx(np.std([15, 40, 60, 30], ddof=1))
    assert of_a["quantiles"][2] == 35
    (row,) = found["comparisons"]
    assert (row["a"], row["b"], row["metric"], row["n"]) == ("a", "b", "warm", 4)
    assert row["difference"] == 11.25  # of 10, 10, 15, 10
    assert row["p"] == row["p_holm"] == 2 / 16, "only the flips of none and of all are as far"
    spread = np.sqrt((np.var([15, 40, 60, 30], ddof=1) + np.var([5, 30, 45, 20], ddof=1)) / 2)
    assert row["mixed"]["difference"] == pytest.approx(11.25), "every rater rated every exchange"
    assert of_a["mixed"]["mean"] == pytest.approx(36.25)
    assert row["d"]["pooled"] == pytest.approx(11.25 / spread)
    low, high = row["d"]["pooled_interval"]
    stderr = np.hypot(row["mixed"]["stderr"] / spread, 11.25 / spread / np.sqrt(2 * (4 + 4 - 2)))
    assert (low + high) / 2 == pytest.approx(11.25 / spread)
    assert high - low == pytest.approx(2 * 1.959964 * stderr, rel=1e-4)
    assert row["d"]["paired"] == pytest.approx(11.25 / 2.5)
    assert found["raters"] == 4 and found["exchanges"] == 4 and found["ratings"] == 16
    assert row["reasons"]["length_controlled"]
    assert (
        found["systems"]["a"]["warm"]["reasons"]["length_correlation"]
        == "the lengths are not given"
    )


def test_exchanges_that_only_one_system_has_are_left_out_of_the_pair() -> None:
    found = analyse(table({"a": A, "b": B[:3]}), ["a", "b"], seed=0, resamples=199)
    (row,) = found["comparisons"]
    assert row["n"] == 3 and row["difference"] == pytest.approx((10 + 10 + 15) / 3)
    assert found["systems"]["a"]["warm"]["n"] == 4


def test_lengths_explain() -> None:
    values = [[10.0 + 2 * i + 3 * (i % 2), 12.0 + 2 * i] for i in range(6)]
    found = analyse(
        table({"a": values, "b": values}, {"a": 10, "b": 50}), ["a", "b"], seed=0, resamples=199
    )
    assert found["systems"]["a"]["warm"]["length_correlation"] > 0.9
    assert found["comparisons"][0]["difference"] == 0
    assert found["comparisons"][0]["length_controlled"] is None, "always 40 characters apart"


def test_holm_is_over_all_aspects_and_pairs() -> None:
    ratings = simulated({"a": 0, "b": 0, "c": 15}, seed=1)
    found = analyse(ratings, ["a", "b", "c"], seed=0, resamples=999)
    rows = {(row["a"], row["b"]): row for row in found["comparisons"]}
    assert rows["a", "c"]["p_holm"] == pytest.approx(3 * rows["a", "c"]["p"])
    smallest = min((row["mixed"] for row in rows.values()), key=lambda mixed: mixed["p"])
    assert smallest["p_holm"] == pytest.approx(3 * smallest["p"])
    assert rows["a", "c"]["mixed"]["p_holm"] < 0.001 < rows["a", "b"]["mixed"]["p_holm"]
    assert rows["a", "c"]["mixed"]["difference"] == pytest.approx(-15, abs=6)
    low, high = rows["a", "c"]["d"]["pooled_interval"]
    assert low < rows["a", "c"]["d"]["pooled"] < high < 0
    variances = found["variances"]["emotion_understanding"]
    assert list(variances) == ["reply", "rater x system", "rater", "exchange", "residual"]
    assert variances["rater"] == pytest.approx(144, rel=0.6)


def test_what_raters_like_is_no_property_of_a_system() -> None:
    effects = {"a": 0, "b": 0, "c": 0}
    ratings = simulated(effects, seed=2, items=90, single=0, taste=20)
    found = analyse(ratings, list(effects), seed=0, resamples=199)
    variances = found["variances"]["emotion_understanding"]
    assert variances["rater x system"] == pytest.approx(20**2, rel=0.3)
    stderr = found["comparisons"][0]["mixed"]["stderr"]
    assert stderr > np.sqrt(2 * 20**2 / 54), "54 raters, with likings for each of two systems"
    assert found["comparisons"][0]["mixed"]["p"] > 0.05


def test_raters_of_one_system_each_have_no_liking_beside_their_habit() -> None:
    found = analyse(table({"a": A, "b": B}), ["a", "b"], seed=0, resamples=199)
    assert list(found["variances"]["warm"]) == ["reply", "rater", "exchange", "residual"]


def test_one_rating_per_reply_has_no_variance_of_replies() -> None:
    rows = {"a": [[float(i % 5)] for i in range(20)], "b": [[float(i % 7)] for i in range(20)]}
    found = analyse(table(rows), ["a", "b"], seed=0, resamples=199)
    assert list(found["variances"]["warm"]) == ["rater", "exchange", "residual"]
    assert found["agreement"]["warm"]["single"] is None


def test_equal_ratings_have_reasons_and_no_nan() -> None:
    found = analyse(
        table({"a": [[5, 5]] * 4, "b": [[5, 5]] * 4}), ["a", "b"], seed=0, resamples=199
    )
    (row,) = found["comparisons"]
    assert row["difference"] == 0 and row["p"] == 1 and row["d"]["pooled"] is None
    assert row["d"]["reasons"]["pooled_interval"] == "the ratings do not vary"
    assert row["mixed"]["p"] is None and row["mixed"]["reasons"]["p"] == "the ratings do not vary"
    assert found["variances"]["warm"]["rater"] is None


def test_nothing_in_common_is_refused() -> None:
    ratings = ratings_of(
        {"exchange": f"{s}{i}", "system": s, "rater": "r", "aspect": "x", "value": i, "seconds": None,
         "characters": None}
        for s in "ab" for i in range(3)
    )  # fmt: skip
    with pytest.raises(UserError, match="no item was rated under two of the systems a, b"):
        analyse(ratings, ["a", "b"], seed=0, resamples=199)


def covered(found: dict, truth: dict[str, float]) -> dict[str, bool]:
    """Which of the intervals of systems a and b that are reported have the truth in them."""
    (row,) = found["comparisons"]
    aspect = row["metric"]
    a = found["systems"]["a"][aspect]["mixed"]["interval"]
    intervals = {
        "mean": a,
        "difference": row["mixed"]["interval"],
        "d": row["d"]["pooled_interval"],
    }
    return {key: low < truth[key] < high for key, (low, high) in intervals.items()}


def test_intervals_cover_what_other_raters_would_say() -> None:
    surveys = 40
    truth = {"mean": 50.0, "difference": -8.0}
    # of item means: replies, exchanges and a third of what raters and noise add
    spread = np.sqrt(2 * ITEM_SD**2 + (RATER_SD**2 + TASTE_SD**2 + NOISE_SD**2) / 3)
    hits = []
    for seed in range(surveys):
        ratings = simulated({"a": 0, "b": 8}, seed, items=30)
        found = analyse(ratings, ["a", "b"], seed=0, resamples=199)
        hits.append(covered(found, truth | {"d": -8 / spread}))
    shares = {key: np.mean([hit[key] for hit in hits]) for key in hits[0]}
    # of 40 draws with probability .95, fewer than 33 come once in 700 times; bootstrap means had .80
    assert min(shares.values()) >= 33 / 40, shares
