"""rater.md with its figure from the results of raters: every number comes from there.

Reads what `eval/raters.py` writes (several raters on one corpus) and what `recipes/rater.py` writes
(one rater, trained with several seeds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.records import write_text
from empo.reporting.markdown import aligned, escape, number, table
from empo.reporting.rater_tables import NAMES, RATER, cell, count, evaluation_sections
from empo.reporting.reliability import reliability_figure

REPORT = "rater.md"
FIGURE = "rater-reliability.svg"

_PACKAGES = ("empo", "torch", "transformers", "sentence-transformers", "numpy", "scipy")
_SHOWN = ("macro_f1", "accuracy", "mse", "mae", "pearson", "spearman")


def write_rater_report(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write rater.md, and the reliability figure where there are probabilities; return its path."""
    folder = Path(folder)
    evaluations = {name: entry["evaluation"] for name, entry in _raters(results).items()}
    calibrated = any(
        entry["calibration"] for e in evaluations.values() for entry in e["dimensions"].values()
    )
    if calibrated:
        reliability_figure(evaluations, folder / FIGURE)
    write_text(folder / REPORT, render_raters(results, FIGURE if calibrated else None))
    return folder / REPORT


def render_raters(results: Mapping[str, Any], figure: str | None = None) -> str:
    """The report as markdown; `figure` is the file of the reliability figure beside it."""
    raters = _raters(results)
    sections = ["# Raters against human judgements\n", _warnings(raters), _facts(results)]
    for name, entry in raters.items():
        heading = f"## {escape(name)}\n\nSignature: {escape(entry['signature'])}\n"
        sections.append(f"{heading}\n{_rater_facts(entry)}")
        sections.append(evaluation_sections(entry["evaluation"]))
    sections.append(_comparisons(results))
    if figure is not None:
        sections.append(
            "## Reliability\n\nShare of right levels over the top probability, 15 bins; the dotted "
            f"line is perfect calibration.\n\n![Reliability of the raters]({figure})\n"
        )
    if results.get("not_run"):
        rows = [[entry["rater"], entry["reason"]] for entry in results["not_run"]]
        sections.append("## Not run\n\n" + table(["rater", "reason"], rows, left=2))
    return "\n".join(section for section in sections if section)


def plain_summary(results: Mapping[str, Any]) -> str:
    """Every rater in every dimension with the baselines beside it, as plain text for a terminal."""
    rows = [["rater", "dimension", "scores of", "n", *(NAMES[key] for key in _SHOWN)]]
    for name, entry in _raters(results).items():
        evaluation = entry["evaluation"]
        for dimension, of in evaluation["dimensions"].items():
            for who, found in of["predictors"].items():
                row = [name, dimension, who, count(of["n"])]
                rows.append(row + [cell(found.get(key)) for key in _SHOWN])
        for mean in evaluation["mean"].values():
            for who, found in mean["predictors"].items() if len(mean["dimensions"]) > 1 else ():
                row = [name, f"mean over {len(mean['dimensions'])}", who, count(evaluation["n"])]
                rows.append(row + [cell(found.get(key)) for key in _SHOWN])
    kept = [i for i, _ in enumerate(rows[0]) if i < 4 or any(row[i] != "—" for row in rows[1:])]
    return aligned([[row[i] for i in kept] for row in rows], left=3)


def plain_classes(results: Mapping[str, Any]) -> str:
    """F1 of every level with its support, the baselines beside it, as plain text for a terminal."""
    rows = [["rater", "dimension", "level", "support", "F1", "F1 constant", "F1 length"]]
    for name, entry in _raters(results).items():
        for dimension, of in entry["evaluation"]["dimensions"].items():
            for level, scores in of["predictors"][RATER].get("classes", {}).items():
                row = [name, dimension, level, count(scores["support"]), cell(scores["f1"])]
                for who in ("constant", "length"):
                    classes = of["predictors"].get(who, {}).get("classes", {})
                    row.append(cell(classes.get(level, {}).get("f1")))
                rows.append(row)
    return aligned(rows, left=3) if len(rows) > 1 else ""


