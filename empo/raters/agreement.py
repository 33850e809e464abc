"""Agreement of annotators: mean pairwise coefficients and Krippendorff's alpha with intervals.

`empo agreement --input tidy.csv` prints them; `judgements.read_tidy` and `read_wide` read the table.
Pearson, Spearman and Cohen's kappa are means over all pairs of raters, each pair on the items that
both rated (Manzoor et al. 2024 report these per setting and per group of annotators). Alpha takes
all raters at once (Krippendorff 2011, interval level).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from empo.raters.coefficients import (
    PAIRWISE,
    alpha,
    pair_coefficients,
    resampled_alpha,
    resampled_pair,
)
from empo.raters.judgements import Judgements, Sheet
from empo.records import AGREEMENT_SCHEMA, UserError
from empo.runs import now, versions

COEFFICIENTS = {
    "pearson": "mean pairwise Pearson",
    "spearman": "mean pairwise Spearman",
    "kappa": "mean pairwise Cohen's kappa",
    "agreement": "mean pairwise share of equal classes",
    "alpha": "Krippendorff's alpha (interval)",
}
"""Keys of agreement.json and what they are called in tables."""
CONFIDENCE = 0.95

_CELLS = 500_000  # resamples x items held at a time


def cell_agreement(cell: Judgements, resamples: int, seed: int) -> dict[str, Any]:
    """All coefficients of one aspect (in one group and setting) with n and 95 % intervals.

    An interval is the percentile interval of the same coefficient on `resamples` draws of the
    items with replacement. A coefficient or interval that cannot be computed is None, and
    `reasons` says why; pairs of raters without a coefficient are left out of its mean and named.
    """
    raters, values = cell.raters, cell.values
    pairs = []
    for i, j in itertools.combinations(range(len(raters)), 2):
        both = np.isfinite(values[:, i]) & np.isfinite(values[:, j])
        found, reasons = pair_coefficients(values[both, i], values[both, j])
        pairs.append({"raters": [raters[i], raters[j]], "items": int(both.sum()), **found})
        pairs[-1] |= {"reasons": reasons} if reasons else {}
    point, why = alpha(values)
    if len(raters) == 1:
        why = f"one rater ({raters[0]}), and agreement needs two"
    draws = _resampled(values, resamples, seed) if pairs else {}
    coefficients = {"alpha": _entry(point, why, draws.get("alpha"))}
    for name in PAIRWISE:
        known = [pair[name] for pair in pairs if pair[name] is not None]
        mean = float(np.mean(known)) if known else None
        without = "no pair of raters has this coefficient" if pairs else why
        coefficients[name] = {"pairs": len(known), **_entry(mean, without, draws.get(name))}
    return {
        "setting": cell.setting,
        "group": cell.group,
        "aspect": cell.aspect,
        "items": len(values),
        "raters": len(raters),
        "pairs": len(pairs),
        "ratings": int(np.isfinite(values).sum()),
        "missing": int(np.isnan(values).sum()),
        "coefficients": {name: coefficients[name] for name in COEFFICIENTS},
        "by_pair": pairs,
    }


def agreement(sheet: Sheet, *, resamples: int = 2_000, seed: int = 0) -> dict[str, Any]:
    """The content of agreement.json: coefficients of every aspect, group and setting of a sheet.

    Raises UserError where no aspect has two raters.
    """
    if all(len(cell.raters) < 2 for cell in sheet.cells):
        raise UserError(
            f"{sheet.facts['file']}: agreement needs two raters, but no aspect has more than one "
            f"({', '.join(sorted({cell.raters[0] for cell in sheet.cells})[:5])}). Check the column "
            "'rater' or the pattern of --wide."
        )
    return {
        "schema": AGREEMENT_SCHEMA,
        "created": now(),
        "versions": versions(),
        "input": sheet.facts,
        "unused_columns": list(sheet.unused),
        "warnings": list(sheet.warnings),
        "bootstrap": {
            "unit": "item",
            "resamples": resamples,
            "seed": seed,
            "interval": f"percentile, {CONFIDENCE:.0%}",
        },
        "classes": "kappa and equal classes take values rounded to whole numbers, halves up",
        "names": COEFFICIENTS,
        "rows": [cell_agreement(cell, resamples, seed) for cell in sheet.cells],
    }


def agreement_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """Headers, rows and notes for a reader: four decimals, a dash where a note gives the reason."""
    labels = [k for k in ("setting", "group", "aspect") if any(row[k] for row in result["rows"])]
    headers = [*labels, "coefficient", "value", "95 % interval"]
    headers += ["items", "raters", "pairs", "ratings", "missing"]
    lines: list[list[str]] = []
    drawn = result["bootstrap"]
    notes = [
        f"Intervals: {drawn['interval']}, {drawn['resamples']:,} resamples of the items, seed "
        f"{drawn['seed']}. Kappa and equal classes: values rounded to whole numbers, halves up."
    ]
    for row in result["rows"]:
        place = [row[label] or "-" for label in labels]
        where = ", ".join(place)
        for name, entry in row["coefficients"].items():
            shown = [_number(entry["value"]), _bounds(entry["interval"])]
            counts = [row["items"], row["raters"], entry.get("pairs", row["pairs"])]
            counts += [row["ratings"], row["missing"]]
            lines.append([*place, COEFFICIENTS[name], *shown, *map(str, counts)])
        notes += [f"{where}: {note}" for note in _undefined(row)]
    return headers, lines, notes


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table with aligned columns for a terminal; from the column `value` on to the right."""
    left = list(headers).index("value")
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (headers, *rows)
    )


