"""Raters who hardly read: the same value on every slider, or pages answered faster than one can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from empo.survey.ratings import Ratings

STRAIGHT_SPAN = 0.03
"""Of the scale: sliders that lie closer together than this count as equal."""
_ALIKE = 0.5
"""Aspects whose values span at least this share of another's are taken to have its scale."""
_FEWEST = 3


def flagged_raters(
    ratings: Ratings, *, straight_share: float, fast_seconds: float
) -> list[dict[str, Any]]:
    """The raters to look at, with what speaks against them, in the order of the table.

    `straight` is the share of a rater's items on which all sliders (aspects with more than two
    values) of a scale are equal, `median_seconds` of an item, None where that is not known. A rater is
    flagged from `straight_share` on, or below `fast_seconds`, if there are three items to judge by.
    Which aspects have the same scale is told by the span of their values, as no table says it.
    """
    aspects, codes = np.unique(ratings.aspect.astype(str), return_inverse=True)
    scales = [np.unique(ratings.value[codes == code]) for code in range(len(aspects))]
    alike = _alike({c: float(np.ptp(v)) for c, v in enumerate(scales) if len(v) > 2})
    found = []
    for rater in dict.fromkeys(ratings.rater):
        mine = ratings.rater == rater
        of_page: dict[tuple[str, str], list[int]] = {}
        for row in np.flatnonzero(mine):
            of_page.setdefault((ratings.exchange[row], ratings.system[row]), []).append(row)
        equal, seconds = [], []
        for rows in map(np.array, of_page.values()):
            sets = [(ratings.value[rows[np.isin(codes[rows], of)]], span) for of, span in alike]
            sets = [(values, span) for values, span in sets if len(values) > 1]
            if sets:
                equal.append(all(np.ptp(values) <= STRAIGHT_SPAN * span for values, span in sets))
            if np.isfinite(ratings.seconds[rows[0]]):
                seconds.append(float(ratings.seconds[rows[0]]))
        straight = float(np.mean(equal)) if equal else None
        median = float(np.median(seconds)) if seconds else None
        reasons = []
        if straight is not None and len(equal) >= _FEWEST and straight >= straight_share:
            reasons.append("straight-lining")
        if median is not None and len(seconds) >= _FEWEST and median < fast_seconds:
            reasons.append("too fast")
        if reasons:
            found.append(
                {
                    "rater": rater,
                    "items": len(of_page),
                    "straight": straight,
                    "median_seconds": median,
                    "reasons": reasons,
                }
            )
    return found


def _alike(spans: Mapping[int, float]) -> list[tuple[list[int], float]]:
    """Sets of aspects (codes) with the same scale, with the widest span in each."""
    sets: list[tuple[list[int], float]] = []
    for code in sorted(spans, key=lambda code: -spans[code]):
        if sets and spans[code] >= _ALIKE * sets[-1][1]:
            sets[-1][0].append(code)
        else:
            sets.append(([code], spans[code]))
    return sets
