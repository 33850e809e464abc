"""Figures of the combined report: sweeps over a training setting, stability over runs, counts.

SVG beside the report, under its name; the same report gives the same bytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from empo.metrics.shared_exchanges import HUMAN
from empo.reporting.figures import COLOURS, grid, legend, one_line, save_figure, wide_enough
from empo.reporting.point_names import name_points
from empo.reporting.ratings import rated
from empo.reporting.ratings_figure import ratings_figure
from empo.reporting.run_counts import draw_distributions
from empo.reporting.survey_figures import draw_survey
from empo.untrusted import file_name

METRICS = {
    "DIFF-EPITOME": "diff_epitome.mean",
    "BERTScore F1": "bertscore.f1",
    "NIDF": "nidf.mean",
    "|ΔV|": "iva.valence.mean_absolute",
    "compression ratio": "trie.compression_ratio",
    "characters": "length.mean_characters",
}
"""Panels in their order: name and metric.value; the scores of language understanding follow."""

PLANE = ("DIFF-EPITOME", "BERTScore F1", "NIDF")
_DASHES = ("--", ":", "-.")

Series = Mapping[str, Mapping[str, Sequence[float]]]
"""Name of a panel -> system -> the values of its runs."""


def draw_figures(report: Mapping[str, Any], beside: str | Path) -> dict[str, str]:
    """Draw what the report has values for; caption -> file, all beside the report `beside`."""
    beside = Path(beside)
    series = panel_values(report)
    figures: dict[str, str] = {}
    several = any(len(values) > 1 for of_system in series.values() for values in of_system.values())
    bars = "; bars: ± standard deviation over runs" if several else ""
    for sweep in report["sweeps"]:
        setting = file_name(sweep["setting"])
        caption = f"Values over {setting}: a point per run, the line through their means{bars}"
        figures[caption] = name = f"{beside.stem}-sweep-{setting}.svg"
        sweep_figure(sweep, series, beside.with_name(name))
        if axes := plane_axes(sweep, series, report["language_understanding"]):
            caption = f"{axes[1]} against {axes[0]}: a point per {setting}, mean over runs{bars}"
            figures[caption] = name = f"{beside.stem}-plane-{setting}.svg"
            plane_figure(sweep, series, axes, beside.with_name(name))
    if several:
        caption = "Stability over runs: a dot per run, a line at their mean, no bars"
        figures[caption] = name = f"{beside.stem}-stability.svg"
        stability_figure(series, beside.with_name(name))
    if found := rated(report):
        caption = "Ratings: a mark per run; hollow where the rater rewarded the system, which is no measure"
        figures[caption] = name = f"{beside.stem}-ratings.svg"
        ratings_figure(found, list(report["systems"]), beside.with_name(name))
    if len(report["runs"]) > 1:  # one run has them in its own report
        figures |= draw_distributions(report["systems"], beside)
    for number, (label, survey) in enumerate(report["surveys"].items(), start=1):
        several = len(report["surveys"]) > 1
        stem = f"{beside.stem}-survey{f'-{number}' if several else ''}"
        drawn = draw_survey(survey, beside.parent, stem)
        figures |= {f"Human survey, {label}: {text}": file for text, file in drawn.items()}
    return figures


def panel_values(report: Mapping[str, Any]) -> Series:
    """What the panels show, without metrics that nobody has; `human` has no distance to itself."""
    found: dict[str, dict[str, list[float]]] = {}
    for label, key in METRICS.items():
        found[label] = {
            name: _known(system["values"].get(key))
            for name, system in report["systems"].items()
            if (name, label) != (HUMAN, "DIFF-EPITOME")
        }
    scores = report["language_understanding"] or {"shown": [], "systems": {}}
    for task in scores["shown"]:
        found[task] = {name: _known(of.get(task)) for name, of in scores["systems"].items()}
    present = {
        label: {name: values for name, values in of_system.items() if values}
        for label, of_system in found.items()
    }
    return {label: of_system for label, of_system in present.items() if of_system}


def sweep_figure(sweep: Mapping[str, Any], series: Series, path: str | Path) -> None:
    """Small multiples of the values against the setting; systems without it are horizontal lines."""
    lines = sweep["lines"]
    swept = {name for points in lines.values() for _, name in points}
    shown = {label: of for label, of in series.items() if swept & of.keys()}
    others = list(dict.fromkeys(name for of in shown.values() for name in of if name not in swept))
    figure, panels = grid(len(shown), 3.5)
    for axes, (label, of_system) in zip(panels, shown.items(), strict=True):
        for i, name in enumerate(others):
            if name in of_system:
                mean = statistics.fmean(of_system[name])
                axes.axhline(mean, **_horizontal(name, i + len(lines)), label=one_line(name))
        for i, (command, points) in enumerate(lines.items()):
            _line(axes, points, of_system, COLOURS[i % len(COLOURS)], command)
        _setting_axis(axes, [value for points in lines.values() for value, _ in points])
        axes.set_xlabel(one_line(sweep["setting"]))
        axes.set_ylabel(one_line(label))
        axes.set_ylim(wide_enough(axes.get_ylim(), of_system))
    legend(figure, panels)
    save_figure(figure, path)


def plane_axes(
    sweep: Mapping[str, Any], series: Series, understanding: Mapping[str, Any] | None
) -> tuple[str, str] | None:
    """Names of the panels on x and y of the plane, None where the sweep has not both."""
    tasks = (understanding or {"shown": []})["shown"]
    tasks = sorted(tasks, key=lambda task: task != "mmlu")  # the paper's
    swept = {name for points in sweep["lines"].values() for _, name in points}
    for y in PLANE:
        for x in tasks:
            if len(swept & series.get(x, {}).keys() & series.get(y, {}).keys()) > 1:
                return x, y
    return None


def plane_figure(
    sweep: Mapping[str, Any], series: Series, axes_of: tuple[str, str], path: str | Path
) -> None:
    """Empathy against language understanding: a point per value of the setting, named by it."""
    xs, ys = (series[label] for label in axes_of)
    figure, (axes,) = grid(1, 5.5, 4.2)
    swept = {name for points in sweep["lines"].values() for _, name in points}
    marks: list[tuple[float, float, str]] = []

    def place(name: str, colour: str, text: str, marker: str) -> None:
        x, y = (statistics.fmean(of[name]) for of in (xs, ys))
        bars = [statistics.stdev(of[name]) if len(of[name]) > 1 else None for of in (xs, ys)]
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt=marker, color=colour, lw=1, ms=6)
        marks.append((x, y, text))

    for i, (command, points) in enumerate(sweep["lines"].items()):
        colour = COLOURS[i % len(COLOURS)]
        both = [(value, name) for value, name in points if name in xs and name in ys]
        means = [[statistics.fmean(of[name]) for _, name in both] for of in (xs, ys)]
        axes.plot(*means, color=colour, alpha=0.4, label=one_line(f"{command}, {sweep['setting']}"))
        for value, name in both:
            place(name, colour, f"{value:g}", "o")
    for name in (name for name in xs if name in ys and name not in swept):
        place(name, "black", one_line(name), "s")
    axes.set_xlabel(one_line(axes_of[0]))
    axes.set_ylabel(one_line(axes_of[1]))
    axes.margins(0.15)
    shown = xs.keys() & ys.keys()
    axes.set_xlim(wide_enough(axes.get_xlim(), {name: xs[name] for name in shown}))
    axes.set_ylim(wide_enough(axes.get_ylim(), {name: ys[name] for name in shown}))
    name_points(figure, axes, marks)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def stability_figure(series: Series, path: str | Path) -> None:
    """One panel per value: systems in columns, a dot per run, a line at their mean."""
    names = list(dict.fromkeys(name for of_system in series.values() for name in of_system))
    names.sort(key=lambda name: name == HUMAN)
    figure, panels = grid(len(series), max(3.5, 1.2 + 0.45 * len(names)), 2.6)
    steep = len(names) > 4 or max(map(len, names)) > 8
    columns = panels[0].get_gridspec().ncols
    for i, (axes, (label, of_system)) in enumerate(zip(panels, series.items(), strict=True)):
        lowest = i + columns >= len(panels)  # of its column: the names stand there only
        for column, name in enumerate(names):
            values = of_system.get(name, ())
            colour = "black" if name == HUMAN else COLOURS[column % len(COLOURS)]
            shift = [0.08 * (k - (len(values) - 1) / 2) for k in range(len(values))]
            spread = min(1.0, 0.5 / max(shift[-1], 1e-9)) if values else 1
            axes.scatter([column + spread * s for s in shift], values, s=16, color=colour, zorder=3)
            if values:
                axes.hlines(statistics.fmean(values), column - 0.3, column + 0.3, color=colour)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xticks(
            range(len(names)),
            [one_line(name) if lowest else "" for name in names],
            rotation=40 if steep else 0,
            ha="right" if steep else "center",
            rotation_mode="anchor",
            size=8,
        )
        axes.set_ylabel(one_line(label))
        axes.set_ylim(wide_enough(axes.get_ylim(), of_system))
    save_figure(figure, path)


def _line(
    axes: Axes,
    points: Sequence[Sequence[Any]],
    of_system: Mapping[str, Sequence[float]],
    colour: str,
    name: str,
) -> None:
    """Points of every run, and a line through the means with the standard deviation as bars."""
    known = [(value, of_system[system]) for value, system in points if system in of_system]
    if not known:
        return
    for value, values in known:
        axes.scatter([value] * len(values), values, s=12, color=colour, alpha=0.5, zorder=3)
    means = [statistics.fmean(values) for _, values in known]
    axes.plot([value for value, _ in known], means, color=colour, lw=1.5, label=one_line(name))
    spread = [(value, values) for value, values in known if len(values) > 1]
    if spread:
        axes.errorbar(
            [value for value, _ in spread],
            [statistics.fmean(values) for _, values in spread],
            yerr=[statistics.stdev(values) for _, values in spread],
            fmt="none",
            ecolor=colour,
            capsize=3,
        )


def _setting_axis(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at the values of the setting; logarithmic where they span a factor of ten."""
    values = sorted(set(values))
    if values[0] > 0 and values[-1] / values[0] >= 10:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{value:g}" for value in values], size=8)


def _horizontal(name: str, i: int) -> dict[str, Any]:
    if name == HUMAN:
        return {"color": "black", "lw": 1.2}
    return {"color": COLOURS[i % len(COLOURS)], "ls": _DASHES[i % len(_DASHES)], "lw": 1.2}


def _known(value: Mapping[str, Any] | None) -> list[float]:
    return [v for v in (value or {"runs": {}})["runs"].values() if v is not None]
