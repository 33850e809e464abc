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
    """The raters side by side over several runs; `report` as of `over_runs.combine`.

    Empty where nobody was asked.
    """
    start, end = "ratings.raters.", ".mean"
    cells: dict[tuple[str, str], dict[str, str]] = {}
    ends: dict[str, str] = {}
    runs: dict[str, str] = {}
    for name, system in report["systems"].items():
        values = system["values"]
        for key, value in values.items():
            if not (key.startswith(start) and key.endswith(end)) or value["mean"] is None:
                continue
            of = key.removesuffix(end)
            rater, dimension = of.removeprefix(start).rsplit(".", 1)
            low, high = (values[f"{of}.{which}"]["mean"] for which in ("low", "high"))
            ends[dimension] = f"{dimension}, {low:g} to {high:g}"
            runs[name] = str(value["of"])
            spread = "" if value["sd"] is None else f" ± {number(value['sd'], 3)}"
            own = f" {REWARD}" if rater in system["rewarded_by"] else ""
            cells.setdefault((dimension, name), {})[rater] = (
                f"{number(value['mean'], 3)}{spread}{own}"
            )
    if not cells:
        return ""
    raters = list(dict.fromkeys(rater for row in cells.values() for rater in row))
    rows = [
        [ends[dimension], name, *(row.get(rater, "—") for rater in raters), runs[name]]
        for (dimension, name), row in sorted(cells.items(), key=lambda item: item[0][0])
    ]
    return (
        "## Ratings\n\nMean rating, a column per rater; of levels, the mean by their probabilities. "
        "Differences with their intervals, and what is left of them at equal length, stand under the "
        f"comparisons; how ratings go with length, under what moves with length.{_note(rows)}\n\n"
        + table(["dimension", "system", *raters, "runs"], rows, left=2)
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
    if not any(cell.endswith(REWARD) for row in rows for cell in row):
        return ""
    return (
        f" {REWARD}: this rater chose the replies of the system, or rewarded its training, with the "
        "same weights or model. What it gives them is the reward, and no measure: look at the other raters, at "
        "the length, and below at equal length."
    )
