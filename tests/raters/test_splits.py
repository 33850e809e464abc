from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from empo.corpora.labelled import Example
from empo.raters.splits import Split, check_separate, label_matrix, splits, with_test
from empo.rating import Dimension, RatingInput
from empo.records import UserError

EMPATHY = Dimension("empathy", 0, 2, "ordinal", (0.0, 1.0, 2.0))
QUESTION = Dimension("question", 0, 1, "binary", (0.0, 1.0))
DISTANCE = Dimension("distance", 0, 1, "interval")
SHARES = {"test_share": 0.2, "validation_share": 0.2, "seed": 0}


def examples(labels: list[tuple[str, float | None]], name: str = "empathy") -> list[Example]:
    """One example per (group, label)."""
    return [
        Example(str(i), group, RatingInput("a", "b"), {} if label is None else {name: label})
        for i, (group, label) in enumerate(labels)
    ]


def corpus(groups: int, seed: int = 0, most: int = 4) -> list[Example]:
    """Groups of one to `most` examples; level 2 is rare."""
    chance = random.Random(seed)
    found = [
        (f"g{g}", float(chance.choices((0, 1, 2), (6, 3, 1))[0]))
        for g in range(groups)
        for _ in range(chance.randint(1, most))
    ]
    return examples([*found, ("first", 0.0), ("second", 1.0), ("third", 2.0)])


def groups_of(found: list[Example], indices: np.ndarray) -> set[str]:
    return {found[i].group for i in indices}


@budget(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=10, max_size=40),
    levels=st.randoms(use_true_random=False),
    folds=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_no_group_is_ever_on_two_sides(
    sizes: list[int], levels: random.Random, folds: int, seed: int
) -> None:
    found = examples(
        [(f"g{g}", levels.choice((0.0, 1.0))) for g, n in enumerate(sizes) for _ in range(n)]
    )
    shares = {"test_share": 0.25, "validation_share": 0.25, "seed": seed}
    try:
        parts = splits(found, [EMPATHY], folds=folds, **shares)
    except UserError as error:
        assert "absent from the training part" in str(error) or "are equal" in str(error)
        return
    assert len(parts) == folds
    for split in parts:
        sides = [groups_of(found, side) for side in (split.train, split.validation, split.test)]
        assert not sides[0] & sides[2] and not sides[1] & sides[2]
        assert split.inner_by_example or not sides[0] & sides[1]
        assert all(sides)
        everything = np.concatenate([split.train, split.validation, split.test])
        assert sorted(everything) == list(range(len(found)))
    if folds > 1:
        held_out = np.concatenate([split.test for split in parts])
        assert sorted(held_out) == list(range(len(found)))


def test_the_seed_is_the_split() -> None:
    found = corpus(60)
    first, again, other = (
        splits(found, [EMPATHY], folds=1, **(SHARES | {"seed": seed}))[0] for seed in (3, 3, 4)
    )
    for side in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, side), getattr(again, side))
    assert set(first.test) != set(other.test)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.5])
def test_the_held_out_share_is_about_what_was_asked_for(share: float) -> None:
    found = corpus(200)
    shares = SHARES | {"test_share": share, "validation_share": share}
    (split,) = splits(found, [EMPATHY], folds=1, **shares)
    assert len(split.test) / len(found) == pytest.approx(share, abs=0.03)
    inner = len(split.train) + len(split.validation)
    assert len(split.validation) / inner == pytest.approx(share, abs=0.03)


def test_every_level_is_held_out_where_the_groups_allow_it() -> None:
    found = examples([(f"g{g}", float(g % 10 == 0) + float(g % 20 == 0)) for g in range(200)])
    gold = label_matrix(found, [EMPATHY])[:, 0]
    assert np.bincount(gold.astype(int)).tolist() == [180, 10, 10]
    for seed in range(5):
        for split in splits(found, [EMPATHY], folds=5, **(SHARES | {"seed": seed})):
            assert np.bincount(gold[split.test].astype(int)).tolist() == [36, 2, 2]
            assert set(gold[split.validation]) == {0, 1, 2}


def test_missing_labels_are_a_stratum_and_no_level() -> None:
    labels = [0.0, 1.0, None, 2.0]
    found = examples([(f"g{g}", labels[g % 4]) for g in range(80)])
    assert np.isnan(label_matrix(found, [EMPATHY])[2, 0])
    (split,) = splits(found, [EMPATHY], folds=1, **SHARES)
    held_out = label_matrix([found[i] for i in split.test], [EMPATHY])[:, 0]
    assert np.isnan(held_out).sum() == 4


def test_an_interval_has_no_levels_to_balance() -> None:
    found = examples([(f"g{g}", g / 100) for g in range(100)], "distance")
    (split,) = splits(found, [DISTANCE], folds=1, **SHARES)
    assert len(split.test) == 20


def test_too_few_groups() -> None:
    found = examples([("a", 0.0), ("a", 1.0), ("b", 0.0), ("b", 1.0)])
    with pytest.raises(UserError) as error:
        splits(found, [EMPATHY], folds=3, **SHARES)
    assert str(error.value) == (
        "2 groups cannot be split into 3 parts. Give other data to hold out with --test "
        "(EmpathicStories, where shared stories join nearly all pairs to one group: pairs_test.csv for "
        "pairs_dev.csv). Or use fewer folds, a larger share, or more data (folds)."
    )
    with pytest.raises(UserError) as error:
        with_test(found[:1], found[2:], [EMPATHY], validation_share=0.2, seed=0)
    assert str(error.value) == (
        "1 groups cannot be split into 5 parts. Use fewer folds, a larger share, or more data "
        "(validation_share)."
    )
    with pytest.raises(UserError, match="2 groups cannot be split into 5 parts"):
        splits(found, [EMPATHY], folds=1, **SHARES)