def _undefined(row: Mapping[str, Any], shown: int = 5) -> list[str]:
    """One sentence per reason why values, intervals or pairs are undefined, naming `shown` pairs."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, entry in row["coefficients"].items():
        for what, why in entry.get("reasons", {}).items():
            names.setdefault((what, why), []).append(COEFFICIENTS[name])
    pairs: dict[tuple[str, str], list[str]] = {}
    for pair in row["by_pair"]:
        reasons = pair.get("reasons", {})
        for why in dict.fromkeys(reasons.values()):
            which = ", ".join(name for name in reasons if reasons[name] == why)
            pairs.setdefault((which, why), []).append(" with ".join(pair["raters"]))
    return [f"no {what} of {', '.join(of)}: {why}." for (what, why), of in names.items()] + [
        f"no {which} for {', '.join(who[:shown])}"
        + (f" and {len(who) - shown:,} more pairs" if len(who) > shown else "")
        + f": {why}."
        for (which, why), who in pairs.items()
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.4f}"


def _bounds(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"[{_number(bounds[0])}, {_number(bounds[1])}]"


def _entry(value: float | None, why: str, draws: np.ndarray | None) -> dict[str, Any]:
    """Value and percentile interval, or why they are None."""
    if value is None or draws is None:
        return {"value": None, "interval": None, "reasons": {"value": why}}
    known = draws[np.isfinite(draws)]
    tail = (1 - CONFIDENCE) / 2
    missing = len(draws) - len(known)
    if missing > 2 * tail * len(draws):  # what is undefined could be the whole of both tails
        reason = f"{missing:,} of {len(draws):,} resamples do not define the coefficient"
        return {"value": value, "interval": None, "reasons": {"interval": reason}}
    low, high = np.quantile(known, [tail, 1 - tail])
    return {"value": value, "interval": [float(low), float(high)]}


def _resampled(values: np.ndarray, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Every coefficient on `resamples` draws of the items, NaN where a draw does not define it."""
    rng = np.random.default_rng(seed)
    n, raters = values.shape
    known = np.isfinite(values)
    pairs = list(itertools.combinations(range(raters), 2))
    together = [known[:, i] & known[:, j] for i, j in pairs]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in COEFFICIENTS}
    size = max(1, _CELLS // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)
        sums = {name: np.zeros(rows) for name in PAIRWISE}
        counts = {name: np.zeros(rows) for name in PAIRWISE}
        for (i, j), both in zip(pairs, together, strict=True):
            if both.sum() < 2:
                continue
            found = resampled_pair(values[both, i], values[both, j], weights[:, both])
            for name, draws in found.items():
                defined = np.isfinite(draws)
                sums[name][defined] += draws[defined]
                counts[name] += defined
        for name in PAIRWISE:
            with np.errstate(invalid="ignore"):
                parts[name].append(sums[name] / counts[name])
        parts["alpha"].append(resampled_alpha(values, weights))
    return {name: np.concatenate(draws) for name, draws in parts.items()}
