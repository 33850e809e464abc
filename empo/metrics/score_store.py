"""The SQLite file in which scores of pairs of texts are kept: floats to the last bit, by key.

A write is one transaction, so a kill leaves all of it or nothing; several processes may share the
file. An ordinary rollback journal: that also works on network disks.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from empo.records import UserError

_HEADER = b"SQLite format 3\0"
_APPLICATION = 0x456D5053  # "EmPS", in the header of the file
_SCHEMA = 1
_BUSY_SECONDS = 60.0
_KEYS = 500  # of one query; SQLite bounds the number of its variables
_TABLE = "CREATE TABLE scores (key BLOB PRIMARY KEY, floats BLOB NOT NULL) WITHOUT ROWID"
_INSERT = "INSERT INTO scores VALUES (?, ?) ON CONFLICT (key) DO NOTHING"


class ScoreStore:
    """Tuples of floats by key in one file; what is there is never overwritten.

    All methods raise UserError where the file is no such store, is damaged, cannot be written, or is
    locked for long.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the file and see that it can be written."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: its folder cannot be made ({error.strerror}).") from None
        if self.path.is_file():  # SQLite itself overwrites what is no database, if it is short
            with self.path.open("rb") as file:
                if file.read(len(_HEADER)) not in (b"", _HEADER):
                    raise self._damaged("file is not a database")
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            made_by = tuple(
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version")
            )
            if (tables, *made_by) == (0, 0, 0):
                database.execute(_TABLE)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_SCHEMA}")
            elif made_by != (_APPLICATION, _SCHEMA):
                raise self._damaged("something else, or another version, made it")
            database.execute("COMMIT")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, tuple[float, ...]]:
        """The entries that are there."""
        found: dict[bytes, tuple[float, ...]] = {}
        with self._opened() as database:
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ", ".join("?" * len(some))
                rows = database.execute(f"SELECT * FROM scores WHERE key IN ({marks})", some)
                found |= {key: struct.unpack(f"<{len(row) // 8}d", row) for key, row in rows}
        return found

    def write(self, scores: Mapping[bytes, Sequence[float]]) -> None:
        """Keep these entries."""
        rows = [(key, struct.pack(f"<{len(row)}d", *row)) for key, row in scores.items()]
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_INSERT, rows)
            database.execute("COMMIT")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            yield database
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise self._damaged(error) from None
            raise UserError(
                f"{self.path}: the cache of scores cannot be used ({error}). Check that no other "
                "process holds it, the folder can be written and the disk is not full."
            ) from None
        finally:
            if database is not None:
                database.close()

    def _damaged(self, reason: object) -> UserError:
        return UserError(
            f"{self.path}: this is no cache of scores, or a damaged one ({reason}). Delete it; the "
            "scores are then computed again."
        )
