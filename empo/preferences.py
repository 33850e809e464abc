"""Preference pairs: the human reply against a reply given to a speaker with the opposite emotion.

The draw is a pure function of (seed, epoch, exchange id): the same in every worker and rank, after
a resume, and ahead of time for every epoch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

from empo.dialogues import Exchange
from empo.emotions import Opposite
from empo.pair_files import write_pair_files
from empo.records import UserError
from empo.runs import versions


class Draws:
    """Which reply is rejected for which exchange in which epoch.

    The pool of an exchange is every exchange of the opposite emotion in the same split. All
    exchanges that share a pool walk it side by side in one seeded order, cycling, so that within an
    epoch no reply is used twice while another is unused. An epoch goes on where the one before it
    stopped, one place further where that would repeat pairs, so an exchange meets every reply of
    its pool before it meets one again.

    Raises UserError naming every emotion without an opposite or without opposite replies.
    """

    def __init__(
        self, exchanges: Sequence[Exchange], opposites: Mapping[str, Opposite], seed: int
    ) -> None:
        self.seed = seed
        self._opposites = opposites
        by_emotion: dict[str, list[Exchange]] = {}
        for exchange in sorted(exchanges, key=lambda exchange: exchange.id):
            by_emotion.setdefault(exchange.emotion, []).append(exchange)
        _check_pools(by_emotion, opposites)
        self._pools: dict[str, list[Exchange]] = {}
        self._walkers: dict[str, list[Exchange]] = {}
        for emotion in sorted(by_emotion):
            opposite = opposites[emotion].label
            if opposite not in self._pools:
                self._pools[opposite] = _shuffled(by_emotion[opposite], f"{seed}/pool/{opposite}")
            order = _shuffled(by_emotion[emotion], f"{seed}/exchanges/{emotion}")
            self._walkers.setdefault(opposite, []).extend(order)
        self._emotion = {exchange.id: exchange.emotion for exchange in exchanges}
        self._epochs: dict[str, list[dict[str, Exchange]]] = {pool: [] for pool in self._pools}

    def opposite(self, exchange: Exchange) -> str:
        """The opposite of the exchange's emotion."""
        return self._opposites[exchange.emotion].label

    def draw(self, epoch: int, exchange_id: str) -> Exchange:
        """The exchange whose reply is rejected for `exchange_id` in `epoch` (0-based)."""
        opposite = self._opposites[self._emotion[exchange_id]].label
        epochs = self._epochs[opposite]
        while len(epochs) <= epoch:  # a draw must know the earlier ones, so as not to repeat them
            epochs.append(self._walk(opposite, epochs))
        return epochs[epoch][exchange_id]

    def pool(self, exchange: Exchange) -> Sequence[Exchange]:
        """Everything that can be drawn for the exchange, in the seeded order of its pool.

        It may hold the exchange's own text or dialogue; see `differs`.
        """
        return self._pools[self.opposite(exchange)]

    def pool_sizes(self) -> dict[str, int]:
        """Number of replies per opposite emotion."""
        return {opposite: len(pool) for opposite, pool in sorted(self._pools.items())}

    def _walk(self, opposite: str, earlier: list[dict[str, Exchange]]) -> dict[str, Exchange]:
        pool, walkers = self._pools[opposite], self._walkers[opposite]
        start = _start(len(walkers), len(pool), len(earlier))
        drawn = [pool[(start + place) % len(pool)] for place in range(len(walkers))]
        cycle = earlier[len(earlier) - len(earlier) % len(pool) :]

        def fits(walker: Exchange, reply: Exchange) -> bool:
            fresh = all(epoch[walker.id].id != reply.id for epoch in cycle)
            return fresh and differs(walker, reply)

        for place, walker in enumerate(walkers):
            if fits(walker, drawn[place]):
                continue
            for step in range(1, len(walkers)):
                other = (place + step) % len(walkers)
                if fits(walker, drawn[other]) and fits(walkers[other], drawn[place]):
                    drawn[place], drawn[other] = drawn[other], drawn[place]
                    break
            else:  # swapping two is not enough: hand the same replies out anew
                drawn = _assigned(walkers, drawn, fits)
                break
        for place, walker in enumerate(walkers):
            if differs(walker, drawn[place]):
                continue
            used = {reply.id for reply in drawn}
            ahead = [pool[(start + place + step) % len(pool)] for step in range(len(pool))]
            others = [reply for reply in ahead if differs(walker, reply)]
            if not others:
                raise UserError(
                    f"exchange {walker.id!r}: every reply of the opposite emotion {opposite!r} "
                    "equals its own. Add dialogues of that emotion."
                )
            drawn[place] = next((reply for reply in others if reply.id not in used), others[0])
        return {walker.id: reply for walker, reply in zip(walkers, drawn, strict=True)}


def pairs(draws: Draws, exchanges: Sequence[Exchange], epoch: int) -> Iterator[dict[str, Any]]:
    """The pairs of one epoch as `empo.records.Pair` objects in dict form, in corpus order."""
    for exchange in exchanges:
        yield pair(exchange, draws.opposite(exchange), draws.draw(epoch, exchange.id))


