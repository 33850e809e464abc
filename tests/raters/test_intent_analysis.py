"""Intent by perceived empathy: means, tests and their correction, on turns a person can check."""

from __future__ import annotations

import numpy as np
import pytest

from empo.raters.intent_analysis import Turns, dialogue_rows, intent_table, turn_rows, turns_of
from empo.records import UserError


def turns(
    scores: list[float], marks: list[float], dialogues: str, dimension: str = "warmth"
) -> Turns:
    """Turns of one intent and one dimension, the dialogue of each a letter."""
    return Turns(
        ("ask",), (dimension,), np.array([marks]).T, np.array([scores]).T, np.array(list(dialogues))
    )


PAIRED = turns([3, 1, 4, 4, 2, 3, 2, 1, 5, 5], [1, 0, 1, 1, 0, 1, 0, 0, 1, 1], "aabbbcccdd")
"""By dialogue 3 - 1 = 2, 4 - 2 = 2 and 3 - 1.5 = 1.5; the fourth has no turn without the intent."""


def test_a_dialogue_is_compared_with_itself() -> None:
    """The mean is 11/6, the standard error 1/6, so t = 11 with two degrees of freedom.

    With two degrees p is 1 - t / sqrt(t^2 + 2) = 1 - 11 / sqrt(123).
    """
    (row,) = intent_table(PAIRED)
    of = row["dialogues"]
    assert (of["n"], of["left_out"]) == (3, 1)
    assert of["present"]["mean"] == pytest.approx(10 / 3)
    assert of["absent"] == {"mean": 1.5, "se": pytest.approx(0.5 / 3**0.5)}
    assert of["difference"] == {"mean": pytest.approx(11 / 6), "se": pytest.approx(1 / 6)}
    assert row["p"] == pytest.approx(1 - 11 / 123**0.5)
    assert row["p_corrected"] == row["p"] and row["mark"] == "**"
    headers, cells = dialogue_rows([row])
    assert len(headers) == len(cells[0])
    assert cells[0][2:7] == ["3", "1", "3.33 ± 0.33", "1.50 ± 0.29", "+1.83 ± 0.17**"]


def test_turns_are_described_and_bear_no_mark() -> None:
    (row,) = intent_table(PAIRED)
    assert row["turns"]["present"] == {"n": 6, "mean": 4.0, "se": pytest.approx((4 / 5 / 6) ** 0.5)}
    assert row["turns"]["absent"] == {"n": 4, "mean": 1.5, "se": pytest.approx((1 / 3 / 4) ** 0.5)}
    headers, cells = turn_rows([row])
    assert len(headers) == len(cells[0])
    assert cells[0] == ["ask", "warmth", "4.00 ± 0.37", "6", "1.50 ± 0.29", "4"]


def test_the_tests_of_the_table_are_corrected_together() -> None:
    both = Turns(
        ("ask",),
        ("warmth", "care"),
        PAIRED.marks,
        np.hstack([PAIRED.scores, PAIRED.scores % 2]),
        PAIRED.dialogues,
    )
    single = [row["p"] for row in intent_table(both)]
    assert single[0] < single[1]
    holm = [row["p_corrected"] for row in intent_table(both)]
    assert holm == [pytest.approx(2 * single[0]), pytest.approx(max(2 * single[0], single[1]))]
    bonferroni = [row["p_corrected"] for row in intent_table(both, "bonferroni")]
    assert bonferroni == [pytest.approx(min(1, 2 * p)) for p in single]


def test_a_pair_without_a_test_says_why_and_is_not_counted() -> None:
    marks = np.array([[1.0, 1], [0, 1], [1, 1], [0, 1], [np.nan, 0]])
    scores = np.array([[5.0], [1], [4], [2], [3]])
    given = Turns(("ask", "tell"), ("warmth",), marks, scores, np.array(list("aabbc")))
    ask, tell = intent_table(given)
    assert ask["turns"]["present"]["n"] == ask["turns"]["absent"]["n"] == 2
    assert ask["p_corrected"] == ask["p"] == pytest.approx(1 - 2 * np.arctan(3) / np.pi)
    assert tell["p"] is None and tell["turns"]["absent"] == {"n": 1, "mean": 3.0, "se": None}
    assert (tell["dialogues"]["n"], tell["dialogues"]["left_out"]) == (0, 3)
    assert tell["dialogues"]["difference"] == {"mean": None, "se": None}
    assert tell["reason"] == "fewer than two dialogues with and without the intent"
    flat = intent_table(turns([3.3, 3.2, 1.3, 1.2], [1, 0, 1, 0], "aabb"))
    assert flat[0]["reason"] == "the differences do not vary"
    assert dialogue_rows(flat)[1][0][-1] == "the differences do not vary"


def simulated(effect: float, seed: int, intents: int) -> list[float]:
    """p of each intent for 20 dialogues of eight turns, where dialogues differ more than turns.

    A turn is its dialogue's level plus noise; dialogues at a higher level show an intent more often,
    at random within the dialogue, which moves no turn; `effect` is what the first intent adds.
    """
    draw = np.random.default_rng(seed)
    level = np.repeat(draw.normal(0, 1, 20), 8)
    marks = (draw.random((160, intents)) < 1 / (1 + np.exp(-level))[:, None]).astype(float)
    scores = level + draw.normal(0, 0.5, 160) + effect * marks[:, 0]
    names = tuple(f"intent {i}" for i in range(intents))
    given = Turns(names, ("b",), marks, scores[:, None], np.repeat(np.arange(20), 8))
    return [row["p"] for row in intent_table(given)]


def test_a_true_null_is_rejected_as_often_as_said_and_an_effect_is_found() -> None:
    """Of 400 tests of a null 20 are expected below .05, with a standard deviation of 4.4."""
    null = [p for seed in range(10) for p in simulated(0.0, seed, 40)]
    assert 7 <= sum(p < 0.05 for p in null) <= 33
    assert all(p < 0.05 for seed in range(10) for p in simulated(0.5, seed, 1))


def test_an_intent_is_there_where_all_raters_mark_it_and_scores_are_their_means() -> None:
    given = [
        {"item": item, "rater": rater, "aspect": aspect, "value": value}
        for item, aspect, values in [
            ("d:0:1", "ask", (1, 0)),
            ("d:0:1", "warmth", (3, 4)),
            ("d:1:1", "ask", (1, 1)),
        ]
        for rater, value in zip(("Rater_1", "Rater_2"), values, strict=True)
    ]
    found = turns_of(given, ["ask"], ["warmth"])
    assert found.dialogues.tolist() == ["d:0", "d:1"] and found.marks.tolist() == [[0], [1]]
    assert found.scores[0, 0] == 3.5 and np.isnan(found.scores[1, 0])


def test_without_an_intent_or_a_dimension_it_is_refused() -> None:
    with pytest.raises(UserError, match="an intent and a perceived dimension are needed"):
        turns_of([], [], ["warmth"])
