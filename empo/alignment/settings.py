"""Settings of the training recipes; light to import, so that mistakes show before torch loads.

A recipe takes these settings and every field of trl's SFTConfig or DPOConfig in one YAML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from empo.prompts import SYSTEM_MESSAGE
from empo.settings import option

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "seed": 42,
    "logging_steps": 1,
    "save_total_limit": 2,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
    "bf16": False,
    "gradient_checkpointing": False,
}
"""Values below the YAML where trl's own defaults do not suit a CPU or a run one wants to follow."""


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

    def problems(self) -> list[str]:
        """What cannot work."""
        if self.limit is not None and self.limit < 1:
            return [f"limit: {self.limit} leaves no dialogue; at least 1 is needed."]
        return []


@dataclass(kw_only=True)
class TuningSettings(DataSettings):
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
        if self.merge_adapter and self.load_in_4bit:
            found.append("merge_adapter: a 4-bit base is never merged into; set it to false.")
        return found


@dataclass(kw_only=True)
class DpoSettings(TuningSettings):
    """Settings of recipes/dpo.py."""

    opposites: str | None = option(None, help="own table: csv with label, opposite, source")
    sft_adapter: Literal["merge", "keep"] = option(
        "merge",
        help="merge: reference = SFT weights merged, policy = a fresh adapter on them; "
        "keep: go on training the SFT adapter, reference = a frozen copy of it",
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = super().problems()
        if self.load_in_4bit and self.sft_adapter == "merge":
            found.append("sft_adapter: a 4-bit base is never merged into; set it to keep.")
        if self.full_training and self.sft_adapter == "keep":
            found.append("sft_adapter: keep needs adapters; full_training has none.")
        if self.lora_dropout:
            found.append(f"lora_dropout: DPO runs without dropout, {self.lora_dropout} given.")
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
