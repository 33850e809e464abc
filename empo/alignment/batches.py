"""Batches of rows of similar length that hold at most a number of tokens, whatever the rows' lengths.

The rows are sorted by length and cut into the fewest runs that keep both limits, tokens and rows,
and among those into runs that are as even as can be, so that no few long rows are left over.
Where the cuts lie depends on the sorted lengths alone, so an epoch may deal rows of equal length
anew without moving a cut: the number of batches, and the lengths in each, are those of every epoch.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch.utils.data import Sampler

from empo.records import UserError


class TokenBudgetBatches(Sampler[list[int]]):
    """Batch sampler: every row once per epoch, at most `max_tokens` tokens and `batch_size` rows a batch.

    `lengths` are the rows' tokens; the sum over a batch is held to `max_tokens`, padding not counted
    (rows of similar length need little). From epoch to epoch change the order of the batches, and
    which of the rows of equal length go together. Both are a pure function of seed and epoch, so all
    processes agree, and an epoch that is continued goes on in the order in which it began. The epoch
    is 0 until `set_epoch` is called. Call it from a callback at the beginning of every epoch: of
    several processes that continue in mid-epoch, the trainer itself does not reach this sampler.

    The number of batches is a multiple of `processes`, which accelerate serves round robin: the runs
    are made shorter, and where that does not suffice the batches with most rows are halved. There
    is no `batch_size` and no `drop_last` to be read from this sampler, on purpose: accelerate takes
    a batch that is not of that size for the last of an epoch, and drops or fills it.

    Raises UserError where there are no rows, a row alone is longer than `max_tokens` or has no
    tokens, a batch is to hold no row, or there are too few rows for the processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        batch_size: int,
        seed: int,
        processes: int = 1,
    ) -> None:
        self._lengths = [int(length) for length in lengths]
        _check(self._lengths, max_tokens, batch_size)
        self._max_tokens = max_tokens
        self._seed = seed
        self._epoch = 0
        even = _even_cuts(sorted(self._lengths), max_tokens, batch_size, processes)
        self._halved = -(len(even) - 1) % processes
        self._cuts = _with_halves(even, self._halved)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch` (0-based) for the iterators that are made from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch, of all processes together."""
        return len(self._cuts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch, as lists of row numbers."""
        rng = random.Random(f"{self._seed}:{self._epoch}")
        rows = list(range(len(self._lengths)))
        rng.shuffle(rows)
        rows.sort(key=self._lengths.__getitem__)  # stable: rows of equal length stay shuffled
        batches = [rows[start:end] for start, end in pairwise(self._cuts)]
        rng.shuffle(batches)
        return iter(batches)

    def facts(self) -> dict[str, Any]:
        """For run.json: what the batches hold, the same in every epoch.

        `fill` is the share of `max_tokens` that holds a token, 0..1; `halved` is the number of
        batches that were cut in two so that every process gets equally many.
        """
        rows = [end - start for start, end in pairwise(self._cuts)]
        tokens = sum(self._lengths) / len(self)
        return {
            "batches_per_epoch": len(self),
            "mean_rows": round(len(self._lengths) / len(self), 2),
            "min_rows": min(rows),
            "max_rows": max(rows),
            "mean_tokens": round(tokens, 1),
            "fill": round(tokens / self._max_tokens, 4),
            "halved": self._halved,
        }


def _check(lengths: Sequence[int], max_tokens: int, batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(
            f"per_device_train_batch_size: {batch_size} is no batch; at least 1 row is needed."
        )
    if not lengths:
        raise UserError("there is no row to make batches of. Check the corpus and max_length.")
    shortest, longest = (lengths.index(of(lengths)) for of in (min, max))
    if lengths[shortest] < 1:
        raise UserError(
            f"row {shortest} (counted from 0) has {lengths[shortest]} tokens; a row has at least 1. "
            "Leave it out."
        )
    if lengths[longest] > max_tokens:
        above = sum(length > max_tokens for length in lengths)
        raise UserError(
            f"row {longest} (counted from 0) has {lengths[longest]} tokens, more than the "
            f"{max_tokens} of tokens_per_batch; {above} of {len(lengths):,} rows are too long. Raise "
            f"tokens_per_batch to {lengths[longest]} or more, or lower max_length."
        )


def _cuts(ascending: Sequence[int], max_tokens: int, batch_size: int) -> list[int]:
    """Where batches begin in the sorted lengths, and their end: each takes all that it can hold."""
    cuts, tokens = [0], 0
    for place, length in enumerate(ascending):
        if tokens + length > max_tokens or place - cuts[-1] == batch_size:
            cuts.append(place)
            tokens = 0
        tokens += length
    return [*cuts, len(ascending)]


def _even_cuts(
    ascending: Sequence[int], max_tokens: int, batch_size: int, processes: int
) -> list[int]:
    """The cuts under the smallest budget that needs no more batches than the processes share anyway."""
    fewest = len(_cuts(ascending, max_tokens, batch_size)) - 1
    wanted = fewest + -fewest % processes
    if wanted > len(ascending):
        raise UserError(
            f"{len(ascending)} rows make {fewest} batches, and {processes} processes need a multiple "
            f"of {processes}: there are too few rows to split. Launch fewer processes, give more "
            "rows, or raise tokens_per_batch."
        )
    budgets = range(ascending[-1], max_tokens + 1)
    smallest = bisect_left(
        budgets, True, key=lambda budget: len(_cuts(ascending, budget, batch_size)) - 1 <= wanted
    )
    return _cuts(ascending, budgets[smallest], batch_size)


def _with_halves(cuts: list[int], missing: int) -> list[int]:
    """The cuts and `missing` more, each through the batch that then has most rows."""
    most = [(start - end, start) for start, end in pairwise(cuts)]  # heapq gives the least first
    heapq.heapify(most)
    for _ in range(missing):
        size, start = -most[0][0], most[0][1]
        half = size // 2
        heapq.heapreplace(most, (-half, start))
        heapq.heappush(most, (half - size, start + half))
    return sorted([start for _, start in most] + [cuts[-1]])
