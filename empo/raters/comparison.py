"""Raters on one judged corpus: what each achieves, and which of two is better, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from tqdm import tqdm

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.baselines import BASELINES, baseline_predictions
from empo.raters.evaluation import evaluate_predictions, paired
from empo.raters.measures import Severe
from empo.raters.predictions import Predictions, drawn_units, task
from empo.raters.splits import label_matrix
from empo.rating import Dimension, Rater, checked
from empo.records import RATER_RESULTS_SCHEMA, UserError
from empo.runs import now, versions

SIMILARITY = "similarity"
"""The dimension of an encoder that knows no aspect; it is measured against every label."""
FOLDS = 5

BASELINE_FIT = (
    "{folds}-fold cross validation by {unit} within the evaluated file itself, since the raters' "
    "training parts are not known here; spread over folds is that over these parts."
)


def compare_raters(
    raters: Mapping[str, Rater],
    corpus: LabelledCorpus,
    *,
    dimensions: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    threshold: float | None = None,
    severe: Severe = "both",
) -> dict[str, Any]:
    """The content of rater.json: every rater evaluated on the corpus, and all pairs of raters.

    A rater is measured in the dimensions that it shares with the labels (`dimensions` narrows
    them); one whose single dimension is `similarity` in every label. `limit` takes the first examples only. A dimension asked for by name that a rater does not have stands
    in `not_run`.

    Raises UserError where a rater shares nothing with the labels, or a label is none of its levels.
    """
    labels = {dimension.name: dimension for dimension in corpus.dimensions}
    if unknown := [name for name in dimensions or () if name not in labels]:
        raise UserError(
            f"dimensions: {', '.join(unknown)} is no label of {corpus.source}; it has: "
            f"{', '.join(labels)}."
        )
    examples = corpus.examples[:limit]
    if not examples:
        raise UserError(f"{corpus.source}: no example to evaluate on. Raise the limit.")
    names = [name for name in labels if name in (dimensions or labels)]
    inputs = [example.input for example in examples]
    folds, unit = _folds(examples, seed)
    baselines: dict[Dimension, dict[str, np.ndarray]] = {}

    measured: dict[str, tuple[list[Dimension], Predictions]] = {}
    entries: dict[str, Any] = {}
    not_run: list[dict[str, str]] = []
    for rater_name, rater in tqdm(raters.items(), desc="raters", unit="rater", delay=2):
        columns = _shared(rater_name, rater, names, labels)
        for name in (name for name in dimensions or () if name not in columns):
            reason = f"the rater has no dimension {name!r}."
            not_run.append({"rater": rater_name, "dimension": name, "reason": reason})
        ratings = checked(rater.score(inputs, batch_size=batch_size), len(inputs))
        own = [_measured_as(rater.dimensions[c], labels[name]) for name, c in columns.items()]
        for dimension in own:
            if dimension not in baselines:
                baselines[dimension] = _baselines(examples, dimension, corpus.symmetric, folds)
        predictions = Predictions(
            gold=label_matrix(examples, own),
            scores=ratings.scores[:, list(columns.values())],
            groups=np.array([example.group for example in examples]),
            lengths=np.array([_characters(example, corpus.symmetric) for example in examples]),
            folds=folds,
            probabilities=[
                ratings.probabilities[c] if rater.dimensions[c] == dimension else None
                for c, dimension in zip(columns.values(), own, strict=True)
            ],
            baselines={
                name: np.column_stack([baselines[dimension][name] for dimension in own])
                for name in (BASELINES if folds.any() else ())
            },
            truncated=ratings.truncated,
            response_truncated=ratings.response_truncated,
        )
        measured[rater_name] = (own, predictions)
        entries[rater_name] = {
            "signature": ratings.signature,
            "warnings": [*ratings.warnings, *_units(rater, columns, own)],
            "dimensions": [dimension.facts() for dimension in rater.dimensions],
            "measured_in": {name: rater.dimensions[c].name for name, c in columns.items()},
            "unlabelled": [d.name for d in _unused(rater, columns)],
            "parse_failed": int(ratings.parse_failed.sum()),
            "evaluation": evaluate_predictions(
                predictions, own, seed, threshold=threshold, severe=severe
            ),
        }
    return {
        "schema": RATER_RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": seed,
        "input": corpus.facts() | {"evaluated": len(examples)},
        "baselines": BASELINES if folds.any() else {},
        "baseline_fit": BASELINE_FIT.format(folds=folds.max() + 1, unit=unit)
        if folds.any()
        else "not fitted: that needs two inputs.",
        "raters": entries,
        "comparisons": [
            {"a": a, "b": b} | comparison
            for a, b in combinations(measured, 2)
            if (comparison := _paired(*measured[a], *measured[b], seed, threshold))
        ],
        "not_run": not_run,
    }


def _shared(
    rater_name: str, rater: Rater, names: Sequence[str], labels: Mapping[str, Dimension]
) -> dict[str, int]:
    """Label name to the rater's column that is measured in it."""
    own = [dimension.name for dimension in rater.dimensions]
    if own == [SIMILARITY] and SIMILARITY not in labels:
        shared = dict.fromkeys(names, 0)
    else:
        shared = {name: own.index(name) for name in names if name in own}
    if not shared:
        raise UserError(
            f"rater {rater_name}: it has no dimension of the labels. It rates: {', '.join(own)}; the "
            f"labels are: {', '.join(names)}. Choose an input with labels for what it rates."
        )
    return shared


