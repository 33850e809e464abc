"""The table of docs/reliability.md: what happens to a command, what it says, what is lost."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from forked import ROOT, Ended

from empo.records import read_text, write_text

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- faults: written by `make reliability`, do not edit -->"
END = "<!-- end of faults -->"
HEAD = "| | fault | what is said | lost |\n|---|---|---|---|\n"


COLLECTED = pytest.StashKey[dict[int, str]]()
"""Number and name of the faults that a session has collected."""
WHOLE = pytest.StashKey[bool]()
"""Whether these are all that there are."""


@dataclass(frozen=True)
class Row:
    """One fault as the document shows it."""

    number: int
    name: str
    said: str
    lost: str

    def line(self) -> str:
        """The row in markdown."""
        cells = [str(self.number), self.name, self.said, self.lost]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class Survived:
    """Takes down how one fault ended; the sentence is checked against what was really said."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.row: Row | None = None

    def __call__(self, ended: Ended | str, said: str, lost: str) -> None:
        """`said` has to stand in what a command said, with `…` for what is left out of it."""
        text = " ".join((ended if isinstance(ended, str) else ended.said).split())
        pattern = ".*?".join(re.escape(" ".join(part.split())) for part in said.split("…"))
        assert re.search(pattern, text), f"{said!r} is not in:\n{text}"
        self.row = Row(self.number, self.name, said, lost)


def steps(number: int) -> str:
    """Lost steps in words."""
    return "nothing" if number == 0 else f"{number} step{'s' * (number > 1)}"


def documented() -> dict[int, Row]:
    """The rows that the document has, by number."""
    if not DOCUMENT.is_file():
        return {}
    table = read_text(DOCUMENT).split(BEGIN)[-1].split(END)[0]
    rows = {}
    for line in table.splitlines():
        cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].isdigit():
            rows[int(cells[0])] = Row(int(cells[0]), *cells[1:])
    return rows


def write(row: Row) -> None:
    """Put a row into the table of the document, in place of the one with its number."""
    with _alone():
        _write(documented() | {row.number: row})


def keep(numbers: set[int]) -> None:
    """Take the rows of faults that are no longer there out of the document."""
    with _alone():
        _write({number: row for number, row in documented().items() if number in numbers})


def _alone() -> FileLock:
    """Several processes of pytest may write rows."""
    return FileLock(Path(tempfile.gettempdir()) / "empo-faults.lock")


def _write(rows: dict[int, Row]) -> None:
    before, rest = read_text(DOCUMENT).split(BEGIN)
    after = rest.split(END)[1]
    lines = "".join(f"{rows[number].line()}\n" for number in sorted(rows))
    write_text(DOCUMENT, f"{before}{BEGIN}\n{HEAD}{lines}{END}{after}")
