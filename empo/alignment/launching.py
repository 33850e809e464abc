"""What was asked of the launcher against what really runs; environment of the dependencies."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from empo.alignment.settings import (
    DEFAULTS,
    DPO_DEFAULTS,
    REWARD_DEFAULTS,
    DpoSettings,
    RewardSettings,
)
from empo.records import UserError
from empo.settings import resolve

if TYPE_CHECKING:
    from transformers import TrainingArguments


def defaults_of(settings: type) -> dict[str, Any]:
    """The values below the YAML of a recipe with these settings."""
    own = {DpoSettings: DPO_DEFAULTS, RewardSettings: REWARD_DEFAULTS}
    return own.get(settings, DEFAULTS)


def quiet_dependencies() -> None:
    """Switch off telemetry and known noise of the libraries; call before they are imported."""
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    if not sys.stderr.isatty():  # bars would fill a log file
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse_recipe(
    argv: Sequence[str] | None, name: str, settings: type, config: type, description: str
) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Settings, trl's arguments, the values given and the facts of the launch of recipes/`name`.py.

    Raises UserError for settings, options or a launch that cannot work, before a model is loaded.
    """
    (ours, args), given = resolve(
        argv,
        settings,
        config,
        prog=f"recipes/{name}.py",
        description=description,
        defaults=defaults_of(settings),
    )
    launch = check_launch(args, ours.processes)
    check_options(args)
    return ours, args, given, launch


def check_launch(args: TrainingArguments, processes: int | None = None) -> dict[str, Any]:
    """Compare the requested with the actual distributed type and number of processes.

    accelerate falls back without a word: DeepSpeed on `use_cpu` becomes plain DDP, FSDP on a CPU
    two trainings side by side, a MULTI_CPU configuration one process. Raises UserError then.
    Returns both for the run's manifest.
    """
    requested: dict[str, Any] = {
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "deepspeed": os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
        or args.deepspeed is not None,
        "fsdp": os.environ.get("ACCELERATE_USE_FSDP", "false") == "true",
    }
    state = args.distributed_state
    actual = {
        "processes": args.world_size,
        "type": str(state.distributed_type.value) if state is not None else "NO",
    }
    problems = []
    if requested["processes"] != actual["processes"]:
        problems.append(
            f"{requested['processes']} processes were launched, but they do not form one group "
            f"(world size {actual['processes']}): each would train alone. On a CPU set "
            "`use_cpu: true` and launch with `--multi_gpu --num_processes N`."
        )
    elif actual["processes"] > 1 and actual["type"] == "NO":
        problems.append(
            f"{actual['processes']} processes run, but nothing averages their gradients: each would "
            "train alone. On a CPU set `use_cpu: true`."
        )
    if processes is not None and processes != actual["processes"]:
        problems.append(
            f"the recipe asks for {processes} processes, {actual['processes']} run. Without mpirun "
            "a MULTI_CPU configuration starts one process: launch with "
            f"`accelerate launch --multi_gpu --num_processes {processes}`."
        )
    if requested["deepspeed"] and actual["type"] != "DEEPSPEED":
        problems.append(
            f"DeepSpeed was asked for, {actual['type']} runs. accelerate drops DeepSpeed where "
            "`use_cpu` is true: set `use_cpu: false` in both files (and on a CPU "
            "`ddp_backend: gloo`, DS_ACCELERATOR=cpu)."
        )
    if requested["fsdp"] and actual["type"] != "FSDP":
        problems.append(
            f"FSDP was asked for, {actual['type']} runs. FSDP needs a GPU: take another "
            "configuration on a CPU."
        )
    if args.n_gpu > 1:
        problems.append(
            f"one process sees {args.n_gpu} GPUs and would split every batch over them. Launch one "
            "process per GPU (--multi_gpu), or show it one (CUDA_VISIBLE_DEVICES=0)."
        )
    if problems:
        raise UserError(
            "the launch is not what was asked for:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return {"requested": requested, "actual": actual}


def check_options(args: TrainingArguments) -> None:
    """Refuse options of the trainers that cannot work here or would be ignored, all at once."""
    problems = []
    if args.hub_token is not None:
        problems.append("hub_token: it would be written down; set HF_TOKEN in the environment.")
    if args.remove_unused_columns:
        problems.append(
            "remove_unused_columns: the columns are what rows are made of; leave it false."
        )
    if args.auto_find_batch_size:
        problems.append(
            "auto_find_batch_size: the batch is part of what a run is; lower "
            "per_device_train_batch_size and raise gradient_accumulation_steps."
        )
    if args.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        problems.append("use_liger_kernel: it is not installed (`pip install liger-kernel`).")
    if args.save_strategy.value == "best":
        problems.append("save_strategy: best would not save where a run stops; use select_by.")
    if args.save_only_model:
        problems.append("save_only_model: a run could not be continued exactly.")
    if args.save_on_each_node:
        problems.append("save_on_each_node: a run has one folder, which all nodes share.")
    if args.enable_jit_checkpoint:
        problems.append(
            "enable_jit_checkpoint: a run that it stops would count as complete; lower save_steps."
        )
    if args.push_to_hub and args.hub_strategy != "end":
        problems.append("hub_strategy: a run is published when it is complete; set `end`.")
    for name in args.report_to:
        package = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}.get(name)
        if package and importlib.util.find_spec(package) is None:
            problems.append(f"report_to: {name} is not installed (`pip install {package}`).")
    if hasattr(args, "precompute_ref_log_probs"):  # DPO
        if args.precompute_ref_log_probs and args.ld_alpha is not None:
            problems.append(
                "ld_alpha: it needs the reference token by token; set precompute_ref_log_probs: false."
            )
        if args.precompute_ref_batch_size is not None and args.precompute_ref_batch_size < 1:
            problems.append("precompute_ref_batch_size: at least 1 row is needed.")
        if args.sync_ref_model:
            problems.append("sync_ref_model: the reference is the SFT model throughout.")
        if not args.disable_dropout:
            problems.append("disable_dropout: policy and reference are compared without dropout.")
        if args.max_length is None:
            problems.append("max_length: DPO needs a number of tokens.")
    if hasattr(args, "num_generations"):  # GRPO
        if args.sync_ref_model:
            problems.append("sync_ref_model: the reference is where the run starts, throughout.")
        if args.num_iterations > 1 or args.steps_per_generation > args.gradient_accumulation_steps:
            problems.append(
                "num_iterations, steps_per_generation: replies that serve several optimizer steps are "
                "in no checkpoint, so a run could not be continued exactly; leave both as they are."
            )
    if problems:
        raise UserError(
            "these options cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def repeated_rows(rows: int, batch: int) -> int:
    """Rows that are seen twice per epoch so that every process gets equally full batches."""
    return -rows % batch
