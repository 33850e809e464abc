"""When the trainer saves, evaluates and ends; and its private names."""

from __future__ import annotations

import inspect
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainings import make, names
from transformers import Trainer, TrainerCallback, TrainerState, trainer, trainer_utils
from trl import DPOTrainer, SFTTrainer

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints import STATE, last_checkpoint
from empo.process import Stopped

CHANGED = (
    "transformers has changed {}: adapt empo.checkpoints, then this test and the version range."
)


# --- the ends of epochs ---


class TermedAt(TrainerCallback):
    """Sends this process a SIGTERM in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Before its first batch."""
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def logged(trained: MaskedTurnTrainer) -> list[tuple[int, list[str]]]:
    """Step and kind of every row of the log."""
    return [
        (row["step"], [key for key in ("loss", "eval_loss") if key in row])
        for row in trained.state.log_history
    ]


EPOCHS: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2, "logging_steps": 1}
EPOCHS |= {"eval_strategy": "epoch"}


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stop_leaves_the_evaluations_of_a_run_that_was_not_stopped(
    tmp_path: Path, strategy: str, step: int
) -> None:
    """Two steps to an epoch: stopped in its middle nothing is evaluated, at its end before the save."""
    whole = make(tmp_path / "whole", **EPOCHS, save_strategy=strategy)
    with whole.stopping():
        whole.train()
    expected = [(1, ["loss"]), (2, ["loss"]), (2, ["eval_loss"]), (3, ["loss"]), (4, ["loss"])]
    expected += [(4, ["eval_loss"]), (4, [])]
    assert logged(whole) == expected
    stopped = make(tmp_path / "run", **EPOCHS, save_strategy=strategy)
    stopped.add_callback(TermedAt(step))
    with pytest.raises(Stopped, match=f"checkpoint-{step}"), stopped.stopping():
        stopped.train()
    assert logged(stopped) == [row for row in expected if row[0] <= step] + [(step, [])]
    run = stopped.run
    on = make(tmp_path / "on", **EPOCHS, save_strategy=strategy)
    on.args.output_dir, on.run = str(tmp_path / "run"), run
    last = last_checkpoint(tmp_path / "run", run.digests)
    assert last == str(tmp_path / "run" / f"checkpoint-{step}")
    with on.stopping():
        on.train(resume_from_checkpoint=last)
    assert logged(on) == expected
    theirs = whole.accelerator.get_state_dict(whole.model)
    for name, weight in on.accelerator.get_state_dict(on.model).items():
        assert torch.equal(weight, theirs[name])


def test_from_the_last_step_no_other_is_taken(tmp_path: Path) -> None:
    """Three steps end in the middle of an epoch."""
    trained = make(tmp_path / "run", max_steps=3)
    trained.train()
    on = make(tmp_path / "on", max_steps=3)
    on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert on.state.global_step == 3
    assert [row["step"] for row in on.state.log_history if "train_loss" in row] == [3]


# --- limits, late stops, changed settings ---


