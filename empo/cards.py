"""Model cards written from the facts of a run, never from hopes."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
