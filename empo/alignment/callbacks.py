"""What watches a training: its log file, its lines on the screen, the order of its batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from empo.alignment.selection_settings import SELECTABLE
from empo.cards import SHOWN
from empo.records import finite, write_jsonl

LOG = "log.jsonl"
ON_REPLIES = tuple(choice.key for choice in SELECTABLE.values() if choice.metric)
"""Keys of the log that come from validation replies."""


class LogFile(TrainerCallback):
    """Keeps `log.jsonl` in the run folder equal to the trainer's log, also after a resume."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / LOG

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start from the log of the checkpoint, so that steps done twice stand there once."""
        if state.is_world_process_zero:
            write_jsonl(self.path, map(log_entry, state.log_history))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the newest entry."""
        if state.is_world_process_zero and state.log_history:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(log_entry(state.log_history[-1])) + "\n")


def log_entry(logged: dict[str, Any]) -> dict[str, Any]:
    """A log entry as JSON: a value that is no finite number (an overflown gradient) is null."""
    return {k: finite(v) if isinstance(v, float) else v for k, v in logged.items()}


class SeedSampler(TrainerCallback):
    """Seeds a sampler for every epoch, so that a run continued in its middle sees the same order."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first batch of an epoch is asked for, also when it is continued."""
        self.generator.manual_seed(args.seed + int(state.epoch or 0))


class TokensSeen(TrainerCallback):
    """Lets trl count the tokens of a continued run on from its last row of the log, not from 0."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The log of the checkpoint is there."""
        logged = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if logged and hasattr(self.trainer, "_total_train_tokens"):
            self.trainer._total_train_tokens = int(logged[-1])


class Progress(ProgressCallback):
    """trl's progress bar with the loss beside it; only evaluations get a line of their own."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Every step is in log.jsonl; the screen gets what a person follows."""
        if self.training_bar is None or not logs:
            return
        if "eval_loss" in logs:
            self.training_bar.write(_evaluation_line(logs))
        elif line := _reward_line(logs, state):
            self.training_bar.write(line)
        elif "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


class Lines(TrainerCallback):
    """In place of the bar where nobody watches a terminal: a line per evaluation, or of rewards."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print evaluations, and ten times in a run what is rewarded."""
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            print(_evaluation_line(logs), flush=True)
        elif line := _reward_line(logs, state):
            print(line, flush=True)


def _evaluation_line(logs: dict[str, float]) -> str:
    keys = [key for key in (*SHOWN, *ON_REPLIES) if key in logs]
    # adding 0 makes -0.0 a plain 0
    text = ", ".join(f"{key.removeprefix('eval_')} {round(logs[key], 4) + 0:.4f}" for key in keys)
    return f"epoch {logs.get('epoch', 0):.2f}, validation: {text}"


def _reward_line(logs: dict[str, float], state: TrainerState) -> str | None:
    """Reward, distance and length of the sampled replies, about ten times in a run; else None."""
    if "reward" not in logs or state.global_step % max(1, state.max_steps // 10):
        return None
    shown = {"reward": "reward", "kl": "KL", "reply_characters": "characters"}
    text = ", ".join(f"{name} {logs[key]:.3f}" for key, name in shown.items() if key in logs)
    return f"step {state.global_step:,} of {state.max_steps:,}: {text}"
