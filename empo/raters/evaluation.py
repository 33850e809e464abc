"""What a rater achieved on held-out groups, beside a constant and the length of the text.

Pure: arrays in, JSON values out. A value that cannot be computed is None, and `reasons` beside it
says why. Positive differences always speak for the rater.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from empo.raters.folder import FEW_GROUPS
from empo.raters.measures import COMPARED, LOWER_IS_BETTER, Severe, difference, measure
from empo.raters.predictions import RATER, Predictions, View, all_of, drawn_units, task
from empo.raters.resampling import CONFIDENCE, RESAMPLES, Sample, Spread, mean_of
from empo.rating import Dimension
from empo.records import UserError

MEANS = {"classes": ("macro_f1", "accuracy"), "interval": ("pearson", "spearman", "mse", "mae")}
"""Values whose mean over dimensions is reported; of errors only where all ranges are the same."""
METHOD = (
    f"Intervals: {CONFIDENCE:.0%} percentile bootstrap. Macro and weighted means go over "
    "the levels that occur in gold; precision of a level that is never predicted is 0. A score "
    "counts as the nearest level, halves up."
)


def evaluate_predictions(
    predictions: Predictions,
    dimensions: Sequence[Dimension],
    seed: int,
    *,
    resamples: int = RESAMPLES,
    threshold: float | None = None,
    severe: Severe = "both",
) -> dict[str, Any]:
    """Everything measured on the held-out predictions of one seed, pooled over the folds.

    Per dimension, for the rater and every baseline, on the inputs that have a label and a score:
    with levels accuracy, macro and weighted scores, those of each class and the confusion counts;
    else errors, correlations and the classes above `threshold` (the middle of the range if None).
    Every value with its interval, each fold and the SD over folds. The paired differences against
    the baselines, calibration, severe errors (off by more than a third of the range: by more than 1
    on a scale from 1 to 4; `severe` counts both, under- or overestimates), the correlation of
    scores and labels with length, and means over the dimensions.

    Raises UserError where there is no input, shapes differ, or a label is none of its levels.
    """
    predictions.check(dimensions)
    everything, fold_names = all_of(predictions, seed, resamples)
    entries: dict[str, Any] = {}
    spreads: dict[str, dict[str, Spread]] = {}
    for d, dimension in enumerate(dimensions):
        known = np.isfinite(predictions.gold[:, d]) & np.isfinite(predictions.scores[:, d])
        view = View(predictions, d, dimension, everything.where(known), threshold)
        spreads[dimension.name] = measured = view.spreads()
        entries[dimension.name] = measure(view, measured, fold_names, severe)
    flags = {
        name: None if flag is None else int(np.sum(flag))
        for name, flag in (
            ("truncated", predictions.truncated),
            ("response_truncated", predictions.response_truncated),
        )
    }
    return {
        "n": len(everything),
        **_resampling(predictions, everything),
        "folds": len(fold_names),
        "seed": seed,
        "method": METHOD,
        **flags,
        "dimensions": entries,
        "mean": _means(dimensions, spreads),
    }


def paired(
    a: Predictions,
    b: Predictions,
    dimensions: Sequence[Dimension],
    seed: int,
    *,
    resamples: int = RESAMPLES,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Paired bootstrap of two raters on the same inputs: differences, positive where a is better.

    Per dimension, on the inputs that both scored, and as means over the dimensions: macro F1 and
    accuracy, or errors and correlations, each with its interval over groups.

    Raises UserError where the two do not have the same inputs, labels and groups.
    """
    for predictions in (a, b):
        predictions.check(dimensions)
    if not (np.array_equal(a.gold, b.gold, equal_nan=True) and np.array_equal(a.groups, b.groups)):
        raise UserError(
            "the two raters have other labels or groups. Compare raters on the same inputs, in the "
            "same order."
        )
    everything, _ = all_of(a, seed, resamples)
    entries: dict[str, Any] = {}
    spreads: dict[str, dict[str, Spread]] = {}
    for d, dimension in enumerate(dimensions):
        known = np.isfinite(a.gold[:, d] + a.scores[:, d] + b.scores[:, d])
        views = [View(p, d, dimension, everything.where(known), threshold) for p in (a, b)]
        measured = {"a": views[0].spread(a.scores), "b": views[1].spread(b.scores)}
        spreads[dimension.name] = measured
        entries[dimension.name] = {"n": int(known.sum())} | {
            key: difference(measured["a"], measured["b"], key, views[0].why(key))
            for key in MEANS[task(dimension)]
        }
    means: dict[str, Any] = {}
    for kind, (names, keys) in _shared(dimensions).items():
        of = {side: [spreads[name][side] for name in names] for side in ("a", "b")}
        why = "a dimension has no value"
        means[kind] = {"dimensions": names} | {
            key: difference(mean_of(of["a"], key), mean_of(of["b"], key), key, why) for key in keys
        }
    return {
        "n": len(everything),
        **_resampling(a, everything),
        "seed": seed,
        "dimensions": entries,
        "mean": means,
    }


