"""The SQLite file in which ratings are kept: one row per rated input, floats to the last bit.

Safe under several processes and under a kill: every write is one transaction in a write-ahead log.
The log needs a local disk; on some network file systems SQLite refuses it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from empo.rating import Dimension, Ratings
from empo.records import UserError

_HEADER = b"SQLite format 3\0"
_APPLICATION = 0x456D504F  # "EmPO", in the header of the file
_SCHEMA = 1
_BUSY_SECONDS = 60.0
_KEYS = 500  # of one query; SQLite bounds the number of its variables
_TABLE = """CREATE TABLE ratings (
    key BLOB PRIMARY KEY,
    scores BLOB NOT NULL,
    widths TEXT NOT NULL,
    probabilities BLOB NOT NULL,
    truncated INTEGER NOT NULL,
    response_truncated INTEGER NOT NULL,
    parse_failed INTEGER NOT NULL,
    n_valid INTEGER NOT NULL,
    warnings TEXT NOT NULL
) WITHOUT ROWID"""
_INSERT = f"INSERT INTO ratings VALUES ({', '.join('?' * 9)}) ON CONFLICT (key) DO NOTHING"


def default_store() -> Path:
    """The file that commands use where no other is named, in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "empo" / "ratings.sqlite"


@dataclass(frozen=True, slots=True)
class Row:
    """The rating of one input: arrays of float64, None for a dimension without probabilities."""

    scores: np.ndarray
    probabilities: tuple[np.ndarray | None, ...]
    truncated: bool
    response_truncated: bool
    parse_failed: bool
    n_valid: int
    warnings: tuple[str, ...]


class RatingStore:
    """Ratings by key in one file; a connection of its own for every use, so forks share none.

    All methods raise UserError where the file is no such store, is damaged, or is locked for long.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the file and see that it can be written."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: its folder cannot be made ({error.strerror}).") from None
        self._check_header()
        with self._opened() as database:
            self._prepare(database)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that are there."""
        found: dict[bytes, Row] = {}
        with self._opened() as database:
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ", ".join("?" * len(some))
                query = f"SELECT * FROM ratings WHERE key IN ({marks})"
                found |= {row[0]: _row(*row[1:]) for row in database.execute(query, some)}
        return found

    def write(self, keys: Sequence[bytes], ratings: Ratings, warnings: Sequence[str]) -> None:
        """Keep the ratings of the inputs with these keys; a row that is there already stays."""
        widths = json.dumps([None if p is None else p.shape[1] for p in ratings.probabilities])
        tables = [np.asarray(p, "<f8") for p in ratings.probabilities if p is not None]
        rows = [
            (
                key,
                ratings.scores[i].astype("<f8").tobytes(),
                widths,
                b"".join(table[i].tobytes() for table in tables),
                bool(ratings.truncated[i]),
                bool(ratings.response_truncated[i]),
                bool(ratings.parse_failed[i]),
                int(ratings.n_valid[i]),
                json.dumps(list(warnings)),
            )
            for i, key in enumerate(keys)
        ]
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
            raise self._refusal(error) from None
        finally:
            if database is not None:
                database.close()

    def _check_header(self) -> None:
        """Refuse what is no database; SQLite itself overwrites such a file if it is short."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                if file.read(len(_HEADER)) not in (b"", _HEADER):
                    raise self._no_cache("file is not a database")

    def _no_cache(self, reason: object) -> UserError:
        return UserError(
            f"{self.path}: this is no cache of ratings, or a damaged one ({reason}). Delete it, "
            "with the files of the same name that end in -wal and -shm, or give another name."
        )

    def _refusal(self, error: sqlite3.Error) -> UserError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return self._no_cache(error)
        if name.startswith("SQLITE_BUSY"):
            return UserError(
                f"{self.path}: another process has kept the cache locked for {_BUSY_SECONDS:g} "
                "seconds. Wait for it, or give another file."
            )
        return UserError(
            f"{self.path}: the cache of ratings cannot be used ({error}). Check that the folder can "
            "be written and the disk is not full."
        )

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Create the table in a new file; refuse a file that something else, or another schema, made."""
        if _pragma(database, "journal_mode") != "wal":
            self._check(database)
            _write_ahead(database)
        database.execute("BEGIN IMMEDIATE")  # also shows now, not after hours, what is read-only
        if self._check(database):
            database.execute(_TABLE)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_SCHEMA}")
        database.execute("COMMIT")

    def _check(self, database: sqlite3.Connection) -> bool:
        """Whether the file is new; UserError where it is neither new nor a cache of this schema."""
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application, schema = (_pragma(database, p) for p in ("application_id", "user_version"))
        if tables == 0 and application == 0 and schema == 0:
            return True
        if application != _APPLICATION:
            raise UserError(
                f"{self.path}: this is a SQLite database, but no cache of ratings. Delete it if "
                "nothing else needs it, or give another name."
            )
        if schema != _SCHEMA:
            raise UserError(
                f"{self.path}: this cache of ratings has the schema {schema}, and this version "
                f"reads {_SCHEMA}. Delete it; the ratings are then made again."
            )
        return False


def _row(scores: bytes, widths: str, probabilities: bytes, *flags_count_and_warnings: Any) -> Row:
    *flags, n_valid, warnings = flags_count_and_warnings
    values, start, tables = np.frombuffer(probabilities, "<f8"), 0, []
    for width in json.loads(widths):
        tables.append(None if width is None else values[start : start + width])
        start += width or 0
    return Row(
        np.frombuffer(scores, "<f8"),
        tuple(tables),
        *map(bool, flags),
        n_valid,
        tuple(json.loads(warnings)),
    )


def ratings_of(
    rows: Sequence[Row], dimensions: Sequence[Dimension], signature: str, warnings: Sequence[str]
) -> Ratings:
    """The rows as ratings; `warnings` come before those of the rows."""
    probabilities: list[np.ndarray | None] = []
    for d in range(len(dimensions)):
        tables = [row.probabilities[d] for row in rows]
        width = next((len(table) for table in tables if table is not None), None)
        if width is None:
            probabilities.append(None)
        else:
            unknown = np.full(width, np.nan)
            probabilities.append(np.stack([unknown if t is None else t for t in tables]))
    further = (text for row in rows for text in row.warnings)
    return Ratings.of(
        dimensions,
        np.array([row.scores for row in rows]),
        signature,
        probabilities=probabilities,
        warnings=tuple(dict.fromkeys([*warnings, *further])),
        truncated=np.array([row.truncated for row in rows], dtype=bool),
        response_truncated=np.array([row.response_truncated for row in rows], dtype=bool),
        parse_failed=np.array([row.parse_failed for row in rows], dtype=bool),
        n_valid=np.array([row.n_valid for row in rows], dtype=int),
    )


def _pragma(database: sqlite3.Connection, name: str) -> Any:
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log; SQLite does not wait by itself for others that do the same."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
