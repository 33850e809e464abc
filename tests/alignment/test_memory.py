"""Too little memory: the message says what to lower in this run, and nothing that would not help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainingArguments,
)
from trl import DPOConfig, SFTConfig

from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.memory import memory_explained
from empo.alignment.pair_batches import EpochCollator
from empo.alignment.run_trainer import RunTrainer
from empo.alignment.sft import MaskedTurnTrainer
from empo.records import UserError
from empo.runs import Run

BATCH = (
    "per_device_train_batch_size: 3 (now 6) with gradient_accumulation_steps: 4 (now 2): an "
    "optimizer step sees as many rows as before"
)
EVALUATION = "per_device_eval_batch_size: 4 (now 8)"
LENGTH = "max_length: less than 20 (memory grows with the longest row)"
CHECKPOINTING = "gradient_checkpointing: true (a third more time)"
BF16 = "bf16: true"
HALF = "dtype: bfloat16 (half the memory of the frozen weights)"
FOUR = "load_in_4bit: true (a quarter of that; needs bitsandbytes)"
NO_REPLIES = "select_by: loss, without select_metrics: no replies are generated then"
ZERO_3 = (
    "accelerate launch --config_file accelerate_configs/deepspeed_zero3.yaml: the 2 processes share "
    "the weights"
)
NOTHING_ELSE = "a machine with more memory, or a smaller model"


def full(*_: Any, **__: Any) -> torch.Tensor:
    """Asks for more bytes than any machine has."""
    return torch.empty(2**57, dtype=torch.uint8)


def made(folder: Path, kind: type = MaskedTurnTrainer, **given: Any) -> RunTrainer:
    """An SFT or a DPO of two rows."""
    usual = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none"}
    usual |= {"gradient_checkpointing": False, "remove_unused_columns": False, "max_steps": 3}
    usual |= {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
    usual |= {"save_steps": 1, "disable_tqdm": True, "max_length": 20}
    more = {name: given.pop(name) for name in ("measure", "tokens_per_batch") if name in given}
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    if kind is MaskedTurnTrainer:
        config: Callable[..., TrainingArguments] = SFTConfig
        usual |= {"dataset_kwargs": {"skip_prepare_dataset": True}}
        rows = [{"id": n, "row": 0, "input_ids": [3, 4, 5], "labels": [-100, 4, 5]} for n in "ab"]
    else:
        config = DPOConfig
        more |= {"data_collator": EpochCollator(0), "reference_folder": folder / "reference"}
        row = {"row": 0, "prompt_ids": [3, 4], "chosen_ids": [5, 2], "rejected_pool": [[6, 2]]}
        rows = [{"id": name, "length": length} | row for name, length in (("a", 9), ("b", 7))]
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    trainer = kind(
        model=LlamaForCausalLM(LlamaConfig(**sizes, **heads)),
        args=config(**(usual | given)),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        **more,
    )
    folder.mkdir(exist_ok=True)
    trainer.run = Run.start(folder / "facts", "sft", {})
    trainer.run.facts["name"] = "full"
    return trainer


def advice(error: pytest.ExceptionInfo[UserError]) -> list[str]:
    """The lines of a message that say what to lower."""
    lines = str(error.value).splitlines()
    return [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]


def test_a_step_that_needs_too_much_says_what_to_lower_and_what_is_left(tmp_path: Path) -> None:
    """The second step fails; the checkpoint of the first is sealed."""
    trainer = made(tmp_path)
    compute = trainer.compute_loss

    def second(*args: Any, **kwargs: Any) -> Any:
        return (full if trainer.state.global_step else compute)(*args, **kwargs)

    trainer.compute_loss = second
    with pytest.raises(UserError) as error:
        trainer.train()
    said = str(error.value)
    assert said.startswith("the memory does not suffice for training, after 1 steps ([enforce fail")
    assert "can't allocate memory" in said
    assert advice(error) == [BATCH, LENGTH, CHECKPOINTING]
    assert said.splitlines()[-1] == (
        "`--accept-changes` continues this run where what it has learnt fits; else `--fresh` begins a "
        "new one. checkpoint-1 in "
        f"{tmp_path} stays usable: on a machine with more memory, or where another program took it, "
        "the same command goes on from it."
    )
    assert (tmp_path / "checkpoint-1" / "manifest.json").is_file()


def test_where_nothing_is_saved_nothing_is_promised(tmp_path: Path) -> None:
    """The newest checkpoint by number counts, not by name, and only with its manifest."""
    trainer = made(tmp_path)
    (tmp_path / "checkpoint-30").mkdir()
    with pytest.raises(UserError) as error, memory_explained(trainer, "training"):
        full()
    assert str(error.value).endswith(f"Nothing was saved in {tmp_path} yet.")
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "manifest.json").touch()
    found = pytest.raises(UserError, match=r"checkpoint-10 in .* stays usable")
    with found, memory_explained(trainer, "training"):
        full()


def test_an_optimizer_that_does_not_fit_is_no_traceback_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its states are made in the first step, outside of what the trainer calls a training step."""
    trainer = made(tmp_path)
    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(
        UserError, match=r"^the memory does not suffice for training, after 0 steps"
    ):
        trainer.train()


