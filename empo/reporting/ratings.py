"""The report's section on what raters give the replies, the rewarded rater beside independent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empo.raters.identity import marks
from empo.reporting.markdown import interval, number, table

REWARD = "†"
"""Marks a rating by the weights, or model, that chose the replies, or rewarded the training."""


def ratings_section(results: Mapping[str, Any]) -> str:
    """A table of mean ratings; empty where no rater was asked. `results` of results.json."""
    systems = results["systems"]
    if not all("ratings" in system["metrics"] for system in systems.values()):
        return ""
    rows = []
    for name, system in systems.items():
        behind = rewarding(results, name)
        for rater, of in system["metrics"]["ratings"]["raters"].items():
            own = rater in behind
            for dimension, value in of.items():
                rows.append(
                    [
                        rater,
                        f"{dimension}, {value['low']:g} to {value['high']:g}",
                        f"{name} {REWARD}" if own else name,
                        str(value["n"]),
                        f"{number(value['mean'], 3)} {interval(value['interval'], 3)}",
                        number(value["length_correlation"], 2),
                    ]
                )
    rows.sort(key=lambda row: (row[0], row[1]))
    return (
        "## Ratings\n\nMean rating with its 95 % bootstrap interval; of levels, the mean by their "
        f"probabilities. The last column is the correlation with the length of the reply.{_note(rows)}\n\n"
        + table(["rater", "dimension", "system", "n", "mean", "r with length"], rows, left=3)
    )


def ratings_over_runs(report: Mapping[str, Any]) -> str:
    """The same over several runs; `report` as of `over_runs.combine`. Empty where nobody was asked."""
    start, end = "ratings.raters.", ".mean"
    rows = []
    for name, system in report["systems"].items():
        values = system["values"]
        for key, value in values.items():
            if not (key.startswith(start) and key.endswith(end)) or value["mean"] is None:
                continue
            of = key.removesuffix(end)
            rater, dimension = of.removeprefix(start).rsplit(".", 1)
            low, high = (values[f"{of}.{which}"]["mean"] for which in ("low", "high"))
            spread = "" if value["sd"] is None else f" ± {number(value['sd'], 3)}"
            rows.append(
                [
                    rater,
                    f"{dimension}, {low:g} to {high:g}",
                    f"{name} {REWARD}" if rater in system["rewarded_by"] else name,
                    f"{number(value['mean'], 3)}{spread}",
                    number(values.get(f"{of}.length_correlation", {}).get("mean"), 2),
                    str(value["of"]),
                ]
            )
    if not rows:
        return ""
    rows.sort(key=lambda row: (row[0], row[1]))
    return (
        "## Ratings\n\nMean rating; of levels, the mean by their probabilities. *r with length* is "
        "the correlation with the characters of the reply, mean over runs. Intervals of differences, "
        f"and what is left of them at equal length, stand under the comparisons.{_note(rows)}\n\n"
        + table(["rater", "dimension", "system", "mean", "r with length", "runs"], rows, left=3)
    )


def rewarding(results: Mapping[str, Any], system: str) -> set[str]:
    """Names of the raters of results.json that chose a system's replies or rewarded its training.

    By their weights, or the model beneath them.
    """
    of = results.get("systems", {}).get(system, {})
    behind: set[str] = set().union(*map(marks, of.get("reward", ())))
    weights: Mapping[str, list[str]] = results.get("rating_weights", {})
    return {rater for rater, digests in weights.items() if not behind.isdisjoint(digests)}


def _note(rows: Sequence[Sequence[str]]) -> str:
    if not any(row[2].endswith(REWARD) for row in rows):
        return ""
    return (
        f" {REWARD}: this rater chose the replies of the system, or rewarded its training, with the "
        "same weights or model. What it gives them is the reward, and no measure: look at the other raters, at "
        "the length, and below at equal length."
    )