def test_with_too_few_groups_the_inner_part_is_cut_by_example_and_says_so() -> None:
    found = examples([(f"g{g}", float(k % 2)) for g in range(3) for k in range(20)])
    (split,) = splits(found, [EMPATHY], folds=1, **(SHARES | {"test_share": 0.33}))
    assert split.inner_by_example
    assert len(groups_of(found, split.train) & groups_of(found, split.validation)) == 2
    assert not groups_of(found, split.test) & groups_of(found, split.train)
    (split,) = splits(corpus(40), [EMPATHY], folds=1, **SHARES)
    assert not split.inner_by_example


@pytest.mark.parametrize("label, said", [(1.0, "all labels are equal (1)"), (None, "no labels")])
def test_nothing_to_learn(label: float | None, said: str) -> None:
    found = examples([(f"g{g}", label) for g in range(30)])
    with pytest.raises(UserError) as error:
        splits(found, [EMPATHY], folds=1, **SHARES)
    assert str(error.value).startswith("dimension 'empathy': ") and said in str(error.value)
    assert "Leave it out with `dimensions`" in str(error.value)
    both = [
        Example(e.id, e.group, e.input, {**e.labels, "question": float(i % 2)})
        for i, e in enumerate(found)
    ]
    with pytest.raises(UserError, match="dimension 'empathy'"):
        splits(both, [QUESTION, EMPATHY], folds=1, **SHARES)
    assert splits(both, [QUESTION], folds=1, **SHARES)


def test_a_level_that_the_training_part_lacks() -> None:
    found = examples([("rare", 2.0)] + [(f"g{g}", float(g % 2)) for g in range(30)])
    with pytest.raises(UserError) as error:
        splits(found, [EMPATHY], folds=5, **SHARES)
    assert "dimension 'empathy': level 2 is absent from the training part of fold" in str(
        error.value
    )
    assert "Use fewer folds or another split_seed, or merge the level" in str(error.value)
    assert len(splits(found, [EMPATHY], folds=5, **SHARES, learns=False)) == 5
    test = examples([("new", 1.0)])
    with pytest.raises(UserError, match="level 2 is absent from the training part of the data"):
        with_test(rare_in_validation(), test, [EMPATHY], validation_share=0.2, seed=0)
    with_test(rare_in_validation(), test, [EMPATHY], validation_share=0.2, seed=0, learns=False)


def rare_in_validation() -> list[Example]:
    """The only label 2 is of a group that chooses the wording, or the epoch."""
    found = examples([(f"g{g}", float(g % 2)) for g in range(20)])
    split = with_test(found, found[:0], [EMPATHY], validation_share=0.2, seed=0)
    return [
        Example(e.id, e.group, e.input, {"empathy": 2.0}) if i == split.validation[0] else e
        for i, e in enumerate(found)
    ]


def test_baselines_need_a_label_where_nothing_is_learnt() -> None:
    found = examples([(f"g{g}", None) for g in range(28)] + [("a", 0.0), ("a", 1.0)])
    with pytest.raises(UserError, match="level 0 is absent from the training part of fold"):
        splits(found, [EMPATHY], folds=5, **SHARES, learns=False)


def test_a_held_out_corpus_of_its_own() -> None:
    found = corpus(40)
    test = examples([(f"new{g}", float(g % 3)) for g in range(9)])
    split = with_test(found, test, [EMPATHY], validation_share=0.2, seed=0)
    assert split.test.tolist() == list(range(len(found), len(found) + 9))
    inner = sorted([*split.train, *split.validation])
    assert inner == list(range(len(found)))
    assert not groups_of(found, split.train) & groups_of(found, split.validation)


def test_a_held_out_corpus_that_shares_a_group() -> None:
    found = corpus(40)
    shared = [("g3", 0.0), ("g4", 1.0), ("new", 2.0)]
    with pytest.raises(UserError) as error:
        with_test(found, examples(shared), [EMPATHY], validation_share=0.2, seed=0)
    assert "in both train and test: g3" in str(error.value) or "g4" in str(error.value)
    assert "keep every group on one side" in str(error.value)


def test_a_held_out_corpus_does_not_lend_its_levels() -> None:
    found = examples([(f"g{g}", 0.0) for g in range(30)])
    test = examples([(f"new{g}", float(g % 2)) for g in range(8)])
    with pytest.raises(UserError, match=r"all labels are equal \(0\)"):
        with_test(found, test, [EMPATHY], validation_share=0.2, seed=0)


def test_separation_is_checked_whoever_split() -> None:
    found = examples([("a", 0.0), ("b", 1.0), ("c", 0.0), ("a", 1.0), ("b", 0.0)])

    def side(*indices: int) -> np.ndarray:
        return np.array(indices, dtype=int)

    check_separate(found, Split(side(0, 3), side(1, 4), side(2)))
    with pytest.raises(UserError, match="1 group in both train and test: a"):
        check_separate(found, Split(side(0, 1), side(4), side(2, 3)))
    with pytest.raises(UserError, match="1 group in both train and validation: b"):
        check_separate(found, Split(side(0, 1, 3), side(4), side(2)))
    check_separate(found, Split(side(0, 1, 3), side(4), side(2), inner_by_example=True))
    with pytest.raises(UserError, match="2 groups in both train and test: a, b"):
        check_separate(found, Split(side(0, 1), side(), side(3, 4), inner_by_example=True))
