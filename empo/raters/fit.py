"""One training to its end with transformers' trainer, from wherever an earlier one was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

SHOWN = {"eval_loss": "loss", "eval_macro_f1": "macro-F1", "eval_spearman_cosine": "Spearman"}
"""Validation metrics that are printed, and their names for a person."""


class EpochLines(TrainerCallback):
    """A line per epoch, whether a bar is shown or not."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What the validation part says."""
        metrics = kwargs["metrics"]
        shown = ", ".join(
            f"{name} {metrics[key]:.4f}" for key, name in SHOWN.items() if key in metrics
        )
        print(f"seed {args.seed}, epoch {state.epoch:.0f}, validation: {shown}", flush=True)


def fit(trainer: Trainer, patience: int | None) -> None:
    """Train until the last epoch, or `patience` epochs without a better validation score.

    Goes on from the newest whole checkpoint in the trainer's folder; the trainer writes
    trainer_state.json last. Where patience had run out already, nothing is trained (transformers
    would forget that it had stopped); the best model is loaded.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochLines())
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    states = Path(trainer.args.output_dir).glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    whole = sorted((state.parent for state in states), key=lambda path: int(path.name[11:]))
    if not whole:
        trainer.train()
        return
    print(f"seed {trainer.args.seed}: goes on from {whole[-1]}")
    state = TrainerState.load_from_json(str(whole[-1] / TRAINER_STATE_NAME))
    stopping = state.stateful_callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
    if patience is not None and stopping.get("early_stopping_patience_counter", 0) >= patience:
        trainer.state = state
        trainer._load_best_model()
        return
    trainer.train(resume_from_checkpoint=str(whole[-1]))
