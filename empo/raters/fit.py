"""One training to its end with transformers' trainer, from wherever an earlier one was stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import EarlyStoppingCallback, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

logger = logging.getLogger(__name__)


def fit(trainer: Trainer, patience: int | None) -> None:
    """Train until the last epoch, or `patience` epochs without a better validation score.

    Goes on from the newest whole checkpoint in the trainer's folder; the trainer writes
    trainer_state.json last. Where patience had run out already, nothing is trained (transformers
    would forget that it had stopped); the best model is loaded.
    """
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    states = Path(trainer.args.output_dir).glob(f"checkpoint-*/{TRAINER_STATE_NAME}")
    whole = sorted((state.parent for state in states), key=lambda path: int(path.name[11:]))
    if not whole:
        trainer.train()
        return
    logger.info("going on from %s", whole[-1])
    state = TrainerState.load_from_json(str(whole[-1] / TRAINER_STATE_NAME))
    stopping = state.stateful_callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
    if patience is not None and stopping.get("early_stopping_patience_counter", 0) >= patience:
        trainer.state = state
        trainer._load_best_model()
        return
    trainer.train(resume_from_checkpoint=str(whole[-1]))
