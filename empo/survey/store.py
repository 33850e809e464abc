"""The answers in one SQLite file: each stored once, whole, and on the disk before it is confirmed.

What is kept of a person: the digests of the link and of the cookie of the browser that used it first,
the ratings and the seconds they took. No name, address or time of day.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from empo.records import UserError, shown

APPLICATION = 0x454D5356
"""SQLite's application id of these files: EMSV."""
SCHEMA = 2
BUSY_SECONDS = 30.0

_CREATE = """
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE participants (
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, link BLOB NOT NULL UNIQUE, session BLOB,
    replaced_by INTEGER REFERENCES participants (id)
);
CREATE TABLE answers (
    participant INTEGER NOT NULL REFERENCES participants (id), place INTEGER NOT NULL,
    ratings TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (participant, place)
) WITHOUT ROWID;
CREATE TABLE codes (code TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Participant:
    """Whoever has one link: which batch it is of, whether a browser has given consent with it.

    `replaced` says that another link was made for the batch in the place of this one.
    """

    id: int
    batch: int
    session: bytes | None
    replaced: bool

    def is_of(self, cookie: str | None) -> bool:
        """Whether the browser with this cookie is the one that gave consent."""
        return bool(cookie and self.session and hmac.compare_digest(_digest(cookie), self.session))


@dataclass(frozen=True)
class Answer:
    """The ratings of one place of a batch (from 0), aspect -> value, and the seconds they took."""

    place: int
    ratings: Mapping[str, int]
    seconds: float


_RATINGS = TypeAdapter(dict[str, int])


class Store:
    """One file of answers, used by one process that serves and others that read or add links.

    All methods raise UserError where the file is none of ours or cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file. Make it with `empo survey build`.")
        self._lock = threading.Lock()
        with self._refusing():
            self._open()
        if self._rows("PRAGMA application_id") != [(APPLICATION,)]:
            raise UserError(f"{path}: this holds no answers of a survey.")
        if self._rows("PRAGMA user_version") != [(SCHEMA,)]:
            raise UserError(f"{path}: this version of EmPO reads answers of schema {SCHEMA} only.")
        keys = self._rows("SELECT value FROM secrets WHERE name = 'key'")
        if len(keys) != 1 or not isinstance(keys[0][0], bytes):
            raise self.damaged("the key")
        self.key: bytes = keys[0][0]

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """Make a file without participants where there is none."""
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_CREATE)
            database.execute(
                "INSERT INTO secrets (name, value) VALUES ('key', ?)", (secrets.token_bytes(32),)
            )
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        finally:
            database.close()
        return cls(path)

    def _open(self) -> None:
        self._database = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA synchronous = FULL")  # an answer that is confirmed stays
        self._database.execute("PRAGMA foreign_keys = ON")

    def bind(self, plan: str) -> None:
        """Keep the digest of the plan (hex) that these answers are of; once."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO secrets (name, value) VALUES ('plan', ?)", (bytes.fromhex(plan),)
            )

    def is_of(self, plan: str) -> bool:
        """Whether these are answers of the plan with this digest (hex)."""
        rows = self._rows("SELECT value FROM secrets WHERE name = 'plan'")
        return rows == [(bytes.fromhex(plan),)]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def add_links(
        self, batches: Iterable[int], sizes: Mapping[int, int] | None = None
    ) -> list[str]:
        """One new participant per batch given; their links' secret parts, which are not kept.

        With `sizes`, the answers that make each batch whole, they replace those of the batch who have
        fewer: who gets a new link may be one of them, and one person is not to count as two raters.
        """
        retire = """UPDATE participants SET replaced_by = ?1 WHERE batch = ?2 AND id < ?1 AND
                    replaced_by IS NULL AND
                    (SELECT count(*) FROM answers WHERE participant = participants.id) < ?3"""
        tokens = []
        with self._writing() as database:
            for batch in batches:
                tokens.append(secrets.token_urlsafe(24))
                added = database.execute(
                    "INSERT INTO participants (batch, link) VALUES (?, ?)",
                    (batch, _digest(tokens[-1])),
                )
                if sizes is not None:
                    database.execute(retire, (added.lastrowid, batch, sizes[batch]))
        return tokens

    def participant(self, token: str) -> Participant | None:
        """Whoever has the link with this secret part."""
        query = "SELECT id, batch, session, replaced_by FROM participants WHERE link = ?"
        rows = self._rows(query, _digest(token))
        return next((Participant(*row, by is not None) for *row, by in rows), None)

    def consent(self, participant: int, cookie: str) -> bool:
        """Give the link to the browser with this cookie; False where one has it already."""
        query = "UPDATE participants SET session = ? WHERE id = ? AND session IS NULL"
        with self._writing() as database:
            return database.execute(query, (_digest(cookie), participant)).rowcount == 1

    def answers(self, participant: int) -> list[Answer]:
        """What was answered, in the order of the places."""
        query = "SELECT place, ratings, seconds FROM answers WHERE participant = ? ORDER BY place"
        return [self._answer(*row) for row in self._rows(query, participant)]

    def keep(self, participant: int, answer: Answer) -> Answer | None:
        """Store the answer of the next place after consent.

        Returns what stands there afterwards, which is an earlier answer where there was one, and
        None where there is no consent, the place is not the next one, or the link was replaced.
        """
        ready = """SELECT (SELECT count(*) FROM answers WHERE participant = p.id)
                   FROM participants p
                   WHERE id = ? AND session IS NOT NULL AND replaced_by IS NULL"""
        insert = "INSERT INTO answers (participant, place, ratings, seconds) VALUES (?, ?, ?, ?)"
        there = "SELECT ratings, seconds FROM answers WHERE participant = ? AND place = ?"
        with self._writing() as database:
            row = database.execute(there, (participant, answer.place)).fetchone()
            if row:
                return self._answer(answer.place, *row)
            count = database.execute(ready, (participant,)).fetchone()
            if count is None or count[0] != answer.place:
                return None
            ratings = json.dumps(dict(answer.ratings))
            database.execute(insert, (participant, answer.place, ratings, answer.seconds))
        return answer

    def code(self, cookie: str) -> str:
        """The code of the browser whose batch is done, the same each time.

        It is made of the cookie, which only that browser has: neither this file nor the links lead
        from a code to its answers.
        """
        digest = hmac.digest(self.key, b"code" + cookie.encode(), "sha256").hex()[:10].upper()
        code = f"{digest[:5]}-{digest[5:]}"
        with self._writing() as database:
            database.execute("INSERT INTO codes (code) VALUES (?) ON CONFLICT DO NOTHING", (code,))
        return code

    def codes(self) -> list[str]:
        """The codes that were given out, sorted, so that they say nothing of who answered what."""
        return [code for (code,) in self._rows("SELECT code FROM codes ORDER BY code")]

    def progress(self) -> list[tuple[int, int, bool, int, bool]]:
        """(participant, batch, whether there is consent, answers, whether replaced) of everybody."""
        query = """SELECT id, batch, session IS NOT NULL, (
                       SELECT count(*) FROM answers WHERE participant = participants.id
                   ), replaced_by IS NOT NULL FROM participants ORDER BY id"""
        return [
            (number, batch, bool(begun), count, bool(replaced))
            for number, batch, begun, count, replaced in self._rows(query)
        ]

    def _answer(self, place: Any, ratings: Any, seconds: Any) -> Answer:
        try:
            return Answer(int(place), _RATINGS.validate_json(ratings, strict=True), float(seconds))
        except (ValidationError, TypeError, ValueError):
            raise self.damaged(f"the answer {shown((place, ratings, seconds))}") from None

    def damaged(self, what: str) -> UserError:
        """What is raised where the file holds what nobody wrote."""
        return UserError(
            f"{self.path}: {what} cannot have been written here, so the file is damaged or of another "
            "survey. Restore it from a copy."
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of one thread, all of it or nothing."""
        with self._lock, self._refusing():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: the answers cannot be read or written ({error}). Check that the file "
                "is whole, that it and its folder can be written, and that the disk is not full."
            ) from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, self._refusing():  # not within the transaction of another thread
            return self._database.execute(query, values).fetchall()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
