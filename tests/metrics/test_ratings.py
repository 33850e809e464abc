"""Any rater as columns: means by hand, blank replies, what a report marks as a reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from empo.dialogues import Turn
from empo.metrics.evaluation import evaluate
from empo.metrics.ratings import ratings
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import Message, Response
from empo.reporting.ratings import ratings_section

WARM = Dimension("warm", 1.0, 3.0, "ordinal", (1.0, 2.0, 3.0))
LONG = Dimension("long", 0.0, 100.0, "interval")


class Counting:
    """Warm by the number of a's, .8 sure; long is the number of words; `?` has no score."""

    dimensions = (WARM, LONG)

    def __init__(self) -> None:
        self.seen: list[RatingInput] = []

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        self.seen += pairs
        level = np.array([min(2, pair.response.count("a")) for pair in pairs])
        words = np.array([len(pair.response.split()) for pair in pairs], dtype=float)
        odd = np.array(["?" in pair.response for pair in pairs])
        scores = np.where(odd[:, None], np.nan, np.stack([level + 1.0, words], axis=1))
        table = np.full((len(pairs), 3), 0.1)
        table[np.arange(len(pairs)), level] = 0.8
        warnings = ("Only counts.",)
        return Ratings.of(
            self.dimensions, scores, "counting", probabilities=[table, None], warnings=warnings
        )


def responses(texts: Sequence[str], system: str = "s") -> list[Response]:
    context = [
        Message(role="system", content="Be kind."),
        Message(role="user", content="hello"),
        Message(role="assistant", content="hi"),
        Message(role="user", content="sad"),
    ]
    return [
        Response(
            id=f"e{i}", emotion="sad", context=context, reference="b", response=text, system=system
        )
        for i, text in enumerate(texts)
    ]


def test_means_are_those_of_the_levels_by_their_probabilities_or_of_the_scores() -> None:
    rater = Counting()
    found = ratings(
        responses(["b b", "a", "a a a", "a ?", "  "]), {"one": rater, "two": Counting()}
    )
    turns = (Turn("user", "hello"), Turn("assistant", "hi"), Turn("user", "sad"))
    assert {pair.context for pair in rater.seen} == {turns}
    warm = found.values["raters"]["one"]["warm"]
    np.testing.assert_allclose(
        found.per_response["ratings.one.warm"], [1.3, 2.0, 2.7, np.nan, 1.0], atol=1e-12
    )
    assert (warm["n"], warm["low"], warm["high"]) == (4, 1.0, 3.0)
    assert warm["mean"] == pytest.approx((1.3 + 2 + 2.7 + 1) / 4)
    np.testing.assert_array_equal(found.per_response["ratings.two.long"], [2, 1, 3, np.nan, 0])
    assert found.values["warnings"] == ["Only counts."]


def test_the_report_marks_the_rewarded_rater_and_no_other() -> None:
    systems = {"sft": responses(["b", "a", "b b"], "sft"), "tuned": responses(["a a"] * 3, "tuned")}
    raters = {"paid": Counting(), "other": Counting()}
    results = evaluate(
        systems, metrics=["length"], extra={"ratings": lambda r: ratings(r, raters)}, resamples=99
    )
    assert "Only counts." in results["warnings"]
    compared = {row["metric"] for row in results["comparisons"]}
    assert {"ratings.paid.warm", "ratings.other.long"} <= compared
    results["systems"]["tuned"]["reward"] = [{"name": "paid", "weights": "w"}]
    results["rating_weights"] = {"paid": ["w"], "other": ["v"]}
    lines = ratings_section(results).splitlines()
    marked = [line for line in lines if "tuned †" in line]
    assert len(marked) == 2 and all(line.startswith("| paid |") for line in marked)
    assert any("is the reward, and no measure" in line for line in lines)
    assert "| paid | warm, 1 to 3 | tuned † | 3 | 2.700" in marked[1]
    results["systems"]["tuned"]["reward"] = [{"name": "x", "weights": "u", "model": "v"}]
    marked = [line for line in ratings_section(results).splitlines() if "tuned †" in line]
    assert len(marked) == 2 and all(line.startswith("| other |") for line in marked)
    del results["systems"]["tuned"]["reward"]
    assert "†" not in ratings_section(results)
    del results["systems"]["sft"]["metrics"]["ratings"]
    assert ratings_section(results) == ""
