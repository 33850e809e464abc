"""The window around a judged turn: so many turns before it, the turn itself, so many after it."""

from __future__ import annotations

from collections.abc import Sequence

from empo.dialogues import Turn
from empo.rating import RatingInput
from empo.records import UserError


def window(turns: Sequence[Turn], place: int, before: int, after: int) -> RatingInput:
    """The turn at `place` (0-based) as response, with up to `before` and `after` turns around it.

    Xu and Jiang (2024) use 3 and 3; `after=0` is the window of a system that must judge at once.

    Raises UserError for a negative number of turns.
    """
    for name, value in (("before", before), ("after", after)):
        if value < 0:
            raise UserError(f"{name}={value}: the number of turns in a window is 0 or more.")
    return RatingInput(
        tuple(turns[max(0, place - before) : place]),
        turns[place].text,
        tuple(turns[place + 1 : place + 1 + after]),
    )
