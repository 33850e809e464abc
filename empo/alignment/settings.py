"""Settings of the training recipes; light to import, so that mistakes show before torch loads.

A recipe takes these settings and every field of trl's SFTConfig or DPOConfig in one YAML file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from empo.prompts import SYSTEM_MESSAGE
from empo.records import UserError
from empo.settings import option

if TYPE_CHECKING:
    from transformers import TrainingArguments

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "seed": 42,
    "logging_steps": 1,
    "save_total_limit": 2,
    "hub_strategy": "end",
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_nan_inf_filter": False,
}
"""Values below the YAML where trl's own defaults do not suit a CPU or a run one wants to follow."""

DPO_DEFAULTS: dict[str, Any] = {**DEFAULTS, "precompute_ref_log_probs": True}
"""The same for DPO, whose reference is run once for the draws of all epochs."""


REWARD_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "beta": 0.04,
    "num_generations": 8,
    "max_completion_length": 60,
    "log_completions": False,
}
"""The same for GRPO; trl's own has no reference and replies of up to 256 tokens."""


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
class DataSettings:
    """Which dialogues are trained on and how they are put into a prompt."""

    dialogues: str = option(help="corpus: file, folder with train/valid/test, or hub:owner/name")
    split: str = option("train", help="split to train on")
    valid: str | None = option(
        None, help="validation corpus (default: split `valid` of a folder or hub corpus)"
    )
    mapping: str | None = option(None, help="YAML with the column names of another corpus")
    limit: int | None = option(None, help="use only the first N dialogues of each split")
    chat_template: str | None = option(
        None, help="`zephyr` or a .jinja file with generation markers (default: the tokenizer's)"
    )
    system_message: str | None = option(SYSTEM_MESSAGE, help="system message; null for none")
    threads: int | None = option(
        None, help="CPU threads (default: all); a tiny model is as fast on one, and steadier"
    )
    processes: int | None = option(
        None, help="number of processes this recipe must run on; another number stops it"
    )
    fresh: bool = option(
        False, help="begin a new run, in a folder beside output_dir where that is in use"
    )
    accept_changes: bool = option(
        False, help="continue a run although settings, data, template or processes have changed"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if self.limit is not None and self.limit < 1:
            found.append(f"limit: {self.limit} leaves no dialogue; at least 1 is needed.")
        if self.fresh and self.accept_changes:
            found.append("fresh: a new run has no changes to accept; leave accept_changes out.")
        return found


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


@dataclass(kw_only=True)
class TuningSettings(SelectionSettings):
    """Which model is trained and which of its weights."""

    model: str = option(help="model to start from: hub id, model folder or run folder")
    revision: str | None = option(None, help="revision of a hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", help="type the base weights are loaded in"
    )
    attention: str | None = option(None, help="attention backend: sdpa, flash_attention_2, ...")
    load_in_4bit: bool = option(False, help="QLoRA: quantise the base to 4 bits (needs a GPU)")
    full_training: bool = option(False, help="train all weights instead of LoRA adapters")
    lora_r: int = option(16, help="rank of the adapters")
    lora_alpha: int = option(32, help="scale of the adapters; the update is scaled by alpha/r")
    lora_dropout: float = option(0.0, help="dropout on the adapters' input (0 in DPO)")
    lora_targets: list[str] = option(
        default_factory=lambda: list(TARGETS), help="linear layers that get an adapter"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.full_training and self.load_in_4bit:
            found.append("load_in_4bit: 4-bit weights cannot be trained; use adapters.")
        if self.lora_r < 1:
            found.append(f"lora_r: {self.lora_r} is no rank; at least 1 is needed.")
        if not 0 <= self.lora_dropout < 1:
            found.append(f"lora_dropout: {self.lora_dropout} is not in [0, 1).")
        forbidden = {"lm_head", "embed_tokens"} & set(self.lora_targets)
        if forbidden:
            found.append(
                f"lora_targets: {', '.join(sorted(forbidden))} stays frozen (trl's fused head "
                "would ignore an adapter there)."
            )
        return found


@dataclass(kw_only=True)
class SftSettings(TuningSettings):
    """Settings of recipes/sft.py."""

    merge_adapter: bool = option(
        True, help="save the merged model beside the adapter: the DPO reference and the system sft"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.select_by == "reward_accuracy":
            found.append("select_by: only DPO has a reward_accuracy; SFT has a loss.")
        if self.merge_adapter and self.load_in_4bit:
            found.append("merge_adapter: a 4-bit base is never merged into; set it to false.")
        return found


@dataclass(kw_only=True)
class DpoSettings(TuningSettings):
    """Settings of recipes/dpo.py."""

    opposites: str | None = option(None, help="own table: csv with label, opposite, source")
    pairs: str | None = option(
        None,
        help="folder of `empo pairs` with the training pairs, an epoch per file (default: plain "
        "draws); validation pairs are drawn",
    )
    sft_adapter: Literal["merge", "keep"] = option(
        "merge",
        help="merge: reference = SFT weights merged, policy = a fresh adapter on them; "
        "keep: go on training the SFT adapter, reference = a frozen copy of it",
    )
    rejected_per_prompt: int = option(
        1, help="rejected replies drawn per prompt and epoch; the loss is the mean of their pairs"
    )
    shared_prefix: bool | None = option(
        None,
        help="compute a prompt once for all its replies: same loss, fewer tokens (default: true "
        "where the architecture was verified)",
    )
    tokens_per_batch: int | None = option(
        None,
        help="put rows of like length together, up to this many tokens a batch; "
        "per_device_train_batch_size is then the most rows",
    )
    reference_cache: str | None = option(
        None,
        help="folder of the reference's log-probabilities; runs may share it "
        "(default: `reference` in the run folder)",
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.load_in_4bit and self.sft_adapter == "merge":
            found.append("sft_adapter: a 4-bit base is never merged into; set it to keep.")
        if self.full_training and self.sft_adapter == "keep":
            found.append("sft_adapter: keep needs adapters; full_training has none.")
        if self.rejected_per_prompt < 1:
            found.append(
                f"rejected_per_prompt: {self.rejected_per_prompt} is no pair; at least 1 is needed."
            )
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            found.append(f"tokens_per_batch: {self.tokens_per_batch} is no number of tokens.")
        if self.lora_dropout:
            found.append(f"lora_dropout: DPO runs without dropout, {self.lora_dropout} given.")
        return found


@dataclass(kw_only=True)
class RewardSettings(TuningSettings):
    """Settings of recipes/reward.py."""

    rater: list[str] = option(help="rater folders whose scores are the reward")
    dimensions: list[str] | None = option(
        None, help="dimensions that are rewarded (default: all of the rater)"
    )
    weights: list[float] | None = option(
        None, help="their weights, in the same order (default: 1 each)"
    )
    transform: str = option(
        "expected",
        help="expected (mean of the levels by their probabilities), score, probability or logit (of "
        "`level` or more)",
    )
    level: float | None = option(
        None, help="transform probability and logit: of this level or more (default: the highest)"
    )
    length_residual: bool = option(
        False, help="take out of the reward what goes with the length of human replies"
    )
    max_prompt_length: int = option(
        256, help="tokens of a prompt; a longer one loses its oldest turns"
    )
    rater_device: str | None = option(None, help="device of the raters (default: that of torch)")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.load_in_4bit:
            found.append(
                "load_in_4bit: a 4-bit base is never merged into; merge SFT, and use bf16."
            )
        if self.weights is not None and len(self.weights) != len(self.dimensions or ()):
            found.append("weights: one weight per entry of `dimensions` is expected.")
        if self.dimensions is not None and len(set(self.dimensions)) < len(self.dimensions):
            found.append("dimensions: one stands there twice.")
        if self.select_by == "reward_accuracy":
            found.append("select_by: only DPO has a reward_accuracy.")
        return found


@dataclass(kw_only=True)
class BaseSettings(DataSettings):
    """Settings of recipes/base.py: a small model from scratch."""

    vocab_size: int = option(2000, help="size of the BPE vocabulary trained on the corpus")
    hidden_size: int = option(64, help="width of the model")
    layers: int = option(2, help="number of layers")
    heads: int = option(4, help="attention heads; half as many key-value heads")
    loss_on: Literal["all", "replies"] = option(
        "all", help="learn all tokens, or only the listener's"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.hidden_size % self.heads:
            found.append(f"hidden_size: {self.hidden_size} is no multiple of heads {self.heads}.")
        if self.vocab_size < 300:
            found.append(f"vocab_size: {self.vocab_size} leaves no room above the 256 bytes.")
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
