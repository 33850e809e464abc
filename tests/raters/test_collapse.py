"""The collapse diagnostic on tables that a person can check."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language_models import untrained, write_tokenizer

from empo.corpora.labelled import Example
from empo.raters.answers import answer_log_probs
from empo.raters.collapse import collapse, collapse_of, collapse_of_rater
from empo.raters.scoring_lm import ScoringLM, scoring_config
from empo.raters.scoring_templates import Templates
from empo.rating import Dimension, RatingInput
from empo.records import UserError

GOLD = [1.0] * 30 + [2.0] * 10
ANSWERS = ("1", "2")
TOKENIZER = write_tokenizer()
MODEL = untrained(TOKENIZER)
SETTINGS = {"turns": 0, "max_length": 150, "as_values": True, "explanation_tokens": 0}


def test_rows_are_means_per_gold_class_beside_the_prior() -> None:
    table = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]).repeat(5, axis=0)
    found = collapse_of(table, np.repeat([1.0, 1.0, 2.0], 5), ANSWERS)
    np.testing.assert_allclose(found.rows, [[0.8, 0.2], [0.2, 0.8]])
    np.testing.assert_allclose(found.prior, [2 / 3, 1 / 3])
    assert found.distance == pytest.approx(0.6)


def test_the_distance_weighs_classes_by_their_size_and_leaves_out_small_ones() -> None:
    first = [0.5] * 10 + [0.6] * 5 + [0.9] * 5 + [0.0] * 4
    gold = [1.0] * 10 + [2.0] * 5 + [3.0] * 5 + [4.0] * 4
    found = collapse_of(np.column_stack([first, 1 - np.array(first)]), gold, ANSWERS)
    assert found.distance == pytest.approx((50 * 0.1 + 50 * 0.4 + 25 * 0.3) / 125)
    with pytest.raises(UserError, match="two gold classes or more with 5 examples each"):
        collapse_of(np.full((9, 2), 0.5), [1.0] * 5 + [2.0] * 4, ANSWERS)


def test_groups_whose_labels_depend_on_each_other_are_no_evidence_each_time() -> None:
    """Noise of twelve dialogues of unequal length, none with anything learnt: the test must hold."""
    false, each = 0, 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        sizes = rng.integers(10, 31, size=12)
        groups = np.arange(12).repeat(sizes)
        gold = (rng.normal(size=12)[groups] + 0.3 * rng.normal(size=len(groups)) > 0).astype(float)
        if min(gold.sum(), (1 - gold).sum()) < 5:
            continue
        first = 0.5 + 0.15 * np.tanh(rng.normal(size=12)[groups] + rng.normal(size=len(groups)))
        table = np.column_stack([first, 1 - first])
        with_groups = collapse_of(table, gold, ANSWERS, groups=groups, permutations=99)
        alone = collapse_of(table, gold, ANSWERS, permutations=99)
        false, each = false + (with_groups.p <= 0.05), each + (alone.p <= 0.05)
        assert with_groups.distance == alone.distance
    assert false <= 8 < 20 < each  # 3 of 60 are expected, more than 8 with a chance of 1 in 200


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
    first = np.array([0.9, 0.2, 0.6, 0.9, 0.2, 0.6, 0.5, 0.8, 0.1, 0.5, 0.8, 0.1])
    found = collapse_of(np.column_stack([first, 1 - first]), [1.0] * 6 + [2.0] * 6, ANSWERS)
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


def test_a_model_is_asked_for_the_whole_answer() -> None:
    prompts = [f"How was it? {word}" for word in ("great", "poor", "awful", "fine", "good")] * 2
    gold = [1] * 5 + [2] * 5
    found = collapse(MODEL, TOKENIZER, prompts, gold, ["10", "12", "15"])  # which begin alike
    np.testing.assert_allclose(found.rows.sum(axis=1), 1.0)
    likely = softmax(answer_log_probs(MODEL, TOKENIZER, prompts, ["10", "12", "15"]), axis=1)
    np.testing.assert_allclose(found.rows[0], likely[:5].mean(axis=0))
    with pytest.raises(UserError, match="two gold classes or more"):
        collapse(MODEL, TOKENIZER, prompts, [1] * 10, ["1", "2"])


def examples(levels: list[float]) -> list[Example]:
    return [
        Example(f"e{i}", f"g{i // 2}", RatingInput("", f"day {i}"), {"mood": level})
        for i, level in enumerate(levels)
    ]


def test_answers_that_begin_with_one_token_are_measured_as_any_others() -> None:
    values = tuple(range(10, 20))
    config = scoring_config("tiny", [Dimension("mood", 10, 19, "interval", values)], SETTINGS)
    rater = ScoringLM(MODEL, TOKENIZER, config, Templates("turn", {"standard": "{text} {label}"}))
    levels = [10.0] * 6 + [11.0] * 2 + [12.0] * 3 + [15.0] * 5 + [19.0] * 4
    firsts = TOKENIZER(list(rater.tables[0].answers), add_special_tokens=False).input_ids
    assert len({ids[0] for ids in firsts}) == 1
    found = collapse_of_rater(rater, examples(levels))["mood"]
    assert found.answers == tuple(str(value) for value in values)
    assert found.classes == ("10", "11-12", "15-19") and found.counts.tolist() == [6, 5, 9]
    told = collapse_of_rater(rater, examples([10.0] * 6 + [11.0] * 4))["mood"]
    assert told == "10 examples with a label make fewer than two gold classes of 5."
    assert collapse_of_rater(rater, examples([11.0] * 3))["mood"].startswith("3 examples")
    assert collapse_of_rater(rater, [])["mood"].startswith("0 examples")


def test_examples_are_drawn_by_the_seed_from_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("empo.raters.collapse.DIAGNOSED", 12)
    config = scoring_config("tiny", [Dimension("mood", 10, 19, "interval", (10, 19))], SETTINGS)
    rater = ScoringLM(MODEL, TOKENIZER, config, Templates("turn", {"standard": "{text} {label}"}))
    given = examples([10.0] * 12 + [19.0] * 12)  # sorted, as files are
    found = collapse_of_rater(rater, given, seed=1)["mood"]
    assert found.counts.sum() == 12 and len(found.classes) == 2
    assert collapse_of_rater(rater, given, seed=1)["mood"].facts() == found.facts()
