"""Held-out rows as they are read back: what is no such row is told with line and field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empo.corpora.labelled import Example
from empo.raters.held_out import Unit, as_predictions, predict, read_predictions
from empo.raters.splits import Split
from empo.rating import Dimension, RatingInput, Ratings
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


class Levels:
    """Finds as many levels in its training part as it is told."""

    def __init__(self, *levels: float) -> None:
        self.dimensions = (Dimension("warmth", 0, 4, "interval", levels),)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        k = len(self.dimensions[0].levels)
        table = np.full((len(pairs), k), 1 / k)
        scores = np.ones(len(pairs))
        return Ratings.of(self.dimensions, scores, "levels", probabilities=[table])


def test_folds_whose_raters_found_other_levels_are_pooled(tmp_path: Path) -> None:
    examples = [
        Example(f"e{i}", f"g{i}", RatingInput("", "word " * i + "end"), {"warmth": float(i % 5)})
        for i in range(12)
    ]
    own = [Dimension("warmth", 0, 4, "interval")]
    rows = []
    for fold, rater in enumerate((Levels(0, 1, 4), Levels(0, 1, 2, 4))):
        test = np.arange(6 * fold, 6 * fold + 3)
        seen = np.setdiff1d(np.arange(12), test)
        split = Split(seen[:6], seen[6:], test)
        rows += predict(rater, Unit(1, fold, tmp_path), split, examples, own, False)
    pooled = as_predictions(rows, own)
    assert pooled.probabilities == [None] and pooled.scores.tolist() == [[1.0]] * 6
    same = [Dimension("warmth", 0, 4, "interval", (0, 1, 4))]
    kept = predict(Levels(0, 1, 4), Unit(1, 0, tmp_path), split, examples, same, False)
    assert as_predictions(kept, same).probabilities[0].shape == (3, 3)
