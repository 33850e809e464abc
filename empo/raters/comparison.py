"""Raters on one judged corpus: what each achieves, and which of two is better, pair by pair."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm
from typing_extensions import TypedDict

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.evaluation import evaluate_predictions, paired
from empo.raters.judged_examples import JudgedExamples
from empo.raters.measures import Severe
from empo.raters.predictions import Predictions, task
from empo.rating import Dimension, Rater, checked
from empo.records import RATER_RESULTS_SCHEMA, UserError, misfit, read_object
from empo.runs import now, versions


class _File(TypedDict):
    file: str
    sha256: str


class _Corpus(TypedDict):
    files: list[_File]


class _Run(TypedDict, total=False):
    """What is taken from the run.json of a rater."""

    data: list[_Corpus]
    settings: dict[str, Any]


_RUN = TypeAdapter(_Run)

SIMILARITY = "similarity"
"""The dimension of an encoder that knows no aspect; it is measured against every label."""


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
    folders: Mapping[str, str | Path] | None = None,
) -> dict[str, Any]:
    """The content of rater.json: every rater evaluated on the corpus, and all pairs of raters.

    A rater is measured in the dimensions that it shares with the labels (`dimensions` narrows
    them); one whose single dimension is `similarity` in every label. `limit` takes that many
    examples, drawn by `seed`. A dimension asked for by name that a rater does not have stands in
    `not_run`; two raters that were not compared in a dimension, with the reason, in `not_compared`.
    `folders` are those of the raters by name: one that was trained on the input gets a warning.

    Raises UserError where a rater shares nothing with the labels, or a label is none of its levels.
    """
    labels = {dimension.name: dimension for dimension in corpus.dimensions}
    if unknown := [name for name in dimensions or () if name not in labels]:
        raise UserError(
            f"dimensions: {', '.join(unknown)} is no label of {corpus.source}; it has: "
            f"{', '.join(labels)}."
        )
    names = [name for name in labels if name in (dimensions or labels)]
    judged = JudgedExamples(corpus, _drawn(corpus.examples, limit, seed), seed)

    measured: dict[str, tuple[list[Dimension], Predictions]] = {}
    entries: dict[str, Any] = {}
    not_run: list[dict[str, str]] = []
    for rater_name, rater in tqdm(raters.items(), desc="raters", unit="rater", delay=2):
        columns = _shared(rater_name, rater, names, labels)
        for name in (name for name in dimensions or () if name not in columns):
            reason = f"the rater has no dimension {name!r}."
            not_run.append({"rater": rater_name, "dimension": name, "reason": reason})
        ratings = checked(rater.score(judged.inputs, batch_size=batch_size), len(judged.inputs))
        own = [_measured_as(rater.dimensions[c], labels[name]) for name, c in columns.items()]
        predictions = judged.predictions(rater, ratings, columns, own)
        measured[rater_name] = (own, predictions)
        entries[rater_name] = {
            "signature": ratings.signature,
            "warnings": [
                *ratings.warnings,
                *_memory(rater_name, (folders or {}).get(rater_name), corpus),
                *_units(rater, columns, own),
            ],
            "dimensions": [dimension.facts() for dimension in rater.dimensions],
            "measured_in": {name: rater.dimensions[c].name for name, c in columns.items()},
            "unlabelled": [d.name for d in _unused(rater, columns)],
            "parse_failed": int(ratings.parse_failed.sum()),
            "evaluation": evaluate_predictions(
                predictions, own, seed, threshold=threshold, severe=severe
            ),
        }
    comparisons, not_compared = _all_pairs(measured, seed, threshold)
    return {
        "schema": RATER_RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": seed,
        "input": corpus.facts() | {"evaluated": len(judged.examples)},
        **judged.baseline_facts(),
        "raters": entries,
        "comparisons": comparisons,
        "not_compared": not_compared,
        "not_run": not_run,
    }


def _drawn(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """`limit` examples drawn by `seed`, in their order; a file is often sorted."""
    if limit is None or limit >= len(examples):
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), limit))]


def _memory(name: str, folder: str | Path | None, corpus: LabelledCorpus) -> Iterator[str]:
    """A warning where the run of the rater read a file of this corpus to train on."""
    run = None if folder is None else Path(folder) / "run.json"
    if run is None or not run.is_file():
        return
    facts = read_object(run)
    try:
        _RUN.validate_python(facts)
    except ValidationError as error:
        raise misfit(str(run), error, "Restore the file, or train the rater again.") from None
    data = facts.get("data", [])
    if facts.get("settings", {}).get("test"):
        data = data[:-1]  # the last is what it was tested on
    if set.union(set(), *(_digests(part["files"]) for part in data)) & _digests(corpus.files):
        yield (
            f"rater {name} was trained on a part of this input; its scores here show memory. Compare "
            "runs on what they held out with --held-out."
        )


def _digests(files: Sequence[Mapping[str, Any]]) -> set[str]:
    """Digests of files with judgements; definitions of labels may be shared."""
    return {f["sha256"] for f in files if not f["file"].endswith((".yaml", ".yml"))}


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


def _all_pairs(
    measured: Mapping[str, tuple[Sequence[Dimension], Predictions]],
    seed: int,
    threshold: float | None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every two raters compared, and what was not, with the reason."""
    comparisons: list[dict[str, Any]] = []
    not_compared: list[dict[str, str]] = []
    for a, b in combinations(measured, 2):
        found, reasons = compared(measured[a], measured[b], seed, threshold)
        comparisons += [{"a": a, "b": b} | found] if found else []
        not_compared += [{"a": a, "b": b} | reason for reason in reasons]
    return comparisons, not_compared


def compared(
    of_a: tuple[Sequence[Dimension], Predictions],
    of_b: tuple[Sequence[Dimension], Predictions],
    seed: int,
    threshold: float | None,
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """Two raters in the dimensions that both were measured in, in the same way (`paired`), and for
    every other dimension that both have {dimension, reason}; None where nothing can be compared.
    """
    (dimensions_a, a), (dimensions_b, b) = of_a, of_b
    names = [dimension.name for dimension in dimensions_b]
    both = [
        (i, names.index(dimension.name))
        for i, dimension in enumerate(dimensions_a)
        if dimension.name in names
    ]
    if not both:
        return None, [{"dimension": "all", "reason": "the two share no dimension"}]
    ways = [(_how(dimensions_a[i]), _how(dimensions_b[k])) for i, k in both]
    reasons = [
        {"dimension": dimensions_a[i].name, "reason": f"one is measured {mine}, one {other}"}
        for (i, _), (mine, other) in zip(both, ways, strict=True)
        if mine != other
    ]
    kept = [pair for pair, (mine, other) in zip(both, ways, strict=True) if mine == other]
    if not kept:
        return None, reasons
    shared = [dimensions_a[i] for i, _ in kept]
    columns = [list(side) for side in zip(*kept, strict=True)]
    found = paired(a.columns(columns[0]), b.columns(columns[1]), shared, seed, threshold=threshold)
    return found, reasons


def _how(dimension: Dimension) -> str:
    """How a dimension is measured, in words."""
    if task(dimension) == "interval":
        return f"as a number from {dimension.low:g} to {dimension.high:g}"
    return f"in the classes {', '.join(f'{level:g}' for level in dimension.levels)}"
