"""The combined report as markdown: every number comes from the content of the report's JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from empo.reporting.comparisons import label
from empo.reporting.epitome import bold_warnings
from empo.reporting.language_understanding import not_run_rows, understanding_section
from empo.reporting.markdown import code, escape, number, table
from empo.reporting.ratings import ratings_over_runs
from empo.reporting.runs_comparisons import runs_comparisons_section
from empo.reporting.runs_tables import (
    diversity_tables,
    empathy_table,
    length_table,
    word_tables,
)
from empo.reporting.samples import samples_section
from empo.reporting.survey_section import survey_section

_STRONG = 0.1  # |r| with length from which a value is said to move with it
_COLUMNS = 7  # systems side by side in one table
_OF_LENGTH = {
    "diff_epitome": "diff_epitome",
    "diff_epitome.levels_sum": "epitome_levels",
    "emotion_shares": "emotion_shares.overlap",
}
_OTHERS = ("controls.", "reference_", "signed.")  # no compared values of the system


def render_runs(report: Mapping[str, Any], figures: Mapping[str, str] | None = None) -> str:
    """The markdown; `figures` maps a caption to a file beside the report."""
    sections = [
        _facts(report),
        _runs(report["runs"]),
        empathy_table(report),
        _understanding(report),
        diversity_tables(report),
        word_tables(report),
        length_table(report),
        ratings_over_runs(report),
        runs_comparisons_section(report),
        *surveys_sections(report),
        _moving(report["systems"]),
        settings_section(report["settings"]),
        pairs_section(report["pairs"]),
        figures_section(figures or {}),
        _not_run(report),
        _samples(report["samples"]),
        _commands(report),
    ]
    return "\n".join(section for section in sections if section)


def _facts(report: Mapping[str, Any]) -> str:
    runs, versions = report["runs"], report["versions"]
    lines = [
        f"- Systems: {escape(', '.join(report['systems']))}",
        f"- Runs: {len(runs)} ({escape(', '.join(run['label'] for run in runs))})",
    ]
    if report["shared"] is not None:
        lines.append(f"- Exchanges that all runs share: {report['shared']:,}")
    lines.append(f"- Combined {escape(report['created'])}")
    differ = {name: of for name, of in versions.items() if len(set(of.values())) > 1}
    for name, of in differ.items():
        each = ", ".join(f"{version} in {label}" for label, version in of.items())
        lines.append(f"- **Runs differ in the version of {escape(f'{name}: {each}')}**")
    if not differ:
        lines.append("- Versions: the same in all runs, listed at the end")
    lines += [f"- {escape(note)}" for note in report["notes"]]
    return (
        f"# Report over {len(runs)} run{'s' * (len(runs) != 1)}\n\n"
        + bold_warnings(report["warnings"])
        + "\n".join(lines)
        + "\n\nA run is one results folder. Tables show the mean over runs ± sample standard "
        "deviation over runs; a value without ± is that of one run. The column *runs* counts the "
        "runs behind a row.\n"
    )


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in runs:
        rows.append(
            [
                run["label"],
                run["folder"],
                _seeds(run["training_seeds"]),
                run["created"],
                "yes" if run["harness"] else "no",
                number(run["n"], 0),
                number(run["seed"], 0),
            ]
        )
    headers = "run; folder; training seeds; measured; harness; exchanges; seed of resampling"
    return "## Runs\n\n" + table(headers.split("; "), rows, left=5)


def _seeds(of_system: Mapping[str, int | None]) -> str:
    """The seed of all trained systems, or each with its systems."""
    systems: dict[int | None, list[str]] = {}
    for name, seed in of_system.items():
        systems.setdefault(seed, []).append(name)
    if len(systems) < 2:
        return "".join(map(str, systems)) or "—"
    return ", ".join(f"{seed} ({', '.join(names)})" for seed, names in systems.items())


def _understanding(report: Mapping[str, Any]) -> str:
    found = report["language_understanding"]
    return understanding_section(found, published=report["published"]) if found else ""


def surveys_sections(report: Mapping[str, Any]) -> list[str]:
    """A section per run with a human survey; their raters are not pooled."""
    several = len(report["runs"]) > 1
    return [
        survey_section(survey, of=label if several else "")
        for label, survey in report["surveys"].items()
    ]


def _moving(systems: Mapping[str, Any]) -> str:
    """Correlations with length, mean over runs."""
    end = ".length_correlation"
    keys = {
        key: _OF_LENGTH.get(of, of.replace(".mechanisms", ""))
        for system in systems.values()
        for key in system["values"]
        if key.endswith(end) and not any(other in key for other in _OTHERS)
        for of in [key.removesuffix(end)]
    }
    if not keys:
        return ""
    found = {
        label(of): {
            name: system["values"][key]["mean"]
            for name, system in systems.items()
            if key in system["values"]
        }
        for key, of in keys.items()
    }
    moving = [
        label
        for label, of_system in found.items()
        if any(r is not None and abs(r) >= _STRONG for r in of_system.values())
    ]
    return (
        "## What moves with length\n\nCorrelation (Pearson) of each value with the characters of "
        f"the response, per system, mean over runs. With |r| ≥ {_STRONG} in some system: "
        f"{escape(', '.join(moving) or 'none')}.\n\n"
        + _by_system("value", list(systems), {k: _numbers(of) for k, of in found.items()})
    )


def _numbers(of_system: Mapping[str, float | None]) -> dict[str, str]:
    return {name: number(value) for name, value in of_system.items()}


def settings_section(settings: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """The training settings that differ between systems, empty where none does."""
    if not settings:
        return ""
    systems = list(dict.fromkeys(name for of in settings.values() for name in of))
    rows = {
        key: {name: ", ".join(map(_setting, values)) for name, values in of.items()}
        for key, of in settings.items()
    }
    return (
        "## Training settings\n\nThose in which trained systems differ; several values are of "
        "several runs. Seeds stand in the table of runs; settings of logging and saving are left "
        "out.\n\n" + _by_system("setting", systems, rows)
    )


def pairs_section(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """How the pairs of every system were made, and of how many exchanges; empty where none has any."""
    if not pairs:
        return ""
    return _PAIRS + "\n" + table(_PAIRS_HEADERS, [_pairs(*item) for item in pairs.items()], left=2)


_PAIRS = (
    "## Pairs of training\n\nWhich reply was rejected. *random*, *hardest*, *easiest*: of so many "
    "replies to the opposite emotion any one, the one that scores highest or lowest as a reply to this "
    "context; the human reply was chosen. *on topic*: candidates from the nearest contexts only. "
    "*margin*: the chosen reply scored at least so much more. *on-policy*: both are samples of the "
    "policy, the best was chosen. In brackets the dimensions of the score. *exchanges* were trained "
    "on; left out were those without a pair and those too long. Several numbers are of several runs.\n"
)
_PAIRS_HEADERS = "system;pairs;rejected;exchanges;without a pair;too long".split(";")


def _pairs(name: str, of: Mapping[str, Any]) -> list[str]:
    """A row of the table of pairs."""
    numbers = (of[key].values() for key in ("rejected", "exchanges", "without_pairs", "too_long"))
    counts = (", ".join(dict.fromkeys(f"{n:,}" for n in some)) or "—" for some in numbers)
    return [name, "; ".join(of["rule"]), *counts]


def _setting(value: Any) -> str:
    if value is None:
        return "not given"
    return f"{value:g}" if type(value) is float else str(value)


def _by_system(what: str, systems: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    """A table with the systems as columns; further tables below it where they are many."""
    parts = []
    for start in range(0, len(systems), _COLUMNS):
        shown = systems[start : start + _COLUMNS]
        cells = [[key, *(of.get(name, "—") for name in shown)] for key, of in rows.items()]
        parts.append(table([what, *shown], cells))
    return "\n".join(parts)


def figures_section(figures: Mapping[str, str]) -> str:
    """Images with their captions, empty where there are none; `figures` maps a caption to a file."""
    if not figures:
        return ""
    images = [
        f"{escape(text)}\n\n![{escape(text)}]({quote(file)})\n" for text, file in figures.items()
    ]
    return (
        "## Figures\n\nAxes of values over a setting and over runs span at least a tenth of the mean, "
        "so that small differences look small.\n\n" + "\n".join(images)
    )


def _not_run(report: Mapping[str, Any]) -> str:
    rows = [
        [entry["metric"], entry["reason"], ", ".join(entry["runs"])] for entry in report["not_run"]
    ]
    rows += not_run_rows(report["language_understanding"])
    return "## Not run\n\n" + table(["metric", "reason", "runs"], rows, left=3) if rows else ""


def _samples(samples: Mapping[str, Any] | None) -> str:
    if not samples or not samples["samples"]:
        return ""
    heading, rest = samples_section(samples).split("\n", 1)
    return f"{heading}\n\nOf the run {escape(samples['run'])}.\n{rest}"


def _commands(report: Mapping[str, Any]) -> str:
    """The exact commands, what the metrics are, and the environment."""
    lines = []
    for run in report["runs"]:
        commands = [run["command"], *run["harness"].values()]
        lines += [f"# {run['label']}: {run['folder']}", *filter(None, commands)]
    if "command" in report:
        lines += ["# this report", report["command"]]
    rows = []
    for name, of in report["versions"].items():
        each = dict.fromkeys(of.values())
        rows.append([name, ", ".join(each)])
    text = "## How it was measured\n\n" + code("\n".join(lines))
    if report["signatures"]:
        signatures = [list(row) for row in report["signatures"].items()]
        text += "\n" + table(["metric", "signature"], signatures, left=2)
    return text + "\n" + table(["package", "version"], rows, left=2)
