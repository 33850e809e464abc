"""How the columns of a corpus become dialogues: a small YAML for corpora other than ED.

Example, one row per turn:

    dialogue_id: dialog
    turn: number
    emotion: mood
    utterance: text
    role: who                 # without it, odd turn numbers are the speaker's
    role_map: {usr: user, sys: assistant}
    label_map: {happy: joyful}
    quoting: minimal          # ordinary csv; `none` for unquoted files

With `turns: dialog`, every row holds a whole dialogue: its column `dialog` is a list of turns in
order, and `utterance` and `role` are keys of a turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from empo.dialogues import Role
from empo.records import shown
from empo.settings import option, parse

LINE = "\0line"
"""Key under which a row carries its line (or row number) in the source."""
POSITION = "\0position"
"""Key under which a turn of a nested dialogue carries its 1-based place."""


@dataclass(frozen=True)
class Mapping:
    """Column names and conventions of one corpus."""

    emotion: str = option(help="column with the emotion label of the dialogue")
    utterance: str = option(help="column (or key of a turn) with the text")
    dialogue_id: str = option(help="column that identifies the dialogue")
    turn: str | None = option(None, help="column with the number of the turn")
    turns: str | None = option(None, help="column with the list of turns, one dialogue per row")
    situation: str | None = option(None, help="column with the situation, if there is one")
    role: str | None = option(None, help="column (or key of a turn) that says who speaks")
    role_map: dict[str, str] = field(default_factory=dict)
    label_map: dict[str, str] = field(default_factory=dict)
    unescape: dict[str, str] = field(default_factory=dict)
    quoting: Literal["none", "minimal"] = "minimal"
    delimiter: str | None = option(None, help="field separator; by the file's ending if not given")

    def problems(self) -> list[str]:
        """Combinations that cannot be read."""
        found = [
            f"{name}: the name of a column is expected, not an empty text."
            for name in ("emotion", "utterance", "dialogue_id")
            if not getattr(self, name)
        ]
        if bool(self.turn) == bool(self.turns):
            found.append("give either `turn` (one row per turn) or `turns` (one row per dialogue).")
        if self.delimiter is not None and len(self.delimiter) != 1:
            found.append(f"delimiter: one character is expected, not {shown(self.delimiter)}.")
        return found

    @property
    def columns(self) -> list[str]:
        """The columns a table must have."""
        names = [self.dialogue_id, self.emotion, self.situation]
        names += [self.turns] if self.turns else [self.turn, self.utterance, self.role]
        return [name for name in names if name]

    def order_of(self, row: dict[str, Any]) -> float | None:
        """The place of a turn in its dialogue; None where it is no finite number."""
        try:
            order = float(row[self.turn or POSITION])
        except (TypeError, ValueError, OverflowError):
            return None
        return order if math.isfinite(order) else None

    def role_of(self, row: dict[str, Any], order: float) -> Role | None:
        """Who speaks: by the role column, else by the turn number (odd = speaker)."""
        if self.role is None:
            return "user" if order % 2 == 1 else "assistant" if order % 2 == 0 else None
        name = str(row.get(self.role)).strip()
        name = self.role_map.get(name, name)
        return "user" if name == "user" else "assistant" if name == "assistant" else None

    def label_of(self, row: dict[str, Any]) -> str:
        """The emotion label, mapped to the label set."""
        label = str(row[self.emotion]).strip()
        return self.label_map.get(label, label)

    def text_of(self, row: dict[str, Any], column: str | None) -> str:
        """A text cell, unescaped and stripped; empty where there is none."""
        value = row.get(column) if column else None
        text = "" if value is None else str(value)
        for escaped, plain in self.unescape.items():
            text = text.replace(escaped, plain)
        return text.strip()


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping file; UserError names every unknown key and wrong type."""
    return parse(["--config", str(path)], Mapping, prog=f"mapping {path}", description="")[0]
