"""Held-out rows as they are read back: what is no such row is told with line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empo.raters.held_out import Unit, read_predictions
from empo.records import UserError, write_json, write_jsonl

ROW = {
    "id": "a",
    "group": "g",
    "seed": 1,
    "fold": 0,
    "characters": 9,
    "truncated": False,
    "response_truncated": False,
    "gold": {"warmth": 1.0},
    "score": {"warmth": None},
    "probabilities": {"warmth": [0.5, 0.5]},
    "constant": {"warmth": 1.0},
    "length": {"warmth": 0.5},
}


def test_rows_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"id": "b", "probabilities": {"warmth": None}}]
    write_jsonl(tmp_path / "predictions.jsonl", rows)
    assert read_predictions(tmp_path / "predictions.jsonl") == rows


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": 5}, "line 2, field 'id': Input should be a valid string."),
        ({"gold": {"warmth": "1"}}, "line 2, field 'gold.warmth': Input should be a valid number."),
        ({"id": "a"}, "line 2, field 'id': 'a' was there already."),
        ({"gold": {"cold": 1.0}}, "line 2: its dimensions or levels are not those of the lines"),
        ({"probabilities": {"warmth": [1.0]}}, "line 2: its dimensions or levels are not those of"),
    ],
)
def test_what_is_no_row_is_told(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = tmp_path / "predictions.jsonl"
    write_jsonl(path, [ROW, ROW | {"id": "b"} | change])
    with pytest.raises(UserError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"{path}, {told}")


def test_a_unit_without_a_score_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "unit.json", {"validation_score": None})
    with pytest.raises(
        UserError, match="unit.json, field 'validation_score': a number is expected"
    ):
        Unit(1, 0, tmp_path).facts()
