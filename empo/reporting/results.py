"""results.json: its schema, written and read by every command that measures or reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.pair_rules import PairRule
from empo.records import RESULTS_SCHEMA, read_typed, sha256, write_json, write_jsonl


@with_config(extra="allow")
class Trained(TypedDict):
    """How a model was trained, as its run says: command, seed, settings, and the rule of its pairs."""

    settings: NotRequired[dict[str, Any] | None]
    pairs: NotRequired[PairRule | None]


@with_config(extra="allow")
class SystemResults(TypedDict):
    """One system: number of responses, metric -> value name -> value (fractions, not percent).

    `digest` identifies its replies whatever file they came in. `trained` is how the model behind
    them was trained, where that is known. `reward`: the raters that chose its replies or rewarded
    its training, each with name and weights.
    """

    n: int
    digest: NotRequired[str]
    trained: NotRequired[Trained | None]
    reward: NotRequired[list[dict[str, Any]]]
    metrics: dict[str, dict[str, Any]]


class LengthControlled(TypedDict):
    """The difference that is left at equal length, with its 95 % interval; slope per character.

    `share_longer`, `share_shorter`: shares of exchanges where a's reply is longer, or shorter; where
    one of them is near 1 the intercept is an extrapolation.
    """

    intercept: float
    interval: tuple[float, float]
    slope: float
    share_longer: NotRequired[float]
    share_shorter: NotRequired[float]


class Effect(TypedDict):
    """Cohen's d of a - b: over the spread of the differences, and over that of the two systems."""

    paired: float | None
    pooled: float | None
    reasons: NotRequired[dict[str, str]]


class PairedDifference(TypedDict):
    """Two systems in one value on the same exchanges; `difference` and `interval` are of a - b.

    `reasons` has a sentence for every key that is None.
    """

    a: str
    b: str
    metric: str
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    test: str
    n: int
    length_controlled: LengthControlled | None
    reasons: dict[str, str]


class Comparison(PairedDifference):
    """Of two systems in a metric; `d` is None where only whole sets can be compared."""

    d: NotRequired[Effect | None]


class NotRun(TypedDict):
    """A metric that did not run, and what to do about it."""

    metric: str
    reason: str


class Sample(TypedDict):
    """One exchange with the last speaker turn and what every system replied, and why it is shown."""

    rule: NotRequired[str]
    id: str
    emotion: str
    prompt: str
    responses: dict[str, str]


@with_config(extra="allow")
class Results(TypedDict):
    """The whole file; further keys are allowed and kept.

    `warnings` are what the raters behind the figures say against them; every report repeats them.
    """

    schema: Literal["empo.results/1"]
    created: str
    versions: dict[str, str]
    seed: int
    left_out: dict[str, int]
    signatures: dict[str, str]
    systems: dict[str, SystemResults]
    comparisons: list[Comparison]
    not_run: list[NotRun]
    samples: list[Sample]
    warnings: NotRequired[list[str]]


_RESULTS = TypeAdapter(Results)


PER_RESPONSE = "per_response.jsonl"
"""File beside results.json: a line per system and exchange, {"id", "system", "emotion", "values"}."""


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Check against the schema and write, `per_response` into a file of its own beside it.

    A ValidationError here is a fault of EmPO.
    """
    path = Path(path)
    results = dict(results)
    rows = results.pop("per_response", None)
    _RESULTS.validate_python(results)
    if rows is not None:
        write_jsonl(path.with_name(PER_RESPONSE), rows)
        results["per_response_sha256"] = sha256(path.with_name(PER_RESPONSE))
    write_json(path, results)


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file; UserError names the field that does not fit the schema."""
    remedy = "Measure the responses again with eval/responses.py."
    return read_typed(path, RESULTS_SCHEMA, _RESULTS, remedy)
