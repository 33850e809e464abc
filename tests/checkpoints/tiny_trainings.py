"""A training of some thousand weights, and what the tests of its checkpoints ask and do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import MistralConfig, MistralForCausalLM
from trl import SFTConfig

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints import check
from empo.runs import Run
from empo.small_models import train_tokenizer

TOKENIZER = train_tokenizer(["a friend is sad today and hopes that it is better tomorrow"] * 8, 280)


def make(folder: Path, adapter: bool = True, **changed: Any) -> MaskedTurnTrainer:
    """A real trainer of a model of some thousand weights; a checkpoint after every step, one kept."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(TOKENIZER)}
    rows = Dataset.from_list([{"input_ids": [*range(3, 11)], "labels": [*range(3, 11)]}] * 8)
    given: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "save_total_limit": 1}
    given |= {"learning_rate": 0.05, "save_strategy": "steps"}
    args = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        per_device_train_batch_size=4,
        dataset_kwargs={"skip_prepare_dataset": True},
        **{**given, **changed},
    )
    trained = MaskedTurnTrainer(
        model=MistralForCausalLM(MistralConfig(**sizes, **heads)),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=2, lora_dropout=0.5, task_type="CAUSAL_LM") if adapter else None,
    )
    trained.run = Run.start(folder, "sft", {"seed": 42})
    trained.run.save(name="run", seed=42)
    return trained


def usable(folder: Path, digest: str) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*") if not check(path, {digest}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
