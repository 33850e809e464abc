"""Raters who hardly read: the same value on every slider, or pages answered faster than one can read."""

from __future__ import annotations

from typing import Any

import numpy as np

from empo.survey.ratings import Ratings

STRAIGHT_SPAN = 0.03
"""Of the scale: sliders that lie closer together than this count as equal."""
_FEWEST = 3


def flagged_raters(
    ratings: Ratings, *, straight_share: float, fast_seconds: float
) -> list[dict[str, Any]]:
    """The raters to look at, with what speaks against them, in the order of the table.

    `straight` is the share of a rater's items on which all sliders (aspects with more than two
    values) are equal, `median_seconds` of an item, None where that is not known. A rater is flagged
    from `straight_share` on, or below `fast_seconds`, if there are three items to judge by.
    """
    aspects, codes = np.unique(ratings.aspect.astype(str), return_inverse=True)
    scales = [np.unique(ratings.value[codes == code]) for code in range(len(aspects))]
    sliders = np.isin(codes, [code for code, values in enumerate(scales) if len(values) > 2])
    widest = max((float(np.ptp(values)) for values in scales), default=0.0)
    found = []
    for rater in dict.fromkeys(ratings.rater):
        mine = ratings.rater == rater
        of_page: dict[tuple[str, str], list[int]] = {}
        for row in np.flatnonzero(mine):
            of_page.setdefault((ratings.exchange[row], ratings.system[row]), []).append(row)
        spans, seconds = [], []
        for rows in map(np.array, of_page.values()):
            values = ratings.value[rows[sliders[rows]]]
            if len(values) > 1:
                spans.append(float(np.ptp(values)))
            if np.isfinite(ratings.seconds[rows[0]]):
                seconds.append(float(ratings.seconds[rows[0]]))
        straight = float(np.mean(np.array(spans) <= STRAIGHT_SPAN * widest)) if spans else None
        median = float(np.median(seconds)) if seconds else None
        reasons = []
        if straight is not None and len(spans) >= _FEWEST and straight >= straight_share:
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
