"""The sampler of contrastive pairs: what is kept, how often, and that it ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from empo.corpora.examples import load_labelled
from empo.corpora.labelled import Example
from empo.raters import contrastive_pairs as module
from empo.raters.contrastive_pairs import contrastive_pairs
from empo.raters.level_table import LevelTable
from empo.raters.splits import splits
from empo.rating import RatingInput


def examples(levels: list[int], group_size: int = 1) -> list[Example]:
    return [
        Example(f"e{i}", f"g{i // group_size}", RatingInput("", f"t{i}"), {"empathy": float(level)})
        for i, level in enumerate(levels)
    ]


TABLE = LevelTable.of("empathy", range(6))


def test_far_pairs_are_always_kept_and_near_ones_at_their_rates() -> None:
    some = examples([i % 6 for i in range(600)])
    found = contrastive_pairs(some, TABLE, quota=100_000, seed=3)
    levels = Counter(
        min(2, abs(int(some[a].labels["empathy"] - some[b].labels["empathy"])))
        for a, b in found.pairs
    )
    assert found.kept == dict(levels) and len(found.pairs) == len(
        {frozenset(p) for p in found.pairs}
    )
    assert found.drawn < found.possible == 600 * 599 // 2
    # of 36 ordered pairs of levels 6 are equal, 10 are neighbours, 20 are further apart
    drawn = found.drawn
    assert levels[2] == pytest.approx(drawn * 20 / 36, rel=0.02)
    assert levels[1] == pytest.approx(drawn * 10 / 36 * 0.3, rel=0.05)
    assert 0 < levels[0] < drawn * 6 / 36 * 0.003
    first = sum(a < b for a, b in found.pairs)
    assert first == pytest.approx(len(found.pairs) / 2, rel=0.03)


def test_the_quota_ends_the_draws_and_the_seed_decides_them() -> None:
    some = examples([i % 6 for i in range(600)])
    found = contrastive_pairs(some, TABLE, quota=50, seed=1)
    assert len(found.pairs) == 50 and 50 <= found.drawn < 150
    assert found.pairs == contrastive_pairs(some, TABLE, quota=50, seed=1).pairs
    assert found.pairs != contrastive_pairs(some, TABLE, quota=50, seed=2).pairs
    assert "50 kept of" in found.summary() and "fewer than" not in found.summary()


def test_a_quota_that_cannot_be_reached_ends_with_a_report() -> None:
    found = contrastive_pairs(examples([0, 0, 5, 5]), TABLE, seed=0)
    assert found.kept == {2: 4} and found.drawn == found.possible == 6
    assert found.summary() == (
        "contrastive pairs of empathy: 4 kept of 6 drawn (4 at distance 2+), and 0 within a dialogue; "
        "fewer than the 5,000 asked for: all 6 possible pairs were drawn. Lower pair_quota, or raise "
        "pair_keep"
    )
    assert found.facts() == {
        "quota": 5000,
        "drawn": 6,
        "possible": 6,
        "kept": 4,
        "kept_by_distance": {"2": 4},
        "within_groups": 0,
    }
    alone = contrastive_pairs(examples([3]), TABLE)
    assert alone.pairs == [] and alone.possible == 0


def test_a_large_corpus_of_one_level_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DRAWS", 2_000)
    monkeypatch.setattr(module, "_CHUNK", 500)
    some = examples([2] * 99 + [3])
    found = contrastive_pairs(some, TABLE, keep=(0, 0, 1))
    assert (found.drawn, found.possible, found.pairs) == (2_000, 4_950, [])
    assert "drawing ends at 2,000" in found.summary()
    kept = contrastive_pairs(some, TABLE, keep=(1, 1, 1))
    assert len({frozenset(pair) for pair in kept.pairs}) == 2_000


def test_pairs_of_one_dialogue_come_in_addition() -> None:
    some = examples([0, 5, 0, 5, 2, 2], group_size=2)
    found = contrastive_pairs(some, TABLE, quota=3, seed=0, within_groups=True)
    groups = [(some[a].group, some[b].group) for a, b in found.pairs]
    assert [a == b for a, b in groups] == [False] * 3 + [True] * 3
    assert {a for a, b in groups if a == b} == {"g0", "g1", "g2"}
    assert found.within == 3 and found.possible == 15 - 3
    every = contrastive_pairs(some, TABLE, keep=(1, 1, 1), within_groups=True).pairs
    assert len(every) == len({frozenset(pair) for pair in every}) == 15


def test_examples_without_the_label_are_in_no_pair() -> None:
    some = [Example("x", "x", RatingInput("", "x"), {}), *examples([0, 5])]
    assert {frozenset(pair) for pair in contrastive_pairs(some, TABLE).pairs} == {frozenset({1, 2})}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("trac2_CONVT_train", {"emotion_intensity": 16, "empathy": 16, "polarity": 9}),
        ("trac3_EMP_train", {"empathy": 43, "distress": 43}),
    ],
)
def test_the_shared_task_has_five_thousand_pairs_per_label(
    real: Path, name: str, sizes: dict[str, int]
) -> None:
    corpus = load_labelled(real / "wassa" / "2024" / f"{name}.csv")
    (split,) = splits(
        corpus.examples, corpus.dimensions, folds=1, test_share=0.2, validation_share=0.1, seed=0
    )
    train = [corpus.examples[i] for i in split.train]
    for label, size in sizes.items():
        table = LevelTable.of(label, (e.labels[label] for e in train if label in e.labels))
        assert len(table) == size
        found = contrastive_pairs(train, table, seed=1)
        assert len(found.pairs) == sum(found.kept.values()) == 5_000 < found.drawn < found.possible
