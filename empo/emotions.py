"""The 32 emotion labels and the opposite of each, with the theory it rests on.

Source: the label set of EmpatheticDialogues; opposites after Plutchik's wheel of emotions and its
dyads, the rest as proposed by the authors of EmPO. The map is total but no involution: nobody's
opposite are sentimental, grateful, prepared and guilty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from empo.records import UserError, listed, read_text, shown


@dataclass(frozen=True, slots=True)
class Opposite:
    """The opposite of one label and where the opposition comes from."""

    label: str
    source: str


_TABLE = {
    "wheel": "afraid angry, angry afraid, sad joyful, joyful sad, grateful disgusted, "
    "surprised anticipating, anticipating surprised, trusting disgusted, disgusted trusting, "
    "content anxious, apprehensive annoyed",
    "dyads": "proud ashamed, ashamed proud, prepared anxious, guilty proud, nostalgic hopeful, "
    "hopeful nostalgic, anxious content",
    "proposed": "sentimental apprehensive, jealous faithful, faithful jealous, "
    "embarrassed confident, confident embarrassed, excited devastated, devastated excited, "
    "annoyed apprehensive, lonely caring, caring lonely, terrified furious, furious terrified, "
    "disappointed impressed, impressed disappointed",
}

OPPOSITES: Mapping[str, Opposite] = {
    row.split()[0]: Opposite(row.split()[1], source)
    for source, rows in _TABLE.items()
    for row in rows.split(", ")
}
"""Label to opposite, 32 rows."""

LABELS: tuple[str, ...] = tuple(sorted(OPPOSITES))
"""The 32 labels in alphabetical order."""


def load_opposites(path: str | Path) -> dict[str, Opposite]:
    """Read a user's table: csv with the columns label, opposite and (optional) source.

    Raises UserError with all problems at once: missing columns, empty cells, a label twice, a label
    opposite to itself, an opposite that is no label of the table.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.reader.line_num}: not a well-quoted csv ({error})."
        ) from None
    missing = [name for name in ("label", "opposite") if name not in columns]
    if missing:
        raise UserError(
            f"{path}: the column{'s' * (len(missing) > 1)} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; found: {listed(columns)}."
        )
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}: the column {shown(twice[0])} stands there twice. Rename one.")
    table: dict[str, Opposite] = {}
    problems = []
    for line, row in rows:
        label = (row.get("label") or "").strip()
        opposite = (row.get("opposite") or "").strip()
        if None in row:
            problems.append(f"line {line}: more fields than the {len(columns)} of the header")
        elif not label or not opposite:
            problems.append(f"line {line}: label or opposite is empty")
        elif label in table:
            problems.append(f"line {line}: the label {shown(label)} stands there twice")
        elif label == opposite:
            problems.append(f"line {line}: {shown(label)} is its own opposite")
        else:
            table[label] = Opposite(opposite, (row.get("source") or "own table").strip())
    problems += [
        f"{shown(label)}: its opposite {shown(opposite.label)} has no row of its own"
        for label, opposite in table.items()
        if opposite.label not in table
    ]
    if not table and not problems:
        problems.append("the table has no rows")
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems) + ".")
    return table
