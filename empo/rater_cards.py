"""Cards of raters: what their scores mean, what they learnt from, what shows that they work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml


def rater_card(facts: Mapping[str, Any]) -> str:
    """A README.md in the hub's format for a rater: what its scores mean and what shows it.

    `facts`: name, kind, dimensions (as JSON), data (facts of the labelled corpus; of several:
    corpora), licence (of the data), split (group, folds, split_seed, inner_validation_by, sizes),
    settings, seeds, evaluation (aggregated over the seeds), signature, golden (context, response and
    scores of inputs of one's own, and probabilities of levels), warnings, versions, agreement (of
    the annotators: what was measured, by dimension; None if not known). Where they are given: note
    (what the labels are, if no annotator gave them), label_dimensions (the scale of the labels, as
    JSON), encoder (name and identity).
    """
    header = {"library_name": "empo", "license": "other", "pipeline_tag": "text-classification"}
    tags = {"tags": ["empo", "empathy", "rater", facts["kind"]]}
    lines = ["---", yaml.safe_dump(header | tags, sort_keys=True).strip(), "---", ""]
    lines += [f"# {facts['name']}", "", facts.get("note") or ANNOTATED, "", RATER_LIMITS, ""]
    lines += [f"> **Warning.** {warning}\n" for warning in facts["warnings"]]
    lines += ["## Task", "", _rater_task(facts), ""]
    lines += _rater_dimensions(facts)
    lines += ["## Data", "", *_rater_data(facts), "", "## Scores on held-out groups", ""]
    lines += _rater_scores(facts)
    lines += ["## Agreement of the annotators", "", *_agreement(facts["agreement"]), ""]
    lines += ["## Golden sample", "", "The same weights must give the same scores.", ""]
    lines += _grid(
        ["context", "response", *(dimension["name"] for dimension in facts["dimensions"])],
        [
            [sample["context"], sample["response"]]
            + [_golden(sample, d) for d in facts["dimensions"]]
            for sample in facts["golden"]
        ],
    )
    lines += ["## Signature", "", f"`{facts['signature']}`", ""]
    lines += ["## Settings", "", "```json", json.dumps(_rater_settings(facts), indent=2), "```"]
    lines += ["", "## Versions", ""]
    lines += [f"- {name} {version}" for name, version in facts["versions"].items()]
    return "\n".join([*lines, ""])


ANNOTATED = "Scores what annotators saw in texts like those below."
RATER_LIMITS = (
    "**Not for clinical use, and not for the assessment of individual people.** A score says nothing about what a writer felt, and nothing "
    "about texts of another kind or language."
)

_SCORES = {
    "classes": {"macro_f1": "macro F1", "accuracy": "accuracy", "weighted_f1": "weighted F1"},
    "interval": {"mse": "MSE", "mae": "MAE", "pearson": "Pearson", "spearman": "Spearman"},
}


def _rater_task(facts: Mapping[str, Any]) -> str:
    names = ", ".join(dimension["name"] for dimension in facts["dimensions"])
    encoder = facts.get("encoder")
    on = f" Encoder: {encoder['name']} ({encoder['identity']})." if encoder else ""
    return (
        f"Kind {facts['kind']}: reads a context and a response and gives the response a score in "
        f"{names}, in the range below. Scores are never clipped.{on}"
    )


def _rater_dimensions(facts: Mapping[str, Any]) -> list[str]:
    """What the scores are, and beside it on which scale the labels stood that they learnt from."""
    labels = {d["name"]: d for d in facts.get("label_dimensions", ())}
    headers = ["dimension", "kind", "range", "levels"] + ["range of the labels"] * bool(labels)
    rows = []
    for own in facts["dimensions"]:
        row = [own["name"], own["kind"], _range(own), _levels(own["levels"])]
        if own["name"] in labels:
            row.append(_range(labels[own["name"]]))
        elif labels:  # one score, of a similarity, learnt from labels of other names
            row.append("; ".join(f"{name} {_range(d)}" for name, d in labels.items()))
        rows.append(row)
    return _grid(headers, rows)


def _rater_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the folders of the machine on which the rater was trained."""
    settings = dict(facts["settings"])
    for name in ("data", "test", "definitions", "agreement"):
        value = settings.get(name)
        if isinstance(value, str):
            settings[name] = _file_name(value)
        elif isinstance(value, Sequence):
            settings[name] = [_file_name(path) for path in value]
    if "encoder" in facts and "encoder" in settings:
        settings["encoder"] = facts["encoder"]["name"]
    return settings


def _file_name(path: str) -> str:
    return PurePath(path).name


def _range(dimension: Mapping[str, Any]) -> str:
    return f"{dimension['low']:g} to {dimension['high']:g}"


def _golden(sample: Mapping[str, Any], dimension: Mapping[str, Any]) -> str:
    """The score of a dimension, with the probability of every level where there are some."""
    name = dimension["name"]
    text = _figure(sample["scores"][name], 4)
    shares = sample.get("probabilities", {}).get(name)
    if shares is None:
        return text
    of = zip(dimension["levels"], shares, strict=True)
    return f"{text} ({', '.join(f'{level:g}: {_figure(p, 4)}' for level, p in of)})"


