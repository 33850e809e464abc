"""The report's section on language understanding: harness scores of one run or over several."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from empo.metrics.statistics import holm
from empo.records import UserError
from empo.reporting.comparisons import mark
from empo.reporting.markdown import escape, number, table
from empo.reporting.published import UNDERSTANDING
from empo.reporting.run_folders import RunFolder, mean_over_runs, reply_sets

COLUMNS = 7
"""Tasks in one table; more stand in further tables below it."""

_FACTS = ("metric", "shots", "version", "dataset", "n")

_EXPLAINED = (
    "Scores of lm-evaluation-harness, 0 to 1, higher is better: what fine-tuning leaves of the "
    "knowledge and reasoning of the model. The last column says what stands after ±.\n\n"
)
_MCNEMAR = (
    "\nTwo systems on the same items (McNemar's test): difference of the scores of the first system "
    "minus the second, items on which only one of them is right, p, and p after Holm's correction "
    "over the {tests} tests of this table. Marks, after correction: \\*\\*\\* below .001, \\*\\* "
    "below .01, \\* below .05.\n\n"
)
_PUBLISHED = (
    "\nPublished, Table 3 of the paper. It does not say which average its Open LLM figure is, nor "
    "which version of the leaderboard and how many examples in the prompt, so it stands apart from "
    "ours.\n\n"
)


def language_understanding(
    runs: Sequence[RunFolder],
    labels: Sequence[str],
    names: Mapping[tuple[int, str], str] | None = None,
) -> dict[str, Any] | None:
    """Harness scores combined over runs as plain JSON values; None where no run has any.

    `names` maps a run's number and a system's name there to its name in the report. A system whose
    replies are the same in several runs, or that was not trained, is the same model: it counts once.
    UserError where one task was not measured in the same way everywhere.
    """
    names = names or {}
    ordered = list(dict.fromkeys(names.values()))
    facts: dict[str, dict[str, Any]] = {}
    seen: dict[tuple[str, Hashable], int] = {}
    scores: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    comparisons: dict[tuple[str, ...], dict[str, Any]] = {}
    not_run: list[dict[str, Any]] = []
    cut: dict[str, list[str]] = {}
    inside: set[str] = set()
    replies = _replies(runs, names)
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        for file, results in run["harness"].items():
            name = names.get((i, results["system"]), results["system"])
            inside |= {task for group in results["groups"].values() for task in group["tasks"]}
            measured = _with_shots(results["groups"], results["tasks"]) | results["tasks"]
            _check_same(facts, measured, file)
            for row in results["comparisons"]:
                a, b = (names.get((i, row[side]), row[side]) for side in "ab")
                key = (a, b, row["task"], label)  # every file of a comparison may hold it
                comparisons[key] = {**row, "a": a, "b": b, "run": label}
            not_run += [{**entry, "system": name, "run": label} for entry in results["not_run"]]
            identity = replies[name].get(i, _model(results, i))
            if seen.setdefault((name, identity), i) != i:
                continue
            of_run = scores.setdefault(name, {})
            for task, score in results["tasks"].items():
                if score["truncated"]:
                    counts = f"{score['truncated']:,} of {score['n']:,} of {name} in {label}"
                    cut.setdefault(task, []).append(counts)
            for task, score in measured.items():
                if label in of_run.setdefault(task, {}):
                    raise UserError(
                        f"{file}: {task!r} of {results['system']!r} is in another harness.json of "
                        f"{run['folder']} too. Keep one of them."
                    )
                of_run[task][label] = score
    files = [results for run in runs for results in run["harness"].values()]
    if not files:
        return None
    groups = {task for results in files for task in results["groups"]}
    shown = [task for task in facts if task in groups or task not in inside]
    rows = [row for row in comparisons.values() if row["task"] in shown]
    for row, p_holm in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p_holm
    return {
        "shown": shown,
        "facts": {task: facts[task]["facts"] for task in shown},
        "systems": {
            name: {task: _combined(of_run[task]) for task in shown if task in of_run}
            for name, of_run in sorted(
                scores.items(), key=lambda item: ordered.index(item[0]) if ordered else 0
            )
        },
        "comparisons": rows,
        "not_run": not_run,
        "notes": _settings_notes(runs, labels) + _other_models(runs, labels) + _cut_notes(cut),
    }


def _replies(
    runs: Sequence[RunFolder], names: Mapping[tuple[int, str], str]
) -> dict[str, dict[int, Hashable]]:
    """System -> its `reply_sets`."""
    members: dict[str, dict[tuple[int, str], None]] = {}
    for (i, there), name in names.items():
        members.setdefault(name, {})[i, there] = None
    for i, run in enumerate(runs):
        for results in run["harness"].values():
            there = results["system"]
            members.setdefault(names.get((i, there), there), {})[i, there] = None
    return {name: reply_sets(runs, of) for name, of in members.items()}


def _model(results: Mapping[str, Any], i: int) -> Hashable:
    """What is equal for the same model in two runs, as far as harness.json can tell."""
    return json.dumps(results["model"], sort_keys=True) if results["trained"] is None else i


def _check_same(
    known: dict[str, dict[str, Any]], measured: Mapping[str, Mapping[str, Any]], file: str
) -> None:
    for task, score in measured.items():
        facts = {key: score[key] for key in _FACTS if key in score}
        before = known.setdefault(task, {"facts": facts, "file": file})
        for key in facts.keys() & before["facts"].keys():
            if facts[key] != before["facts"][key]:
                raise UserError(
                    f"{file}, task {task!r}: {key} {facts[key]!r}, but {before['facts'][key]!r} in "
                    f"{before['file']}, so the scores are not comparable. Run eval/harness.py for "
                    "all systems with the same settings."
                )


def _with_shots(groups: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Groups with the numbers of examples that their tasks have."""
    return {
        name: {
            **group,
            "shots": sorted({tasks[task]["shots"] for task in group["tasks"] if task in tasks}),
        }
        for name, group in groups.items()
    }


