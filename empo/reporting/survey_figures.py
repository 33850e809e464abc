"""Figures of a human survey: item means per system, and the sizes of all differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from empo.reporting.figures import COLOURS, comparisons_figure, save_figure
from empo.reporting.survey_section import aspect_name, best_mean

_COLUMNS = 3


def draw_survey(results: Mapping[str, Any], folder: str | Path, stem: str) -> dict[str, str]:
    """Draw what there are values for, as `stem`.svg and `stem`-comparisons.svg; caption -> file."""
    found = results["all"]
    figures = {
        "Item means per system: box of the middle half with the median, whiskers from 5 % to 95 %, "
        "dot and bar: mean of the mixed model with its 95 % interval": f"{stem}.svg"
    }
    distributions_figure(found["systems"], Path(folder) / f"{stem}.svg")
    if any(row["p"] is not None for row in found["comparisons"]):
        name = f"{stem}-comparisons.svg"
        rows = [
            {**row, "metric": aspect_name(row["metric"]), "p_holm": row["mixed"]["p_holm"]}
            for row in found["comparisons"]
        ]
        comparisons_figure(rows, Path(folder) / name)
        figures[
            "Cohen's d of every pair in every aspect and stars of p (Holm), both of the mixed model"
        ] = name
    return figures


def distributions_figure(
    systems: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path
) -> None:
    """Boxes of the item means of every system (rows) in every aspect (panels)."""
    aspects = list(next(iter(systems.values())))
    columns = min(_COLUMNS, len(aspects))
    rows = -(-len(aspects) // columns)
    figure = Figure(
        figsize=(1.4 + 3.0 * columns, rows * (1.0 + 0.3 * len(systems))), layout="constrained"
    )
    for i, aspect in enumerate(aspects):
        axes = figure.add_subplot(rows, columns, i + 1)
        for place, (name, of) in enumerate(systems.items()):
            described = of[aspect]
            if described["quantiles"] is None:
                continue
            colour = "black" if name == "human" else COLOURS[place % len(COLOURS)]
            low, first, median, third, high = described["quantiles"]
            axes.plot([low, high], [place, place], color=colour, lw=1)
            axes.barh(place, third - first, left=first, height=0.5, color=colour, alpha=0.25)
            axes.plot([median, median], [place - 0.25, place + 0.25], color=colour, lw=1.5)
            if (bounds := described["mixed"]["interval"]) is not None:
                axes.plot(bounds, [place, place], color=colour, lw=3)
            axes.plot([best_mean(described)], [place], "o", color=colour, ms=5)
        names = [name.replace("$", r"\$") for name in systems]  # no formula
        axes.set_yticks(range(len(systems)), names if i % columns == 0 else [""] * len(systems))
        axes.set_ylim(len(systems) - 0.4, -0.6)
        axes.set_title(aspect_name(aspect).replace("$", r"\$"), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    save_figure(figure, path)
