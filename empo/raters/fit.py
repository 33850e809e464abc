"""One training to its end with transformers' trainer, from wherever an earlier one was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from empo.checkpoints import checkpoint_of, last_checkpoint, sweep
from empo.checkpoints.trainer import SealedTrainer
from empo.process import Stopped
from empo.runs import Run

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


def fit(trainer: SealedTrainer, run: Run, patience: int | None) -> None:
    """Train until the last epoch, or `patience` epochs without a better validation score.

    Goes on from the newest checkpoint in the trainer's folder that is whole and of `run`. Where
    patience had run out already, nothing is trained (transformers would forget that it had
    stopped); the best model is loaded. SIGTERM and Ctrl-C save a checkpoint and raise `Stopped`.
    """
    trainer.run = run
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochLines())
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    folder, seed = trainer.args.output_dir, trainer.args.seed
    last = last_checkpoint(folder, run.digests, with_best=True)
    sweep(folder)
    if last is not None:
        print(f"seed {seed}: goes on from {last}", flush=True)
        state = TrainerState.load_from_json(str(Path(last) / TRAINER_STATE_NAME))
        stopping = state.stateful_callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
        if patience is not None and stopping.get("early_stopping_patience_counter", 0) >= patience:
            state.best_model_checkpoint = str(checkpoint_of(folder, state.best_global_step))
            trainer.state = state
            trainer._load_best_model()
            return
    with trainer.stopping():
        trainer.train(resume_from_checkpoint=last)
    if trainer.stop.number is not None:  # it came after the last step
        raise Stopped(trainer.stop.number)
