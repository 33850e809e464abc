"""All that is measured in one dimension of a rater's held-out predictions, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from empo.raters import scores as formulas
from empo.raters.predictions import RATER, View, nearest_level, task
from empo.raters.resampling import Spread
from empo.records import UserError

COMPARED = {"classes": ("macro_f1", "accuracy"), "interval": ("mse", "mae")}
"""Values in which a rater is compared with the baselines, by the task of the dimension."""
LOWER_IS_BETTER = {"mse", "mae"}

_GOLD_VALUES = 20  # more distinct labels than these are shown in ten bins

Severe = Literal["both", "under", "over"]


def measure(
    view: View, measured: Mapping[str, Spread], fold_names: list[str], severe: Severe
) -> dict[str, Any]:
    """The entry of one dimension; `measured` are the spreads of the rater and the baselines."""
    dimension, gold = view.dimension, view.predictions.gold[:, view.d]
    entry: dict[str, Any] = dimension.facts() | {"task": task(dimension), "n": len(view.sample)}
    entry["missing"] = int(np.isnan(gold).sum())
    entry["unscored"] = len(gold) - entry["missing"] - entry["n"]
    if task(dimension) == "classes":
        entry |= _classes(view, measured, fold_names)
    else:
        entry |= _errors(view, measured) | {"severe": _severe(view, severe)}
    entry["differences"], reasons = _against(view, measured)
    entry["calibration"], reason = _calibration(view)
    entry["length_correlation"] = _with_length(view)
    return entry | {"reasons": reasons | reason}


def difference(a: Spread, b: Spread, key: str, why: str) -> dict[str, Any]:
    """The paired difference in one value, in favour of a where positive."""
    sign = -1 if key in LOWER_IS_BETTER else 1
    return a.combined(b, key, sign).report(key, why, name="difference")


def _classes(view: View, measured: Mapping[str, Spread], fold_names: list[str]) -> dict[str, Any]:
    levels = [f"{level:g}" for level in view.dimension.levels]
    k = len(levels)
    support = np.bincount(view.codes, minlength=k)
    predictors: dict[str, Any] = {}
    for name, spread in measured.items():
        scores = view.scores if name == RATER else view.baseline(name)
        predicted = nearest_level(scores, view.dimension.levels)
        confusion = np.bincount(view.codes * k + predicted, minlength=k * k).reshape(k, k)
        entry: dict[str, Any] = {
            key: spread.report(key, view.why(key, name)) for key in formulas.CLASS_SCORES
        }
        entry["classes"] = {
            level: {"support": int(support[i]), "predicted": int(confusion[:, i].sum())}
            | {
                key: spread.report(f"{key}_{i}", view.why(f"{key}_{i}", name))
                for key in ("precision", "recall", "f1")
            }
            for i, level in enumerate(levels)
        }
        predictors[name] = entry | {"confusion": confusion.tolist()}
    absent: dict[str, Any] = {"data": [lv for lv, n in zip(levels, support, strict=True) if not n]}
    folds = view.sample.folds[view.sample.items]
    absent["folds"] = {
        fold: missing
        for f, fold in enumerate(fold_names)
        if (missing := [lv for i, lv in enumerate(levels) if i not in set(view.codes[folds == f])])
    }
    return {"predictors": predictors, "absent": absent}


def _errors(view: View, measured: Mapping[str, Spread]) -> dict[str, Any]:
    keys = (*formulas.ERROR_SCORES, *formulas.THRESHOLD_SCORES)
    return {
        "threshold": view.threshold,
        "predictors": {
            name: {key: spread.report(key, view.why(key, name)) for key in keys}
            for name, spread in measured.items()
        },
    }


def _severe(view: View, mode: Severe) -> dict[str, Any]:
    above = (view.dimension.high - view.dimension.low) / 3
    error = {"both": np.abs, "under": np.negative, "over": np.positive}[mode](
        view.scores - view.gold
    )
    severe = error > above + 1e-9

    def share(kept: np.ndarray) -> dict[str, Any]:
        columns = np.column_stack([severe[kept], np.ones(kept.sum())]).astype(float)
        spread = view.sample.where(kept).spread(columns, _share)
        counts = {"support": int(kept.sum()), "errors": int(severe[kept].sum())}
        return counts | {"share": spread.report("share", view.why("share"))}

    values = np.unique(view.gold)
    if len(values) <= _GOLD_VALUES:
        parts = {f"{value:g}": view.gold == value for value in values}
    else:
        edges = np.linspace(view.dimension.low, view.dimension.high, 11)
        place = np.clip(np.searchsorted(edges, view.gold, side="right") - 1, 0, 9)
        parts = {f"{edges[i]:g} to {edges[i + 1]:g}": place == i for i in np.unique(place)}
    return {
        "mode": mode,
        "above": above,
        "all": share(np.ones(len(view.sample), bool)),
        "by_gold": {label: share(kept) for label, kept in parts.items()},
    }


def _share(sums: np.ndarray) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore"):
        return {"share": sums[..., 0] / sums[..., 1]}


def _against(view: View, measured: Mapping[str, Spread]) -> tuple[dict[str, Any], dict[str, str]]:
    found: dict[str, Any] = {}
    reasons = {}
    for name in view.predictions.baselines:
        if name not in measured:
            found[name] = None
            lacking = int(np.isnan(view.baseline(name)).sum())
            reasons[f"differences.{name}"] = f"the baseline has no prediction for {lacking} inputs"
            continue
        found[name] = {
            key: difference(measured[RATER], measured[name], key, view.why(key))
            for key in COMPARED[task(view.dimension)]
        }
    return found, reasons


def _calibration(view: View) -> tuple[dict[str, Any] | None, dict[str, str]]:
    tables = view.predictions.probabilities
    table = None if tables is None else tables[view.d]
    if table is None or task(view.dimension) == "interval":
        return None, {"calibration": "the rater gives no probabilities of levels"}
    k = len(view.dimension.levels)
    if table.shape[1] != k:
        raise UserError(
            f"probabilities of {view.dimension.name!r}: {table.shape[1]} columns for {k} levels."
        )
    table = table[view.sample.items]
    known = np.isfinite(table).all(axis=1)
    if not known.any():
        return None, {"calibration": "no input has a label and probabilities"}
    columns = formulas.calibration_columns(view.codes[known], table[known])
    spread = view.sample.where(known).spread(columns, formulas.calibration_error)
    count, top, correct = columns.sum(axis=0).reshape(3, -1)
    edges = np.linspace(0, 1, len(count) + 1)
    bins = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(count[i]),
            "confidence": float(top[i] / count[i]),
            "accuracy": float(correct[i] / count[i]),
        }
        for i in np.flatnonzero(count)
    ]
    return {"n": int(known.sum()), "ece": spread.report("ece", ""), "bins": bins}, {}


def _with_length(view: View) -> dict[str, Any]:
    """Correlations with the characters of the response, of the scores and of the labels."""
    lengths = np.asarray(view.predictions.lengths, dtype=float)[view.sample.items]
    found = {}
    for name, values in ((RATER, view.scores), ("gold", view.gold)):
        columns = formulas.correlation_columns(values, lengths)
        spread = view.sample.spread(columns, formulas.correlation)
        spread |= view.sample.spearman(values, lengths)
        why = "no input has both a label and a score"
        if len(values):
            constant = np.ptp(lengths) == 0
            why = "all responses are equally long" if constant else "the values do not vary"
        found[name] = {key: spread.report(key, why) for key in ("pearson", "spearman")}
    return found
