"""transformers' trainer with checkpoints that are sealed, and a stop that loses nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import TrainOutput

from empo.checkpoints import (
    MANIFEST,
    check,
    checkpoint_of,
    explained,
    make_room,
    rotate,
    seal,
)
from empo.checkpoints.processes import from_main
from empo.checkpoints.random_states import load_random_state, save_random_state
from empo.process import Stopped, StopRequest, stop_when_saved
from empo.records import UserError, make_readable
from empo.runs import Run

logger = logging.getLogger(__name__)


class SealedTrainer(Trainer):
    """Mixed into a trainer: every save ends with its manifest, and only then old ones go.

    SIGTERM and Ctrl-C end a training with a checkpoint after the step that it is at.
    """

    run: Run
    stop: StopRequest = StopRequest()
    """Whether this process was asked to stop."""
    stopped_by: int | None = None
    """The signal that the training stops by; of several processes all have to agree on it."""
    _limit: int | None = None
    """`save_total_limit` while training: the trainer itself deletes what is still needed."""

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """The trainer's; old checkpoints go by `rotate` alone."""
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        if isinstance(self.model, PreTrainedModel) and self.model._keys_to_ignore_on_save is None:
            # not written, being tied to others; the trainer would call them missing in a checkpoint
            self.model._keys_to_ignore_on_save = sorted(self.model.all_tied_weights_keys) or None
        try:
            return super().train(*args, **kwargs)
        finally:
            self.args.save_total_limit = self._limit

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Let a signal stop the training when it is saved; raises Stopped then."""
        self.add_callback(_SaveAndStop(self))
        self.add_callback(Continued)
        with stop_when_saved("this step is done and saved") as self.stop:
            yield
        saved = checkpoint_of(self.args.output_dir, self.state.global_step)
        number = self.stopped_by or self._asked_at_the_end(saved)
        if number is not None:
            raise Stopped(number, f"Saved in {saved}")

    def _asked_at_the_end(self, saved: Path) -> int | None:
        """The signal that came after the last step, where that is saved; else the run goes on to its end."""
        asked = max(gather_object([self.stop.number or 0]))
        return asked if asked and from_main(lambda: (saved / MANIFEST).is_file()) else None

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # a pickle; run.json has the arguments
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            make_readable(folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """The trainer's, in as much room as it needs; then the seal, and only then old ones go.

        Raises UserError where the disk is too small, before or while it is written.
        """
        args, step = self.args, self.state.global_step
        checkpoint = checkpoint_of(args.output_dir, step)
        with explained(checkpoint, args.output_dir):
            if args.should_save:
                make_room(checkpoint, self._least_bytes())
            self.accelerator.wait_for_everyone()
            limit, args.save_total_limit = args.save_total_limit, None
            try:
                super()._save_checkpoint(model, trial)
            finally:
                args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if args.should_save:
                seal(checkpoint, self.run.digest)
                rotate(args.output_dir, step, self._limit or limit, self.state.best_global_step)

    def _least_bytes(self) -> int:
        """Of the weights that are saved and the states of the optimizer, as far as they lie here."""
        weights = self.model.parameters()
        if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            weights = (weight for weight in weights if weight.requires_grad)
        states = [
            tensor.nbytes
            for state in self.optimizer.state.values()
            for tensor in state.values()
            if isinstance(tensor, torch.Tensor)
        ]
        shards = self.args.world_size if self.is_deepspeed_enabled or self.is_fsdp_enabled else 1
        return sum(weight.nbytes for weight in weights) + shards * sum(states)

    def _save_rng_state(self, output_dir: str) -> None:
        """The trainer's, without a pickle."""
        os.makedirs(output_dir, exist_ok=True)  # the main process may not be here yet
        save_random_state(self._random_state(output_dir), self.args.device)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = self._random_state(checkpoint)
        if state.is_file():
            load_random_state(state, self.args.device)
        else:  # a manifest lists all that were saved: there were other processes
            logger.warning("%s is not there: dropout goes on with other random numbers", state)

    def _random_state(self, checkpoint: str) -> Path:
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint) / f"rng_state{rank}.safetensors"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The trainer's; UserError where the files hold more than tensors and numbers."""
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except UnpicklingError:
            raise UserError(
                f"{checkpoint}: optimizer.pt or scheduler.pt holds a pickle that could run code; it "
                "was not run. Somebody has changed the folder after the run: delete the checkpoint, "
                "and give the same command again."
            ) from None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The trainer's, which would take one step more from a checkpoint of the last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_best_model(self) -> None:
        """The trainer's, from a checkpoint that still agrees with its manifest; not at a stop."""
        if self.stopped_by is not None:
            return
        best = Path(self.state.best_model_checkpoint)
        wrong = from_main(lambda: check(best, self.run.digests))
        if wrong is not None:
            raise UserError(
                f"{best}: the best checkpoint cannot be loaded: {wrong}. Give the same command "
                "again: the run makes it anew, from a checkpoint before it where there is one."
            )
        super()._load_best_model()


class _SaveAndStop(TrainerCallback):
    """Stops where that was asked for, and puts the save of an epoch's last step behind its evaluation.

    A checkpoint before that evaluation would be continued without it: its row of the log, and what
    it says about the best checkpoint, would be lost.
    """

    def __init__(self, trainer: SealedTrainer) -> None:
        self.trainer = trainer
        self.ends_epoch = self.put_off = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimizer's step."""
        if args.world_size == 1:
            self.trainer.stopped_by = self.trainer.stop.number
        if self.trainer.stopped_by is not None:
            control.should_save = control.should_training_stop = True
        self.ends_epoch = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        self.put_off = control.should_save and self.ends_epoch
        control.should_save = control.should_save and not self.ends_epoch

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaving the loop looks like the end of an epoch; in its middle nothing of that is due."""
        stopped = self.trainer.stopped_by is not None
        if self.ends_epoch:
            control.should_save = control.should_save or self.put_off
        elif stopped:
            control.should_log = control.should_evaluate = control.should_save = False


class Continued(TrainerCallback):
    """Makes the state of a continued run that of its folder and settings of now."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The best checkpoint may have been moved; how often is logged and saved, been changed."""
        state.compute_steps(args, state.max_steps)  # the state of the checkpoint has its own
        if state.best_global_step:
            best = checkpoint_of(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(best) if best.is_dir() else None
