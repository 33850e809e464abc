"""The report's section on what raters give the replies, the rewarded rater beside independent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class Rated(NamedTuple):
    """What one rater gives one system in a dimension, over runs."""

    rater: str
    dimension: str
    ends: str
    """Lowest and highest value of the dimension."""
    system: str
    value: Mapping[str, Any]
    """Mean and sd over runs, `of` so many, and `runs`: label -> mean of that run, or None."""
    rewarded: bool
    """Whether the rater chose the system's replies or rewarded its training."""


def rated(report: Mapping[str, Any]) -> list[Rated]:
    """Every mean rating of a combined report, as of `over_runs.combine`, in the order of its systems."""
    start, end = "ratings.raters.", ".mean"
    found = []
    for name, system in report["systems"].items():
        values = system["values"]
        for key, value in values.items():
            if key.startswith(start) and key.endswith(end) and value["mean"] is not None:
                of = key.removesuffix(end)
                rater, dimension = of.removeprefix(start).rsplit(".", 1)
                low, high = (values[f"{of}.{which}"]["mean"] for which in ("low", "high"))
                own = rater in system["rewarded_by"]
                found.append(Rated(rater, dimension, f"{low:g} to {high:g}", name, value, own))
    return found


def ratings_over_runs(report: Mapping[str, Any]) -> str:
    """The raters side by side over several runs; empty where nobody was asked."""
    found = rated(report)
    if not found:
        return ""
    raters = list(dict.fromkeys(one.rater for one in found))
    lines: dict[tuple[str, str], dict[str, Rated]] = {}
    for one in found:
        place = f"{one.dimension}, {one.ends}", one.system
        lines.setdefault(place, {})[one.rater] = one
    rows = [
        [
            *place,
            *(_cell(of.get(rater)) for rater in raters),
            ", ".join(dict.fromkeys(str(one.value["of"]) for one in of.values())),
        ]
        for place, of in sorted(lines.items(), key=lambda line: line[0][0])
    ]
    return (
        "## Ratings\n\nMean rating, a column per rater; of levels, the mean by their probabilities. "
        "Differences with their intervals, and what is left of them at equal length, stand under the "
        f"comparisons; how ratings go with length, under what moves with length.{_note(rows)}\n\n"
        + table(["dimension", "system", *raters, "runs"], rows, left=2)
    )


def _cell(one: Rated | None) -> str:
    if one is None:
        return "—"
    spread = "" if one.value["sd"] is None else f" ± {number(one.value['sd'], 3)}"
    return f"{number(one.value['mean'], 3)}{spread}{f' {REWARD}' if one.rewarded else ''}"


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
        "same weights or model. What it gives them is the reward, and no measure: look at the other "
        "raters, at the length, and below at equal length."
    )