def _rater_data(facts: Mapping[str, Any]) -> list[str]:
    split = facts["split"]
    sizes = "; ".join(
        ", ".join(f"{name} {size:,}" for name, size in part.items()) for part in split["sizes"]
    )
    corpora = facts["corpora"] if "corpora" in facts else [facts["data"]]
    lines = [
        f"- {_file_name(data['source'])} [{data['schema']}]: {data['examples']:,} examples in "
        f"{data['groups']:,} groups, {sum(data['rejected'].values()):,} left out"
        for data in corpora
    ]
    lines += [
        f"- licence of the data: {facts['licence']}",
        f"- split: {split['group']}; folds {split['folds']}, seed {split['split_seed']} ({sizes}); "
        f"the epoch was chosen on an inner validation part, drawn by {split['inner_validation_by']}",
    ]
    for data in corpora:
        of = f" in {_file_name(data['source'])}" if len(corpora) > 1 else ""
        for name, labels in data["labels"].items():
            if len(labels) <= 20:
                support = ", ".join(f"{level}: {count:,}" for level, count in labels.items())
                lines.append(f"- labels of {name}{of}: {support}")
    return lines


def _rater_scores(facts: Mapping[str, Any]) -> list[str]:
    evaluation = facts["evaluation"]
    seeds = ", ".join(map(str, facts["seeds"]))
    what = f"seed {seeds}: value, and in brackets its interval."
    if len(facts["seeds"]) > 1:
        what = (
            f"seeds {seeds}: mean ± standard deviation over seeds, and in brackets the interval from "
            "the lowest to the highest bound of all seeds."
        )
    lines = [
        f"n = {_count(evaluation['n'])} inputs in {_count(evaluation['groups'])} groups, {what} "
        f"{evaluation['method']}",
        *evaluation["notes"],
        "",
    ]
    rows: list[list[str]] = []
    classes: list[list[str]] = []
    further: list[list[str]] = []
    for name, entry in evaluation["dimensions"].items():
        predictors = entry["predictors"]
        for key, label in _SCORES[entry["task"]].items():
            values = [_score(predictors[who].get(key)) for who in predictors]
            rows.append([name, label, _count(entry["n"]), *values])
        for level, of in predictors["rater"].get("classes", {}).items():
            values = [_score(of[key]) for key in ("precision", "recall", "f1")]
            classes.append([name, level, _count(of["support"]), *values])
        calibration, length = entry["calibration"], entry["length_correlation"]
        ece = "none: no probabilities" if calibration is None else _score(calibration["ece"])
        moves = [_score(length[who]["spearman"]) for who in ("rater", "gold")]
        further.append([name, ece, *moves])
    who = list(dict.fromkeys(p for e in evaluation["dimensions"].values() for p in e["predictors"]))
    lines += _grid(["dimension", "value", "n", *who], rows)
    lines += _rater_differences(evaluation)
    if classes:
        lines += _grid(["dimension", "level", "support", "precision", "recall", "F1"], classes)
    lines += [
        "Calibration (expected error of the top probability) and correlation (Spearman) with the "
        "characters of the response:",
        "",
    ]
    lines += _grid(["dimension", "ECE", "scores and length", "labels and length"], further)
    for flag, text in (("truncated", "contexts"), ("response_truncated", "responses")):
        cut = evaluation[flag]
        share = "not recorded" if cut is None else _share(cut, evaluation["n"])
        lines.append(f"- truncated {text}: {share}")
    return [*lines, ""]


def _rater_differences(evaluation: Mapping[str, Any]) -> list[str]:
    """The paired differences to the baselines: what shows that the rater is one."""
    named = [(name, entry, entry["n"]) for name, entry in evaluation["dimensions"].items()]
    named += [
        (f"mean over {', '.join(mean['dimensions'])}", mean, evaluation["n"])
        for mean in evaluation["mean"].values()
        if len(mean["dimensions"]) > 1
    ]
    labels = {key: label for values in _SCORES.values() for key, label in values.items()}
    rows = [
        [name, f"rater against {baseline}", labels[key], _count(n), _score(found)]
        for name, entry, n in named
        for baseline, differences in entry["differences"].items()
        for key, found in (differences or {}).items()
    ]
    if not rows:
        return ["No baseline could be fitted, so nothing shows that this is a measure.", ""]
    return [
        "Paired differences to the baselines on the same inputs, positive where the rater is better "
        "(for errors: baseline − rater). Only an interval above 0 shows something.",
        "",
        *_grid(["dimension", "pair", "value", "n", "difference"], rows),
    ]


def _agreement(agreement: Mapping[str, Any] | None) -> list[str]:
    if agreement is None:
        return ["Not given. Without it nobody knows how good a rater can be."]
    return [f"- {name}: {measured}" for name, measured in agreement.items()]


def _score(entry: Mapping[str, Any] | None) -> str:
    value = None if entry is None else entry.get("value", entry.get("difference"))
    if entry is None or value is None:
        return "—"
    text = _figure(value)
    if entry["sd_seeds"] is not None:
        text += f" ± {_figure(entry['sd_seeds'])}"
    if entry["interval"] is not None:
        text += f" [{_figure(entry['interval'][0])}, {_figure(entry['interval'][1])}]"
    return text


def _figure(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else f"{value:z.{digits}f}"


def _count(value: int | Sequence[int]) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value[0]:,} to {value[1]:,}"


def _share(part: int | Sequence[int], whole: int | Sequence[int]) -> str:
    if isinstance(part, int) and isinstance(whole, int):
        return f"{part:,} of {whole:,} ({part / whole:.1%})"
    return f"{_count(part)} of {_count(whole)}"


def _levels(levels: Sequence[float] | None) -> str:
    return "any value" if levels is None else ", ".join(f"{level:g}" for level in levels)


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a markdown table; a pipe or a line break in a cell does not end it."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(c.split()).replace('|', chr(92) + '|') for c in cells)} |"

    return [line(headers), line(["---"] * len(headers)), *map(line, rows), ""]
