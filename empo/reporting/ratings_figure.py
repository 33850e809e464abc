"""Figure of the combined report: what several raters give the systems, dimension by dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from empo.metrics.shared_exchanges import HUMAN
from empo.reporting.figures import COLOURS, grid, legend, one_line, save_figure


class Rated(NamedTuple):
    """What one rater gives one system in a dimension: the mean of every run."""

    dimension: str
    rater: str
    system: str
    runs: Sequence[float]
    rewarded: bool
    """Whether the rater chose the system's replies or rewarded its training."""


def rated(report: Mapping[str, Any]) -> list[Rated]:
    """Every mean rating of a combined report, in the order of its systems."""
    start, end = "ratings.raters.", ".mean"
    found = []
    for name, system in report["systems"].items():
        for key, value in system["values"].items():
            if key.startswith(start) and key.endswith(end) and value["mean"] is not None:
                rater, dimension = key[len(start) : -len(end)].rsplit(".", 1)
                runs = [run for run in value["runs"].values() if run is not None]
                found.append(Rated(dimension, rater, name, runs, rater in system["rewarded_by"]))
    return found


def ratings_figure(found: Sequence[Rated], systems: Sequence[str], path: str | Path) -> None:
    """A panel per dimension: systems in columns, a colour per rater, a mark per run."""
    dimensions, raters = (list(dict.fromkeys(one[i] for one in found)) for i in (0, 1))
    columns = sorted(systems, key=lambda name: name == HUMAN)
    figure, panels = grid(len(dimensions), max(3.5, 1.2 + 0.45 * len(columns)), 3.2)
    for axes, dimension in zip(panels, dimensions, strict=True):
        for one in found:
            if one.dimension != dimension:
                continue
            place = raters.index(one.rater)
            shift = 0.24 * (place - (len(raters) - 1) / 2)
            colour = COLOURS[place % len(COLOURS)]
            axes.scatter(
                [columns.index(one.system) + shift] * len(one.runs),
                one.runs,
                s=24,
                facecolors="none" if one.rewarded else colour,
                edgecolors=colour,
                label=one_line(one.rater + (" (reward)" if one.rewarded else "")),
                zorder=3,
            )
        axes.set_xticks(
            range(len(columns)),
            [one_line(name) for name in columns],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
            size=8,
        )
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.set_ylabel(one_line(dimension))
    legend(figure, panels)
    save_figure(figure, path)
