"""The tables of one rater's evaluation (of one seed, or aggregated over seeds) as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from empo.reporting.markdown import escape, interval, number, table

RATER = "rater"
NAMES = {
    "accuracy": "accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "weighted_precision": "weighted precision",
    "weighted_recall": "weighted recall",
    "weighted_f1": "weighted F1",
    "mse": "MSE",
    "mae": "MAE",
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "cosine": "cosine of vectors (near a constant's)",
}
"""What values are called in tables."""


def cell(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Value ± SD over seeds (where there are several) and interval; a dash where there is none."""
    if entry is None:
        return "—"
    value = entry["difference"] if "difference" in entry else entry["value"]
    if value is None:
        return "—"
    spread = entry.get("sd_seeds")
    text = number(value, digits) + ("" if spread is None else f" ± {number(spread, digits)}")
    return text if entry["interval"] is None else f"{text} {interval(entry['interval'], digits)}"


def count(value: Any) -> str:
    """A count; `smallest to largest` where seeds differ; a dash where it is not known."""
    if isinstance(value, list):
        return f"{value[0]:,} to {value[1]:,}"
    return "—" if value is None else f"{value:,}"


def evaluation_sections(evaluation: Mapping[str, Any]) -> str:
    """Everything measured: a table per dimension, then differences, calibration, length, errors."""
    dimensions = evaluation["dimensions"]
    several = len(evaluation.get("seeds", ())) > 1
    parts = [_dimension(name, entry, several) for name, entry in dimensions.items()]
    parts += [
        _means(evaluation["mean"]),
        _differences(evaluation),
        _calibration(dimensions),
        _length(dimensions),
        _severe(dimensions),
        _not_computed(evaluation),
    ]
    return "\n".join(part for part in parts if part)


def _dimension(name: str, entry: Mapping[str, Any], several: bool) -> str:
    levels = entry["levels"]
    values = ", ".join(f"{v:g}" for v in levels) if entry["task"] == "classes" else "any value"
    text = (
        f"### {escape(name)}\n\n{entry['kind'].capitalize()}, {entry['low']:g} to "
        f"{entry['high']:g} ({values}). n = {count(entry['n'])} with label and score; "
        f"{count(entry['missing'])} without a label, {count(entry['unscored'])} that the rater could "
        "not score.\n\n"
    )
    if entry["task"] == "classes":
        text += _absent(entry["absent"])
    else:
        text += f"Classes: above {entry['threshold']:g}, or not.\n\n"
    predictors = entry["predictors"]
    keys = [key for key in NAMES if key in predictors[RATER]]
    rows = []
    for key in keys:
        spread = number(predictors[RATER][key]["sd_folds"])
        rows.append([NAMES[key], cell(predictors[RATER][key]), spread])
        rows[-1] += [cell(of[key]) for who, of in predictors.items() if who != RATER]
    baselines = [who for who in predictors if who != RATER]
    text += table(["value", "rater", "SD over folds", *baselines], rows)
    if entry["task"] == "classes":
        text += "\n" + _classes(predictors) + "\n" + _confusion(predictors[RATER], several)
    return text


def _absent(absent: Mapping[str, Any]) -> str:
    lines = []
    if absent["data"]:
        lines.append(f"No input has the level {', '.join(absent['data'])}.")
    if absent["folds"]:
        folds = "; ".join(f"fold {f}: {', '.join(ls)}" for f, ls in absent["folds"].items())
        lines.append(f"Levels without support in a fold: {escape(folds)}.")
    return " ".join(lines) + "\n\n" if lines else ""


def _classes(predictors: Mapping[str, Any]) -> str:
    rows = []
    baselines = [who for who in predictors if who != RATER]
    for level, of in predictors[RATER]["classes"].items():
        row = [level, count(of["support"]), count(of["predicted"])]
        row += [cell(of[key]) for key in ("precision", "recall", "f1")]
        rows.append(row + [cell(predictors[who]["classes"][level]["f1"]) for who in baselines])
    headers = ["level", "support", "predicted", "precision", "recall", "F1"]
    return table([*headers, *(f"F1 {who}" for who in baselines)], rows)


def _confusion(rater: Mapping[str, Any], several: bool) -> str:
    levels = list(rater["classes"])
    rows = [
        [f"gold {level}", *map(count, row)]
        for level, row in zip(levels, rater["confusion"], strict=True)
    ]
    summed = "\nCounts of all seeds together.\n" if several else ""
    return table(["", *(f"rated {level}" for level in levels)], rows) + summed


