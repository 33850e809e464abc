"""The levels of the sample's replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from empo.corpora.levels import read_levels
from empo.rating import MECHANISMS, RatingInput
from empo.records import UserError

HEADER = ["reply", "emotion", "emotional_reaction", "interpretation", "exploration"]
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "levels.csv"
WriteCsv = Callable[..., Path]


def test_a_reply_is_its_own_group_and_has_no_context(write_csv: WriteCsv) -> None:
    rows = [["Oh, no.", "sad", 2, 1, 0], ["Oh, no.", "afraid", 2, 1, 0], [" ", "sad", 0, 0, 0]]
    corpus = read_levels(write_csv("own.csv", [HEADER, *rows]))
    first, second = corpus.examples
    assert first.input == RatingInput("", "Oh, no.")
    assert first.labels == dict(zip(MECHANISMS, (2.0, 1.0, 0.0), strict=True))
    assert first.id != second.id
    assert first.group == second.group == "Oh, no."
    assert [(r.id, r.reason, r.detail) for r in corpus.rejected] == [
        ("own:3", "empty reply", "line 4")
    ]


@pytest.mark.parametrize(
    "value, message",
    [
        ("3", "'3' is not one of 0, 1, 2."),
        ("", "'' is empty, and every row needs it."),
        ("low", "'low' is no number."),
    ],
)
def test_a_bad_level_is_refused(write_csv: WriteCsv, value: str, message: str) -> None:
    path = write_csv("own.csv", [HEADER, ["Oh.", "sad", 0, value, 0]])
    with pytest.raises(UserError) as error:
        read_levels(path)
    assert str(error.value) == f"{path}, line 2, field 'interpretation': {message}"


def test_a_missing_column_is_named(write_csv: WriteCsv) -> None:
    path = write_csv("own.csv", [HEADER[:4], ["Oh.", "sad", 0, 0]])
    with pytest.raises(UserError, match="the column exploration is missing"):
        read_levels(path)


def test_the_sample() -> None:
    corpus = read_levels(SAMPLE)
    assert corpus.rows == len(corpus.examples) == corpus.facts()["groups"] == 3_940
    assert [(d.name, d.low, d.high, d.kind, d.levels) for d in corpus.dimensions] == [
        (name, 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS
    ]
    assert corpus.facts()["labels"] == {
        "emotional_reactions": {"0": 1_343, "1": 1_312, "2": 1_285},
        "interpretations": {"0": 1_326, "1": 1_309, "2": 1_305},
        "explorations": {"0": 1_307, "1": 1_335, "2": 1_298},
    }