def _settings_notes(runs: Sequence[RunFolder], labels: Sequence[str]) -> list[str]:
    """Settings that are not the same in every file: sentences."""
    values: dict[str, dict[str, list[str]]] = {}
    for run, label in zip(runs, labels, strict=True):
        for results in run["harness"].values():
            for key, value in results["settings"].items():
                if key not in ("tasks", "processes"):
                    where = values.setdefault(key, {}).setdefault(json.dumps(value), [])
                    where.append(f"{results['system']} in {label}")
    return [
        f"Not all scores were measured with the same {key} ("
        + "; ".join(f"{value}: {', '.join(where)}" for value, where in of_value.items())
        + ")."
        for key, of_value in values.items()
        if len(of_value) > 1
    ]


def _other_models(runs: Sequence[RunFolder], labels: Sequence[str]) -> list[str]:
    """Systems whose scores are of another training than their replies, as far as both tell it."""
    notes = []
    for run, label in zip(runs, labels, strict=True):
        replies = (run["results"] or {"systems": {}})["systems"]
        for results in run["harness"].values():
            here, there = results["trained"], replies.get(results["system"], {}).get("trained")
            if not here or not there:
                continue
            differing = ["seed"] if here.get("seed") != there.get("seed") else []
            settings = here.get("settings", {})
            differing += [
                key
                for key, value in there.get("settings", {}).items()
                if key in settings and settings[key] != value
            ]
            if differing:
                notes.append(
                    f"The scores of {results['system']} in {label} are of another training than its "
                    f"replies (it differs in {', '.join(differing)})."
                )
    return notes


def _cut_notes(cut: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"Prompts of {task} that lost their beginning: {', '.join(counts)}."
        for task, counts in cut.items()
    ]