def _means(means: Mapping[str, Any]) -> str:
    text = ""
    for mean in means.values():
        if len(mean["dimensions"]) < 2:
            continue
        predictors = mean["predictors"]
        rows = [
            [NAMES[key], *(cell(of[key]) for of in predictors.values())]
            for key in predictors[RATER]
        ]
        text += f"### Mean over {escape(', '.join(mean['dimensions']))}\n\n"
        text += table(["value", *predictors], rows) + "\n"
    return text.rstrip("\n") + "\n" if text else ""


def _differences(evaluation: Mapping[str, Any]) -> str:
    """The paired differences against the baselines, and whether 0 is outside."""
    rows: list[list[str]] = []
    named = list(evaluation["dimensions"].items())
    named += [
        (f"mean over {len(mean['dimensions'])}", mean)
        for mean in evaluation["mean"].values()
        if len(mean["dimensions"]) > 1
    ]
    for name, entry in named:
        for baseline, of in entry["differences"].items():
            for key, difference in (of or {}).items():
                bounds = difference["interval"]
                outside = "—" if bounds is None else "yes" if bounds[0] > 0 else "no"
                row = [name, f"rater against {baseline}", NAMES[key], cell(difference)]
                rows.append([*row, outside])
    if not rows:
        return ""
    return (
        "### Against the baselines\n\nPaired differences on the same inputs; positive: the rater is "
        "better (for errors: baseline − rater). A rater that is not better than both is no "
        "measure.\n\n"
        + table(["dimension", "pair", "value", "difference", "above 0"], rows, left=3)
    )


def _calibration(dimensions: Mapping[str, Any]) -> str:
    rows = [
        [name, count(found["n"]), cell(found["ece"])]
        for name, entry in dimensions.items()
        if (found := entry["calibration"]) is not None
    ]
    if not rows:
        return ""
    return (
        "### Calibration\n\nExpected calibration error: mean distance between the top probability "
        "and the share of right levels, 15 equal bins; 0 is perfect. A resampled error is never "
        "below 0, so the interval lies somewhat high.\n\n" + table(["dimension", "n", "ECE"], rows)
    )


def _length(dimensions: Mapping[str, Any]) -> str:
    rows = []
    for name, entry in dimensions.items():
        of = entry["length_correlation"]
        row = [name, count(entry["n"])]
        for key in ("pearson", "spearman"):
            row += [cell(of[who][key]) for who in (RATER, "gold")]
        rows.append(row)
    headers = ["dimension", "n", "r of scores", "r of labels", "ρ of scores", "ρ of labels"]
    return (
        "### Correlation with the length of the text\n\nScores that move with length much more than "
        "the labels do reward long answers.\n\n" + table(headers, rows)
    )


def _severe(dimensions: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for name, entry in dimensions.items():
        if (severe := entry.get("severe")) is None:
            continue
        what = {
            "both": f"|label − score| > {severe['above']:.3g}",
            "under": f"score < label − {severe['above']:.3g}",
            "over": f"score > label + {severe['above']:.3g}",
        }[severe["mode"]]
        for label, of in [*severe["by_gold"].items(), ("all", severe["all"])]:
            counts = [count(of["support"]), count(of["errors"])]
            rows.append([name, what, label, *counts, cell(of["share"])])
    if not rows:
        return ""
    headers = ["dimension", "error", "label", "inputs", "errors", "share"]
    return "### Severe errors\n\n" + table(headers, rows, left=2)


def _not_computed(evaluation: Mapping[str, Any]) -> str:
    lines = []
    for dimension, entry in evaluation["dimensions"].items():
        found: dict[str, list[str]] = {}
        for place, why in _reasons(entry, ""):
            found.setdefault(why, []).append(place)
        for why, places in found.items():
            shown = ", ".join(places[:4])
            more = f" and {len(places) - 4} more" if len(places) > 4 else ""
            lines.append(f"- {escape(dimension)}: {escape(why)} ({escape(shown)}{more})\n")
    return "### Not computed\n\n" + "".join(lines) if lines else ""


def _reasons(node: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Place and reason of every value and interval that is None."""
    for key, value in node.items():
        if key == "reasons":
            for name, why in value.items():
                if name in ("value", "difference"):
                    yield where, why
                elif name == "interval" and not value.keys() & {"value", "difference"}:
                    yield f"interval of {where}", why
                elif name not in ("interval", "sd_folds", "sd_seeds"):
                    yield f"{where} {name}".strip(), why
        elif isinstance(value, Mapping):
            skipped = key in ("predictors", "classes", "absent")
            yield from _reasons(value, where if skipped else f"{where} {key}".strip())
