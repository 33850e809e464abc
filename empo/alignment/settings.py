"""Settings of the training recipes; light to import, so that mistakes show before torch loads.

A recipe takes these settings and every field of trl's SFTConfig or DPOConfig in one YAML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from empo.alignment.data_settings import DataSettings
from empo.alignment.selection_settings import SelectionSettings
from empo.settings import option

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
    transform: Literal["expected", "score", "probability", "logit"] = option(
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