def _combined(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values = {label: score["value"] for label, score in scores.items()}
    reasons = {
        label: score.get("reasons", {}).get("value", "its harness.json gives no reason")
        for label, score in scores.items()
        if score["value"] is None
    }
    errors = {label: score["stderr"] for label, score in scores.items()}
    return mean_over_runs(values, reasons) | {"stderr": errors}


def understanding_section(understanding: Mapping[str, Any], *, published: bool = False) -> str:
    """The section as markdown; `published` puts the paper's Table 3 below ours."""
    systems, shown = understanding["systems"], understanding["shown"]
    parts = ["## Language understanding\n\n", _EXPLAINED, _tasks(understanding["facts"])]
    parts += [f"\n{escape(note)}\n" for note in understanding["notes"]]
    for start in range(0, len(shown), COLUMNS):
        parts.append("\n" + _scores(systems, shown[start : start + COLUMNS]))
    if published:
        rows = [[name, *cells.split("; ")] for name, cells in UNDERSTANDING.items()]
        parts.append(_PUBLISHED + table(["system, published", "MMLU", "Open LLM average"], rows))
    return "".join(parts) + _mcnemar(understanding["comparisons"])


def _tasks(facts: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            task,
            of["metric"],
            _shots(of["shots"]),
            number(of["n"], 0),
            str(of.get("version") or "—"),
            str(of.get("dataset") or "—"),
        ]
        for task, of in facts.items()
    ]
    return table(["task", "score", "shots", "items", "version", "data"], rows)


def _shots(shots: int | list[int]) -> str:
    return ", ".join(map(str, shots)) if isinstance(shots, list) else str(shots)


def _scores(systems: Mapping[str, Any], shown: Sequence[str]) -> str:
    rows = []
    for name, scores in systems.items():
        cells = [_score(scores.get(task)) for task in shown]
        runs = {scores[task]["of"] for task in shown if task in scores}
        rows.append([name, *cells, _what_spread(runs)])
    return table(["system", *shown, "±"], rows)


def _what_spread(runs: set[int]) -> str:
    """What stands after ± in a row whose scores are of so many runs."""
    several = sorted(number for number in runs if number > 1)
    if not several:
        return "standard error"
    counts = " or ".join(map(str, several))
    return f"SD over {counts} runs" + "; standard error of one" * (1 in runs)


def _score(score: Mapping[str, Any] | None) -> str:
    """Mean ± spread over runs, or ± the standard error of the only run."""
    if score is None or score["mean"] is None:
        return "—"
    spread = score["sd"]
    if score["of"] < 2:
        spread = next((e for e in score["stderr"].values() if e is not None), None)
    return number(score["mean"]) + (f" ± {number(spread)}" if spread is not None else "")


def _mcnemar(comparisons: Sequence[Mapping[str, Any]]) -> str:
    if not comparisons:
        return ""
    several = len({row["run"] for row in comparisons}) > 1
    rows = [
        [
            f"{row['a']} − {row['b']}" + (f" ({row['run']})" if several else ""),
            row["task"],
            number(row["difference"]),
            number(row["only_a"], 0),
            number(row["only_b"], 0),
            str(row["n"]),
            number(row["p"], 4),
            number(row["p_holm"], 4)
            + (f" {mark(row['p_holm'])}" if row["p_holm"] is not None else ""),
        ]
        for row in comparisons
    ]
    headers = "pair; task; difference; only first right; only second right; items; p; p (Holm)"
    tests = sum(row["p"] is not None for row in comparisons)
    return _MCNEMAR.format(tests=tests) + table(headers.split("; "), rows, left=2)


def not_run_rows(understanding: Mapping[str, Any] | None) -> list[list[str]]:
    """Task with its system, reason, run: every task that did not run, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in (understanding or {"not_run": []})["not_run"]:
        runs = found.setdefault((f"{entry['task']} of {entry['system']}", entry["reason"]), [])
        runs.append(entry["run"])
    return [[*key, ", ".join(dict.fromkeys(runs))] for key, runs in found.items()]
