"""A file of rows by key: what is no such file is refused, and a kill at any moment harms nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.records import UserError
from empo.sqlite_file import Kind, SqliteFile

JOURNAL, LOG = (
    Kind(
        holds="weights of letters",
        application=0x12345678,
        schema=3,
        table="letters",
        columns=("key", "weight", "note"),
        create="CREATE TABLE letters (key BLOB PRIMARY KEY, weight REAL, note TEXT) WITHOUT ROWID",
        write_ahead=write_ahead,
    )
    for write_ahead in (False, True)
)
KINDS = [pytest.param(JOURNAL, id="journal"), pytest.param(LOG, id="log")]
BESIDE = ("-journal", "-wal", "-shm")
REMEDY = (
    "Delete it, with the files of the same name that end in -journal, -wal and -shm, or name another "
    "file; weights of letters are then made again."
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.sqlite"


def rows(first: int, last: int) -> list[tuple[bytes, float, str]]:
    return [(i.to_bytes(32), i / 7, f"letter {i}") for i in range(first, last)]


def opened(path: Path, kind: Kind) -> SqliteFile:
    file = SqliteFile(path, kind)
    file.prepare()
    return file


def number(path: Path, kind: Kind, upto: int) -> int:
    """How many of the first rows the file has; each is as it was written."""
    wanted = {key: [weight, note] for key, weight, note in rows(0, upto)}
    found = opened(path, kind).read(list(wanted))
    assert found.items() <= wanted.items()
    return len(found)


def filled(path: Path, kind: Kind, upto: int = 400) -> None:
    opened(path, kind).write(rows(0, upto))


def in_child(job: Callable[[], Any]) -> tuple[int, str]:
    """Wait status of a forked child, and the message of the UserError in which its job ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        except UserError as error:
            os.write(writer, str(error).encode())
            code = 2
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    return os.waitpid(child, 0)[1], told


# --- rows ---


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_found_again_and_never_overwritten(path: Path, kind: Kind) -> None:
    file = opened(path, kind)
    assert file.read([]) == file.read([b"a"]) == {}
    file.write([(b"a", 0.1, "first"), (b"b", 1e-300, "ä")])
    file.write([(b"a", 0.2, "second"), (b"c", 3.0, "")])
    assert file.read([b"c", b"a", b"a", b"d"]) == {b"a": [0.1, "first"], b"c": [3.0, ""]}
    filled(path, kind, 1200)  # more than one query asks for
    assert number(path, kind, 1300) == 1200
    assert os.listdir(path.parent) == [path.name]


# --- what is no such file ---


def edited(change: Callable[[bytes], bytes]) -> Callable[[Path, Kind], None]:
    def spoil(path: Path, kind: Kind) -> None:
        filled(path, kind)
        path.write_bytes(change(path.read_bytes()))

    return spoil


def changed(statement: str) -> Callable[[Path, Kind], None]:
    def spoil(path: Path, kind: Kind) -> None:
        filled(path, kind)
        with sqlite3.connect(path) as database:
            database.execute(statement)

    return spoil


def another_s(path: Path, kind: Kind) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE letters (sender TEXT)")