def _raters(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Signature, warnings and evaluation by name of the rater."""
    if "evaluation" not in results:
        return dict(results["raters"])
    name = results["name"]
    shared = {key: results[key] for key in ("warnings", "evaluation")}
    return {name: {"signature": results["raters"][name], **shared}}


def _warnings(raters: Mapping[str, Any]) -> str:
    lines = [
        f"> **Warning.** {escape(name)}: {escape(warning)}\n"
        for name, entry in raters.items()
        for warning in entry["warnings"]
    ]
    return ">\n".join(lines)


def _facts(results: Mapping[str, Any]) -> str:
    corpora = results["data"] if "data" in results else [results["input"]]
    text = ""
    for corpus in corpora:
        files = ", ".join(f"{file['file']} {file['sha256'][:12]}" for file in corpus["files"])
        left_out = sum(corpus["rejected"].values())
        text += (
            f"- {escape(corpus['source'])} ({escape(corpus['schema'])}): "
            f"{corpus['examples']:,} examples in {corpus['groups']:,} groups, {left_out:,} left out; "
            f"files: {escape(files)}\n"
        )
    if "split" in results:
        folds = results["split"]["folds"]
        held = f"cross-validated over {folds} folds" if folds > 1 else "on one held-out part"
        text += f"- measured {held}: {escape(results['split']['group'])}\n"
    if "baseline_fit" in results:
        text += f"- baselines: {escape(results['baseline_fit'])}\n"
    text += "".join(
        f"- baseline {escape(name)}: {escape(what)}\n"
        for name, what in results.get("baselines", {}).items()
    )
    known = results["versions"]
    shown = ", ".join(f"{name} {known[name]}" for name in _PACKAGES if name in known)
    return text + f"- versions: {escape(shown)}\n"


def _rater_facts(entry: Mapping[str, Any]) -> str:
    evaluation = entry["evaluation"]
    seeds = evaluation["seeds"] if "seeds" in evaluation else [evaluation["seed"]]
    text = (
        f"n = {count(evaluation['n'])} inputs in {count(evaluation['groups'])} groups; seed"
        f"{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {count(evaluation['resamples'])} "
        f"resamples of the {evaluation['drawn']}. Truncated contexts: "
        f"{count(evaluation['truncated'])}, truncated responses: "
        f"{count(evaluation['response_truncated'])}. {escape(evaluation['method'])}"
    )
    if len(seeds) > 1:
        text += (
            " Values are means ± SD over the seeds; an interval reaches from the lowest bound of "
            "all seeds to the highest."
        )
    for note in evaluation["notes"]:
        text += f" {escape(note)}"
    named = entry.get("measured_in", {})
    if as_label := {label: own for label, own in named.items() if own != label}:
        own = next(iter(as_label.values()))
        text += f" The rater's one dimension, {escape(own)}, is measured in every label."
    if entry.get("unlabelled"):
        text += f" Without labels here: {escape(', '.join(entry['unlabelled']))}."
    return text + "\n"


def plain_comparisons(results: Mapping[str, Any]) -> str:
    """Every paired difference, as plain text for a terminal; empty where there is none."""
    rows = _pair_rows(results.get("comparisons", ()))
    return aligned([_PAIR_HEADERS, *rows], left=3) if rows else ""


_PAIR_HEADERS = ["pair", "dimension", "value", "difference", "n", "better"]


def _pair_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows: list[list[str]] = []
    for pair in comparisons:
        named = list(pair["dimensions"].items())
        named += [
            (f"mean over {len(mean['dimensions'])}", mean | {"n": pair["n"]})
            for mean in pair["mean"].values()
            if len(mean["dimensions"]) > 1
        ]
        for name, of in named:
            for key in NAMES:
                if key not in of:
                    continue
                bounds = of[key]["interval"]
                better = (
                    "—"
                    if bounds is None
                    else pair["a"]
                    if bounds[0] > 0
                    else pair["b"]
                    if bounds[1] < 0
                    else "not shown"
                )
                row = [f"{pair['a']} against {pair['b']}", name, NAMES[key], cell(of[key])]
                rows.append([*row, count(of["n"]), better])
    return rows


def _comparisons(results: Mapping[str, Any]) -> str:
    comparisons = results.get("comparisons", ())
    text = ""
    if rows := _pair_rows(comparisons):
        seeds = comparisons[0].get("seeds")
        over = (
            ""
            if seeds is None
            else f" What the runs held out, seed by seed (seeds {', '.join(map(str, seeds))}): mean ± "
            "SD over the seeds, and the interval from the lowest bound of all seeds to the highest."
        )
        text = (
            "Paired bootstrap on the same inputs; positive: the first is better, also for errors. The "
            f"intervals are not corrected for the number of comparisons ({len(rows)}): of twenty "
            f"without any difference one is expected to exclude 0.{over}\n\n"
            + table(_PAIR_HEADERS, rows, left=3)
        )
        notes = dict.fromkeys(note for pair in comparisons for note in pair["notes"])
        text += "".join(f"\n{escape(note)}\n" for note in notes)
    if lacking := results.get("not_compared"):
        rows = [
            [f"{row['a']} against {row['b']}", row["dimension"], row["reason"]] for row in lacking
        ]
        heading = "Not compared:\n\n" if not text else "\nNot compared:\n\n"
        text += heading + table(["pair", "dimension", "reason"], rows, left=3)
    return f"## Raters in pairs\n\n{text}" if text else ""


def grid_table(
    entries: Sequence[Mapping[str, Any]],
    not_run: Sequence[Mapping[str, str]] = (),
    schema: str = "",
) -> str:
    """Architectures by losses in one table per dimension, as markdown.

    An entry has `architecture`, `loss` and `evaluation` (aggregated over seeds). Cells are the mean
    ± SD over seeds with the interval. The baselines follow, and the published rows of Shayan where
    a table has their data: a dimension of a corpus of this `schema`, on their scale.
    """
    names = dict.fromkeys(n for entry in entries for n in entry["evaluation"]["dimensions"])
    text = "# Architectures and losses\n\n"
    text += "\n".join(_grid_of(entries, name, schema) for name in names)
    text += (
        "\nTwo rows may only be said to differ after a paired comparison of what their runs held "
        "out (`python eval/raters.py --held-out RUN RUN`).\n"
    )
    if not_run:
        rows = [[entry["architecture"], entry["loss"], entry["reason"]] for entry in not_run]
        text += "\n## Not run\n\n" + table(["architecture", "loss", "reason"], rows, left=3)
    return text


_GRID_KEYS = {
    "classes": ("accuracy", "macro_f1", "weighted_f1"),
    "interval": ("mse", "mae", "pearson", "spearman", "cosine"),
}
_PUBLISHED: dict[tuple[str, str, str], tuple[tuple[str, str, dict[str, str]], ...]] = {
    ("epitome", "empathy", "classes"): (
        ("bi-encoder", "focal", {"accuracy": ".653"}),
        ("cross-encoder", "all losses", {"accuracy": ".565 to .584"}),
    ),
    ("stories", "empathy", "interval"): (
        ("bi-encoder", "mse", {"mse": ".0946", "pearson": ".280"}),
        ("cross-encoder", "mae", {"mse": ".0934", "pearson": ".280"}),
        ("constant", "—", {"mse": ".0988"}),
    ),
}
"""Rows of Shayan by schema of the corpus, dimension and task: no other data have these errors."""


def _grid_of(entries: Sequence[Mapping[str, Any]], dimension: str, schema: str) -> str:
    text = ""
    for task, keys in _GRID_KEYS.items():
        rows: list[list[str]] = []
        baselines: list[list[str]] = []
        scales = []
        for entry in entries:
            evaluation = entry["evaluation"]
            of = evaluation["dimensions"].get(dimension)
            if of is None or of["task"] != task:
                continue
            scales.append(of)
            last = [count(of["n"]), ", ".join(map(str, evaluation["seeds"]))]
            for who, found in of["predictors"].items():
                cells = [cell(found[key], 4 if key in ("mse", "mae") else 3) for key in keys]
                if who == RATER:
                    rows.append([entry["architecture"], entry["loss"], *cells, *last])
                elif (row := [who, "baseline", *cells, *last]) not in baselines:
                    baselines.append(row)
        if not rows:
            continue
        published = all(map(_as_published, scales)) and _PUBLISHED.get((schema, dimension, task))
        for architecture, loss, values in published or ():
            cells = [values.get(key, "—") for key in keys]
            baselines.append([architecture, f"{loss}, published (Shayan)", *cells, "—", "—"])
        headers = ["architecture", "loss", *(NAMES[key] for key in keys), "n", "seeds"]
        text += f"## {escape(dimension)}\n\n" + table(headers, rows + baselines, left=2)
        if published:
            text += "\nPublished rows are those of another split, without intervals.\n"
        if task == "interval":
            low, high = number(scales[0]["low"], 0), number(scales[0]["high"], 0)
            text += (
                f"\nErrors on the scale {low} to {high}. The cosine is close to a constant's value "
                "and only there for comparison with published ones.\n"
            )
    return text


def _as_published(entry: Mapping[str, Any]) -> bool:
    if entry["task"] == "classes":
        return len(entry["levels"]) == 4
    return (entry["low"], entry["high"]) == (0, 1)
