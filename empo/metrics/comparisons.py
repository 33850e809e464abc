"""Paired comparisons of systems in everything that was measured, corrected over the whole table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from empo.metrics import MetricResult
from empo.metrics.length import characters
from empo.metrics.shared_exchanges import HUMAN
from empo.metrics.statistics import compare, holm
from empo.records import Response

AGAINST_REFERENCE = ("diff_epitome", "bertscore")
"""Metrics that the references have by construction: no system is compared with `human` in them."""

_WHOLE_SET = "a value of the whole set: no response has one of its own"


def compare_all(
    aligned: Mapping[str, Sequence[Response]],
    measured: Mapping[str, Mapping[str, MetricResult]],
    seed: int,
    resamples: int,
    done: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """All pairs of systems in all values, differences a - b, Holm's correction over all tests.

    `aligned` and `measured` map a system to its responses (in the order of the exchanges, which is
    everybody's) and to its metrics. `done` is called after every pair.
    """
    comparisons = []
    for a, b in combinations(aligned, 2):
        comparisons += _compare(a, b, aligned, measured, seed, resamples)
        done()
    corrected = holm([comparison["p"] for comparison in comparisons])
    for comparison, p_holm in zip(comparisons, corrected, strict=True):
        comparison["p_holm"] = p_holm
        if p_holm is None:
            comparison["reasons"]["p_holm"] = "there is no p to correct"
    return comparisons


def _compare(
    a: str,
    b: str,
    aligned: Mapping[str, Sequence[Response]],
    measured: Mapping[str, Mapping[str, MetricResult]],
    seed: int,
    resamples: int,
) -> list[dict[str, Any]]:
    """Compare two systems in everything both have; the difference is a - b."""
    lengths = characters(aligned[a]), characters(aligned[b])
    rows: list[dict[str, Any]] = []
    for name, result in measured[a].items():
        other = measured[b].get(name)
        if other is None:  # a metric against the reference, which `human` is
            continue
        for key, values in result.per_response.items():
            if HUMAN in (a, b) and key.split(".")[0] in AGAINST_REFERENCE:
                continue
            compared = compare(values, other.per_response[key], *lengths, seed, resamples)
            row = {"a": a, "b": b, "metric": key, "reasons": {}, **compared}
            if name == "length":
                row["length_controlled"] = None
                row["reasons"]["length_controlled"] = "length itself"
            rows.append(row)
        for key in result.of_the_set:
            row = _of_the_set(result.values[key], other.values[key])
            if result.basis != other.basis and row["difference"] is not None:
                row["difference"] = None
                row["reasons"]["difference"] = (
                    f"not computed alike: {result.basis} and {other.basis}"
                )
            rows.append({"a": a, "b": b, "metric": f"{name}.{key}", "n": result.n, **row})
    return rows


def _of_the_set(a: float | None, b: float | None) -> dict[str, Any]:
    known = a is not None and b is not None
    reasons = dict.fromkeys(("interval", "p", "d", "length_controlled"), _WHOLE_SET)
    if not known:
        reasons["difference"] = "not both systems have this value"
    return {
        "difference": a - b if known else None,
        "interval": None,
        "p": None,
        "test": "none",
        "d": None,
        "length_controlled": None,
        "reasons": reasons,
    }
