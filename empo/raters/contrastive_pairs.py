"""Pairs of training examples to compare, most of them clearly different.

Random pairs differ little or not at all, since most labels lie in the middle. So a pair is kept by
how far apart its levels are; the defaults are those of Li, Rusnachenko and Liang (WASSA 2024).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from empo.corpora.labelled import Example
from empo.raters.level_table import LevelTable

KEEP = (0.001, 0.3, 1.0)
"""Probability of keeping a pair whose levels differ by 0, by 1, by 2 or more."""
QUOTA = 5_000
MOST_DRAWS = 5_000_000
"""Random draws after which sampling ends, reached or not."""
_CHUNK = 100_000


@dataclass(frozen=True)
class ContrastivePairs:
    """Kept pairs (first, second) of indices into the examples, and how they came about.

    `drawn` random pairs of `possible` ones were looked at; `kept` counts the random pairs that were
    kept by the distance of their levels (2 stands for 2 and more), `within` the pairs of one group
    that were added.
    """

    label: str
    pairs: list[tuple[int, int]]
    quota: int
    drawn: int
    possible: int
    kept: dict[int, int]
    within: int

    def facts(self) -> dict[str, Any]:
        """Counts for a run's manifest."""
        return {
            "quota": self.quota,
            "drawn": self.drawn,
            "possible": self.possible,
            "kept": sum(self.kept.values()),
            "kept_by_distance": {str(distance): n for distance, n in sorted(self.kept.items())},
            "within_groups": self.within,
        }

    def summary(self) -> str:
        """What was drawn, for a person, and why there are fewer pairs than asked for."""
        kept = sum(self.kept.values())
        by = ", ".join(
            f"{n:,} at distance {d}" + "+" * (d == 2) for d, n in sorted(self.kept.items())
        )
        text = (
            f"contrastive pairs of {self.label}: {kept:,} kept of {self.drawn:,} drawn"
            f"{f' ({by})' if by else ''}, and {self.within:,} within a dialogue"
        )
        if kept >= self.quota:
            return text
        end = (
            f"all {self.possible:,} possible pairs were drawn"
            if self.drawn == self.possible
            else f"drawing ends at {MOST_DRAWS:,}"
        )
        return f"{text}; fewer than the {self.quota:,} asked for: {end}. Lower pair_quota, or raise pair_keep"


def contrastive_pairs(
    examples: Sequence[Example],
    table: LevelTable,
    *,
    quota: int = QUOTA,
    keep: Sequence[float] = KEEP,
    seed: int = 0,
    within_groups: bool = False,
) -> ContrastivePairs:
    """Draw pairs of labelled examples at random, no pair twice, until `quota` of them are kept.

    A pair whose levels are d apart is kept with probability keep[min(d, 2)]; which one comes first
    is random. With `within_groups` all pairs of one group (the two speakers of a dialogue) are added
    beyond the quota, and the random ones are of different groups. Always ends: when all pairs, or
    MOST_DRAWS, have been drawn.
    """
    places = [i for i, example in enumerate(examples) if table.name in example.labels]
    codes = np.array([table.code(examples[i].labels[table.name]) for i in places])
    groups = np.unique([examples[i].group for i in places], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    keep = np.asarray(keep, dtype=float)
    pairs: list[tuple[int, int]] = []
    kept: Counter[int] = Counter()
    drawn = 0
    n = len(places)
    possible = n * (n - 1) // 2
    within = _within(groups) if within_groups else []
    possible -= len(within)
    for first, second in _random_pairs(n, rng):
        if len(pairs) >= quota:
            break
        if within_groups:
            apart = groups[first] != groups[second]
            first, second = first[apart], second[apart]
        distance = np.minimum(np.abs(codes[first] - codes[second]), 2)
        hits = np.flatnonzero(rng.random(len(first)) < keep[distance])[: quota - len(pairs)]
        full = len(pairs) + len(hits) == quota
        drawn += int(hits[-1]) + 1 if full and len(hits) else len(first)
        kept.update(distance[hits].tolist())
        pairs += [(places[a], places[b]) for a, b in zip(first[hits], second[hits], strict=True)]
    pairs += [
        (places[a], places[b]) if forward else (places[b], places[a])
        for (a, b), forward in zip(within, rng.random(len(within)) < 0.5, strict=True)
    ]
    return ContrastivePairs(table.name, pairs, quota, drawn, possible, dict(kept), len(within))


def _random_pairs(n: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of 0..n-1 in random order and orientation, in chunks, none twice."""
    possible = n * (n - 1) // 2
    if possible <= MOST_DRAWS:
        order = rng.permutation(possible)
        chunks = (order[start : start + _CHUNK] for start in range(0, possible, _CHUNK))
    else:
        chunks = _distinct(possible, rng)
    for numbers in chunks:
        high = ((1 + np.sqrt(1 + 8 * numbers.astype(float))) / 2).astype(int)
        high -= high * (high - 1) // 2 > numbers  # rounding of the root
        high += (high + 1) * high // 2 <= numbers
        low = numbers - high * (high - 1) // 2
        turned = rng.random(len(numbers)) < 0.5
        yield np.where(turned, high, low), np.where(turned, low, high)


def _distinct(possible: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers below `possible`, none twice, MOST_DRAWS of them."""
    seen = np.empty(0, dtype=np.int64)
    while len(seen) < MOST_DRAWS:
        drawn = rng.integers(possible, size=min(_CHUNK, MOST_DRAWS - len(seen)))
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        drawn = drawn[~np.isin(drawn, seen)]
        seen = np.concatenate([seen, drawn])
        yield drawn


def _within(groups: np.ndarray) -> list[tuple[int, int]]:
    members: defaultdict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    return [pair for places in members.values() for pair in combinations(places, 2)]
