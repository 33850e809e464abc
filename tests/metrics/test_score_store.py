"""Scores kept in a file: the same floats again, whole or not there, and no other file taken for it."""

from __future__ import annotations

import itertools
import math
import sqlite3
import sys
from pathlib import Path

import pytest

from empo.metrics.score_store import ScoreStore
from empo.records import UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from killed import killed_before

SCORES = {b"a": (0.1, -0.0, 1 / 3), b"b": (math.nan, math.inf, 5e-324)}


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    ScoreStore(tmp_path / "new" / "scores.sqlite").write(SCORES)
    store = ScoreStore(tmp_path / "new" / "scores.sqlite")
    store.write({b"a": (9.0, 9.0, 9.0)})  # what is there stays
    assert repr(store.read([b"a", b"b", b"c"])) == repr(SCORES)
    assert store.read([]) == {}
    assert len(store.read([b"a", *(bytes([i // 256, i % 256]) for i in range(1200))])) == 1


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(2000)])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        ScoreStore(path)
    assert str(error.value).startswith(f"{path}: this is no cache of scores, or a damaged one (")
    assert str(error.value).endswith("; scores are then made again.")
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ratings (key)")
    with pytest.raises(UserError, match="this is a SQLite database, but no cache of scores"):
        ScoreStore(path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="its folder cannot be made"):
        ScoreStore(tmp_path / "file" / "in" / "scores.sqlite")


def test_a_file_whose_maker_was_killed_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    assert killed_before(1, tmp_path / "marks", lambda: [_mark(tmp_path, ScoreStore(path))])
    ScoreStore(path).write(SCORES)
    assert repr(ScoreStore(path).read(list(SCORES))) == repr(SCORES)


def _mark(folder: Path, store: ScoreStore) -> None:
    """Write entries one by one, each followed by a file."""
    for number in itertools.count():
        store.write({bytes([number]): (float(number),)})
        (folder / f"marks-{number}").touch()
