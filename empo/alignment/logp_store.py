"""Log-probabilities by key in one SQLite file, which says itself that it is whole.

There is one writer, the main process, and an ordinary rollback journal: that also works on network
disks, and the file is whole by itself when it is copied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empo.records import UserError

_HEADER = b"SQLite format 3\0"
_APPLICATION = 0x456D5052  # "EmPR", in the header of the file
_SCHEMA = 1
_TABLE = "CREATE TABLE logps (key BLOB PRIMARY KEY, logp REAL NOT NULL) WITHOUT ROWID"
_INSERT = "INSERT INTO logps VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
_BUSY_SECONDS = 60.0
_KEYS = 500  # of one query; SQLite bounds the number of its variables
REDO = "Delete it; the log-probabilities are then computed again."


class LogpStore:
    """Log-probabilities by key in one file, floats to the last bit.

    All methods raise UserError where the file is no such store, is damaged, cannot be written, or
    is locked for long. Nothing that is there is ever overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Make the file where there is none, check it, and read the entries of `keys` it has."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: its folder cannot be made ({error.strerror}).") from None
        self._check_header()
        found: dict[bytes, float] = {}
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")  # shows now, not after hours, what is read-only
            if self._is_new(database):
                database.execute(_TABLE)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_SCHEMA}")
            database.execute("COMMIT")
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ", ".join("?" * len(some))
                query = f"SELECT key, logp FROM logps WHERE key IN ({marks})"
                found.update(database.execute(query, some))
        if found.keys() - set(keys):
            raise self._damaged("it answers with entries that were not asked for")
        return found

    def write(self, logps: Mapping[bytes, float]) -> None:
        """Keep these entries in one transaction."""
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_INSERT, logps.items())
            database.execute("COMMIT")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            yield database
        except sqlite3.Error as error:
            raise self._refusal(error) from None
        finally:
            if database is not None:
                database.close()

    def _check_header(self) -> None:
        """Refuse what is no database; SQLite itself overwrites such a file if it is short."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                header = file.read(len(_HEADER))
            if header not in (b"", _HEADER):
                raise self._damaged(f"it begins with {header!r}, which no database does")

    def _is_new(self, database: sqlite3.Connection) -> bool:
        """Whether nothing is in the file yet; UserError where it is not whole, or something else's."""

        def first(query: str) -> Any:
            return database.execute(query).fetchone()[0]

        whole = first("PRAGMA quick_check(1)")
        if whole != "ok":
            raise self._damaged(" ".join(whole.split()))
        application, schema = first("PRAGMA application_id"), first("PRAGMA user_version")
        if first("SELECT count(*) FROM sqlite_master") == application == schema == 0:
            return True
        if application != _APPLICATION:
            raise UserError(
                f"{self.path}: this is a SQLite database, but none of the reference's "
                f"log-probabilities (application id {application}). Move it elsewhere, or delete "
                "it if nothing needs it."
            )
        if schema != _SCHEMA:
            raise UserError(
                f"{self.path}: this cache of the reference has the schema {schema}, and this "
                f"version reads {_SCHEMA}. {REDO}"
            )
        return False

    def _damaged(self, reason: object) -> UserError:
        return UserError(
            f"{self.path}: this is no cache of the reference's log-probabilities, or a damaged one "
            f"({reason}). {REDO}"
        )

    def _refusal(self, error: sqlite3.Error) -> UserError:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return self._damaged(error)
        if code.startswith("SQLITE_BUSY"):
            return UserError(
                f"{self.path}: another process has kept the file locked for {_BUSY_SECONDS:g} "
                "seconds. Wait for it, and give the same command again."
            )
        return UserError(
            f"{self.path}: the file cannot be used ({error}). Check that the folder can be written "
            "and the disk is not full."
        )