def test_an_evaluation_lowers_what_an_evaluation_needs(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    trainer.compute_loss = full
    with pytest.raises(UserError, match=r"^the memory does not suffice for evaluation") as error:
        trainer.evaluate()
    assert advice(error) == [EVALUATION, LENGTH]


def test_replies_that_do_not_fit_are_told_from_losses(tmp_path: Path) -> None:
    trainer = made(tmp_path, measure=full)
    with pytest.raises(UserError, match=r"^the memory does not suffice for replies") as error:
        trainer.evaluate()
    assert advice(error) == [NO_REPLIES]


@pytest.mark.parametrize(
    ("rows", "steps", "said"),
    [
        (8, 1, "4 (now 8) with gradient_accumulation_steps: 2 (now 1)"),
        (9, 2, "3 (now 9) with gradient_accumulation_steps: 6 (now 2)"),
        (7, 1, "1 (now 7) with gradient_accumulation_steps: 7 (now 1)"),
        (1, 4, None),
    ],
)
def test_the_batch_of_an_optimizer_step_stays(
    tmp_path: Path, rows: int, steps: int, said: str | None
) -> None:
    batch = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
    trainer = made(tmp_path, **batch, gradient_checkpointing=True, max_length=None)
    with pytest.raises(UserError) as error, memory_explained(trainer, "training"):
        full()
    whole = "per_device_train_batch_size: {}: an optimizer step sees as many rows as before"
    assert advice(error) == [NOTHING_ELSE if said is None else whole.format(said)]


def test_batches_cut_by_tokens_are_lowered_in_tokens(tmp_path: Path) -> None:
    trainer = made(tmp_path, RedrawnDPOTrainer, tokens_per_batch=20)
    with pytest.raises(UserError) as error, memory_explained(trainer, "training"):
        full()
    assert advice(error) == [
        "tokens_per_batch: half of it, with gradient_accumulation_steps: 4 (now 2); at least 9, the "
        "longest row",
        LENGTH,
        CHECKPOINTING,
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, [BATCH, LENGTH, CHECKPOINTING, BF16, HALF, FOUR]),
        ({"world_size": 2}, [BATCH, LENGTH, CHECKPOINTING, BF16, HALF, FOUR, ZERO_3]),
        ({"world_size": 2, "fsdp": True}, [BATCH, LENGTH, CHECKPOINTING, BF16, HALF]),
        ({"world_size": 2, "quantised": True}, [BATCH, LENGTH, CHECKPOINTING, BF16]),
        ({"dtype": torch.bfloat16}, [BATCH, LENGTH, CHECKPOINTING, FOUR]),
    ],
    ids=str,
)
def test_a_gpu_has_more_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: list[str]
) -> None:
    trainer = made(tmp_path)
    device = property(lambda _: torch.device("cuda"))
    monkeypatch.setattr(TrainingArguments, "device", device)
    processes = property(lambda _: changed.get("world_size", 1))
    monkeypatch.setattr(TrainingArguments, "world_size", processes)
    trainer.is_fsdp_enabled = "fsdp" in changed
    trainer.model.get_base_model().is_quantized = "quantised" in changed
    trainer.model.to(changed.get("dtype", torch.float32))
    with pytest.raises(UserError) as error, memory_explained(trainer, "training"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")
    assert "after 0 steps (CUDA out of memory. Tried to allocate 2.00 GiB.)." in str(error.value)
    assert advice(error) == said


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("x")]
)
def test_other_words_for_it(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError), memory_explained(made(tmp_path), "training"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("x"), UserError("y")])
def test_what_is_not_about_memory_passes(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as seen, memory_explained(made(tmp_path), "training"):
        raise error
    assert seen.value is error
