"""What a reader of the combined report has to know before comparing numbers: sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empo.reporting.run_folders import RunFolder
from empo.reporting.run_trainings import NOT_TOLD

Measured = Sequence[tuple[str, RunFolder]]
"""Label and run, of those with a results.json."""


def notes_on(
    runs: Sequence[RunFolder],
    labels: Sequence[str],
    systems: Mapping[str, Any],
    names: Mapping[tuple[int, str], str],
    ids: Sequence[str] | None,
) -> list[str]:
    """Sentences of plain text; `systems` are those of the report, `names` of `system_names`."""
    measured = [(label, run) for label, run in zip(labels, runs, strict=True) if run["results"]]
    notes = _renamed(labels, names) + _same_replies(systems)
    if len(runs) > 1:
        notes += _without_digest(measured)
    notes += _without_training(measured)
    if len(runs) == 1:
        return notes + ["One run: its comparisons stand in its results.json." for _ in measured]
    return [*notes, *_absent(measured), *_other_exchanges(measured, ids), *_not_measured(systems)]


def _renamed(labels: Sequence[str], names: Mapping[tuple[int, str], str]) -> list[str]:
    """Names that stand for several trainings, and where it is not told which one."""
    renamed = {there for (_, there), name in names.items() if there != name}
    if not renamed:
        return []
    notes = [
        f"Trained with different settings in different runs, so reported as one system per "
        f"setting: {', '.join(sorted(renamed))}."
    ]
    untold: dict[str, list[str]] = {}
    for (i, there), name in names.items():
        if name != there and name == f"{there} ({NOT_TOLD})":
            untold.setdefault(name, []).append(labels[i])
    return notes + [
        f"No manifest tells the training behind {name} of {', '.join(of)}, so it is no run of the "
        "systems whose settings are told."
        for name, of in untold.items()
    ]


def _same_replies(systems: Mapping[str, Any]) -> list[str]:
    same: dict[tuple[str, ...], list[str]] = {}
    for name, system in systems.items():
        if system["same"]:
            runs = (*dict.fromkeys(system["same"].values()), *system["same"])
            same.setdefault(runs, []).append(name)
    return [
        f"The same replies in {', '.join(runs)}: {', '.join(names)}. Each counts as one run and has "
        "no spread over runs."
        for runs, names in same.items()
    ]


def _without_digest(measured: Measured) -> list[str]:
    without = [
        label
        for label, run in measured
        if any(system.get("digest") is None for system in run["results"]["systems"].values())
    ]
    if not without:
        return []
    return [
        f"No digest of the replies in the results.json of {', '.join(without)} (an older file): a "
        "system that was not trained again cannot be recognised there and counts once per run."
    ]


def _without_training(measured: Measured) -> list[str]:
    without = [
        label
        for label, run in measured
        if any("trained" not in system for system in run["results"]["systems"].values())
    ]
    if not without:
        return []
    return [
        f"No training settings in the results.json of {', '.join(without)} (an older file): no "
        "sweep can be drawn, and seeds are not told apart by their number."
    ]


def _absent(measured: Measured) -> list[str]:
    """Systems that some runs lack."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(name for _, run in measured for name in run["results"]["systems"]):
        absent = tuple(label for label, run in measured if name not in run["results"]["systems"])
        if absent:
            found.setdefault(absent, []).append(name)
    return [
        f"Not in every run: {', '.join(names)}; missing in {', '.join(absent)}."
        for absent, names in found.items()
    ]


def _other_exchanges(measured: Measured, ids: Sequence[str] | None) -> list[str]:
    notes = []
    if without := [label for label, run in measured if run["per_response"] is None]:
        notes.append(
            f"No per_response.jsonl beside the results.json of {', '.join(without)}: these runs are "
            "in the tables of values, but not in the comparisons over runs."
        )
    answered = [
        set(next(iter(run["per_response"].values()))) for _, run in measured if run["per_response"]
    ]
    sizes = {max(s["n"] for s in run["results"]["systems"].values()) for _, run in measured}
    if len(sizes) > 1 or any(of != answered[0] for of in answered):
        notes.append(
            "The runs did not answer the same exchanges: values in the tables are over each run's "
            f"own ones, comparisons over the {len(ids or [])} that all runs share."
        )
    return notes


def _not_measured(systems: Mapping[str, Any]) -> list[str]:
    """Metrics that a system has in some of its runs only."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, system in systems.items():
        for key, value in system["values"].items():
            absent = tuple(label for label in system["runs"] if label not in value["runs"])
            names = found.setdefault((key.split(".")[0], absent), [])
            if absent and name not in names:
                names.append(name)
    return [
        f"{metric} was not measured in {', '.join(absent)}: its means of {', '.join(names)} are over "
        "the other runs."
        for (metric, absent), names in found.items()
        if names
    ]
