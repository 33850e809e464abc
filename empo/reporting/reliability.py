"""Reliability of raters as a figure: how often a level is right that is given with probability p."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from empo.reporting.figures import COLOURS, save_figure

_COLUMNS = 4


def reliability_figure(evaluations: Mapping[str, Any], path: str | Path) -> None:
    """Share of right levels over the top probability, a panel per dimension, a line per rater.

    `evaluations` maps the name of a rater to its evaluation; the area of a point grows with the
    number of inputs in its bin. Dimensions without probabilities have no panel.
    """
    calibrated = {
        (rater, name): entry["calibration"]
        for rater, evaluation in evaluations.items()
        for name, entry in evaluation["dimensions"].items()
        if entry["calibration"]
    }
    names = list(dict.fromkeys(name for _, name in calibrated))
    raters = list(dict.fromkeys(rater for rater, _ in calibrated))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(0.8 + 3.2 * columns, 3.4 * rows), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
        for r, rater in enumerate(raters):
            if (found := calibrated.get((rater, name))) is None:
                continue
            confidence = [row["confidence"] for row in found["bins"]]
            accuracy = [row["accuracy"] for row in found["bins"]]
            total = sum(row["n"] for row in found["bins"])
            sizes = [8 + 150 * row["n"] / total for row in found["bins"]]
            colour = COLOURS[r % len(COLOURS)]
            axes.plot(confidence, accuracy, color=colour, linewidth=1)
            axes.scatter(confidence, accuracy, sizes, color=colour, label=_plain(rater), alpha=0.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(_plain(name), fontsize=10)
        axes.set_xlabel("top probability")
        axes.set_ylabel("share of right levels" if i % columns == 0 else "")
        if i == 0 and len(raters) > 1:
            axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # no formula
