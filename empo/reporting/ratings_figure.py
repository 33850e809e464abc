"""Figure of the combined report: what several raters give the systems, dimension by dimension."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from empo.metrics.shared_exchanges import HUMAN
from empo.reporting.figures import COLOURS, grid, legend, one_line, save_figure, wide_enough
from empo.reporting.ratings import Rated


def ratings_figure(found: Sequence[Rated], systems: Sequence[str], path: str | Path) -> None:
    """A panel per dimension: systems in columns, a colour per rater, a mark per run.

    A mark is hollow where the rater chose the system's replies or rewarded its training.
    """
    scales: dict[tuple[str, str], list[Rated]] = {}
    for one in found:
        scales.setdefault((one.dimension, one.ends), []).append(one)
    colours = dict(zip(dict.fromkeys(one.rater for one in found), cycle(COLOURS), strict=False))
    columns = sorted(systems, key=lambda name: name == HUMAN)
    figure, panels = grid(len(scales), max(3.5, 1.2 + 0.45 * len(columns)), 3.2)
    for axes, ((dimension, ends), of_scale) in zip(panels, scales.items(), strict=True):
        raters = list(dict.fromkeys(one.rater for one in of_scale))
        apart = min(0.24, 0.8 / len(raters))
        values: dict[str, list[float]] = {}
        for one in of_scale:
            runs = [mean for mean in one.value["runs"].values() if mean is not None]
            values.setdefault(one.system, []).extend(runs)
            shift = apart * (raters.index(one.rater) - (len(raters) - 1) / 2)
            axes.scatter(
                [columns.index(one.system) + shift] * len(runs),
                runs,
                s=24,
                facecolors="none" if one.rewarded else colours[one.rater],
                edgecolors=colours[one.rater],
                label=one_line(one.rater + " (reward)" * one.rewarded),
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
        axes.set_ylim(wide_enough(axes.get_ylim(), values))
        axes.set_ylabel(f"{one_line(dimension.replace('_', ' '))}\n{ends}", size=9)
    legend(figure, panels)
    save_figure(figure, path)
