"""The heaviest repeated n-gram of sequences in which repeats are long, in linear memory.

A reply that says the same for thousands of tokens has millions of repeated n-grams, too many to
keep (see `empo.metrics.trie`). A suffix array has one entry per token however long the repeats are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


class Repeats:
    """Suffix array (Manber and Myers, 1993) of sequences of numbers, none of which a repeat leaves.

    `suffixes` are start positions in lexical order, `common[i]` the length of what suffixes i - 1
    and i have in common (0 for i = 0), both of shape (tokens + sequences,).
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        top = max((max(sequence, default=0) for sequence in sequences), default=0) + 1
        joined: list[int] = []
        for row, sequence in enumerate(sequences):
            joined += [*sequence, top + row]  # an end of its own: nothing goes on across it
        self.joined = np.array(joined, dtype=np.int64)
        self.suffixes = _suffix_array(self.joined)
        self.common = _common_prefixes(joined, self.suffixes.tolist())

    @property
    def reach(self) -> np.ndarray:
        """Length of the longest repeated n-gram that begins at each position, shape as `suffixes`."""
        common = np.append(self.common, 0)
        reach = np.empty_like(self.suffixes)
        reach[self.suffixes] = np.maximum(common[:-1], common[1:])
        return reach

    @property
    def occurrences(self) -> int:
        """Occurrences of all repeated n-grams together: what keeping every one of them costs."""
        return int(self.reach.sum())

    def heaviest(self) -> tuple[int, int] | None:
        """Start and n of the first occurrence of the n-gram with the largest n times its count.

        Overlapping occurrences count; n and count are at least 2; ties go to the smaller n, then to
        the first. None where nothing repeats.
        """
        keys = ((-n * count, n, first) for n, count, first in self._repeats() if n > 1)
        best = min(keys, default=None)
        return None if best is None else (best[2], best[1])

    def _repeats(self) -> Iterator[tuple[int, int, int]]:
        """n, count and first start of every repeated n-gram that cannot be made longer to the right
        without losing an occurrence; any other weighs less than one of these.
        """
        stack: list[tuple[int, int, int]] = []  # n, first suffix of the interval, earliest start
        starts = self.suffixes.tolist()
        for i, n in enumerate([*self.common.tolist(), 0]):
            left, first = i - 1, starts[i - 1]
            while stack and stack[-1][0] > n:
                length, left, earliest = stack.pop()
                first = min(first, earliest)
                yield length, i - left, first
                if stack:
                    stack[-1] = (*stack[-1][:2], min(stack[-1][2], first))
            if n and stack and stack[-1][0] == n:
                stack[-1] = (n, stack[-1][1], min(stack[-1][2], first))
            elif n:
                stack.append((n, left, first))


def _suffix_array(values: np.ndarray) -> np.ndarray:
    """Start positions of the suffixes in lexical order, by doubling the prefix that is sorted."""
    rank = np.unique(values, return_inverse=True)[1]
    size, width = len(values), 1
    while rank.max() < size - 1:
        after = np.zeros(size, dtype=np.int64)
        after[: max(size - width, 0)] = rank[width:] + 1
        rank = np.unique(rank * (size + 1) + after, return_inverse=True)[1]
        width *= 2
    return np.argsort(rank)


def _common_prefixes(values: list[int], suffixes: list[int]) -> np.ndarray:
    """Length of the common prefix of each suffix and the one before it (Kasai et al., 2001)."""
    rank = [0] * len(values)
    for order, start in enumerate(suffixes):
        rank[start] = order
    common, n = np.zeros(len(values), dtype=np.int64), 0
    for start, order in enumerate(rank):
        if order == 0:
            n = 0
            continue
        other = suffixes[order - 1]
        while values[start + n] == values[other + n]:  # the ends differ, so this stops in time
            n += 1
        common[order] = n
        n = max(n - 1, 0)
    return common
