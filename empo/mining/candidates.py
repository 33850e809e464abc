"""The candidates of an epoch: K replies to the opposite emotion, from the whole pool or on topic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tqdm import tqdm

from empo.dialogues import Exchange
from empo.preferences import Draws, differs

ROWS = 1_024
"""Contexts that are compared with a pool at once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reply that can be rejected; `similarity` of the two contexts (cosine) where it is known."""

    exchange: Exchange
    similarity: float | None = None


class Candidates(Protocol):
    """What can be rejected for an exchange in an epoch, in the order of drawing; texts all differ."""

    def of(self, epoch: int, exchange: Exchange) -> list[Candidate]:
        """At most K candidates; fewer where the pool has no more."""
        ...


class Drawn:
    """K draws that follow each other: epoch e takes the draws eK to eK + K - 1.

    So the candidates of all exchanges use the pool as evenly as plain draws do, an exchange meets all
    of its pool before one comes again, and K = 1 is the plain draw.
    """

    def __init__(self, draws: Draws, several: int) -> None:
        self.draws = draws
        self.several = several

    def of(self, epoch: int, exchange: Exchange) -> list[Candidate]:
        """The draws of an epoch without those whose text came before."""
        found: dict[str, Candidate] = {}
        for draw in range(epoch * self.several, (epoch + 1) * self.several):
            reply = self.draws.draw(draw, exchange.id)
            found.setdefault(reply.reply, Candidate(reply))
        return list(found.values())


class OnTopic:
    """K of the N replies of the pool that were given in the most similar contexts.

    The N are the same in every epoch. They are walked in an order of the exchange's own, seeded, K an
    epoch, and over again: with K below N an epoch has other candidates than the one before. How often
    a reply is used over all exchanges is not evened out.
    """

    def __init__(
        self,
        draws: Draws,
        exchanges: Sequence[Exchange],
        vectors: np.ndarray,
        nearest: int,
        several: int,
    ) -> None:
        """`vectors`: unit vectors of the contexts of the exchanges, shape (n, d)."""
        self.seed = draws.seed
        self.several = several
        self._near = nearest_opposites(draws, exchanges, vectors, nearest)

    def of(self, epoch: int, exchange: Exchange) -> list[Candidate]:
        """The next K of the exchange's own order."""
        near = list(self._near[exchange.id])
        random.Random(f"{self.seed}/on topic/{exchange.id}").shuffle(near)
        several = min(self.several, len(near))
        return [near[(epoch * several + k) % len(near)] for k in range(several)]


def nearest_opposites(
    draws: Draws, exchanges: Sequence[Exchange], vectors: np.ndarray, nearest: int
) -> dict[str, list[Candidate]]:
    """Exchange id -> up to `nearest` candidates of its pool by the cosine of contexts, most alike first.

    `vectors` as in `OnTopic`. Ties go by the seeded order of the pool; of equal texts the first stays.
    Contexts are compared in blocks of ROWS with one pool at a time.
    """
    place = {exchange.id: i for i, exchange in enumerate(exchanges)}
    walkers: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        walkers.setdefault(draws.opposite(exchange), []).append(exchange)
    found: dict[str, list[Candidate]] = {}
    with tqdm(
        total=len(exchanges), desc="nearest contexts", unit="context", delay=2, disable=None
    ) as bar:
        for group in walkers.values():
            pool = draws.pool(group[0])
            against = vectors[[place[reply.id] for reply in pool]].T
            for start in range(0, len(group), ROWS):
                some = group[start : start + ROWS]
                cosines = vectors[[place[exchange.id] for exchange in some]] @ against
                for exchange, row in zip(some, cosines, strict=True):
                    found[exchange.id] = _first(exchange, pool, row, nearest)
                bar.update(len(some))
    return found


def _first(
    exchange: Exchange, pool: Sequence[Exchange], cosines: np.ndarray, nearest: int
) -> list[Candidate]:
    near: dict[str, Candidate] = {}
    for i in np.argsort(-cosines, kind="stable"):
        reply = pool[i]
        if differs(exchange, reply) and reply.reply not in near:
            near[reply.reply] = Candidate(reply, float(np.clip(cosines[i], -1.0, 1.0)))
            if len(near) == nearest:
                break
    return list(near.values())
