"""The window around a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo.corpora.windows import window
from empo.dialogues import Turn
from empo.records import UserError

TURNS = [Turn("assistant" if i % 2 else "user", f"t{i}") for i in range(9)]


def test_three_turns_on_both_sides() -> None:
    found = window(TURNS, 5, 3, 3)
    assert [turn.text for turn in found.context] == ["t2", "t3", "t4"]
    assert found.response == "t5"
    assert [turn.text for turn in found.following] == ["t6", "t7", "t8"]


@given(st.integers(0, 8), st.integers(0, 12), st.integers(0, 12))
def test_a_window_is_a_piece_of_the_dialogue(place: int, before: int, after: int) -> None:
    found = window(TURNS, place, before, after)
    assert len(found.context) == min(before, place)
    assert len(found.following) == min(after, 8 - place)
    start = place - len(found.context)
    piece = TURNS[start : place + 1 + len(found.following)]
    assert [*found.context, TURNS[place], *found.following] == piece


@pytest.mark.parametrize("before, after, name", [(-1, 0, "before=-1"), (0, -2, "after=-2")])
def test_a_negative_window_is_refused(before: int, after: int, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: the number of turns in a window is 0 or more"):
        window(TURNS, 1, before, after)
