"""Intraclass correlation of one-way tables, in which what raters do is noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


def intraclass(values: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """ICC(1) of a single rating and ICC(k) of an item's mean, with 95 % intervals.

    `values` and `items` (codes 0..m-1) have shape (n,). From the one-way analysis of variance (Shrout
    and Fleiss 1979, their ICC(1,1) and ICC(1,k), intervals by F): k = (n - sum n_i^2 / n) / (m - 1)
    ratings per item, which is their number where it is the same for all. The F distribution takes raters
    for new ones in every item; in a survey they are nested in batches, one behind many items, so there
    the intervals are approximate and too narrow. Negative where raters of an item agree less than those of any two.
    `reasons` has a sentence where a value is None.
    """
    counts = np.bincount(items)
    m, n = len(counts), len(values)
    found: dict[str, Any] = {"items": m, "ratings": n, "per_item": None}
    found |= dict.fromkeys(("single", "single_interval", "mean", "mean_interval"))
    if m < 2 or n <= m:
        reason = "needs two items and an item that two have rated"
        return found | {"reasons": dict.fromkeys(("single", "mean"), reason)}
    k = float((n - (counts**2).sum() / n) / (m - 1))
    means = np.bincount(items, values) / counts
    between = float((counts * (means - values.mean()) ** 2).sum()) / (m - 1)
    within = float(((values - means[items]) ** 2).sum()) / (n - m)
    found["per_item"] = k
    if between + within <= 1e-12 * max(1.0, float(np.square(values).max())):
        reason = "the ratings do not vary"
        return found | {"reasons": dict.fromkeys(("single", "mean"), reason)}
    ratio = between / within if within > 0 else np.inf
    upper = (1 + CONFIDENCE) / 2
    low = ratio / scipy.stats.f.ppf(upper, m - 1, n - m)
    high = ratio * scipy.stats.f.ppf(upper, n - m, m - 1)
    found["single"], *found["single_interval"] = (_single(f, k) for f in (ratio, low, high))
    found["mean"], *found["mean_interval"] = (_mean(f) for f in (ratio, low, high))
    reasons = {key: "no item differs from another" for key in ("mean",) if found[key] is None}
    if reasons:
        found["mean_interval"] = None
    return found | ({"reasons": reasons} if reasons else {})


def _single(ratio: float, k: float) -> float:
    return 1.0 if np.isinf(ratio) else float((ratio - 1) / (ratio + k - 1))


def _mean(ratio: float) -> float | None:
    return float(1 - 1 / ratio) if ratio > 0 else None
