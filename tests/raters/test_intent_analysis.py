"""Intent by perceived empathy: means, tests and their correction, on turns a person can check."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from empo.raters.intent_analysis import Turns, intent_table, table_rows, turns_of
from empo.records import UserError


def annotations() -> list[dict]:
    found = []
    for i in range(20):
        present, high = i % 2, [3, 5][i % 2]
        for rater in ("Rater_1", "Rater_2"):
            item = f"d:{i // 4}:{i}"
            found.append({"item": item, "rater": rater, "aspect": "ask", "value": present})
            spread = high - (i // 2) % 2
            found.append({"item": item, "rater": rater, "aspect": "warmth", "value": spread})
            found.append({"item": item, "rater": rater, "aspect": "clarity", "value": 3 + i // 10})
    return found


def test_means_standard_errors_and_corrected_tests() -> None:
    turns = turns_of(annotations(), ["ask"], ["warmth", "clarity"])
    assert turns.marks.shape == (20, 1) and turns.scores.shape == (20, 2)
    assert set(turns.dialogues) == {f"d:{k}" for k in range(5)}
    warmth, clarity = intent_table(turns)
    assert warmth["present"] == {"n": 10, "mean": 4.5, "se": pytest.approx(0.5270463 / 10**0.5)}
    assert warmth["absent"]["mean"] == 2.5 and warmth["difference"] == 2.0
    sides = [turns.scores[turns.marks[:, 0] == mark, 0] for mark in (1, 0)]
    p = ttest_ind(*sides, equal_var=False).pvalue
    assert warmth["p"] == pytest.approx(p) and warmth["p_corrected"] == pytest.approx(2 * p)
    assert warmth["mark"] == "***"
    assert clarity["difference"] == 0 and clarity["mark"] == "" and clarity["p_corrected"] == 1
    bonferroni = intent_table(turns, "bonferroni")
    assert bonferroni[0]["p_corrected"] == pytest.approx(2 * p)
    headers, cells = table_rows([warmth])
    assert len(headers) == len(cells[0]) and cells[0][6] == "+2.00***"


def test_a_pair_without_a_test_says_why_and_is_not_counted() -> None:
    marks = np.array([[1.0, 1], [0, 1], [1, 1], [0, 1], [np.nan, 0]])
    scores = np.array([[5.0], [1], [4], [2], [3]])
    turns = Turns(("ask", "tell"), ("warmth",), marks, scores, np.array(list("aabbc")))
    ask, tell = intent_table(turns)
    assert ask["present"]["n"] == ask["absent"]["n"] == 2 and ask["p_corrected"] == ask["p"]
    assert tell["p"] is None and tell["absent"] == {"n": 1, "mean": 3.0, "se": None}
    assert tell["reason"] == "fewer than two values with or without the intent"
    flat = Turns(("ask",), ("warmth",), marks[:4, :1], np.full((4, 1), 3.0), turns.dialogues[:4])
    assert intent_table(flat)[0]["reason"] == "the values do not vary"
    assert table_rows(intent_table(flat))[1][0][-1] == "the values do not vary"


def test_dialogues_can_be_the_units() -> None:
    marks = np.array([[1.0], [1], [0], [1], [0], [0]])
    scores = np.array([[5.0], [3], [1], [2], [1], [2]])
    turns = Turns(("ask",), ("warmth",), marks, scores, np.array(list("aaabbb")))
    (row,) = intent_table(turns, by_dialogue=True)
    assert row["present"]["n"] == 2 and row["present"]["mean"] == 3.0
    assert row["absent"]["mean"] == pytest.approx((1 + 1.5) / 2)


def test_without_an_intent_or_a_dimension_it_is_refused() -> None:
    with pytest.raises(UserError, match="an intent and a perceived dimension are needed"):
        turns_of(annotations(), [], ["warmth"])
