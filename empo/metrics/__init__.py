"""Metrics on responses: one per file, pure, all called as `metric(responses, ...) -> MetricResult`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MetricResult:
    """What one metric says about one system.

    `values` is what results.json holds under the metric's name (fractions 0..1, None where a value
    cannot be computed). `per_response` maps the name of a value to an array of shape (n,) in the
    order of the responses, NaN where a response has none. `signature` says all that is
    needed to get the same numbers again. `of_the_set` names those of the `values` that belong to
    the whole set of responses: systems are compared in them without a test, where their `basis`,
    what such a value depends on beside the replies, is the same.
    """

    name: str
    n: int
    values: dict[str, Any]
    per_response: dict[str, np.ndarray] = field(default_factory=dict)
    signature: str = ""
    of_the_set: tuple[str, ...] = ()
    basis: str = ""
