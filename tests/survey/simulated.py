"""Ratings by people who do not exist, with known effects of systems, raters and exchanges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from empo.survey.design import make_batches
from empo.survey.ratings import Ratings

RATER_SD, ITEM_SD, NOISE_SD = 12.0, 8.0, 18.0
TASTE_SD = 6.0
"""Of what a rater thinks of a system beside what others think of it."""


def simulated(
    effects: Mapping[str, float],
    seed: int,
    *,
    items: int = 45,
    single: int = 1,
    taste: float = TASTE_SD,
) -> Ratings:
    """Ratings of one aspect in a survey with three ratings per item; effects are in points of 100.

    `taste` is the standard deviation of a rater's liking for a system, in the same points.
    """
    rng = np.random.default_rng(seed)
    names = list(effects)
    batches = make_batches(items, len(names), size=15, block=5, ratings=3, single=single, seed=seed)
    of_item = rng.normal(0, ITEM_SD, items)
    of_pair = rng.normal(0, ITEM_SD, (items, len(names)))
    rows = []
    for rater, batch in enumerate(batches):
        habit = rng.normal(0, RATER_SD) + rng.normal(0, taste, len(names))
        for item, system in batch.places:
            value = (
                50 + effects[names[system]] + habit[system] + of_item[item] + of_pair[item, system]
            )
            rows.append((f"e{item}", names[system], f"r{rater}", value + rng.normal(0, NOISE_SD)))
    exchange, system, rater, value = (
        np.array(column, dtype=object) for column in zip(*rows, strict=True)
    )
    n = len(rows)
    return Ratings(
        exchange,
        system,
        rater,
        np.full(n, "emotion_understanding", dtype=object),
        value.astype(float),
        np.full(n, 30.0),
        np.full(n, 60.0),
    )
