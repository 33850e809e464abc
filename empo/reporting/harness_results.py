"""harness.json: its schema, written by eval/harness.py and read by whatever reports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.records import read_typed, write_json
from empo.reporting.markdown import aligned, number
from empo.reporting.results import Trained

HARNESS_SCHEMA = "empo.harness/1"
HARNESS_FILE = "harness.json"
"""Its name in an output folder of eval/harness.py."""


class Figure(TypedDict):
    """A value (fraction, not percent) and its standard error; `reasons` says why one is None."""

    value: float | None
    stderr: float | None
    reasons: NotRequired[dict[str, str]]


class TaskFigures(Figure):
    """One task: its main metric first, then all. `truncated` items lost the start of their prompt."""

    metric: str
    n: int
    shots: int
    truncated: int
    metrics: dict[str, Figure]
    version: str
    dataset: str


class GroupFigures(Figure):
    """The mean over the items of several tasks."""

    metric: str
    n: int
    tasks: list[str]


class HarnessComparison(TypedDict):
    """Two systems on the items that both answered; `difference` is a - b, `only_a` right only in a.

    `reasons` has a sentence for every key that is None.
    """

    a: str
    b: str
    task: str
    difference: float | None
    n: int
    only_a: int | None
    only_b: int | None
    p: float | None
    p_holm: float | None
    test: str
    reasons: dict[str, str]


class TaskNotRun(TypedDict):
    """A task that did not run, and what to do about it."""

    task: str
    reason: str


@with_config(extra="allow")
class Harness(TypedDict):
    """The whole file; further keys are allowed and kept.

    `settings` are all that move a figure beside the weights. `trained` is how the model was
    trained, where that is known.
    """

    schema: Literal["empo.harness/1"]
    created: str
    versions: dict[str, str]
    seed: int
    command: str
    system: str
    model: dict[str, Any]
    trained: Trained | None
    settings: dict[str, Any]
    tasks: dict[str, TaskFigures]
    groups: dict[str, GroupFigures]
    comparisons: list[HarnessComparison]
    not_run: list[TaskNotRun]


_HARNESS = TypeAdapter(Harness)


def write_harness(path: str | Path, results: Mapping[str, Any]) -> None:
    """Check against the schema and write; a ValidationError here is a fault of EmPO."""
    _HARNESS.validate_python(results)
    write_json(path, results)


def read_harness(path: str | Path) -> dict[str, Any]:
    """Read harness.json; UserError names the field that does not fit the schema."""
    remedy = "Evaluate the model again with eval/harness.py."
    return read_typed(path, HARNESS_SCHEMA, _HARNESS, remedy)


def plain_summary(results: Mapping[str, Any]) -> str:
    """For a terminal: groups, tasks in no group, their comparisons, prompts that were cut."""
    inside = {task for group in results["groups"].values() for task in group["tasks"]}
    shown = results["groups"] | {
        task: figures for task, figures in results["tasks"].items() if task not in inside
    }
    tables = []
    if shown:
        rows = [["", "metric", "value", "stderr", "n", "shots"]]
        for name, figures in shown.items():
            leaves = [results["tasks"].get(leaf) for leaf in figures.get("tasks", [name])]
            shots = sorted({leaf["shots"] for leaf in leaves if leaf})
            figure = [number(figures["value"]), number(figures["stderr"]), f"{figures['n']:,}"]
            rows.append([name, figures["metric"], *figure, ", ".join(map(str, shots))])
        tables.append(aligned(rows, left=2))
    compared = [row for row in results["comparisons"] if row["task"] in shown]
    if compared:
        rows = [["", "against", "difference", "only a", "only b", "n", "p", "p (Holm)"]]
        for row in compared:
            counts = ["—" if row[key] is None else f"{row[key]:,}" for key in ("only_a", "only_b")]
            figure = [number(row["difference"]), *counts, f"{row['n']:,}"]
            rows.append([row["task"], row["b"], *figure, number(row["p"]), number(row["p_holm"])])
        tables.append(aligned(rows, left=2))
    cut = [
        f"{task}: {figures['truncated']:,} of {figures['n']:,} prompts were too long for the model "
        "and lost their beginning."
        for task, figures in results["tasks"].items()
        if figures["truncated"]
    ]
    return "\n\n".join([*tables, *(["\n".join(cut)] if cut else [])])
