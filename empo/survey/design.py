"""Who rates what: batches in which every item gets its ratings and every system every place.

An item is an exchange; a batch shows each of its items once, with the reply of one system. A *round*
of a group of items is one batch per system, with the same items in the same order: in every place of
the page each system stands in exactly one of them, so a round gives every item one rating under
every system, and no system has better places than another. A person does one batch, and so meets
an item once.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

MOST_BLOCKS = 6
"""Blocks in a batch; the orders to choose from are counted out."""
MOST_SYSTEMS = 8


@dataclass(frozen=True)
class Batch:
    """What one person rates: (item, system) by number, in the order of the pages.

    `order` are the systems of its blocks; `single` says that all of them are the same.
    """

    group: int
    round: int
    order: tuple[int, ...]
    single: bool
    places: tuple[tuple[int, int], ...]


def orders(systems: int, blocks: int) -> list[list[tuple[int, ...]]]:
    """All orders of systems over the blocks of a batch, in sets of which each makes one round.

    An order uses the systems as evenly as can be: each once where there are as many blocks, some of
    them where there are fewer, some twice where there are more. A set are the orders that turn into
    each other by going to the next system (mod `systems`), so each system is in each block once.
    With three systems and blocks: the 3! orders, in two sets.
    """
    least, over = divmod(blocks, systems)
    counts = sorted([least + 1] * over + [least] * (systems - over))
    firsts = [
        (0, *rest)
        for rest in itertools.product(range(systems), repeat=blocks - 1)
        if sorted(map((0, *rest).count, range(systems))) == counts
    ]
    return [
        [tuple((system + step) % systems for system in first) for step in range(systems)]
        for first in firsts
    ]


def make_batches(
    items: int, systems: int, *, size: int, block: int, ratings: int, single: int, seed: int
) -> list[Batch]:
    """Batches for items 0..items-1: `ratings` per item and system, `single` of them in batches that
    show one system only.

    `items` is a multiple of `size`, `size` of `block`. The sets of `orders` are gone through one
    after another, over rounds and groups, so all are used as evenly as can be. The blocks of a
    group are shown in another order in every round, and the items of a block are shuffled.
    """
    rng = random.Random(seed)
    sets = orders(systems, size // block)
    rng.shuffle(sets)
    turn = itertools.cycle(sets)
    same = [(system,) * (size // block) for system in range(systems)]
    batches = []
    for group in range(items // size):
        first = group * size
        blocks = [list(range(i, i + block)) for i in range(first, first + size, block)]
        for number in range(ratings):
            mixed = number < ratings - single
            chosen = next(turn) if mixed else same
            shift = (number + group) % len(blocks)
            shown = [rng.sample(of, len(of)) for of in blocks[shift:] + blocks[:shift]]
            batches += [
                Batch(group, number, order, not mixed, _places(shown, order))
                for order in rng.sample(chosen, len(chosen))
            ]
    return batches


def _places(shown: Sequence[Sequence[int]], order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((item, system) for of, system in zip(shown, order, strict=True) for item in of)
