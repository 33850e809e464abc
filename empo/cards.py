"""Model cards written from the facts of a run, never from hopes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from empo.pair_rules import PairRule, pair_rule


def model_card(facts: dict[str, Any]) -> str:
    """A README.md in the hub's format for the model or adapter of a training run.

    `facts` are those of run.json; what is not known yet (a checkpoint in the middle of a run) is
    left out.
    """
    base = facts.get("base_model")
    header: dict[str, Any] = {"tags": ["empo", facts["command"]], "license": "other"}
    if base:
        if "relative" not in base:  # the hub refuses the path of a local folder
            header["base_model"] = base["name"]
        header["library_name"] = "peft" if facts.get("adapter") else "transformers"
    lines = ["---", yaml.safe_dump(header, sort_keys=True).strip(), "---", ""]
    rule = pair_rule(facts)
    lines += [f"# {facts['name']}", "", _summary(facts, rule), "", "## Data", ""]
    for corpus in facts.get("data", []):
        rejected = sum(corpus["rejected"].values())
        lines.append(
            f"- {corpus['source']} [{corpus['split']}]: {corpus['dialogues']:,} dialogues of "
            f"{corpus['rows']:,} rows used, {rejected:,} left out"
        )
    for name, lengths in facts.get("lengths", {}).items():
        lines.append(
            f"- {name}: {lengths['rows']:,} rows, mean {lengths['mean_tokens']} tokens; "
            f"{lengths['shortened']} lost their oldest turns and {lengths['filtered']} were left "
            "out because of the maximum length"
        )
        if unsupervised := lengths.get("unsupervised"):
            lines[-1] += f"; {unsupervised} were left out in which no token carries a loss"
        if packed := lengths.get("packed"):
            lines[-1] += (
                f"; packed into {packed['rows']:,} rows of {packed['mean_dialogues']} dialogues on "
                f"average, {packed['fill']:.0%} filled (batch sizes count packed rows)"
            )
    if rule and rule["without_pairs"]:
        lines.append(
            f"- pairs: {rule['exchanges'] or 0:,} exchanges trained on; {rule['without_pairs']:,} were "
            "left out that have none"
        )
    evaluations = [entry for entry in facts.get("evaluations", []) if entry]
    if evaluations:
        keys = [key for key in evaluations[-1] if key in SHOWN]
        lines += ["", "## Evaluation on the validation split", ""]
        lines += ["| step | " + " | ".join(SHOWN[key] for key in keys) + " |"]
        lines += ["|" + "---|" * (len(keys) + 1)]
        best = facts.get("selection", {}).get("best_step")
        chosen = [
            entry for entry in evaluations[1:-1] if best is not None and entry["step"] == best
        ]
        for entry in (evaluations[0], *chosen, evaluations[-1]):
            cells = " | ".join(f"{entry[key]:.4f}" if key in entry else "—" for key in keys)
            lines.append(f"| {entry.get('step', 0)} | {cells} |")
        lines += [
            "",
            f"n = {facts['lengths']['valid']['rows']:,} rows, one run, seed {facts['seed']}. Values "
            "are means over the evaluation's batches, as the trainer makes them.",
            *_chosen(facts.get("selection", {})),
        ]
    lines += ["", "## Settings", "", "```json", json.dumps(facts["settings"], indent=2), "```"]
    lines += ["", "## Versions", ""]
    lines += [f"- {name} {version}" for name, version in facts["versions"].items()]
    lines += [
        "",
        "## Limits",
        "",
        "Trained on the reply style of one corpus. A reply that reads as empathetic is no sign that "
        "anything was understood; do not use it for advice or care without people. The licence of "
        "the base model and of the corpus apply.",
        "",
    ]
    return "\n".join(lines)


SHOWN = {
    "eval_loss": "loss",
    "eval_rewards/accuracies": "reward accuracy",
    "eval_rewards/margins": "reward margin",
    "eval_logps/chosen": "log p(chosen)",
    "eval_logps/rejected": "log p(rejected)",
    "eval_reward": "reward",
    "eval_kl": "KL to the reference",
    "eval_completions/mean_length": "tokens of a reply",
}


def _chosen(selection: Mapping[str, Any]) -> list[str]:
    """On what the step was chosen that the weights are of, where it was chosen at all."""
    if selection.get("best_step") is None:
        return []
    most = "highest" if selection["greater_is_better"] else "lowest"
    return [
        f"The weights are those of step {selection['best_step']}, the checkpoint with the {most} "
        f"{selection['metric']} ({selection['best_value']:.4f}) on {selection['n']:,} validation "
        "exchanges."
    ]


def _summary(facts: dict[str, Any], rule: PairRule | None) -> str:
    what = {
        "base": "A small causal language model trained from scratch on dialogues.",
        "sft": "Fine-tuned on whole dialogues with the loss on the listener's turns only.",
        "dpo": rule and f"Aligned by DPO: {_preferred(rule)}",
        "reward": "Trained by GRPO on replies sampled from itself, rewarded by a rater. That rater's "
        "scores are no measure of this model.",
    }[facts["command"]]
    base = facts.get("base_model")
    identity = (
        str(base.get("sha256") or base.get("commit") or base.get("revision"))[:12] if base else ""
    )
    on = f" Base: {base['name']} ({identity})." if base else ""
    reference = f" Reference: {facts['reference']}." if facts.get("reference") else ""
    rewards = "; ".join(entry["name"] + _rewarded(entry) for entry in facts.get("reward", []))
    return f"{what}{on}{reference}" + (f" Reward: {rewards}." if rewards else "")


def _preferred(rule: PairRule) -> str:
    """What the pairs preferred to what, and by whom they were chosen."""
    count, by = rule["candidates"], " and ".join(rule["raters"])
    if rule["dimensions"]:
        by += f" ({', '.join(rule['dimensions'])})"
    if rule["at_equal_length"]:
        by += ", without the effect of length"
    no_measure = "That rater's scores are no measure of this model."
    if len(rule["raters"]) > 1:
        no_measure = "Those raters' scores are no measure of this model."
    if rule["source"] == "sampled":
        apart = "" if rule["margin"] is None else f" at least {rule['margin']:g} below it"
        return (
            f"of {count} replies that the policy itself gave to a context, the best preferred to one "
            f"of the worst{apart}, as ranked by {by}. No human reply was preferred. {no_measure}"
        )
    text = "the human reply preferred to a reply given to a speaker with the opposite emotion"
    if rule["on_topic"] is not None:
        text += f", out of the {rule['on_topic']} whose contexts are most alike"
    if not rule["raters"]:
        return f"{text}, drawn anew every epoch."
    which = {"hardest": "the best of", "easiest": "the worst of"}.get(rule["choose"], "one of")
    text += f", {which} {count} candidates drawn anew every epoch"
    if rule["margin"] is not None:
        text += f", where the human reply scores at least {rule['margin']:g} more"
    return f"{text}, as scored by {by}. {no_measure}"


def _rewarded(entry: Mapping[str, Any]) -> str:
    """What was rewarded on-policy; nothing where the rater chose pairs."""
    if "dimensions" not in entry:
        return ""
    of = ", ".join(f"{weight:g} x {name}" for name, weight in entry["dimensions"].items())
    residual = ", without the effect of length" * entry["length_residual"]
    return f" ({of}, {entry['transform']}{residual})"


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