def _measured_as(own: Dimension, label: Dimension) -> Dimension:
    """What a label is measured as: with the rater's levels where both have levels, since a file may
    not show them all; as an interval scale where the rater gives one.
    """
    if task(own) == "interval":
        return replace(label, kind="interval")
    return own if task(label) == "classes" else label


def _units(
    rater: Rater, columns: Mapping[str, int], measured_as: Sequence[Dimension]
) -> Iterator[str]:
    """Warnings where labels cannot be reached by the rater's scores."""
    for column, label in zip(columns.values(), measured_as, strict=True):
        own = rater.dimensions[column]
        if label.low < own.low or label.high > own.high:
            yield (
                f"{label.name}: the labels run from {label.low:g} to {label.high:g}, but the rater's "
                f"scores only from {own.low:g} to {own.high:g}: errors and classes compare "
                "different units, correlations do not."
            )


def _unused(rater: Rater, columns: Mapping[str, int]) -> list[Dimension]:
    return [d for i, d in enumerate(rater.dimensions) if i not in columns.values()]


def _characters(example: Example, symmetric: bool) -> float:
    """Characters of the response; of both texts together where they are alike."""
    other = sum(len(turn.text) for turn in example.input.turns) if symmetric else 0
    return float(len(example.input.response) + other)


def _folds(examples: Sequence[Example], seed: int) -> tuple[np.ndarray, str]:
    """The fold of every example and what is kept whole; 0 everywhere with a single input."""
    from sklearn.model_selection import GroupKFold

    units, drawn = drawn_units(np.array([example.group for example in examples]))
    folds = np.zeros(len(examples), dtype=int)
    parts = min(FOLDS, len(set(units.tolist())))
    if parts > 1:
        splitter = GroupKFold(parts, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(folds, groups=units)):
            folds[held_out] = fold
    if drawn == "inputs":
        return folds, "input (more than half of the inputs are one group)"
    return folds, "group"


def _baselines(
    examples: Sequence[Example], dimension: Dimension, symmetric: bool, folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Cross-validated baselines of one dimension, (n,) each; none with a single group."""
    inputs = [example.input for example in examples]
    labels = label_matrix(examples, [dimension])
    found: dict[str, np.ndarray] = {}
    for fold in range(folds.max() + 1) if folds.any() else ():
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        predicted = baseline_predictions(
            [inputs[i] for i in train],
            labels[train],
            [inputs[i] for i in test],
            [dimension],
            symmetric=symmetric,
        )
        for name, values in predicted.items():
            found.setdefault(name, np.full(len(examples), np.nan))[test] = values[:, 0]
    return found


def _paired(
    dimensions_a: Sequence[Dimension],
    a: Predictions,
    dimensions_b: Sequence[Dimension],
    b: Predictions,
    seed: int,
    threshold: float | None,
) -> dict[str, Any] | None:
    """The comparison in the dimensions that both were measured in; None where there is none."""
    shared = [dimension for dimension in dimensions_a if dimension in dimensions_b]
    if not shared:
        return None
    of_a = [dimensions_a.index(dimension) for dimension in shared]
    of_b = [dimensions_b.index(dimension) for dimension in shared]
    return paired(a.columns(of_a), b.columns(of_b), shared, seed, threshold=threshold)
