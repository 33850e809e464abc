"""Which exchanges a report shows side by side: by a rule, so that nobody can pick the good ones."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from empo.metrics import MetricResult
from empo.records import Response

RANDOM = 5
DISAGREEMENT = 3
RULES = {
    "random": "drawn at random with the seed",
    "largest disagreement": "the systems' values lie furthest apart: mean over the values per "
    "response (all but length) of their standard deviation over systems, each in units of that "
    "value's standard deviation over all responses",
}


def choose(
    aligned: Mapping[str, Sequence[Response]],
    measured: Mapping[str, Mapping[str, MetricResult]],
    seed: int,
) -> list[dict[str, Any]]:
    """Exchanges with what every system replied: five at random, then three more that disagree most.

    `aligned` maps a system to its responses in the order of the exchanges. Ties go to the first.
    """
    first = next(iter(aligned.values()))
    n = len(first)
    drawn = sorted(random.Random(seed).sample(range(n), min(RANDOM, n)))
    spread = disagreement(measured, n)
    apart = [i for i in np.argsort(-spread, kind="stable") if spread[i] > 0 and i not in drawn]
    chosen = [("random", i) for i in drawn]
    chosen += [("largest disagreement", int(i)) for i in apart[:DISAGREEMENT]]
    return [
        {
            "rule": rule,
            "id": first[i].id,
            "emotion": first[i].emotion,
            "prompt": first[i].prompt,
            "responses": {name: responses[i].response for name, responses in aligned.items()},
        }
        for rule, i in chosen
    ]


def disagreement(measured: Mapping[str, Mapping[str, MetricResult]], n: int) -> np.ndarray:
    """How far apart the systems are on every exchange (see `RULES`), shape (n,).

    0 for one system, for values that do not vary, and where fewer than two systems have a value.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for of in measured.values():
        for name, result in of.items():
            if name != "length":
                for key, values in result.per_response.items():
                    columns.setdefault(key, []).append(values)
    spreads = [np.zeros(n)]
    for arrays in columns.values():
        table = np.array(arrays)  # (systems, n)
        whole = np.nanstd(table) if np.isfinite(table).any() else 0
        enough = np.isfinite(table).sum(axis=0) > 1
        spread = np.zeros(n)
        if whole > 0 and enough.any():
            spread[enough] = np.nanstd(table[:, enough], axis=0) / whole
        spreads.append(spread)
    return np.mean(spreads[1:] or spreads, axis=0)
