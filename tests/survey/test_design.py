"""Batches: the design of the paper with three systems, and the same evenness with any number."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from empo.survey.design import make_batches, orders


def of(items: int, systems: int, size: int, block: int, ratings: int, single: int, seed: int = 1):
    return make_batches(
        items, systems, size=size, block=block, ratings=ratings, single=single, seed=seed
    )


def test_three_systems_in_blocks_of_five_have_the_six_orders_and_three_single_batches_per_group() -> (
    None
):
    batches = of(135, 3, 15, 5, ratings=3, single=1)
    assert len(batches) == 81
    for group in range(9):
        mine = [batch for batch in batches if batch.group == group]
        mixed = [batch.order for batch in mine if not batch.single]
        assert sorted(mixed) == sorted(permutations(range(3)))
        assert sorted(b.order for b in mine if b.single) == [(s,) * 3 for s in range(3)]
        assert {item for batch in mine for item, _ in batch.places} == set(
            range(15 * group, 15 * group + 15)
        )


@pytest.mark.parametrize(
    ("systems", "size", "block", "ratings", "single"),
    [
        (2, 15, 5, 3, 1),
        (3, 15, 5, 3, 1),
        (4, 15, 5, 4, 0),
        (5, 15, 5, 3, 1),
        (5, 15, 3, 3, 3),
        (7, 6, 1, 3, 0),
    ],
)
def test_ratings_and_places_are_equal_for_all(
    systems: int, size: int, block: int, ratings: int, single: int
) -> None:
    batches = of(3 * size, systems, size, block, ratings, single)
    assert len(batches) == 3 * systems * ratings
    of_item = Counter(place for batch in batches for place in batch.places)
    assert set(of_item.values()) == {ratings} and len(of_item) == 3 * size * systems
    places = Counter((s, i) for batch in batches for i, (_, s) in enumerate(batch.places))
    assert set(places.values()) == {3 * ratings} and len(places) == systems * size
    for batch in batches:
        assert len({item for item, _ in batch.places}) == size, "a person meets an item once"
        blocks = [batch.places[i : i + block] for i in range(0, size, block)]
        assert [{s for _, s in of_block} for of_block in blocks] == [{s} for s in batch.order]
        assert batch.single == (len(set(batch.order)) == 1)
    assert sum(batch.single for batch in batches) == 3 * systems * single


def test_systems_meet_the_same_items_in_the_same_places_of_a_round() -> None:
    batches = of(30, 4, 15, 5, ratings=3, single=1)
    rounds: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for batch in batches:
        rounds.setdefault((batch.group, batch.round), set()).add(tuple(i for i, _ in batch.places))
    assert {len(found) for found in rounds.values()} == {1}
    assert len(set.union(*rounds.values())) == 6, "another order of the items in every round"


@pytest.mark.parametrize(
    ("systems", "blocks", "expected"),
    [(3, 3, 6), (2, 3, 6), (2, 2, 2), (5, 3, 60), (2, 4, 6), (1, 3, 1)],
)
def test_orders_are_all_that_use_the_systems_as_evenly_as_can_be(
    systems: int, blocks: int, expected: int
) -> None:
    found = [order for one in orders(systems, blocks) for order in one]
    assert len(found) == len(set(found)) == expected
    for order in found:
        counts = [order.count(system) for system in range(systems)]
        assert max(counts) - min(counts) <= 1
    for one in orders(systems, blocks):
        assert all(sorted(column) == list(range(systems)) for column in zip(*one, strict=True))


def test_all_sixty_orders_of_five_systems_are_used_before_one_comes_a_third_time() -> None:
    counts = Counter(b.order for b in of(135, 5, 15, 5, 3, 1) if not b.single)
    assert len(counts) == 60 and set(counts.values()) == {1, 2}


def test_an_item_stands_at_the_begin_the_middle_and_the_end() -> None:
    found: dict[int, set[int]] = {}
    for batch in of(30, 3, 15, 5, ratings=3, single=1):
        for place, (item, _) in enumerate(batch.places):
            found.setdefault(item, set()).add(place // 5)
    assert set(map(len, found.values())) == {3}


def test_the_seed_says_which_orders_come_first() -> None:
    used = {
        frozenset(b.order for b in of(15, 5, 15, 5, 3, 1, seed=s) if not b.single) for s in range(9)
    }
    assert len(used) > 3


def test_the_seed_decides() -> None:
    assert of(30, 3, 15, 5, 3, 1) == of(30, 3, 15, 5, 3, 1)
    assert of(30, 3, 15, 5, 3, 1) != of(30, 3, 15, 5, 3, 1, seed=2)
