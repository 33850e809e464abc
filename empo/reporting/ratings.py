"""The report's section on what raters give the replies, the rewarded rater beside independent ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.markdown import interval, number, table

REWARD = "†"
"""Marks a rating by the weights that chose the replies, or rewarded the training."""


def ratings_section(results: Mapping[str, Any]) -> str:
    """A table of mean ratings; empty where no rater was asked. `results` of results.json."""
    systems = results["systems"]
    if not all("ratings" in system["metrics"] for system in systems.values()):
        return ""
    weights: Mapping[str, list[str]] = results.get("rating_weights", {})
    rows = []
    for name, system in systems.items():
        behind = {reward["weights"] for reward in system.get("reward", ())}
        for rater, of in system["metrics"]["ratings"]["raters"].items():
            own = not behind.isdisjoint(weights.get(rater, ()))
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
    note = (
        f" {REWARD}: this rater chose the replies of the system, or rewarded its training, with the "
        "same weights. What it gives them is the reward, and no measure: look at the other raters, at "
        "the length, and below at equal length."
        if any(row[2].endswith(REWARD) for row in rows)
        else ""
    )
    return (
        "## Ratings\n\nMean rating with its 95 % bootstrap interval; of levels, the mean by their "
        f"probabilities. The last column is the correlation with the length of the reply.{note}\n\n"
        + table(["rater", "dimension", "system", "n", "mean", "r with length"], rows, left=3)
    )
