"""Counts of responses summed over runs (histograms, levels, confusions), and their figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empo.rating import MECHANISMS
from empo.records import UserError
from empo.reporting.figures import epitome_figure, iva_figure, nidf_figure

_COUNTS = ("histogram", "levels", "reference_levels", "confusion")
_FIGURES = {
    "epitome": (
        epitome_figure,
        [("diff_epitome", "mechanisms", mechanism, "levels") for mechanism in MECHANISMS],
        "Shares of the EPITOME levels per mechanism and system",
    ),
    "nidf": (
        nidf_figure,
        [("nidf", "histogram")],
        "Distribution of NIDF over responses, per system",
    ),
    "iva": (
        iva_figure,
        [("iva", of, "histogram") for of in ("intensity", "valence", "arousal")],
        "Distributions of the differences in intensity, valence and arousal, per system",
    ),
}


def counts_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The counts among nested values of metrics, nested in the same way."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            if inner := counts_of(value):
                found[key] = inner
        elif key in _COUNTS and isinstance(value, list):
            found[key] = value
    return found


def add_counts(total: Mapping[str, Any], more: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sum of two nests of counts; what one of them lacks is taken from the other.

    UserError where the counts are not of the same levels or bins; `where` names what `more` is of.
    """
    added = dict(total)
    for key, value in more.items():
        if key not in added:
            added[key] = value
        elif isinstance(value, dict):
            added[key] = add_counts(added[key], value, where)
        else:
            try:
                added[key] = _sum(added[key], value)
            except (TypeError, ValueError):
                raise UserError(
                    f"{where}: its {key!r} cannot be added to that of the runs before, because the "
                    "bins or levels differ. Measure all runs again with eval/responses.py."
                ) from None
    return added


def _sum(a: Any, b: Any) -> Any:
    """Lists element by element, however deep."""
    if isinstance(a, list):
        return [_sum(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


def with_counts(systems: Mapping[str, Any], *keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """System -> `metrics` -> its summed counts, of the systems that have all of the counts `keys`."""
    found = {}
    for name, system in systems.items():
        if all(_there(system["counts"], path) for path in keys):
            found[name] = {"metrics": system["counts"]}
    return found


def _there(counts: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if key not in counts:
            return False
        counts = counts[key]
    return True


def draw_distributions(systems: Mapping[str, Any], beside: Path) -> dict[str, str]:
    """Figures of the counts that systems have; caption -> file beside the report `beside`."""
    figures = {}
    for name, (draw, keys, caption) in _FIGURES.items():
        if shown := with_counts(systems, *keys):
            file = f"{beside.stem}-{name}.svg"
            draw(shown, beside.with_name(file))
            figures[f"{caption}; the responses of all runs that count together"] = file
    return figures
