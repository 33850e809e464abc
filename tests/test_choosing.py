"""One number out of a rater's dimensions, and the best of n by it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo import choosing
from empo.choosing import BestOf, Judge, ranked
from empo.dialogues import Exchange, Turn
from empo.length_effect import LengthEffect
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError

sys.path.insert(0, str(Path(__file__).parent))
from function_raters import FunctionRater, by_table, interval

WARM, CLEAR = interval("warm", 1.0, 5.0), interval("clear", 0.0, 1.0)
LEVELS = Dimension("level", 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0))


def exchange(name: str) -> Exchange:
    return Exchange(name, "sad", (Turn("user", f"I am {name}."),), "Oh.")


def inputs(*texts: str) -> list[RatingInput]:
    return [RatingInput("?", text) for text in texts]


# --- one number ---


def test_one_dimension_is_its_score_in_native_units() -> None:
    judge = Judge(FunctionRater(lambda pair: (3.0, 0.5), WARM, CLEAR), ("warm",))
    assert judge.judged(inputs("a"), "t")[0].tolist() == [3.0]
    assert judge.facts() == {"dimensions": ["warm"], "value": "score", "low": 1.0, "high": 5.0}


def test_several_dimensions_are_the_mean_of_their_places_in_their_ranges() -> None:
    rater = FunctionRater({"a": (3.0, 1.0), "b": (5.0, np.nan), "c": (1.0, 0.0)}.get, WARM, CLEAR)
    rater.function = lambda pair, of=rater.function: of(pair.response)
    judge = Judge(rater)
    united, values = judge.judged(inputs("a", "b", "c"), "t")
    # (3 - 1) / 4 = .5 and 1: .75; a NaN in one of them leaves no number
    np.testing.assert_array_equal(united, [0.75, np.nan, 0.0])
    np.testing.assert_array_equal(values, [[3.0, 1.0], [5.0, np.nan], [1.0, 0.0]])
    assert judge.scale == (0.0, 1.0) and judge.dimensions == ("warm", "clear")


def test_the_expected_level_is_the_mean_by_probabilities_and_keeps_nan() -> None:
    class Likely:
        dimensions = (LEVELS,)

        def score(self, pairs: list[RatingInput], *, batch_size: int = 32) -> Ratings:
            table = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
            return Ratings.of((LEVELS,), [[0.0], [np.nan]], "s", probabilities=[table])

    found, _ = Judge(Likely(), value="expected").judged(inputs("a", "b"), "t")
    np.testing.assert_array_equal(found, [0.75, np.nan])  # .25 · 1 + .25 · 2
    plain, _ = Judge(Likely()).judged(inputs("a", "b"), "t")
    np.testing.assert_array_equal(plain, [0.0, np.nan])


def test_without_probabilities_the_expected_level_is_the_score() -> None:
    judge = Judge(FunctionRater(lambda pair: [2.0], LEVELS), value="expected")
    assert judge.judged(inputs("a"), "t")[0].tolist() == [2.0]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rater = by_table(**{text: float(i) for i, text in enumerate("abcdefg")})
    whole = Judge(rater).judged(inputs(*"gfedcba"), "t")[0]
    monkeypatch.setattr(choosing, "BLOCK", 3)
    np.testing.assert_array_equal(Judge(rater).judged(inputs(*"gfedcba"), "t")[0], whole)
    assert Judge(rater).judged([], "t")[0].shape == (0,)


def test_an_unknown_or_repeated_dimension_is_a_users_error() -> None:
    rater = FunctionRater(lambda pair: (1.0, 0.0), WARM, CLEAR)
    with pytest.raises(UserError) as error:
        Judge(rater, ("warmth",))
    assert str(error.value) == (
        "--rater-dimension: the rater has no dimension 'warmth'; it has: warm, clear."
    )
    with pytest.raises(UserError, match="--rater-dimension: 'warm' is named twice."):
        Judge(rater, ("warm", "warm"))


# --- the order ---


def test_ties_keep_their_order_and_nan_has_no_place() -> None:
    assert ranked([1.0, np.nan, 3.0, 1.0, 3.0]) == [2, 4, 0, 3]
    assert ranked([np.nan, np.nan]) == []


@given(st.lists(st.one_of(st.just(float("nan")), st.integers(0, 4).map(float)), max_size=8))
def test_the_first_of_the_order_is_the_first_highest(scores: list[float]) -> None:
    order = ranked(scores)
    known = [score for score in scores if score == score]
    assert len(order) == len(known)
    if known:
        assert order[0] == scores.index(max(known))


# --- best of n ---


def test_the_best_of_three_and_what_was_chosen_from() -> None:
    best_of = BestOf(3, Judge(by_table(a=10.0, bb=40.0, ccc=40.0)), [])
    choices = best_of.choose(
        [exchange("x"), exchange("y"), exchange("z")],
        [["a", "bb", "ccc"], ["?", "a", "a"], ["?", "!", "?"]],
    )
    assert choices[0] == {
        **{"place": 1, "n": 3, "distinct": 3, "scored": 3, "tied": 1},
        **{"score": 40.0, "mean_score": 30.0, "lowest_score": 10.0, "scores": {"worth": 40.0}},
        "replies": [
            {"response": "a", "score": 10.0},
            {"response": "bb", "score": 40.0},
            {"response": "ccc", "score": 40.0},
        ],
    }
    assert [reply["score"] for reply in choices[1].pop("replies")] == [None, 10.0, 10.0]
    assert [reply["response"] for reply in choices[2].pop("replies")] == ["?", "!", "?"]
    assert choices[1] == {
        **{"place": 1, "n": 3, "distinct": 2, "scored": 2, "tied": 0},
        **{"score": 10.0, "mean_score": 10.0, "lowest_score": 10.0, "scores": {"worth": 10.0}},
    }
    assert choices[2] == {
        **{"place": 0, "n": 3, "distinct": 2, "scored": 0, "tied": 0},
        **{"score": None, "mean_score": None, "lowest_score": None, "scores": {"worth": None}},
    }
    assert best_of.summary(choices, [["a", "bb", "ccc"], ["?", "a", "a"], ["?", "!", "?"]]) == {
        "exchanges": 3,
        "unrated": 1,
        "tied": 1,
        "first_kept": 1,
        "mean_distinct": 2.333333,
        "mean_score": {"best": 25.0, "all": 20.0},  # (40 + 10) / 2, (30 + 10) / 2
        "mean_characters": {"best": 1.333333, "all": 1.333333},  # (2 + 1 + 1) / 3
        "length_effect": None,
    }


def test_at_equal_length_a_choice_is_by_what_length_does_not_explain() -> None:
    # human replies of 1, 2 and 3 characters are worth 10, 20 and 30: 10 a character, 20 at the mean
    human = [replace(exchange(name), reply=name) for name in ("a", "aa", "aaa")]
    rater = by_table(a=10.0, aa=20.0, aaa=30.0, bb=25.0, cccc=42.0)
    effect = Judge(rater).length_effect(human)
    judge = Judge(rater, length=effect)
    assert judge.facts()["length_effect"]["slope"] == pytest.approx(10.0)
    assert "low" not in judge.facts()  # what is left has other ends
    found, values = judge.judged(inputs("a", "bb", "cccc", " ", "?"), "t")
    np.testing.assert_allclose(found, [20.0, 25.0, 22.0, np.nan, np.nan])
    np.testing.assert_array_equal(values[:3, 0], [10.0, 25.0, 42.0])
    (choice,) = BestOf(3, judge, []).choose([exchange("x")], [["cccc", "bb", "a"]])
    assert choice["place"] == 1 and choice["scores"] == {"worth": 25.0}
    assert Judge(rater).length_effect([human[0], exchange("y")]) is None
    with pytest.raises(UserError, match="gives no score to any of 1 human replies"):
        Judge(rater).length_effect([exchange("y")])
    with pytest.raises(UserError, match=r"nothing else \(correlation 1.0000 on 3 replies\)"):
        effect.require_rest()


def test_what_is_left_beside_the_length_is_no_rounding() -> None:
    rater = FunctionRater(lambda pair: [len(pair.response) / 60], interval("worth"))
    human = [replace(exchange(str(n)), reply="x" * n) for n in range(3, 90, 7)]
    judge = Judge(rater, length=Judge(rater).length_effect(human))
    found, _ = judge.judged(inputs(*("y" * n for n in range(1, 120))), "t")
    assert len(set(found)) == 1
    level = LengthEffect.fit([0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2], ["a", "aa", "aaa", "aaaa"])
    assert (level.slope, level.correlation) == (0.0, None)


def test_the_rater_reads_the_context_of_each_reply() -> None:
    rater = by_table(a=1.0)
    BestOf(2, Judge(rater), []).choose([exchange("x"), exchange("y")], [["a", "b"], ["a", "c"]])
    assert [(pair.prompt, pair.response) for pair in rater.asked] == [
        ("I am x.", "a"),
        ("I am x.", "b"),
        ("I am y.", "a"),
        ("I am y.", "c"),
    ]


def test_of_one_nothing_can_be_chosen() -> None:
    with pytest.raises(UserError) as error:
        BestOf(1, Judge(by_table(a=1.0)), [])
    assert str(error.value) == "--best-of: of 1 nothing can be chosen; give 2 or more."