DAMAGED = "this is no cache of weights of letters, or a damaged one ({}). " + REMEDY
SPOILT = {
    "text": (
        lambda path, kind: path.write_text("weights\n" * 9),
        DAMAGED.format(r"it begins with b'weights\nweights\n', which no database does"),
    ),
    "zeros": (edited(lambda data: bytes(len(data))), "it begins with b'\\x00\\x00"),
    "10 bytes": (edited(lambda data: data[:10]), "it begins with b'SQLite for', which no"),
    "header": (edited(lambda data: data[:16]), DAMAGED.format("file is not a database")),
    "page": (edited(lambda data: data[:4096]), DAMAGED.format("database disk image is malformed")),
    "half": (edited(lambda data: data[: len(data) // 2 + 9]), "or a damaged one (database disk"),
    "byte missing": (
        edited(lambda data: data[:-1]),
        "or a damaged one (it has ",
    ),
    "zeros behind": (
        edited(lambda data: data[:4096] + bytes(len(data) - 4096)),
        "or a damaged one (*** in database main *** Page 2: btreeInitPage()",
    ),
    "scratch": (
        edited(lambda data: data[:8192] + b"\x5a" * 4096 + data[12288:]),
        "or a damaged one (",
    ),
    "no table": (changed("DROP TABLE letters"), DAMAGED.format("no such table: letters")),
    "no column": (
        changed("ALTER TABLE letters DROP COLUMN note"),
        DAMAGED.format("no such column: note"),
    ),
    "no text": (
        changed("UPDATE letters SET note = CAST(x'ff' AS TEXT)"),
        "or a damaged one (Could not decode to UTF-8 column 'note'",
    ),
    "statement": (
        edited(lambda data: data.replace(b"CREATE TABLE", b"CREATE TABL\xff")),
        "or a damaged one ('utf-8' codec can't decode byte 0xff",
    ),
    "schema": (
        changed("PRAGMA user_version = 2"),
        "this cache of weights of letters has the schema 2, and this version reads 3. Delete it; "
        "weights of letters are then made again.",
    ),
    "another's": (
        another_s,
        "this is a SQLite database, but no cache of weights of letters (application id 0). Move it "
        "elsewhere, delete it if nothing else needs it, or name another file.",
    ),
    "folder": (
        lambda path, kind: path.mkdir(),
        "the cache of weights of letters cannot be used (unable to open database file). Check that "
        "the file and its folder can be read and written and the disk is not full, or name another "
        "file.",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SPOILT)
def test_what_is_no_such_file_is_named_and_left_alone(path: Path, case: str, kind: Kind) -> None:
    spoil, message = SPOILT[case]
    spoil(path, kind)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError) as error:
        opened(path, kind).read([key for key, *_ in rows(0, 400)])
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", BESIDE)
def test_what_is_left_beside_the_file_does_no_harm(path: Path, kind: Kind, ending: str) -> None:
    filled(path, kind)
    path.with_name(path.name + ending).write_bytes(b"\x5a" * 5000)
    assert number(path, kind, 400) == 400
    path.unlink()  # what belongs to a file that was deleted is not taken for the new one's
    path.with_name(path.name + ending).write_bytes(b"\x5a" * 5000)
    assert number(path, kind, 400) == 0
    filled(path, kind)
    assert number(path, kind, 400) == 400


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_is_a_new_one(path: Path, kind: Kind) -> None:
    path.touch()
    filled(path, kind)
    assert number(path, kind, 400) == 400


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = r"file/deep/x: its folder cannot be made \(Not a directory\)\."
    with pytest.raises(UserError, match=told):
        SqliteFile(tmp_path / "file" / "deep" / "x", LOG).prepare()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 99_999), st.integers(0, 255)), min_size=1, max_size=9))
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_changed_are_refused_or_answered_in_form(
    kind: Kind, changes: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "letters.sqlite"
        filled(path, kind)
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[place % len(data)] = value
        path.write_bytes(data)
        keys = [key for key, *_ in rows(0, 410)]
        try:
            found = opened(path, kind).read(keys)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert found.keys() <= set(keys)


# --- what may not be written ---


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A path that a child without the rights of root reaches too; everything of it may be written."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder / "letters.sqlite"
    folder.chmod(0o777)
    shutil.rmtree(folder)


def without_rights(job: Callable[[], Any]) -> tuple[int, str]:
    """`in_child`, without the rights of root, who may write everything."""

    def nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(65_534)
        job()

    return in_child(nobody)


READ_ONLY = [(0o444, 0o777, JOURNAL), (0o666, 0o555, JOURNAL), (0o444, 0o777, LOG)]


@pytest.mark.parametrize(("file_mode", "folder_mode", "kind"), READ_ONLY)
def test_a_read_only_file_serves_until_something_is_missing(
    reachable: Path, file_mode: int, folder_mode: int, kind: Kind
) -> None:
    filled(reachable, kind)
    reachable.chmod(file_mode)
    reachable.parent.chmod(folder_mode)
    assert without_rights(lambda: number(reachable, kind, 400)) == (0, "")
    _, told = without_rights(lambda: number(reachable, kind, 401))
    assert told == (
        f"{reachable}: the cache of weights of letters cannot be used (attempt to write a readonly "
        "database). Check that the file and its folder can be read and written and the disk is not "
        "full, or name another file."
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "reason"),
    [(0o000, 0o777, "Permission denied"), (0o666, 0o000, "Permission denied")],
    ids=["file", "folder"],
)
def test_a_file_that_may_not_be_read(
    reachable: Path, file_mode: int, folder_mode: int, reason: str, kind: Kind
) -> None:
    filled(reachable, kind)
    reachable.chmod(file_mode)
    reachable.parent.chmod(folder_mode)
    _, told = without_rights(lambda: number(reachable, kind, 400))
    assert told.startswith(f"{reachable}: the cache of weights of letters cannot be used ({reason}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_file_in_a_read_only_folder(reachable: Path, kind: Kind) -> None:
    reachable.parent.chmod(0o555)
    _, told = without_rights(lambda: opened(reachable, kind))
    assert told.startswith(
        f"{reachable}: the cache of weights of letters cannot be used (unable to"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_costs_only_the_rows_that_did_not_fit(
    path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, kind)
    file = opened(path, kind)
    connect = sqlite3.connect

    def bounded(*arguments: Any, **more: Any) -> sqlite3.Connection:
        database = connect(*arguments, **more)
        database.execute("PRAGMA max_page_count = 9")  # SQLite says then what it says of a disk
        return database

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(sqlite3, "connect", bounded)
        file.write(rows(400, 4000))
    assert f"{path}: the cache of weights of letters cannot be used (database or disk is full)" in (
        str(error.value)
    )
    assert number(path, kind, 4000) == 400
    file.write(rows(400, 4000))
    assert number(path, kind, 4000) == 4000


# --- kills and other processes ---


class Dying(sqlite3.Connection):
    """A connection whose process is killed before the statement number `left`."""

    left = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Dying.left -= 1
        return super().execute(*arguments)


def killed_before(statement: int, job: Callable[[], Any]) -> bool:
    """Whether a child that does the job was killed before that statement."""

    def dying() -> None:
        Dying.left = statement
        sqlite3.connect = partial(sqlite3.connect, factory=Dying)
        job()

    status, told = in_child(dying)
    assert told == "" and status in (0, signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_before_any_statement_leaves_a_file_to_go_on_with(path: Path, kind: Kind) -> None:
    def job() -> None:
        file = opened(path, kind)
        file.read([b"missing"])
        file.write(rows(0, 100))
        file.write(rows(100, 200))

    found = []
    while killed_before(len(found), job):
        found.append(number(path, kind, 200))
        filled(path, kind, 300)
        assert number(path, kind, 300) == 300
        for old in path.parent.iterdir():
            old.unlink()
    assert found == sorted(found) and set(found) == {
        0,
        100,
    }  # all 200 only after the last statement
    job()
    assert number(path, kind, 200) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_in_a_transaction_that_is_partly_on_disk(path: Path, kind: Kind) -> None:
    """SQLite keeps 2 MB in memory; these rows are more, so the file is half-written when it happens."""
    filled(path, kind)
    size = path.stat().st_size

    def endless() -> Iterator[tuple[bytes, float, str]]:
        for key, weight, note in rows(0, 20_000):
            yield key, weight, note * 30
        os.kill(os.getpid(), signal.SIGKILL)

    status, _ = in_child(lambda: SqliteFile(path, kind).write(endless()))
    assert status == signal.SIGKILL
    left = path.with_name(path.name + ("-wal" if kind.write_ahead else "-journal"))
    assert left.stat().st_size > 0
    assert max(path.stat().st_size, left.stat().st_size) > size + 1_000_000
    assert number(path, kind, 20_000) == 400
    filled(path, kind, 500)
    assert number(path, kind, 20_000) == 500


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_write_one_file_at_once(path: Path, kind: Kind) -> None:
    """Both make the file, and write rows of which half are the other's too, 20 times."""

    def writing(first: int) -> None:
        for start in range(first, first + 1000, 50):
            file = opened(path, kind)
            file.read([key for key, *_ in rows(start, start + 50)])
            file.write(rows(start, start + 50))

    def both() -> None:
        child = os.fork()
        if child == 0:
            try:
                writing(500)
                os._exit(0)
            finally:
                os._exit(1)
        writing(0)
        assert os.waitpid(child, 0)[1] == 0

    assert in_child(both) == (0, "")
    assert number(path, kind, 1500) == 1500


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_keeps_the_file_locked(
    path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, kind)
    file = opened(path, kind)
    monkeypatch.setattr("empo.sqlite_file.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len(file.read([rows(0, 1)[0][0]])) == 1  # reading goes on
    locked = (
        f"{path}: another process has kept the file locked for 0.05 seconds. Wait for it, and give "
        "the same command again."
    )
    for blocked in (file.prepare, lambda: file.read([b"missing"]), lambda: file.write(rows(0, 1))):
        with pytest.raises(UserError) as error:
            blocked()
        assert str(error.value) == locked
    other.close()
    file.write(rows(400, 401))
    assert number(path, kind, 401) == 401