def folders(run: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return sorted(int(path.name[11:]) for path in run.glob("checkpoint-*"))


def test_a_limit_of_1_leaves_best_and_newest(tmp_path: Path) -> None:
    """A kill after training then finds its last step; the trainer itself would leave the best alone."""
    trained = make(
        tmp_path / "run",
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first is best
    )
    with trained.stopping():
        trained.train()
    assert folders(tmp_path / "run") == [1, 3]
    assert trained.args.save_total_limit == 1


def test_a_stop_rotates_as_any_save(tmp_path: Path) -> None:
    stopped = make(tmp_path / "run", max_steps=4, save_total_limit=2)
    stopped.add_callback(TermedAt(4))
    with pytest.raises(Stopped, match="checkpoint-4"), stopped.stopping():
        stopped.train()
    assert folders(tmp_path / "run") == [3, 4]


class TermedInTheLastEvaluation(TrainerCallback):
    """Sends this process a SIGTERM when all steps are done."""

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Behind the evaluation."""
        if state.global_step == state.max_steps:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("saved", [True, False])
def test_a_stop_after_the_last_step_ends_where_that_is_saved(tmp_path: Path, saved: bool) -> None:
    changed = {**EPOCHS, "save_strategy": "epoch" if saved else "no"}
    trained = make(tmp_path / "run", **changed)
    trained.add_callback(TermedInTheLastEvaluation())
    if saved:
        with pytest.raises(Stopped, match="checkpoint-4"), trained.stopping():
            trained.train()
    else:  # what is left to do is less than doing it again
        with trained.stopping():
            trained.train()
    assert trained.state.global_step == 4


def test_a_continued_run_saves_as_often_as_it_is_told_now(tmp_path: Path) -> None:
    first = make(tmp_path / "run", max_steps=6, save_steps=2, save_total_limit=None)
    first.add_callback(TermedAt(2))
    with pytest.raises(Stopped), first.stopping():
        first.train()
    on = make(tmp_path / "on", max_steps=6, save_steps=1, save_total_limit=None)
    on.args.output_dir, on.run = first.args.output_dir, first.run
    with on.stopping():
        on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert folders(tmp_path / "run") == [2, 3, 4, 5, 6]


# --- private names of the trainer ---


@pytest.mark.parametrize(
    ("cls", "method", "parameters"),
    [
        (Trainer, "_save_checkpoint", ["self", "model", "trial"]),
        (SFTTrainer, "_save_checkpoint", ["self", "model", "trial"]),
        (DPOTrainer, "_save_checkpoint", ["self", "model", "trial"]),
        (
            Trainer,
            "_run_epoch",
            "self model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial "
            "ignore_keys_for_eval start_time resume_from_checkpoint epochs_trained "
            "steps_trained_in_current_epoch".split(),
        ),
        (Trainer, "_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        (Trainer, "_save_rng_state", ["self", "output_dir"]),
        (Trainer, "_load_rng_state", ["self", "checkpoint"]),
        (Trainer, "_load_best_model", ["self"]),
    ],
)
def test_the_trainer_still_has_what_we_override(
    cls: type, method: str, parameters: list[str]
) -> None:
    found = getattr(cls, method, None)
    assert found is not None, CHANGED.format(f"{cls.__name__}.{method}")
    assert list(inspect.signature(found).parameters) == parameters, CHANGED.format(
        f"the parameters of {cls.__name__}.{method}"
    )


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("_save_checkpoint", "self._save_rng_state(output_dir)"),
        ("_save_checkpoint", "save_total_limit=self.args.save_total_limit"),
        (
            "_save_checkpoint",
            "self.state.save_to_json(os.path.join(output_dir, TRAINER_STATE_NAME))",
        ),
        ("_inner_training_loop", "if self.control.should_training_stop:"),
        ("_run_epoch", "self.callback_handler.on_epoch_end(self.args, self.state, self.control)"),
        ("_finalize_training", "self._load_best_model()"),
        ("_run_epoch", "self._load_rng_state(resume_from_checkpoint)"),
    ],
)
def test_the_trainer_still_calls_it(method: str, line: str) -> None:
    assert line in inspect.getsource(getattr(Trainer, method)), CHANGED.format(
        f"where Trainer.{method} calls {line}"
    )


def test_the_trainer_still_deletes_nothing_without_a_limit(run: Path) -> None:
    trainer_utils.rotate_checkpoints(str(run), save_total_limit=None)
    assert names(run) == ["checkpoint-1", "checkpoint-2"]
    assert trainer.TRAINING_ARGS_NAME == "training_args.bin", CHANGED.format(
        "its file of arguments"
    )
    assert trainer.TRAINER_STATE_NAME == STATE, CHANGED.format("its file of states")


@pytest.mark.parametrize("method", ["_load_optimizer_and_scheduler", "_load_scaler"])
def test_the_trainer_reads_its_own_files_with_weights_only(method: str) -> None:
    lines = inspect.getsource(getattr(Trainer, method))
    assert lines.count("torch.load(") == lines.count("weights_only=True") > 0, CHANGED.format(
        f"how Trainer.{method} reads files"
    )
