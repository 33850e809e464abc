"""One report over several runs: values combined as mean and spread over runs, systems compared.

Systems are matched by name. The content of the report's JSON file is made here from the content of
results folders (`run_folders`), numbers only; `runs_report` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from empo.metrics.shared_exchanges import HUMAN
from empo.records import UserError
from empo.reporting.language_understanding import language_understanding
from empo.reporting.ratings import rewarding
from empo.reporting.run_comparisons import compare_over_runs
from empo.reporting.run_counts import add_counts, counts_of
from empo.reporting.run_folders import (
    RunFolder,
    any_results,
    label_runs,
    mean_over_runs,
    reply_sets,
    shared_ids,
    training,
)
from empo.reporting.run_notes import notes_on
from empo.reporting.run_trainings import differing_settings, pair_rules, sweeps, system_names
from empo.runs import now

REPORT_SCHEMA = "empo.report/1"


class Report(TypedDict):
    """The file beside a combined report. Beside a null stands its reason in `reasons`.

    `systems` maps a name to `runs` (labels of those that count), `same` (label -> label of the run
    with the same replies, which stands for it), `fixed` (it is the same in every run, as the
    references are), `trained` (label -> command, seed, settings, pairs), `rewarded_by` (the raters
    whose weights chose its replies or rewarded its training), `values` (metric.value -> mean, sd, of,
    runs) and `counts` (histograms, levels and confusions of responses, nested as in results.json,
    summed over the runs that count). `surveys` maps a label to what its survey.json has. `settings`
    maps a training setting that differs to system -> its values, `pairs` a system to the rule of its
    pairs and the exchanges it trained on. `sweeps` are the settings along which systems differ in
    nothing else.
    """

    schema: Literal["empo.report/1"]
    created: str
    published: bool
    runs: list[dict[str, Any]]
    shared: int | None
    systems: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]
    language_understanding: dict[str, Any] | None
    surveys: dict[str, dict[str, Any]]
    settings: dict[str, dict[str, list[Any]]]
    pairs: dict[str, dict[str, Any]]
    sweeps: list[dict[str, Any]]
    versions: dict[str, dict[str, str]]
    signatures: dict[str, str]
    warnings: list[str]
    not_run: list[dict[str, Any]]
    notes: list[str]
    samples: dict[str, Any] | None
    command: NotRequired[str]


def combine(runs: Sequence[RunFolder], *, published: bool | None = None) -> Report:
    """Combine the runs of one report.

    `published` puts the paper's rows beside ours; None: where every results.json was measured on the
    paper's exchanges. UserError where it is asked for and one was not, where runs share no exchange
    or harness scores are not comparable.
    """
    labels = label_runs(runs)
    names = system_names(runs)
    measured = [run["results"] for run in runs if run["results"] is not None]
    if published:
        _require_published(runs)
    elif published is None:
        published = bool(measured) and all(results.get("published") for results in measured)
    systems = {
        name: _system(runs, labels, [key for key, value in names.items() if value == name])
        for name in sorted(dict.fromkeys(names.values()), key=lambda name: name == HUMAN)
    }
    trained = {name: system["trained"] for name, system in systems.items() if system["trained"]}
    ids = shared_ids(runs)
    report: Report = {
        "schema": REPORT_SCHEMA,
        "created": now(),
        "published": published,
        "runs": [_run(run, label) for run, label in zip(runs, labels, strict=True)],
        "shared": None if ids is None else len(ids),
        "systems": systems,
        "comparisons": compare_over_runs(runs, labels, systems, names, ids or [])
        if len(runs) > 1
        else [],
        "language_understanding": language_understanding(runs, labels, names),
        "surveys": {
            label: survey
            for run, label in zip(runs, labels, strict=True)
            if (survey := run.get("survey"))
        },
        "settings": differing_settings(trained),
        "pairs": pair_rules(trained),
        "sweeps": sweeps(trained),
        "versions": _versions(runs, labels),
        "signatures": {k: v for results in measured for k, v in results["signatures"].items()},
        "warnings": list(
            dict.fromkeys(text for results in measured for text in results.get("warnings", ()))
        ),
        "not_run": _not_run(runs, labels),
        "notes": notes_on(runs, labels, systems, names, ids),
        "samples": _samples(runs, labels, names),
    }
    return report


def _require_published(runs: Sequence[RunFolder]) -> None:
    for run in runs:
        if run["results"] is not None and run["results"].get("published") is not True:
            raise UserError(
                f"--published true: {run['folder']}/results.json does not say that it was measured on "
                "the paper's 2,540 exchanges (published: true), so the paper's rows cannot stand "
                "beside it. Leave --published out, or measure the responses to that split with "
                "eval/responses.py --subset published."
            )


def _run(run: RunFolder, label: str) -> dict[str, Any]:
    results = any_results(run)
    systems = (run["results"] or {}).get("systems", {})
    trained = {name: of.get("seed") for name, of in training(run).items() if of}
    return {
        "label": label,
        "folder": run["folder"],
        "training_seeds": trained,
        "seed": results.get("seed"),
        "n": max((system["n"] for system in systems.values()), default=None),
        "created": results["created"],
        "command": results.get("command"),
        "harness": {file: of.get("command") for file, of in run["harness"].items()},
        "per_response": run["per_response"] is not None,
    }


def _system(
    runs: Sequence[RunFolder], labels: Sequence[str], members: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Values of one system over the runs that count, each set of replies once."""
    found: dict[Any, str] = {}
    same: dict[str, str] = {}
    counts: dict[str, Any] = {}
    sets = reply_sets(runs, members)
    with_results = [run for run in runs if run["results"] is not None]
    in_runs = 0
    values: dict[str, dict[str, float | None]] = {}
    reasons: dict[str, dict[str, str]] = {}
    trained = {}
    rewarded: set[str] = set()
    for i, name in members:
        if of := training(runs[i])[name]:
            trained[labels[i]] = of
        rewarded |= rewarding(runs[i]["results"] or {}, name)
        system = (runs[i]["results"] or {"systems": {}})["systems"].get(name)
        if system is None:
            continue
        in_runs += 1
        replies = HUMAN if name == HUMAN else sets.get(i, i)
        if found.setdefault(replies, labels[i]) != labels[i]:
            same[labels[i]] = found[replies]
            continue
        for key, value, reason in _numbers(system["metrics"]):
            values.setdefault(key, {})[labels[i]] = value
            if value is None:
                reasons.setdefault(key, {})[labels[i]] = reason
        where = f"{runs[i]['folder']}/results.json, {name!r}"
        counts = add_counts(counts, counts_of(system["metrics"]), where)
    return {
        "runs": list(found.values()),
        "same": same,
        "fixed": len(found) == 1 and (HUMAN in found or 1 < in_runs == len(with_results)),
        "trained": trained,
        "rewarded_by": sorted(rewarded),
        "values": {key: mean_over_runs(of, reasons.get(key)) for key, of in values.items()},
        "counts": counts,
    }


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float | None, str]]:
    """Every number of nested values under its dotted name, and why it is None where it is."""
    reasons = values.get("reasons") or {}
    for key, value in values.items():
        if key == "reasons":
            continue
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}.")
        elif value is None or type(value) in (int, float):
            yield f"{above}{key}", value, reasons.get(key, "its results.json gives no reason")


