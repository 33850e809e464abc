"""Length of the responses: what most other metrics move with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.statistics import describe
from empo.records import Response


def characters(responses: Sequence[Response]) -> np.ndarray:
    """Characters of each response, shape (n,)."""
    return np.array([len(response.response) for response in responses], dtype=float)


def length(responses: Sequence[Response], seed: int = 0) -> MetricResult:
    """Mean length in characters and in word tokens, each with spread and interval.

    blank: number of responses without any token.
    """
    counts = {
        "characters": characters(responses),
        "tokens": np.array([len(word.word_tokens(r.response)) for r in responses], dtype=float),
    }
    values: dict[str, object] = {"blank": int((counts["tokens"] == 0).sum())}
    reasons: dict[str, str] = {}
    for unit, array in counts.items():
        described = describe(array, counts["characters"], seed)
        for key in ("mean", "sd", "interval"):
            values[f"{key}_{unit}"] = described[key]
            if described[key] is None:
                reasons[f"{key}_{unit}"] = described["reasons"][key]
    return MetricResult(
        name="length",
        n=len(responses),
        values=values | ({"reasons": reasons} if reasons else {}),
        per_response={f"length.{unit}": array for unit, array in counts.items()},
        signature=f"Unicode characters; {word.SIGNATURE}",
    )
