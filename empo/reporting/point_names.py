"""Names beside the points of a figure, placed where they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def name_points(figure: Figure, axes: Axes, marks: Sequence[tuple[float, float, str]]) -> None:
    """Write a name beside every point, on the side where it covers no other name or point."""
    figure.draw_without_rendering()
    points = [axes.transData.transform((x, y)) for x, y, _ in marks]
    inside = axes.get_window_extent().extents
    taken: list[Sequence[float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for (x, y, text), (px, py) in zip(marks, points, strict=True):
        width, height = 5.5 * len(text), 11.0
        sides = [(dx, dy) for dy in (8, -16, 22, -30) for dx in (6, -6 - width, -width / 2)]
        boxes = [(px + dx, py + dy, px + dx + width, py + dy + height) for dx, dy in sides]
        cost = [
            sum(_overlap(box, other) for other in taken) + width * height - _overlap(box, inside)
            for box in boxes
        ]
        best = min(range(len(sides)), key=cost.__getitem__)
        taken.append(boxes[best])
        axes.annotate(
            text,
            (x, y),
            [72 / figure.dpi * shift for shift in sides[best]],
            textcoords="offset points",
            size=8,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
        )


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
