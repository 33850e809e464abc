"""Model cards written from the facts of a run, never from hopes."""

from __future__ import annotations

import json
from typing import Any

import yaml


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
    lines += [f"# {facts['name']}", "", _summary(facts), "", "## Data", ""]
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
    evaluations = [entry for entry in facts.get("evaluations", []) if entry]
    if evaluations:
        keys = [key for key in evaluations[-1] if key in SHOWN]
        lines += ["", "## Evaluation on the validation split", ""]
        lines += ["| step | " + " | ".join(SHOWN[key] for key in keys) + " |"]
        lines += ["|" + "---|" * (len(keys) + 1)]
        for entry in (evaluations[0], evaluations[-1]):
            cells = " | ".join(f"{entry[key]:.4f}" for key in keys)
            lines.append(f"| {entry.get('step', 0)} | {cells} |")
        lines += [
            "",
            f"n = {facts['lengths']['valid']['rows']:,} rows, one run, seed {facts['seed']}.",
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
}


def _summary(facts: dict[str, Any]) -> str:
    what = {
        "base": "A small causal language model trained from scratch on dialogues.",
        "sft": "Fine-tuned on whole dialogues with the loss on the listener's turns only.",
        "dpo": "Aligned by DPO: the human reply preferred to a reply given to a speaker with the "
        "opposite emotion, drawn anew every epoch.",
    }[facts["command"]]
    base = facts.get("base_model")
    identity = (
        str(base.get("sha256") or base.get("commit") or base.get("revision"))[:12] if base else ""
    )
    on = f" Base: {base['name']} ({identity})." if base else ""
    reference = f" Reference: {facts['reference']}." if facts.get("reference") else ""
    return f"{what}{on}{reference}"
