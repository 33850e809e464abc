"""The collapse diagnostic on tables that a person can check."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language_models import untrained, write_tokenizer

from empo.raters.collapse import collapse, collapse_of
from empo.records import UserError

GOLD = [1.0] * 30 + [2.0] * 10
ANSWERS = ("1", "2")


def test_rows_are_means_per_gold_class_beside_the_prior() -> None:
    table = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    found = collapse_of(table, [1.0, 1.0, 2.0], ANSWERS)
    np.testing.assert_allclose(found.rows, [[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_allclose(found.prior, [2 / 3, 1 / 3])
    assert found.distance == pytest.approx(0.6)


def test_it_fires_where_the_rows_are_alike_and_not_where_they_differ() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.1, 0.1, size=40)
    prior = np.column_stack([0.75 + noise, 0.25 - noise])
    alike = collapse_of(prior, GOLD, ANSWERS)
    assert alike.collapsed and alike.p > 0.05
    assert "has learnt how often scores occur, not what they mean" in alike.summary()
    shift = np.where(np.array(GOLD) == 1, 0.1, -0.3)
    learnt = collapse_of(prior + np.column_stack([shift, -shift]), GOLD, ANSWERS)
    assert not learnt.collapsed and learnt.p < 0.001
    assert "The rows depend on the gold class" in learnt.summary()


def test_a_difference_that_chance_makes_counts_as_none() -> None:
    table = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.8, 0.2], [0.1, 0.9]])
    found = collapse_of(table, [1.0, 1, 1, 2, 2, 2], ANSWERS)
    assert found.distance == pytest.approx(0.1) and found.p > 0.5 and found.collapsed


def test_a_difference_that_is_sure_but_of_no_use_counts_as_none() -> None:
    tiny = np.where(np.array(GOLD) == 1, 0.01, -0.01)
    found = collapse_of(np.column_stack([0.7 + tiny, 0.3 - tiny]), GOLD, ANSWERS)
    assert found.p < 0.05 and found.distance == pytest.approx(0.02) and found.collapsed


def test_facts_are_json_and_the_table_has_a_line_per_class() -> None:
    found = collapse_of(np.full((40, 2), 0.5), GOLD, ANSWERS)
    assert found.facts()["rows"] == [[0.5, 0.5], [0.5, 0.5]] and found.facts()["n"] == [30, 10]
    lines = found.summary().splitlines()
    assert lines[0].split() == ["gold", "n", "P(Y)", "P(1)", "P(2)"]
    assert lines[1].split() == ["1", "30", "0.750", "0.500", "0.500"]


def test_a_model_is_asked_at_the_first_position_of_the_answer() -> None:
    tokenizer = write_tokenizer()
    model = untrained(tokenizer)
    prompts = [f"How was it? {word}" for word in ("great", "poor", "awful", "fine")]
    found = collapse(model, tokenizer, prompts, [1, 1, 2, 2], ["1", "2", "3"])
    np.testing.assert_allclose(found.rows.sum(axis=1), 1.0)
    assert found.rows.shape == (2, 3)
    with pytest.raises(UserError, match="answers 1, 1x: two begin with one token"):
        collapse(model, tokenizer, prompts, [1, 1, 2, 2], ["1", "1x"])
    with pytest.raises(UserError, match="needs two gold classes or more"):
        collapse(model, tokenizer, prompts, [1, 1, 1, 1], ["1", "2"])
