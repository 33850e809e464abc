"""Runs of recipes/rater.py in pairs, on what none of their raters was trained on.

Raters that were trained on one split are compared on the predictions that each run kept of its
held-out parts: no text was seen by either rater, and no model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from empo.raters.comparison import compared
from empo.raters.evaluation import aggregate
from empo.raters.folder import UNITS
from empo.raters.held_out import PREDICTIONS, as_predictions, read_predictions
from empo.rating import Dimension
from empo.records import RATER_RESULTS_SCHEMA, UserError, listed, misfit, read_json
from empo.runs import now, versions


@with_config(extra="allow", strict=True)
class _Scale(TypedDict):
    name: str
    low: float
    high: float
    kind: Literal["ordinal", "interval", "binary"]
    levels: list[float] | None


@with_config(extra="allow", strict=True)
class _Evaluation(TypedDict):
    dimensions: dict[str, _Scale]


@with_config(extra="allow", strict=True)
class _Run(TypedDict):
    """What is taken from the results.json of a run."""

    raters: dict[str, str]
    warnings: list[str]
    data: list[Any]
    split: dict[str, Any]
    baselines: dict[str, Any]
    evaluation: _Evaluation


_RUN = TypeAdapter(_Run)

Rows = dict[int, list[dict[str, Any]]]
"""Held-out rows by seed, ordered by fold and id."""


def compare_held_out(runs: Mapping[str, str | Path]) -> dict[str, Any]:
    """The content of rater.json: the evaluations of the runs as they stand in their results, and
    all pairs of runs, compared seed by seed on the same held-out inputs and aggregated.

    `runs` maps a name to the folder of a finished run. Seeds that only some runs have are left out
    of the comparisons.

    Raises UserError where a folder is no finished run, no seed is common to all, or the runs held
    out other inputs: they had other data or another split.
    """
    results = {name: _results(folder) for name, folder in runs.items()}
    rows = {name: _rows(folder) for name, folder in runs.items()}
    first = next(iter(runs))
    seeds = sorted(set.intersection(*(set(found) for found in rows.values())))
    if not seeds:
        listed = "; ".join(f"{name}: {', '.join(map(str, r))}" for name, r in rows.items())
        raise UserError(f"the runs have no seed in common ({listed}). Train them with one.")
    for name in runs:
        for seed in seeds:
            _check_same(runs[first], rows[first][seed], runs[name], rows[name][seed], seed)
    dimensions = {
        name: [Dimension.from_facts(of) for of in found["evaluation"]["dimensions"].values()]
        for name, found in results.items()
    }
    for name, folder in runs.items():
        _check_dimensions(folder, [d.name for d in dimensions[name]], rows[name])
    comparisons: list[dict[str, Any]] = []
    not_compared: list[dict[str, str]] = []
    for a, b in combinations(runs, 2):
        parts: list[dict[str, Any]] = []
        for seed in seeds:
            of = (
                (dimensions[name], as_predictions(rows[name][seed], dimensions[name]))
                for name in (a, b)
            )
            part, reasons = compared(*of, seed, None)
            parts += [part] if part else []
        not_compared += [{"a": a, "b": b, **reason} for reason in reasons]  # the same in all seeds
        if parts:
            comparisons.append({"a": a, "b": b, **aggregate(parts)})
    return {
        "schema": RATER_RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seeds": seeds,
        "data": results[first]["data"],
        "split": results[first]["split"],
        "baselines": results[first]["baselines"],
        "raters": {
            name: {
                "signature": " ".join(found["raters"].values()),
                "warnings": found["warnings"],
                "evaluation": found["evaluation"],
            }
            for name, found in results.items()
        },
        "comparisons": comparisons,
        "not_compared": not_compared,
        "not_run": [],
    }


def _results(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "results.json"
    found = read_json(path) if path.is_file() else None
    if not isinstance(found, dict) or "evaluation" not in found:
        raise UserError(
            f"{folder}: this is no finished run of recipes/rater.py (results.json with an evaluation "
            "is missing). Give the folder of a run; of a grid, the folders of its raters."
        )
    try:
        _RUN.validate_python(found)
    except ValidationError as error:
        raise misfit(str(path), error, "Train the rater again, or restore the file.") from None
    return found


def _rows(folder: str | Path) -> Rows:
    found: Rows = {}
    for file in sorted((Path(folder) / UNITS).glob(f"*/*/{PREDICTIONS}")):
        for row in read_predictions(file):
            found.setdefault(row["seed"], []).append(row)
    if not found:
        raise UserError(
            f"{folder}: there are no held-out predictions ({UNITS}/*/*/{PREDICTIONS}). Keep them "
            "with the rater, or train it again."
        )
    return {seed: sorted(rows, key=lambda r: (r["fold"], r["id"])) for seed, rows in found.items()}


def _check_dimensions(folder: str | Path, names: Sequence[str], rows: Rows) -> None:
    """Raise UserError where results.json and the held-out rows are not of the same dimensions."""
    for row in (row for of in rows.values() for row in of):
        if set(names) != set(row["gold"]):
            raise UserError(
                f"{folder}: results.json is about {listed(names)}, but {PREDICTIONS} of seed "
                f"{row['seed']}, fold {row['fold']} about {listed(row['gold'])}. Train it again, or "
                "restore the files."
            )


def _check_same(
    first: str | Path,
    here: list[dict[str, Any]],
    other: str | Path,
    there: list[dict[str, Any]],
    seed: int,
) -> None:
    """Raise UserError where the two do not hold the same inputs in the same folds."""
    mine, theirs = ({(row["fold"], row["id"]) for row in rows} for rows in (here, there))
    if odd := sorted(mine ^ theirs):
        fold, id_ = odd[0]
        raise UserError(
            f"{first} and {other}: seed {seed} held out other inputs, {len(odd):,} stand in one run "
            f"only (first: {id_!r} in fold {fold}). Compare runs with the same data, limit, "
            "split_seed, folds and test_share."
        )
