"""Figures beside a report, SVG or PNG by the file's ending; the same input gives the same bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from empo.rating import MECHANISMS
from empo.reporting.comparisons import FEW, label, mark
from empo.reporting.markdown import number

_HUMAN = "black"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of Okabe and Ito, which colour-blind people can tell apart too."""
_STYLES = ("-", "--", ":", "-.")
_LEVEL_COLOURS = ("#dddddd", "#56b4e9", "#0072b2")
_LONG = 24
"""Characters of a name in a figure."""
SPAN = 0.1
"""Least span of an axis of values, as a share of their mean: else noise fills the panel."""
_PANELS = (
    ("loss", "loss"),
    ("rewards/margins", "reward margin"),
    ("rewards/accuracies", "reward accuracy"),
)


def nidf_figure(systems: Mapping[str, Any], path: str | Path) -> None:
    """Distribution of NIDF over the responses of each system (`systems` of results.json)."""
    figure, (axes,) = _panels(1, width=7)
    _distributions(axes, {name: s["metrics"]["nidf"] for name, s in systems.items()})
    axes.set_xlabel("NIDF of a response (0 = frequent words, 1 = rare words)")
    axes.set_ylabel("share of responses")
    axes.legend(frameon=False)
    save_figure(figure, path)


def iva_figure(systems: Mapping[str, Any], path: str | Path) -> None:
    """Distributions of |prompt - response| in intensity, valence and arousal."""
    figure, panels = _panels(3, width=11)
    for axes, dimension in zip(panels, ("intensity", "valence", "arousal"), strict=True):
        _distributions(axes, {n: s["metrics"]["iva"][dimension] for n, s in systems.items()})
        axes.set_xlabel(f"|prompt − response| in {dimension}")
    panels[0].set_ylabel("share of responses")
    panels[-1].legend(frameon=False)
    save_figure(figure, path)


def epitome_figure(systems: Mapping[str, Any], path: str | Path) -> None:
    """Shares of the EPITOME levels 0, 1, 2 per mechanism and system, as stacked bars."""
    names = [name.replace("$", r"\$") for name in systems]  # no formula
    figure, panels = _panels(3, width=11)
    for axes, mechanism in zip(panels, MECHANISMS, strict=True):
        start = [0.0] * len(systems)
        of = [s["metrics"]["diff_epitome"]["mechanisms"][mechanism] for s in systems.values()]
        for level, colour in enumerate(_LEVEL_COLOURS):
            shares = [m["levels"][level] / max(1, sum(m["levels"])) for m in of]
            axes.barh(range(len(systems)), shares, left=start, color=colour, label=str(level))
            start = [begin + share for begin, share in zip(start, shares, strict=True)]
        axes.set_yticks(range(len(systems)), names if axes is panels[0] else [""] * len(systems))
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"{mechanism.replace('_', ' ')}: share of responses")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="level", loc="outside right center", frameon=False)
    save_figure(figure, path)


def comparisons_figure(comparisons: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Cohen's d (pooled) of every tested value (rows) and pair (columns), with stars of p (Holm)."""
    tested = [row for row in comparisons if row["p"] is not None]
    values = list(dict.fromkeys(row["metric"] for row in tested))
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in tested))
    grid = [[float("nan")] * len(pairs) for _ in values]
    texts = [[""] * len(pairs) for _ in values]
    for row in tested:
        i, j = values.index(row["metric"]), pairs.index((row["a"], row["b"]))
        d = (row.get("d") or {}).get("pooled")
        few = row["n"] < FEW
        below = f"n={row['n']} {mark(row['p_holm'])}" if few else mark(row["p_holm"])
        texts[i][j] = f"{number(d, 2)}\n{below}".strip()
        grid[i][j] = float("nan") if d is None or few else d
    figure = Figure(
        figsize=(2.2 + 0.85 * len(pairs), 1.6 + 0.42 * len(values)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for i, row_texts in enumerate(texts):
        for j, text in enumerate(row_texts):
            dark = abs(grid[i][j]) > 0.6
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                size=7,
                color="white" if dark else "black",
                linespacing=0.9,
            )
    axes.set_xticks(
        range(len(pairs)),
        [f"{a}\n− {b}".replace("$", r"\$") for a, b in pairs],
        rotation=45,
        ha="right",
        size=8,
    )
    names = [label(value).replace("$", r"\$") for value in values]
    axes.set_yticks(range(len(values)), names, size=8)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="Cohen's d (pooled), cut at ±1", extend="both")
    save_figure(figure, path)


def training_figure(log: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Loss, reward margin and reward accuracy over steps, as far as the log has them.

    `log` are the rows of a run's log.jsonl with the trainer's keys: step, loss, eval_loss,
    rewards/margins, eval_rewards/margins, and so on.
    """
    shown = [(key, title) for key, title in _PANELS if any(key in row for row in log)]
    figure, panels = _panels(len(shown), width=0.8 + 3.6 * len(shown))
    for axes, (key, title) in zip(panels, shown, strict=True):
        for name, colour, text in (
            (key, COLOURS[0], "training"),
            (f"eval_{key}", COLOURS[1], "validation"),
        ):
            points = [(row["step"], row[name]) for row in log if name in row]
            if points:
                marker = "o" if len(points) < 20 else None
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=3, label=text)
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        axes.legend(frameon=False)
    save_figure(figure, path)


def _panels(number: int, width: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 3.4), layout="constrained")
    panels = [figure.add_subplot(1, number, i + 1) for i in range(number)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, panels


def _distributions(axes: Axes, described: Mapping[str, Any]) -> None:
    """Outlined histograms over 0..1, cut where the last bin of all systems ends."""
    last = 1
    for i, (name, values) in enumerate(described.items()):
        counts = values["histogram"]
        edges = [k / len(counts) for k in range(len(counts) + 1)]
        human = name == "human"
        axes.stairs(
            [count / max(1, sum(counts)) for count in counts],
            edges,
            label=name.replace("$", r"\$"),  # no formula
            color=_HUMAN if human else COLOURS[i % len(COLOURS)],
            linestyle="-" if human else _STYLES[i % len(_STYLES)],
            linewidth=1.6,
        )
        last = max([last, *(k + 1 for k, count in enumerate(counts) if count)])
    axes.set_xlim(0, last / len(counts))
    axes.set_ylim(bottom=0)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, its folder made where missing; the same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "empo"}):  # else ids are random
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def grid(number: int, width: float, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Panels of `width` x `height` inches, as many beside each other as a page is wide."""
    columns = min(number, max(1, int(11 // width)))
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(number)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, panels


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, each name once, below them."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )


def one_line(name: str) -> str:
    """A name as a label: one line, not too long, no formula, not hidden by a leading underscore."""
    name = " ".join(name.split())
    if len(name) > _LONG:
        name = f"{name[: _LONG // 2 - 1]}…{name[-_LONG // 2 :]}"
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def wide_enough(
    limits: tuple[float, float], of_system: Mapping[str, Sequence[float]]
) -> tuple[float, float]:
    """The limits of an axis, moved apart where they span less than `SPAN` of the values' mean."""
    low, high = limits
    mean = statistics.fmean(value for values in of_system.values() for value in values)
    apart = max(0.0, SPAN * abs(mean) - (high - low)) / 2
    return low - apart, high + apart
