"""Results folders, each one run: what eval/responses.py and eval/harness.py wrote, read and checked.

Runs of one report are training seeds or cells of a sweep. Their numbers stand beside each other, so
they must come from the same exchanges, references and metrics; everything else is refused here.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from empo.metrics.shared_exchanges import HUMAN
from empo.records import UserError, listed, shown
from empo.reporting.harness_results import read_harness
from empo.reporting.per_response import read_per_response
from empo.reporting.results import PER_RESPONSE, read_results
from empo.reporting.survey_results import SURVEY_FILE, read_survey


class RunFolder(TypedDict):
    """One run: results.json, values per system and exchange, harness files by path, survey.json.

    `per_response` maps system -> id -> name of a value -> number or None, in the order of the file.
    """

    folder: str
    results: dict[str, Any] | None
    per_response: dict[str, dict[str, dict[str, float | None]]] | None
    harness: dict[str, dict[str, Any]]
    survey: NotRequired[dict[str, Any] | None]


def read_folders(folders: Sequence[str | Path]) -> list[RunFolder]:
    """Read the folders of one report; UserError where their numbers cannot stand beside each other."""
    seen: dict[Path, str | Path] = {}
    for folder in folders:
        place = Path(folder).resolve()
        if place in seen:
            raise UserError(
                f"{folder}: the same folder as {seen[place]}. Give every run once, or its spread "
                "would be too small."
            )
        seen[place] = folder
    runs = [read_folder(folder) for folder in folders]
    check_comparable(runs)
    return runs


def read_folder(folder: str | Path) -> RunFolder:
    """Read what one folder has of results.json, per_response.jsonl, harness.json and survey.json."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(
            f"{folder}: no such folder. Give the folders that eval/responses.py or eval/harness.py "
            "wrote, not files in them."
        )
    results = None
    if (path / "results.json").is_file():
        results = read_results(path / "results.json")
        _check_names(path / "results.json", results)
    files = [path / "harness.json", *sorted(path.glob("harness/*/harness.json"))]
    harness = {str(file): read_harness(file) for file in files if file.is_file()}
    survey = read_survey(path / SURVEY_FILE) if (path / SURVEY_FILE).is_file() else None
    if results is None and not harness and survey is None:
        raise UserError(
            f"{folder}: neither results.json nor harness.json nor {SURVEY_FILE} is there. Give the "
            "--output of eval/responses.py, eval/harness.py or `empo survey analyse`."
        )
    per_response = None
    if results is not None and (path / PER_RESPONSE).is_file():
        per_response = read_per_response(path / PER_RESPONSE, results)
    return {
        "folder": str(folder),
        "results": results,
        "per_response": per_response,
        "harness": harness,
        "survey": survey,
    }


def _check_names(path: Path, results: Mapping[str, Any]) -> None:
    """UserError where the file speaks of a system that it has not."""
    known = results["systems"]
    spoken = [
        *[
            (f"comparisons.{i}.{key}", row[key])
            for i, row in enumerate(results["comparisons"])
            for key in "ab"
        ],
        *[
            (f"samples.{i}.responses", name)
            for i, row in enumerate(results["samples"])
            for name in row["responses"]
        ],
    ]
    for field, name in spoken:
        if name not in known:
            raise UserError(
                f"{path}, field {field!r}: {shown(name)} is none of its systems ({listed(known)}). Measure "
                "the responses again with eval/responses.py."
            )


def check_comparable(runs: Sequence[RunFolder]) -> None:
    """Refuse runs whose metrics, exchanges or references differ; UserError says which and where."""
    measured = [run for run in runs if run["results"] is not None]
    signatures: dict[str, tuple[str, str]] = {}
    for run in measured:
        for metric, signature in run["results"]["signatures"].items():
            known, folder = signatures.setdefault(metric, (signature, run["folder"]))
            if signature != known:
                raise UserError(
                    f"{metric} was not measured in the same way in {folder} and {run['folder']}, so "
                    f"its numbers are not comparable:\n  - {folder}: {known}\n"
                    f"  - {run['folder']}: {signature}\nMeasure all runs with the same settings."
                )
    _check_references(measured)


def _check_references(runs: Sequence[RunFolder]) -> None:
    """The same id must mean the same human reply in every run, as far as the files can tell."""
    texts: dict[str, tuple[Any, str]] = {}
    lengths: dict[str, tuple[Any, str]] = {}
    for run in runs:
        replies = {s["id"]: s["responses"].get(HUMAN) for s in run["results"]["samples"]}
        of_human = (run["per_response"] or {}).get(HUMAN, {})
        characters = {key: values.get("length.characters") for key, values in of_human.items()}
        for known, found, what in (
            (texts, replies, "the human reply is"),
            (lengths, characters, "the characters of the human reply are"),
        ):
            for key, value in found.items():
                before, folder = known.setdefault(key, (value, run["folder"]))
                if value != before:
                    raise UserError(
                        f"{run['folder']}, {key}: {what} {shown(value)}, but {shown(before)} in "
                        f"{folder}. Runs of one report must answer the same exchanges."
                    )
    first: dict[frozenset[str], tuple[str, str]] = {}
    for run in runs:
        digest = run["results"]["systems"].get(HUMAN, {}).get("digest")
        if HUMAN not in (run["per_response"] or ()) or digest is None:
            continue
        ids = frozenset(run["per_response"][HUMAN])
        known, folder = first.setdefault(ids, (digest, run["folder"]))
        if digest != known:
            raise UserError(
                f"{run['folder']}: its exchanges have the ids of those of {folder}, but other human "
                f"replies (digest {digest[:12]} here, {known[:12]} there). Runs of one report must "
                "answer the same exchanges."
            )


