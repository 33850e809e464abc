"""Replies that go round in circles or do not end: what a damaged model does first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.length import characters
from empo.metrics.statistics import describe
from empo.records import Response

N = 4


def repetition(responses: Sequence[Response], seed: int = 0) -> MetricResult:
    """Share of responses (0..1) in which four word tokens in a row occur twice.

    mean, sd, interval, n and length_correlation are of 0 and 1 per response. unfinished: share of
    responses that did not end by themselves, where their file says it (`finished`); None elsewhere.
    """
    repeats = np.array([repeats_itself(r.response) for r in responses], dtype=float)
    values: dict[str, Any] = describe(repeats, characters(responses), seed)
    ended = [extra["finished"] for r in responses if "finished" in (extra := r.model_extra or {})]
    values["unfinished"] = None
    if len(ended) == len(responses):
        values["unfinished"] = 1 - sum(map(bool, ended)) / len(ended)
    else:
        reasons = values.setdefault("reasons", {})
        reasons["unfinished"] = "the responses do not say whether they ended (key `finished`)"
    return MetricResult(
        name="repetition",
        n=len(responses),
        values=values,
        per_response={"repetition": repeats},
        signature=f"a {N}-gram of word tokens that occurs twice in a response; {word.SIGNATURE}",
    )


def repeats_itself(text: str) -> bool:
    """Whether any four word tokens in a row occur twice in a text."""
    tokens = word.word_tokens(text)
    grams = [tokens[i : i + N] for i in range(len(tokens) - N + 1)]
    return len(set(grams)) < len(grams)
