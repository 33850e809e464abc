"""Held-out predictions of one training: written as rows, read as arrays, measured over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.corpora.labelled import Example
from empo.raters.baselines import BASELINES, baseline_predictions, characters
from empo.raters.evaluation import aggregate, evaluate_predictions, evidence
from empo.raters.predictions import Predictions
from empo.raters.splits import Split, label_matrix
from empo.rating import Dimension, Rater, checked
from empo.records import UserError, finite, read_object, read_rows, shown

PREDICTIONS = "predictions.jsonl"


@with_config(extra="allow", strict=True)
class HeldOut(TypedDict):
    """One line of predictions.jsonl: a held-out input, its labels, and what was said about it.

    Further keys, such as what the baselines say, map dimensions to numbers, too.
    """

    id: str
    group: str
    seed: int
    fold: int
    characters: int
    truncated: bool
    response_truncated: bool
    gold: dict[str, float | None]
    score: dict[str, float | None]
    probabilities: dict[str, list[float] | None]
    constant: dict[str, float]
    length: dict[str, float]


_HELD_OUT = TypeAdapter(HeldOut)
_AGAIN = "Train the rater again, or restore the file."


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl.

    Raises UserError naming line and field of a row that is none, that stands there twice, or that
    has other dimensions or other numbers of levels than the first.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int, str]] = set()
    widths: dict[str, int] = {}
    for number, row in read_rows(path, _HELD_OUT, _AGAIN):
        key = (row["seed"], row["fold"], row["id"])
        if key in seen:
            raise UserError(
                f"{path}, line {number}, field 'id': {shown(row['id'])} was there already."
            )
        seen.add(key)
        rows.append(row)
        sizes = {name: len(p) for name, p in row["probabilities"].items() if p is not None}
        if _shape(row) != _shape(rows[0]) or sizes != {
            n: widths.setdefault(n, sizes[n]) for n in sizes
        }:
            raise UserError(
                f"{path}, line {number}: its dimensions or levels are not those of the lines before. "
                f"{_AGAIN}"
            )
    return rows


def _shape(row: Mapping[str, Any]) -> list[Any]:
    """Names of the dimensions wherever they stand."""
    return [sorted(row[key]) for key in ("gold", "score", "probabilities", *BASELINES)]


@dataclass(frozen=True)
class Unit:
    """One training: a seed on a fold. `folder` holds what belongs to it."""

    seed: int
    fold: int
    folder: Path

    @property
    def complete(self) -> bool:
        """Whether its predictions and facts are there."""
        return (self.folder / "unit.json").is_file()

    def facts(self) -> dict[str, Any]:
        """What the training came to."""
        facts = read_object(self.folder / "unit.json")
        if not isinstance(facts.get("validation_score"), int | float):
            raise UserError(
                f"{self.folder / 'unit.json'}, field 'validation_score': a number is expected. {_AGAIN}"
            )
        return facts

    def predictions(self) -> list[dict[str, Any]]:
        """The held-out rows, as `_predict` wrote them."""
        return read_predictions(self.folder / PREDICTIONS)


def best_unit(units: Sequence[Unit]) -> Unit:
    """The complete unit with the best validation score; the first of equals."""
    done = [unit for unit in units if unit.complete]
    return max(done, key=lambda unit: unit.facts()["validation_score"])


def predict(
    rater: Rater,
    unit: Unit,
    split: Split,
    examples: Sequence[Example],
    dimensions: Sequence[Dimension],
    symmetric: bool,
) -> list[dict[str, Any]]:
    """Scores of the held-out examples beside gold, and what the two baselines say.

    Probabilities are kept where they are of the levels of `dimensions`: those of levels that a rater
    found in its own training part could not be pooled over folds.
    """
    seen = [examples[i] for i in np.concatenate([split.train, split.validation])]
    held_out = [examples[i] for i in split.test]
    inputs = [example.input for example in held_out]
    ratings = checked(rater.score(inputs, batch_size=64), len(inputs))
    baselines = baseline_predictions(
        [example.input for example in seen],
        label_matrix(seen, dimensions),
        inputs,
        dimensions,
        symmetric=symmetric,
    )
    names = [dimension.name for dimension in dimensions]
    tables = [
        table if own.levels == dimension.levels else None
        for table, own, dimension in zip(
            ratings.probabilities, ratings.dimensions, dimensions, strict=True
        )
    ]
    rows = []
    for i, example in enumerate(held_out):
        row: dict[str, Any] = {"id": example.id, "group": example.group}
        row |= {"seed": unit.seed, "fold": unit.fold}
        row["characters"] = characters(example.input, symmetric)
        row["truncated"] = bool(ratings.truncated[i])
        row["response_truncated"] = bool(ratings.response_truncated[i])
        row["gold"] = {name: example.labels.get(name) for name in names}
        row["score"] = {name: finite(ratings.scores[i, d]) for d, name in enumerate(names)}
        row["probabilities"] = {
            name: None if p is None or not np.isfinite(p[i]).all() else p[i].tolist()
            for name, p in zip(names, tables, strict=True)
        }
        for baseline in BASELINES:
            row[baseline] = {name: float(baselines[baseline][i, d]) for d, name in enumerate(names)}
        rows.append(row)
    return rows


def as_predictions(
    rows: Sequence[Mapping[str, Any]], dimensions: Sequence[Dimension]
) -> Predictions:
    """Rows of predictions.jsonl as arrays."""

    def table(key: str) -> np.ndarray:
        values = [[row[key][dimension.name] for dimension in dimensions] for row in rows]
        return np.array(values, dtype=float)  # None becomes NaN

    probabilities: list[np.ndarray | None] = []
    for dimension in dimensions:
        found = [row["probabilities"][dimension.name] for row in rows]
        width = next((len(p) for p in found if p is not None), None)
        blank = [math.nan] * (width or 0)
        probabilities.append(
            None if width is None else np.array([blank if p is None else p for p in found])
        )
    return Predictions(
        gold=table("gold"),
        scores=table("score"),
        groups=np.array([row["group"] for row in rows]),
        lengths=np.array([row["characters"] for row in rows]),
        folds=np.array([row["fold"] for row in rows]),
        probabilities=probabilities,
        baselines={name: table(name) for name in BASELINES},
        truncated=np.array([row["truncated"] for row in rows]),
        response_truncated=np.array([row["response_truncated"] for row in rows]),
    )


def measure(
    units: Sequence[Unit], dimensions: Sequence[Dimension]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation over all seeds (folds pooled), and the evidence for the unit that is kept."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for unit in units:
        by_seed.setdefault(unit.seed, []).extend(unit.predictions())
    evaluations = [
        evaluate_predictions(as_predictions(rows, dimensions), dimensions, seed)
        for seed, rows in by_seed.items()
    ]
    best = best_unit(units)
    own = as_predictions(best.predictions(), dimensions)
    return aggregate(evaluations), evidence(evaluate_predictions(own, dimensions, best.seed))