def any_results(run: RunFolder) -> dict[str, Any]:
    """The first file of a run, for what all of them have: created, versions, seed, command."""
    others = [*run["harness"].values(), run.get("survey")]
    return run["results"] or next(filter(None, others))


def shared_ids(runs: Iterable[RunFolder]) -> list[str] | None:
    """The exchanges that all runs with values per response have, in the order of the first.

    None where no run has such values; UserError where there is no such exchange.
    """
    listed = [
        (run["folder"], list(next(iter(run["per_response"].values()))))
        for run in runs
        if run["per_response"]
    ]
    if not listed:
        return None
    first, shared = listed[0]
    for folder, ids in listed[1:]:
        here = set(ids)
        left = [key for key in shared if key in here]
        if not left:
            raise UserError(
                f"{folder}: it shares no exchange with {first} (ids such as {shown(ids[0])} and "
                f"{shown(shared[0])}). Give runs that were measured on the same exchanges."
            )
        shared = left
    return shared


def training(run: RunFolder) -> dict[str, dict[str, Any] | None]:
    """System -> its `trained` (command, seed, settings), None where the run does not say it."""
    found: dict[str, dict[str, Any] | None] = {}
    if run["results"] is not None:
        for name, system in run["results"]["systems"].items():
            found[name] = system.get("trained")
    for results in run["harness"].values():
        found[results["system"]] = found.get(results["system"]) or results.get("trained")
    return found


def reply_sets(
    runs: Sequence[RunFolder], members: Iterable[tuple[int, str]]
) -> dict[int, Hashable]:
    """Run's number -> what is equal where a system's replies are of one training or one model.

    `members` are the system's run numbers and its names there; a run whose replies have no digest
    is left out. Two trainings with different seeds that end in the same replies are two. Where a run
    does not tell its seed, equal replies are one set only if all runs have them, as those of a
    model that was not trained again; else they may be two trainings that agree.
    """
    digests: dict[int, str | None] = {}
    seeds: dict[int, Any] = {}
    for i, name in members:
        found = (runs[i]["results"] or {"systems": {}})["systems"].get(name)
        if found is not None:
            digests[i] = found.get("digest")
            seeds[i] = (training(runs[i]).get(name) or {}).get("seed")
    told = {seed for seed in seeds.values() if seed is not None}
    same = len(set(digests.values())) == 1 and len(told) < 2
    return {
        i: digest if same else i if seeds[i] is None else (digest, seeds[i])
        for i, digest in digests.items()
        if digest is not None
    }


def label_runs(runs: Sequence[RunFolder]) -> list[str]:
    """One short name per run: its training seed where every run has one of its own, else its folder.

    Systems that were not trained again (the same replies in several runs) have no say in the seed.
    """
    of_name: dict[str, list[tuple[int, str]]] = {}
    for i, run in enumerate(runs):
        for name in (run["results"] or {"systems": {}})["systems"]:
            of_name.setdefault(name, []).append((i, name))
    replies = {name: list(reply_sets(runs, members).values()) for name, members in of_name.items()}
    fixed = {name for name, of in replies.items() if len(of) > 1 and len(set(of)) == 1}
    seeds = []
    for run in runs:
        found = {t.get("seed") for n, t in training(run).items() if t and n not in fixed}
        seeds.append(found.pop() if len(found) == 1 else None)
    if None not in seeds and len(set(seeds)) == len(seeds):
        return [f"seed {seed}" for seed in seeds]
    parts = [Path(run["folder"]).resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def mean_over_runs(
    values: Mapping[str, float | None], reasons: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Mean and sample standard deviation over the runs that have a value, and the values themselves.

    `values` maps a run's label to its value; `reasons` says why a run has none. `of` is the number
    of runs behind the mean.
    """
    known = [value for value in values.values() if value is not None]
    why: dict[str, str] = {}
    if not known:
        why["mean"] = "; ".join(dict.fromkeys((reasons or {}).values())) or "no run has this value"
    if len(known) < 2:
        why["sd"] = "needs two runs that have this value"
    combined: dict[str, Any] = {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "of": len(known),
        "runs": dict(values),
    }
    why |= {f"runs.{label}": text for label, text in (reasons or {}).items()}
    return combined | ({"reasons": why} if why else {})