def evidence(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What `RaterConfig.evidence` keeps of an evaluation (of one seed or aggregated).

    `{"n", "groups", "drawn", "notes", "dimensions": {name: {"metric", "constant": {"difference", "interval"},
    "length": {"difference", "interval"}}}}`; the caller adds the digest of the weights. The metric
    is macro_f1 for dimensions with levels, else mse.
    """
    shown = {}
    for name, entry in evaluation["dimensions"].items():
        metric = COMPARED[entry["task"]][0]
        shown[name] = {"metric": metric}
        for baseline in ("constant", "length"):
            found = (entry["differences"].get(baseline) or {}).get(metric, {})
            shown[name][baseline] = {key: found.get(key) for key in ("difference", "interval")}
    kept = {key: evaluation[key] for key in ("n", "groups", "drawn", "notes")}
    return kept | {"dimensions": shown}


def _resampling(predictions: Predictions, everything: Sample) -> dict[str, Any]:
    """How many groups there are, what the intervals draw, and what that means for them."""
    groups = len(np.unique(predictions.groups))
    drawn = drawn_units(predictions.groups)[1]
    notes = []
    if drawn == "inputs":
        notes.append(
            "More than half of the inputs are one group, so inputs are drawn instead of groups: the "
            "intervals do not know that inputs share texts, and are too narrow."
        )
    elif groups < FEW_GROUPS:
        notes.append(f"Intervals from {groups} groups are unreliable and mostly too narrow.")
    resamples = everything.bootstrap.resamples
    return {"groups": groups, "drawn": drawn, "resamples": resamples, "notes": notes}


def _shared(dimensions: Sequence[Dimension]) -> dict[str, tuple[list[str], list[str]]]:
    """Per task the dimensions and the values whose mean over them means something."""
    found = {}
    for kind, keys in MEANS.items():
        members = [d for d in dimensions if task(d) == kind]
        same = len({(d.low, d.high) for d in members}) == 1
        if members:
            kept = [key for key in keys if same or key not in LOWER_IS_BETTER]
            found[kind] = ([d.name for d in members], kept)
    return found


def _means(
    dimensions: Sequence[Dimension], spreads: Mapping[str, Mapping[str, Spread]]
) -> dict[str, Any]:
    """Means over the dimensions of a task, of the rater, the baselines and the differences."""
    means: dict[str, Any] = {}
    why = "a dimension has no value"
    for kind, (names, keys) in _shared(dimensions).items():
        predictors = [p for p in spreads[names[0]] if all(p in spreads[name] for name in names)]
        over = {
            p: {k: mean_of([spreads[n][p] for n in names], k) for k in keys} for p in predictors
        }
        means[kind] = {
            "dimensions": names,
            "predictors": {p: {k: over[p][k].report(k, why) for k in keys} for p in predictors},
            "differences": {
                p: {
                    k: difference(over[RATER][k], over[p][k], k, why)
                    for k in keys
                    if k in COMPARED[kind]
                }
                for p in predictors
                if p != RATER
            },
        }
    return means


def aggregate(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Evaluations of several seeds as one, with the same keys.

    Every value becomes {value, sd_seeds, seeds: the value of each, interval, sd_folds}: the mean
    and SD over the seeds, the SD over folds as a mean over the seeds. `interval` reaches from the
    lowest bound to the highest of all seeds, so a difference is above 0 only if it is in every
    seed. A count that is not the same in all seeds is [smallest, largest]; confusion counts and
    reliability bins are summed.

    Raises UserError where there is none, or they have other dimensions or settings.
    """
    if not evaluations:
        raise UserError("there is no evaluation to aggregate.")
    seeds = [evaluation["seed"] for evaluation in evaluations]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds of the evaluations must differ, but they are {seeds}.")
    parts = [{k: v for k, v in e.items() if k != "seed"} for e in evaluations]
    return {"seeds": seeds, **_merged(parts, seeds, "evaluation")}


def _merged(parts: Sequence[Any], seeds: Sequence[int], where: str) -> Any:
    """What several seeds have under one key, as one."""
    first = parts[0]
    key = where.rpartition(".")[2]
    if key == "confusion":
        return np.sum(parts, axis=0).tolist()
    if key == "bins":
        return _pooled_bins([row for part in parts for row in part])
    if key == "absent":
        named = zip(seeds, parts, strict=True)
        return {
            "data": sorted({level for part in parts for level in part["data"]}, key=float),
            "folds": {f"{f}, seed {s}": v for s, part in named for f, v in part["folds"].items()},
        }
    if key == "notes":
        return list(dict.fromkeys(note for part in parts for note in part))
    if key == "reasons":
        return {name: why for part in parts for name, why in part.items()}
    if all(isinstance(part, Mapping) for part in parts):
        for name in ("value", "difference"):
            if name in first and "interval" in first:
                return _over_seeds(parts, name)
        names = dict.fromkeys(name for part in parts for name in part)
        if key in ("dimensions", "predictors") and any(part.keys() != set(names) for part in parts):
            raise UserError(
                f"{where}: the seeds have other entries ({', '.join(names)}). Aggregate evaluations "
                "of the same dimensions and baselines."
            )
        of = {name: [part[name] for part in parts if name in part] for name in names}
        return {name: _merged(found, seeds, f"{where}.{name}") for name, found in of.items()}
    if all(part == first for part in parts):
        return first
    if all(isinstance(part, int) for part in parts):
        return [min(parts), max(parts)]
    if key == "drawn":
        return " or ".join(sorted(set(parts)))
    raise UserError(f"{where} is not the same in all seeds: {parts[0]!r} and others.")


def _over_seeds(parts: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    values = [part[name] for part in parts]
    bounds = [part["interval"] for part in parts]
    within = [part["sd_folds"] for part in parts if part["sd_folds"] is not None]
    reasons = {key: why for part in parts for key, why in part.get("reasons", {}).items()}
    whole, several = None not in values, None not in values and len(values) > 1
    if not several:
        reasons["sd_seeds"] = "needs two seeds that have this value"
    entry: dict[str, Any] = {
        name: float(np.mean(values)) if whole else None,
        "sd_seeds": float(np.std(values, ddof=1)) if several else None,
        "seeds": values,
        "interval": None
        if None in bounds
        else [min(low for low, _ in bounds), max(high for _, high in bounds)],
        "sd_folds": float(np.mean(within)) if within else None,
    }
    return entry | ({"reasons": reasons} if reasons else {})


def _pooled_bins(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Reliability bins of several seeds as one table, weighted by their counts."""
    pooled = []
    for low, high in sorted({(row["low"], row["high"]) for row in rows}):
        same = [row for row in rows if row["low"] == low]
        n = [row["n"] for row in same]
        bin_ = {"low": low, "high": high, "n": sum(n)}
        for key in ("confidence", "accuracy"):
            bin_[key] = float(np.average([row[key] for row in same], weights=n))
        pooled.append(bin_)
    return pooled
