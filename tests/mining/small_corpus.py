"""Exchanges of two opposite emotions whose replies are numbers that a person can compare."""

from __future__ import annotations

from empo.dialogues import Exchange, Turn
from empo.emotions import Opposite
from empo.preferences import Draws

TABLE = {"up": Opposite("down", "own"), "down": Opposite("up", "own")}


def exchange(name: str, emotion: str, reply: str) -> Exchange:
    """An exchange whose context is its name."""
    return Exchange(name, emotion, (Turn("user", name),), reply)


def corpus(ups: int, downs: int) -> list[Exchange]:
    """`u0`, `u1`, ... reply 50; `d0`, `d1`, ... reply 0, 1, ..., their number."""
    up = [exchange(f"u{i}", "up", f"{50 + i / 100:g}") for i in range(ups)]
    return up + [exchange(f"d{i}", "down", str(i)) for i in range(downs)]


def draws_of(exchanges: list[Exchange], seed: int = 1) -> Draws:
    """Plain draws over both emotions."""
    return Draws(exchanges, TABLE, seed)
