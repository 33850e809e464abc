"""Rows of ratings: what cannot have been written is refused by the file's name."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from empo.raters.rating_store import RatingStore
from empo.rating import Dimension, Ratings
from empo.records import UserError

DIMENSIONS = (
    Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0)),
    Dimension("length", 0, 9, "interval"),
)


def filled(path: Path) -> RatingStore:
    """A store with one rating under the key `k`."""
    store = RatingStore(path)
    ratings = Ratings.of(
        DIMENSIONS,
        np.array([[1.0, 4.5]]),
        "rater@1",
        probabilities=[np.array([[0.25, 0.5, 0.25]]), None],
        truncated=[True],
        n_valid=[3],
    )
    store.write([b"k"], ratings, ["odd"])
    return store


def test_a_row_is_what_was_rated(tmp_path: Path) -> None:
    row = filled(tmp_path / "c.sqlite").read([b"k", b"other"])[b"k"]
    assert row.scores.tolist() == [1.0, 4.5]
    assert row.probabilities[0].tolist() == [0.25, 0.5, 0.25] and row.probabilities[1] is None
    assert (row.truncated, row.response_truncated, row.parse_failed) == (True, False, False)
    assert (row.n_valid, row.warnings) == (3, ("odd",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("scores = x'00'", "buffer size must be a multiple of element size"),
        ("scores = 5", "a bytes-like object is required, not 'int'"),
        ("scores = x''", "0 scores and 3 probabilities for the widths [3, None]"),
        ("widths = '[4, null]'", "2 scores and 3 probabilities for the widths [4, None]"),
        ("widths = '[3, x'", "Expecting value: line 1 column 5 (char 4)"),
        ("widths = '7'", "object of type 'int' has no len()"),
        ("probabilities = x''", "2 scores and 0 probabilities for the widths [3, None]"),
        ("truncated = 'x'", "['x', 0, 0, 3] are not three flags and a count"),
        ("n_valid = 'x'", "[1, 0, 0, 'x'] are not three flags and a count"),
        ("warnings = '3'", "'int' object is not iterable"),
        ("warnings = x'ff'", "cannot use a string pattern on a bytes-like object"),
    ],
)
def test_a_row_that_cannot_have_been_written(tmp_path: Path, change: str, reason: str) -> None:
    path = tmp_path / "c.sqlite"
    store = filled(path)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE ratings SET {change}")
    with pytest.raises(UserError) as error:
        store.read([b"k"])
    told = f"{path}: this is no cache of ratings, or a damaged one (a row is no rating: {reason}"
    assert str(error.value).startswith(told)
    assert "; ratings are then made again." in str(error.value)
