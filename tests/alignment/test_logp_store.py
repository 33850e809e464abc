"""The file of log-probabilities: what is none is refused before anything is computed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference_rows import Counted, many, run, stored

from empo.alignment.logp_store import LogpStore
from empo.alignment.reference_logps import FILE
from empo.records import UserError


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ratings (a)")


def older(path: Path) -> None:
    run(many(1), path.parent, Counted())
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")


def torn(path: Path) -> None:
    run(many(400), path.parent, Counted(), batch_size=50)
    path.write_bytes(path.read_bytes()[:-5000])


def scratched(path: Path) -> None:
    run(many(400), path.parent, Counted(), batch_size=50)
    data = bytearray(path.read_bytes())
    data[8192:12288] = b"\x5a" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(
            lambda path: path.write_text("log-probs\n"),
            r"or a damaged one \(it begins with b'log-probs\\n', which no database does\)\. Delete",
            id="text",
        ),
        pytest.param(torn, r"or a damaged one \(.+\)\. Delete it, with the files", id="torn"),
        pytest.param(
            scratched, r"or a damaged one \(.+\)\. Delete it, with the files", id="scratched"
        ),
        pytest.param(
            foreign,
            r"this is a SQLite database, but no cache of the reference's log-probabilities "
            r"\(application id 0\)\. Move it elsewhere, delete it if nothing else needs it, or name",
            id="foreign",
        ),
        pytest.param(
            older,
            r"this cache of the reference's log-probabilities has the schema 7, and this version "
            r"reads 1\. Delete it;",
            id="older",
        ),
        pytest.param(Path.mkdir, r"log-probabilities cannot be used \(unable to open", id="folder"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    path = tmp_path / FILE
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    score = Counted()
    with pytest.raises(UserError, match=told) as raised:
        run(many(1), tmp_path, score)  # also where what it needs lies in a sound part of the file
    assert str(raised.value).startswith(f"{path}: ")
    assert not score.calls
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "shown"), [("x'ff'", "b'\\xff'"), ("'much'", "'much'"), ("9e999", "inf")]
)
def test_a_value_that_cannot_have_been_written(tmp_path: Path, value: str, shown: str) -> None:
    path = tmp_path / FILE
    store = LogpStore(path)
    store.open([])
    store.write({b"a": -1.5, b"b": -2.5})
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE logps SET logp = {value} WHERE key = x'62'")
    assert store.open([b"a"]) == {b"a": -1.5}
    with pytest.raises(UserError) as error:
        store.open([b"a", b"b"])
    assert str(error.value).startswith(
        f"{path}: this is no cache of the reference's log-probabilities, or a damaged one (it has "
        f"{shown} as a log-probability). Delete it, with the files"
    )


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    _, facts = run(many(2), tmp_path, Counted())
    assert facts["computed"] == len(stored(tmp_path)) == 6


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache/reference\.sqlite: its folder cannot be made"):
        run(many(1), tmp_path / "file" / "cache", Counted())