def pair(exchange: Exchange, opposite: str, rejected: Exchange) -> dict[str, Any]:
    """One `empo.records.Pair` in dict form: the exchange's own reply against the rejected one's."""
    return {
        "id": exchange.id,
        "emotion": exchange.emotion,
        "opposite": opposite,
        "prompt": exchange.messages(),
        "chosen": [{"role": "assistant", "content": exchange.reply}],
        "rejected": [{"role": "assistant", "content": rejected.reply}],
        "rejected_id": rejected.id,
    }


def pair_statistics(
    draws: Draws, exchanges: Sequence[Exchange], epochs: int
) -> list[dict[str, Any]]:
    """Per epoch: how often replies are reused, and lengths of chosen and rejected in characters.

    `length_difference` is chosen minus rejected; a mean far from 0 would let a model prefer by
    length alone. `changed` is the share of exchanges whose rejected reply is new in this epoch.
    """
    statistics = []
    for epoch in range(epochs):
        drawn = [draws.draw(epoch, exchange.id) for exchange in exchanges]
        uses = Counter(reply.id for reply in drawn)
        differences = [
            len(exchange.reply) - len(reply.reply)
            for exchange, reply in zip(exchanges, drawn, strict=True)
        ]
        changed = (
            all(draws.draw(before, exchange.id).id != reply.id for before in range(epoch))
            for exchange, reply in zip(exchanges, drawn, strict=True)
        )
        statistics.append(
            {
                "epoch": epoch,
                "pairs": len(drawn),
                "distinct_rejected": len(uses),
                "most_uses_of_a_reply": max(uses.values()),
                "mean_chosen_characters": round(mean(len(e.reply) for e in exchanges), 2),
                "mean_rejected_characters": round(mean(len(r.reply) for r in drawn), 2),
                "length_difference": {
                    "mean": round(mean(differences), 2),
                    "median": median(differences),
                    "share_chosen_longer": round(mean(d > 0 for d in differences), 4),
                },
                "changed": round(mean(changed), 4),
            }
        )
    return statistics


def write_pairs(
    draws: Draws,
    exchanges: Sequence[Exchange],
    epochs: int,
    output: str | Path,
    facts: Mapping[str, Any],
    system_message: str | None = None,
    file_format: Literal["jsonl", "parquet"] = "jsonl",
) -> list[dict[str, Any]]:
    """Write `epoch-0`, `epoch-1`, ... and `manifest.json` into `output`; return the statistics.

    The same draws write the same bytes. `facts` (corpus, table of opposites) go into the manifest.
    What a command that was killed has left is written again. Raises UserError where the folder
    holds something else.
    """
    statistics = pair_statistics(draws, exchanges, epochs)
    write_pair_files(
        output,
        (pairs(draws, exchanges, epoch) for epoch in range(epochs)),
        asked={"seed": draws.seed, "system_message": system_message, "mining": None, **facts},
        told={
            "epochs": epochs,
            "pool_sizes": draws.pool_sizes(),
            "statistics": statistics,
            "versions": versions(),
        },
        file_format=file_format,
    )
    return statistics


def _assigned(
    walkers: Sequence[Exchange],
    replies: Sequence[Exchange],
    fits: Callable[[Exchange, Exchange], bool],
) -> list[Exchange]:
    """The replies dealt to the walkers with as few repeats, and above all equal texts, as can be."""
    from scipy.optimize import linear_sum_assignment

    equal_text = len(walkers) + 1
    cost = [
        [0 if fits(w, r) else 1 if differs(w, r) else equal_text for r in replies] for w in walkers
    ]
    return [replies[column] for column in linear_sum_assignment(cost)[1]]


def differs(walker: Exchange, reply: Exchange) -> bool:
    """Whether the reply can be rejected for the exchange: another text from another dialogue."""
    return reply.reply != walker.reply and reply.id != walker.id


def _shuffled(exchanges: Sequence[Exchange], key: str) -> list[Exchange]:
    order = list(exchanges)
    random.Random(key).shuffle(order)
    return order


def _start(walkers: int, pool: int, epoch: int) -> int:
    """Where an epoch begins in the pool: after the last one's end, at a place not begun at before."""
    begun: set[int] = set()
    start = 0
    for number in range(epoch + 1):
        if number:
            start = (start + walkers) % pool
        if len(begun) == pool:
            begun.clear()
        while start in begun:
            start = (start + 1) % pool
        begun.add(start)
    return start


def _check_pools(
    by_emotion: Mapping[str, list[Exchange]], opposites: Mapping[str, Opposite]
) -> None:
    problems = [
        f"{emotion!r} ({len(group)} exchanges) has no opposite in the table"
        for emotion, group in by_emotion.items()
        if emotion not in opposites
    ]
    problems += [
        f"{emotion!r} ({len(group)} exchanges): its opposite {opposites[emotion].label!r} has no "
        "reply in this split"
        for emotion, group in by_emotion.items()
        if emotion in opposites and opposites[emotion].label not in by_emotion
    ]
    if problems:
        raise UserError(
            "preference pairs cannot be drawn:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + "\nAdd dialogues of these emotions (or raise `limit` where it is set), or give your own table of opposites (--opposites)."
        )
