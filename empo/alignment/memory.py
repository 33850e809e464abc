"""Where the memory does not suffice: what to lower in this very run, in place of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from peft import PeftModel

from empo.checkpoints import MANIFEST
from empo.records import UserError

if TYPE_CHECKING:
    from empo.alignment.run_trainer import RunTrainer

_FULL = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
"""Of torch's CPU allocator, of CUDA outside torch's allocator, of cuBLAS: plain RuntimeErrors."""


@contextmanager
def memory_explained(
    trainer: RunTrainer, phase: Literal["training", "evaluation", "replies", "the reference"]
) -> Iterator[None]:
    """Turn an error about memory into a UserError that says what to lower in this very run."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
            text in str(error) for text in _FULL
        ):
            raise
        step, folder = trainer.state.global_step, Path(trainer.args.output_dir)
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        sealed = [path.parent.name for path in folder.glob(f"checkpoint-*/{MANIFEST}")]
        last = max(sealed, key=lambda name: int(name.rpartition("-")[2]), default=None)
        raise UserError(
            f"the memory does not suffice for {phase}, after {step} steps ({said}). What would help:"
            + "".join(f"\n  - {line}" for line in _remedies(trainer, phase))
            + "\n`--accept-changes` continues this run where what it has learnt fits; else `--fresh` "
            "begins a new one. "
            + (
                f"{last} in {folder} stays usable: on a machine with more memory, or where another "
                "program took it, the same command goes on from it."
                if last
                else f"Nothing was saved in {folder} yet."
            )
        ) from error


def _remedies(trainer: RunTrainer, phase: str) -> list[str]:
    args, accelerator = trainer.args, trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    gpu, quantised = args.device.type == "cuda", getattr(model, "is_quantized", False)
    plugin = accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    sharded = trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
    lines = []
    if phase == "training":
        lines += _smaller_batch(trainer)
    elif phase == "evaluation" and (rows := args.per_device_eval_batch_size) > 1:
        lines.append(f"per_device_eval_batch_size: {rows // 2} (now {rows})")
    elif phase == "the reference":
        rows = args.precompute_ref_batch_size or args.per_device_eval_batch_size
        if rows > 1:
            lines.append(f"precompute_ref_batch_size: {rows // 2} (now {rows})")
    elif phase == "replies":
        lines.append("select_by: loss, without select_metrics: no replies are generated then")
    if phase != "replies" and args.max_length is not None:
        lines.append(f"max_length: less than {args.max_length} (memory grows with the longest row)")
    if phase == "training" and not args.gradient_checkpointing:
        lines.append("gradient_checkpointing: true (a third more time)")
    if gpu and accelerator.mixed_precision == "no" and model.dtype == torch.float32:
        lines.append("bf16: true")
    if gpu and isinstance(model, PeftModel) and not quantised:
        if model.dtype == torch.float32:
            lines.append("dtype: bfloat16 (half the memory of the frozen weights)")
        if not sharded:
            lines.append("load_in_4bit: true (a quarter of that; needs bitsandbytes)")
    if gpu and args.world_size > 1 and not sharded and not quantised:
        lines.append(
            "accelerate launch --config_file accelerate_configs/deepspeed_zero3.yaml: the "
            f"{args.world_size} processes share the weights"
        )
    return lines or ["a machine with more memory, or a smaller model"]


def _smaller_batch(trainer: RunTrainer) -> list[str]:
    args = trainer.args
    rows, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if trainer.batches is not None:
        longest = max(trainer.train_dataset["length"])
        return [
            f"tokens_per_batch: half of it, with gradient_accumulation_steps: {2 * steps} (now "
            f"{steps}); at least {longest:,}, the longest row"
        ]
    if rows == 1:
        return []
    factor = next(number for number in range(2, rows + 1) if rows % number == 0)
    return [
        f"per_device_train_batch_size: {rows // factor} (now {rows}) with "
        f"gradient_accumulation_steps: {steps * factor} (now {steps}): an optimizer step sees as "
        "many rows as before"
    ]
