"""results.json: its schema, written and read by every command that measures or reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from empo.records import RESULTS_SCHEMA, UserError, read_json, write_json


@with_config(extra="allow")
class SystemResults(TypedDict):
    """One system: number of responses, metric -> value name -> value (fractions, not percent)."""

    n: int
    metrics: dict[str, dict[str, Any]]


class LengthControlled(TypedDict):
    """The difference that is left at equal length, with its 95 % interval; slope per character."""

    intercept: float
    interval: tuple[float, float]
    slope: float


class Comparison(TypedDict):
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


class NotRun(TypedDict):
    """A metric that did not run, and what to do about it."""

    metric: str
    reason: str


class Sample(TypedDict):
    """One exchange with the last speaker turn and what every system replied."""

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


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Check against the schema and write; a ValidationError here is a fault of EmPO."""
    _RESULTS.validate_python(results)
    write_json(path, results)


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file; UserError names the field that does not fit the schema."""
    results = read_json(path)
    if not isinstance(results, dict) or results.get("schema") != RESULTS_SCHEMA:
        raise UserError(f"{path}: this is no results file of the schema {RESULTS_SCHEMA!r}.")
    try:
        _RESULTS.validate_python(results)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}, field {field!r}: {first['msg']}.") from None
    return results
