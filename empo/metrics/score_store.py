"""Scores of pairs of texts by key in one SQLite file: floats to the last bit."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from empo.sqlite_file import Kind, SqliteFile

_KIND = Kind(
    holds="scores",
    application=0x456D5053,  # "EmPS"
    schema=1,
    table="scores",
    columns=("key", "floats"),
    create="CREATE TABLE scores (key BLOB PRIMARY KEY, floats BLOB NOT NULL) WITHOUT ROWID",
    write_ahead=False,
)


class ScoreStore:
    """Tuples of floats by key in one file; what is there is never overwritten.

    All methods raise UserError where the file is no such store, is damaged, cannot be written, or is
    locked for long.
    """

    def __init__(self, path: str | Path) -> None:
        """Make the file where there is none, and check it."""
        self._file = SqliteFile(Path(path), _KIND)
        self._file.prepare()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, tuple[float, ...]]:
        """The entries that are there."""
        found = {key: row for key, (row,) in self._file.read(keys).items()}
        for row in found.values():
            if not isinstance(row, bytes) or len(row) % 8:
                raise self._file.damaged(f"it has {row!r} as scores")
        return {key: struct.unpack(f"<{len(row) // 8}d", row) for key, row in found.items()}

    def write(self, scores: Mapping[bytes, Sequence[float]]) -> None:
        """Keep these entries in one transaction."""
        self._file.write((key, struct.pack(f"<{len(row)}d", *row)) for key, row in scores.items())