def _versions(runs: Sequence[RunFolder], labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """Package -> label -> version; of results.json, else of another file."""
    found: dict[str, dict[str, str]] = {}
    for run, label in zip(runs, labels, strict=True):
        results = any_results(run)
        for package, version in results["versions"].items():
            found.setdefault(package, {})[label] = version
    return found


def _not_run(runs: Sequence[RunFolder], labels: Sequence[str]) -> list[dict[str, Any]]:
    """What did not run, each reason once with the runs it is of."""
    found: dict[tuple[str, str], list[str]] = {}
    for run, label in zip(runs, labels, strict=True):
        for entry in (run["results"] or {"not_run": []})["not_run"]:
            found.setdefault((entry["metric"], entry["reason"]), []).append(label)
    return [
        {"metric": metric, "reason": reason, "runs": of} for (metric, reason), of in found.items()
    ]


def _samples(
    runs: Sequence[RunFolder], labels: Sequence[str], names: Mapping[tuple[int, str], str]
) -> dict[str, Any] | None:
    """The samples of the first run that has responses, under the names of the report."""
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        if run["results"] is not None:
            samples = [
                {**sample, "responses": {names[i, k]: v for k, v in sample["responses"].items()}}
                for sample in run["results"]["samples"]
            ]
            return {"run": label, "seed": run["results"]["seed"], "samples": samples}
    return None
