"""By what checkpoints are compared on validation data, and how the trainer keeps the best."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo.alignment.data_settings import DataSettings
from empo.records import UserError
from empo.settings import option

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Selectable:
    """A value of the validation split that checkpoints can be compared by."""

    key: str
    """Its name in the log."""
    metric: str | None
    """The metric on validation replies that it comes from; None where the trainer logs it anyway."""
    greater_is_better: bool | None
    """None where neither direction is better as such."""


SELECTABLE = {
    "loss": Selectable("eval_loss", None, False),
    "reward_accuracy": Selectable("eval_rewards/accuracies", None, True),
    "diff_epitome": Selectable("eval_diff_epitome", "diff_epitome", False),
    "bertscore": Selectable("eval_bertscore", "bertscore", True),
    "nidf": Selectable("eval_nidf", "nidf", None),
    **{
        f"iva_{dimension}": Selectable(f"eval_iva_{dimension}", "iva", None)
        for dimension in ("intensity", "valence", "arousal", "dominance")
    },
    "length": Selectable("eval_length", "length", None),
    "trie_compression_ratio": Selectable("eval_trie_compression_ratio", "trie", None),
}
"""By the name that `select_by` takes."""

REPLY_METRICS = tuple(dict.fromkeys(s.metric for s in SELECTABLE.values() if s.metric is not None))
"""What `select_metrics` takes: metrics that need replies of the model."""


@dataclass(kw_only=True)
class SelectionSettings(DataSettings):
    """What is measured on replies to validation exchanges, and which checkpoint is kept by it."""

    select_by: str | None = option(
        None,
        help=f"keep the checkpoint that is best by one of {', '.join(SELECTABLE)} "
        "(default: the last)",
    )
    select_metrics: list[str] | None = option(
        None, help=f"metrics on validation replies to log: {', '.join(REPLY_METRICS)}"
    )
    select_sample: int = option(64, help="number of validation exchanges that are replied to")
    select_rater: list[str] | None = option(
        None, help="rater folders, for diff_epitome: together all three EPITOME mechanisms"
    )
    select_lexicons: str | None = option(None, help="folder with the NRC lexicons, for iva")
    select_bertscore: str = option(
        "roberta-large", help="encoder of bertscore: minilm (packaged), a folder, or a hub id"
    )

    @property
    def reply_metrics(self) -> list[str]:
        """Every metric on validation replies that is asked for, also by `select_by`."""
        chosen = SELECTABLE[self.select_by].metric if self.select_by else None
        return list(dict.fromkeys([*(self.select_metrics or ()), *([chosen] if chosen else ())]))

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.select_by is not None and self.select_by not in SELECTABLE:
            known = ", ".join(SELECTABLE)
            return [*found, f"select_by: {self.select_by!r} is unknown; known: {known}."]
        if unknown := [name for name in self.reply_metrics if name not in REPLY_METRICS]:
            known = ", ".join(REPLY_METRICS)
            found.append(f"select_metrics: {', '.join(unknown)} is unknown; known: {known}.")
        if self.select_sample < 1:
            found.append(f"select_sample: {self.select_sample} is no sample; at least 1 is needed.")
        wanted = "diff_epitome" in self.reply_metrics
        if wanted and not self.select_rater:
            found.append(
                "select_rater: diff_epitome needs raters of the three EPITOME mechanisms; train "
                "them with recipes/rater.py and name their folders."
            )
        if self.select_rater and not wanted:
            found.append("select_rater: only diff_epitome uses it, and it is not asked for.")
        for folder in self.select_rater or ():
            if not Path(folder).is_dir():
                found.append(f"select_rater: {folder}: no such folder.")
        if "iva" in self.reply_metrics and self.select_lexicons is None:
            found.append("select_lexicons: iva needs the NRC lexicons; name their folder.")
        if self.reply_metrics or self.select_by:
            source = Path(self.valid or "")
            if source.stem == "test":
                found.append(
                    f"valid: {source} is a test split by its name. What chooses a checkpoint cannot "
                    "measure it afterwards; name validation data."
                )
        return found


def choose_best(
    settings: SelectionSettings, args: TrainingArguments, given: dict[str, Any]
) -> None:
    """Have the trainer keep the best checkpoint by `select_by` and load it at the end.

    `given` are the values that the user gave. Raises UserError with everything that contradicts it,
    or that leaves nothing to choose from.
    """
    name, problems = settings.select_by, []
    evaluated, saved = args.eval_strategy.value, args.save_strategy.value
    if name is None and settings.reply_metrics and evaluated == "no":
        problems.append("eval_strategy: nothing is ever evaluated; set `epoch` or `steps`.")
    if settings.reply_metrics and (args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
        problems.append(
            "select_metrics: no replies can be generated from weights that FSDP has sharded; use "
            "DeepSpeed, or select_by loss or reward_accuracy."
        )
    asked = str(given.get("metric_for_best_model") or "")
    asked = asked if asked.startswith("eval_") or not asked else f"eval_{asked}"
    if name is None:
        ours = {choice.key: other for other, choice in SELECTABLE.items() if choice.metric}
        if asked in ours:
            problems.append(
                f"metric_for_best_model: set `select_by: {ours[asked]}` instead, which knows what "
                "is better and what it needs."
            )
    else:
        best, direction = SELECTABLE[name], given.get("greater_is_better")
        apart = evaluated == "steps" and args.eval_steps != args.save_steps
        if evaluated == "no" or evaluated != saved or apart:
            problems.append(
                "select_by: every evaluation needs its checkpoint; set eval_strategy and "
                "save_strategy both to `epoch`, or both to `steps` with equal eval_steps and "
                "save_steps."
            )
        if asked not in ("", best.key):
            problems.append(f"metric_for_best_model: {asked} contradicts select_by: {name}.")
        if given.get("load_best_model_at_end") is False:
            problems.append("load_best_model_at_end: false contradicts select_by.")
        if best.greater_is_better is None and direction is None:
            clear = [other for other, s in SELECTABLE.items() if s.greater_is_better is not None]
            problems.append(
                f"select_by: neither more nor less {name} is better as such. Say which with "
                f"greater_is_better, or choose by {', '.join(clear)}."
            )
        if None not in (best.greater_is_better, direction) and direction != best.greater_is_better:
            problems.append(
                f"greater_is_better: {str(direction).lower()} is wrong, "
                f"{'more' if best.greater_is_better else 'less'} {name} is better."
            )
    if problems:
        raise UserError(
            "checkpoints cannot be chosen like this:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    if name is not None:
        args.metric_for_best_model, args.load_best_model_at_end = best.key, True
        args.greater_is_better = (
            direction if best.greater_is_better is None else best.greater_is_better
        )
