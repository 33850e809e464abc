"""report.md with its figures from the content of results.json: every number comes from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.records import write_text
from empo.reporting.closeness import closeness_section
from empo.reporting.comparisons import comparisons_section, length_section
from empo.reporting.diversity import diversity_section
from empo.reporting.epitome import bold_warnings, empathy_levels
from empo.reporting.figures import (
    comparisons_figure,
    epitome_figure,
    iva_figure,
    nidf_figure,
    training_figure,
)
from empo.reporting.markdown import code, escape, number, table
from empo.reporting.published import REMARK
from empo.reporting.ratings import ratings_section
from empo.reporting.samples import samples_section
from empo.reporting.words import length_table, words_section
from empo.untrusted import file_name

REPORT = "report.md"


def write_report(
    results: Mapping[str, Any],
    folder: str | Path,
    *,
    published: bool = False,
    training: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    preface: str = "",
    understanding: str = "",
    name: str = REPORT,
) -> Path:
    """Write the report and its figures into `folder`; return the report's path.

    `published` puts the paper's rows beside ours (for its 2,540 exchanges). `training` maps the
    name of a run to the rows of its log.jsonl. `preface` is markdown put first, `understanding` the
    section on language understanding.
    """
    folder = Path(folder)
    systems = results["systems"]
    measured = measured_by_all(systems)
    figures: dict[str, str] = {}
    stem = "" if name == REPORT else f"{Path(name).stem}-"  # two reports can share a folder
    for metric, key, draw in (
        ("diff_epitome", "epitome", epitome_figure),
        ("nidf", "nidf", nidf_figure),
        ("iva", "iva", iva_figure),
    ):
        if metric in measured:
            figures[key] = f"{stem}{key}.svg"
            draw(systems, folder / figures[key])
    if any(row["p"] is not None for row in results["comparisons"]):
        figures["comparisons"] = f"{stem}comparisons.svg"
        comparisons_figure(results["comparisons"], folder / figures["comparisons"])
    for run, log in (training or {}).items():
        if any("loss" in row for row in log):
            figures[f"training {run}"] = f"{stem}training-{file_name(run)}.svg"
            training_figure(log, folder / figures[f"training {run}"])
    text = render(results, figures, published=published, understanding=understanding)
    write_text(folder / name, preface + text)
    return folder / name


def render(
    results: Mapping[str, Any],
    figures: Mapping[str, str] | None = None,
    *,
    published: bool = False,
    understanding: str = "",
) -> str:
    """The report as markdown; `figures` maps `epitome`, `nidf`, ... to files beside it."""
    figures = figures or {}
    systems = results["systems"]
    measured = measured_by_all(systems)
    sections = [_facts(results), at_a_glance(systems)]
    if "diff_epitome" in measured:
        sections.append(empathy_levels(results, figures.get("epitome"), published=published))
    sections.append(ratings_section(results))
    sections.append(closeness_section(systems, published))
    sections.append(understanding)
    sections.append(diversity_section(systems, published))
    sections.append(words_section(systems, figures, published))
    if "length" in measured:
        sections.append(length_table(systems, published))
    if published and {"trie", "nidf", "iva"} & measured:
        sections.append(REMARK)
    sections.append(comparisons_section(results, figures.get("comparisons")))
    sections.append(length_section(results))
    training = {name: file for name, file in figures.items() if name.startswith("training ")}
    if training:
        images = [
            f"![Curves of the {escape(name)} run]({file})\n" for name, file in training.items()
        ]
        sections.append("## Training\n\n" + "\n".join(images))
    if results["not_run"]:
        rows = [(entry["metric"], entry["reason"]) for entry in results["not_run"]]
        sections.append("## Not run\n\n" + table(["metric", "reason"], rows, left=2))
    sections.append(samples_section(results))
    sections.append(_how(results))
    return "\n".join(section for section in sections if section)


def measured_by_all(systems: Mapping[str, Any]) -> set[str]:
    """Names of the metrics that every system has."""
    return set.intersection(*(set(system["metrics"]) for system in systems.values()))


def at_a_glance(systems: Mapping[str, Any]) -> str:
    """One row per system with the value that stands for each metric; `systems` of results.json."""
    columns = {
        "DIFF-EPITOME ↓": ("diff_epitome", "mean", 3),
        "BERTScore F1 ↑": ("bertscore", "f1", 3),
        "NIDF": ("nidf", "mean", 3),
        "templates": ("trie", "templates", 0),
        "self-BLEU": ("self_bleu", "mean", 3),
        "repeats a 4-gram ↓": ("repetition", "mean", 3),
        "characters": ("length", "mean_characters", 1),
    }
    known = {metric for system in systems.values() for metric in system["metrics"]}
    shown = {title: where for title, where in columns.items() if where[0] in known}
    if not shown:
        return ""
    rows = []
    for name, system in systems.items():
        cells = [
            number(system["metrics"].get(metric, {}).get(key), digits)
            for metric, key, digits in shown.values()
        ]
        if name == "human" and "diff_epitome" in known:
            cells[0] = "—"  # 0 by construction
        rows.append([name, *cells, str(system["n"])])
    return (
        "## At a glance\n\n↓ and ↑ say in which direction a value is better; the others have none: "
        "compare them with `human`. What is more than chance stands under Comparisons.\n\n"
        + table(["system", *shown, "n"], rows)
    )


def _facts(results: Mapping[str, Any]) -> str:
    systems = results["systems"]
    n = max(system["n"] for system in systems.values())
    lines = [
        f"- Systems: {escape(', '.join(systems))}",
        f"- Exchanges: {n:,}, the same for every system",
        f"- Seed: {results['seed']}; measured {escape(results['created'])}",
    ]
    if left_out := {name: count for name, count in results["left_out"].items() if count}:
        counts = ", ".join(f"{name} {count:,}" for name, count in left_out.items())
        lines.append(f"- Left out, because not every system has a response: {escape(counts)}")
    for name, system in systems.items():
        if trained := system.get("trained"):
            lines.append(
                f"- {escape(name)}: trained by {escape(str(trained['command']))}, seed "
                f"{escape(str(trained['seed']))}"
            )
    warnings = bold_warnings(results.get("warnings", ()))
    return f"# Responses measured\n\n{warnings}" + "\n".join(lines) + "\n"


def _how(results: Mapping[str, Any]) -> str:
    """Command, signatures of the metrics, inputs and versions: what it takes to measure it again."""
    text = "## How it was measured\n"
    if "command" in results:
        text += f"\n{code(results['command'])}"
    text += "\n" + table(
        ["metric", "signature"], [list(row) for row in results["signatures"].items()], left=2
    )
    inputs = [
        [file["file"], file["sha256"][:12]]
        for entry in results.get("inputs", ())
        for file in entry.get("files", [entry])
    ]
    if inputs:
        text += "\n" + table(["input", "SHA-256"], inputs, left=2)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return text + f"\nVersions: {escape(versions)}\n"
