"""All pairs of systems over runs: tests with runs and exchanges random, Holm, what length explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from tqdm import tqdm

from empo.metrics.comparisons import AGAINST_REFERENCE
from empo.metrics.run_statistics import length_controlled_over_runs, over_runs
from empo.metrics.shared_exchanges import HUMAN
from empo.metrics.statistics import holm
from empo.reporting.run_folders import RunFolder

SIGNIFICANT = 0.05

_LENGTH = "length.characters"


def compare_over_runs(
    runs: Sequence[RunFolder],
    labels: Sequence[str],
    systems: Mapping[str, Any],
    names: Mapping[tuple[int, str], str],
    ids: Sequence[str],
) -> list[dict[str, Any]]:
    """All pairs in all values per response, on the exchanges that all runs share; differences a - b."""
    arrays: dict[str, dict[str, dict[int, list[float]]]] = {name: {} for name in systems}
    for (i, there), name in names.items():
        if labels[i] in systems[name]["runs"] and (of := runs[i]["per_response"]):
            rows = [of[there][key] for key in ids]
            for key in dict.fromkeys(key for row in rows for key in row):
                found = [np.nan if row.get(key) is None else row[key] for row in rows]
                arrays[name].setdefault(key, {})[i] = found
    within = _within(runs, labels, names)
    todo = [
        (a, b, key)
        for a, b in combinations(systems, 2)
        for key in arrays[a]
        if key in arrays[b] and not (HUMAN in (a, b) and key.split(".")[0] in AGAINST_REFERENCE)
    ]
    compared = []
    for a, b, key in tqdm(todo, delay=2, disable=None, desc="comparisons"):
        fixed = (systems[a]["fixed"], systems[b]["fixed"])
        values = [list(arrays[name][key].values()) for name in (a, b)]
        row = over_runs(*on_the_same(*values), fixed=fixed)
        row |= {"a": a, "b": b, "metric": key}
        row |= _at_equal_length((arrays[a], arrays[b]), key, fixed, row["reasons"])
        counting = {*systems[a]["runs"], *systems[b]["runs"]}  # not the same replies again
        rows = {k: of for k, of in within.get((a, b, key), {}).items() if k in counting}
        compared.append(row | _of_the_runs(rows, row["reasons"]))
    for row, p_holm in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = p_holm
        if p_holm is None:
            row["reasons"]["p_holm"] = "there is no p to correct"
    return compared


def on_the_same(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Values of shape (runs, n), on the exchanges only where both systems have one in some run.

    Else a system would be compared on exchanges that are easy for it.
    """
    first, second = np.array(a, float), np.array(b, float)
    both = np.isfinite(first).any(axis=0) & np.isfinite(second).any(axis=0)
    return np.ascontiguousarray(first[:, both]), np.ascontiguousarray(second[:, both])


def _at_equal_length(
    sides: Sequence[Mapping[str, Mapping[int, Sequence[float]]]],
    key: str,
    fixed: tuple[bool, bool],
    reasons: dict[str, str],
) -> dict[str, Any]:
    """`length_controlled_over_runs` of two systems: value -> run -> numbers, each."""
    found, reason = None, None
    if key.startswith("length."):
        reason = "length itself"
    elif any(_LENGTH not in of or of[key].keys() - of[_LENGTH].keys() for of in sides):
        reason = "not both systems have lengths"
    else:
        values, lengths = (
            [np.array([of[name][run] for run in of[key]], float) for of in sides]
            for name in (key, _LENGTH)
        )
        found, reason = length_controlled_over_runs(*values, *lengths, fixed=fixed)
    if reason is not None:
        reasons["length_controlled.interval" if found else "length_controlled"] = reason
    return {"length_controlled": found}


def _within(
    runs: Sequence[RunFolder], labels: Sequence[str], names: Mapping[tuple[int, str], str]
) -> dict[tuple[str, str, str], dict[str, tuple[dict[str, Any], int]]]:
    """(a, b, value) -> label -> row of that run's own paired test and the sign of its difference."""
    found: dict[tuple[str, str, str], dict[str, tuple[dict[str, Any], int]]] = {}
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        for row in (run["results"] or {"comparisons": []})["comparisons"]:
            a, b = (names[i, row[side]] for side in "ab")
            found.setdefault((a, b, row["metric"]), {})[label] = row, 1
            found.setdefault((b, a, row["metric"]), {})[label] = row, -1
    return found


def _of_the_runs(
    rows: Mapping[str, tuple[Mapping[str, Any], int]], reasons: dict[str, str]
) -> dict[str, Any]:
    """Cohen's d as mean over the runs that have the pair, and each of these runs' own p."""
    effects: dict[str, float | None] = {}
    for name in ("paired", "pooled"):
        found = [
            sign * row["d"][name]
            for row, sign in rows.values()
            if (row.get("d") or {}).get(name) is not None
        ]
        effects[name] = sum(found) / len(found) if found else None
        if not found:
            reasons[f"d.{name}"] = "no results.json has an effect size of this pair"
    own = {label: row["p_holm"] for label, (row, _) in rows.items()}
    known = [p for p in own.values() if p is not None]
    return {
        "d": effects,
        "p_of_runs": own,
        "own": {"below": sum(p < SIGNIFICANT for p in known), "of": len(known)},
    }
