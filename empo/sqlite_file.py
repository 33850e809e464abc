"""Rows by key in one SQLite file, which says itself what it holds and that it is whole.

Whatever stands in the way ends in a sentence: a file that is damaged, or something else's, one that
cannot be written, a full disk, a process that does not let go of it. Every write is one transaction,
so a kill at any moment leaves a file with which the next run goes on, and processes can share it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.records import UserError

BUSY_SECONDS = 60.0
"""How long one process waits for another."""

_HEADER = b"SQLite format 3\0"
_KEYS = 500  # of one query; SQLite bounds the number of its variables
_DAMAGE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR")
"""The last: ours is the application id, but not the table."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What tells the files of one use apart: `holds` in messages, the numbers in their header.

    `columns` of `table` begin with `key`; `create` is the SQL that makes the table. `write_ahead`
    lets readers go on while another process writes, on a local disk only; without it the file is
    whole by itself when it is copied, on network disks too.
    """

    holds: str
    application: int
    schema: int
    table: str
    columns: tuple[str, ...]
    create: str
    write_ahead: bool


def default_cache(name: str) -> Path:
    """Where a file of this name lies if no other is named: in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "empo" / name


class SqliteFile:
    """One file of a kind; a connection of its own for every use, so forks share none.

    All methods raise UserError where the file is none of its kind, is damaged, or cannot be used.
    Nothing that is there is ever overwritten.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind

    def prepare(self) -> None:
        """Make the file where there is none or an empty one; else see that it is whole and ours."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: its folder cannot be made ({error.strerror}).") from None
        self._check_header()
        with self._opened() as database:
            if self.kind.write_ahead and _pragma(database, "journal_mode") != "wal":
                self._is_new(database)  # before a file that is not ours would be changed
                _write_ahead(database)
            database.execute("BEGIN IMMEDIATE")
            if self._is_new(database):
                database.execute(self.kind.create)
                database.execute(f"PRAGMA application_id = {self.kind.application}")
                self._write_schema(database)
            else:
                self._check_length(database)
            database.execute("COMMIT")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, list[Any]]:
        """The further columns of the rows that are there.

        Where some are missing it shows now, not after the hours of making them, that the file cannot
        be written. A file that has them all may be read-only.
        """
        found: dict[bytes, list[Any]] = {}
        columns = ", ".join(self.kind.columns)
        with self._opened() as database:
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ", ".join("?" * len(some))
                query = f"SELECT {columns} FROM {self.kind.table} WHERE key IN ({marks})"
                found.update((key, row) for key, *row in database.execute(query, some))
            if set(keys) - found.keys():
                self._write_schema(database)
        if found.keys() - set(keys):
            raise self.damaged("it answers with entries that were not asked for")
        return found

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Keep these rows in one transaction; one whose key is there already stays as it is."""
        marks = ", ".join("?" * len(self.kind.columns))
        names = ", ".join(self.kind.columns)
        insert = (
            f"INSERT INTO {self.kind.table} ({names}) VALUES ({marks}) ON CONFLICT (key) DO NOTHING"
        )
        with self._opened() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(insert, rows)
            database.execute("COMMIT")

    def damaged(self, reason: object) -> UserError:
        """What is raised where the content cannot be what was written."""
        return UserError(
            f"{self.path}: this is no cache of {self.kind.holds}, or a damaged one ({reason}). "
            "Delete it, with the files of the same name that end in -journal, -wal and -shm, or name "
            f"another file; {self.kind.holds} are then made again."
        )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            yield database
        except sqlite3.Error as error:
            raise self._refusal(error) from None
        except UnicodeDecodeError as error:  # names in a damaged file, for a message of SQLite's
            raise self.damaged(error) from None
        finally:
            if database is not None:
                database.close()

    def _check_header(self) -> None:
        """Refuse what is no database; SQLite itself overwrites such a file if it is short."""
        try:
            if not self.path.is_file():
                return
            with self.path.open("rb") as file:
                header = file.read(len(_HEADER))
        except OSError as error:
            raise self._unusable(error.strerror) from None
        if header not in (b"", _HEADER):
            raise self.damaged(f"it begins with {header!r}, which no database does")

    def _check_length(self, database: sqlite3.Connection) -> None:
        """Refuse a file cut inside a page, to which SQLite adds zeros.

        While a write-ahead log has entries the file itself may be of any length.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        if not (log.is_file() and log.stat().st_size):
            whole = _pragma(database, "page_count") * _pragma(database, "page_size")
            length = self.path.stat().st_size
            if length < whole:
                raise self.damaged(f"it has {length:,} bytes of {whole:,}")

    def _is_new(self, database: sqlite3.Connection) -> bool:
        """Whether nothing is in the file yet; UserError where it is not whole, or something else's."""
        whole = _pragma(database, "quick_check(1)")
        if whole != "ok":
            raise self.damaged(" ".join(whole.split()))
        kind = self.kind
        application, schema = (_pragma(database, p) for p in ("application_id", "user_version"))
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == application == schema == 0:
            return True
        if application != kind.application:
            raise UserError(
                f"{self.path}: this is a SQLite database, but no cache of {kind.holds} (application "
                f"id {application}). Move it elsewhere, delete it if nothing else needs it, or name "
                "another file."
            )
        if schema != kind.schema:
            raise UserError(
                f"{self.path}: this cache of {kind.holds} has the schema {schema}, and this version "
                f"reads {kind.schema}. Delete it; {kind.holds} are then made again."
            )
        return False

    def _write_schema(self, database: sqlite3.Connection) -> None:
        database.execute(f"PRAGMA user_version = {self.kind.schema}")

    def _refusal(self, error: sqlite3.Error) -> UserError:
        # text that is no UTF-8 comes from the module, without a name of SQLite's
        name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
        if name.startswith(_DAMAGE):
            return self.damaged(error)
        if name.startswith("SQLITE_BUSY"):
            return UserError(
                f"{self.path}: another process has kept the file locked for {BUSY_SECONDS:g} "
                "seconds. Wait for it, and give the same command again."
            )
        return self._unusable(error)

    def _unusable(self, reason: object) -> UserError:
        return UserError(
            f"{self.path}: the cache of {self.kind.holds} cannot be used ({reason}). Check that the "
            "file and its folder can be read and written and the disk is not full, or name another file."
        )


def _pragma(database: sqlite3.Connection, name: str) -> Any:
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log; SQLite does not wait by itself for others that do the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
