"""What raters give the responses: any rater as columns, beside the same of the human references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from empo.dialogues import Turn
from empo.metrics import MetricResult
from empo.metrics.length import characters
from empo.metrics.statistics import describe
from empo.rating import Rater, RatingInput, Ratings, checked
from empo.records import Response


def ratings(
    responses: Sequence[Response], raters: Mapping[str, Rater], seed: int = 0, batch_size: int = 64
) -> MetricResult:
    """Mean rating of the responses by every rater in every dimension, in its native units.

    A response is rated in its whole context. Where a rater gives the probabilities of levels, a
    rating is the mean of the levels by them, else the score. A blank text expresses nothing: the
    lowest value of the dimension. Values, by rater and dimension: mean, sd, interval and
    length_correlation; n: responses in it; `low` and `high` of the dimension. `warnings` are those of
    the raters.

    Per response: `ratings.<rater>.<dimension>`, NaN where the rater gave no score.
    """
    pairs = [
        RatingInput(
            tuple(Turn(m.role, m.content) for m in r.context if m.role != "system"), r.response
        )
        for r in responses
    ]
    lengths = characters(responses)
    blank = np.array([not r.response.strip() for r in responses], dtype=bool)
    values: dict[str, object] = {}
    columns: dict[str, np.ndarray] = {}
    warnings: dict[str, None] = {}
    signatures = []
    for name, rater in raters.items():
        found = checked(rater.score(pairs, batch_size=batch_size), len(pairs))
        warnings |= dict.fromkeys(found.warnings)
        signatures.append(f"{name}: {found.signature}")
        of: dict[str, object] = {}
        for d, dimension in enumerate(found.dimensions):
            rated = np.where(blank, dimension.low, _rated(found, d))
            columns[f"ratings.{name}.{dimension.name}"] = rated
            of[dimension.name] = {
                **describe(rated, lengths, seed),
                "low": dimension.low,
                "high": dimension.high,
            }
        values[name] = of
    return MetricResult(
        name="ratings",
        n=len(responses),
        values={"raters": values, "warnings": list(warnings)},
        per_response=columns,
        signature="; ".join(signatures),
    )


def _rated(ratings: Ratings, d: int) -> np.ndarray:
    """The ratings in a dimension, shape (n,): of the levels by their probabilities, or the scores."""
    levels, table = ratings.dimensions[d].levels, ratings.probabilities[d]
    scores = ratings.scores[:, d]
    if table is None or levels is None:
        return scores
    return np.where(np.isfinite(scores), table @ np.array(levels), np.nan)
