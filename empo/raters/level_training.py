"""What all trainings of levels share: batches by length, the epoch chosen by macro-F1."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from empo.checkpoints.trainer import SealedTrainer
from empo.corpora.labelled import Example
from empo.raters.losses import MISSING
from empo.raters.training_task import TrainingTask
from empo.records import UserError


@dataclass(frozen=True)
class LevelRows:
    """The rows of both parts of a task; of both together, how many could not be read."""

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    unread: int

    @classmethod
    def of(
        cls,
        task: TrainingTask,
        read: Callable[[Sequence[Example]], tuple[list[dict[str, Any]], int]],
    ) -> LevelRows:
        """`read` gives the rows of a part, and how many it could not read.

        Raises UserError where a part has no row.
        """
        (train, unread), (validation, more) = read(task.train), read(task.validation)
        if not train or not validation:
            raise UserError("no response of the training or the validation part can be read.")
        return cls(train, validation, unread + more)

    def facts(self, trainer: Trainer) -> dict[str, Any]:
        """Best score and epochs of a training on these rows, and what was left out of them and cut."""
        return {
            "validation_macro_f1": trainer.state.best_metric,
            "epochs": trainer.state.epoch,
            "train": len(self.train),
            "validation": len(self.validation),
            "unread": self.unread,
            "context_cut": sum(item["row"].truncated for item in self.train),
            "response_cut": sum(item["row"].response_truncated for item in self.train),
        }


def level_arguments(task: TrainingTask) -> TrainingArguments:
    """The trainer's arguments: those given, and what makes the epoch with the best macro-F1 kept."""
    own = {"output_dir": str(task.folder), "seed": task.seed, "remove_unused_columns": False}
    return TrainingArguments(
        **{**task.arguments, **own},
        label_names=["labels"],
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # how long there was no better score
    )


class LevelTrainer(SealedTrainer):
    """transformers' trainer with length-grouped batches whose order depends on seed and epoch only.

    Items of the data have a `row` with its `length`.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        generator = torch.Generator()
        self.add_callback(_SeedPerEpoch(generator))
        lengths = [item["row"].length for item in self.train_dataset]
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=lengths,
            generator=generator,
        )


class _SeedPerEpoch(TrainerCallback):
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A training that goes on sees the same order as one that was never stopped."""
        self.generator.manual_seed(1000 * args.seed + int(state.epoch or 0))


def validation_macro_f1(prediction: EvalPrediction, classes: Sequence[int]) -> float:
    """Mean over dimensions of macro-F1 over the levels that occur in the gold labels.

    Logits (n, sum of `classes`); labels (n, dimensions), `MISSING` for none, or soft ones shaped as
    the logits.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    logits = logits[0] if isinstance(logits, tuple) else logits
    edges = np.cumsum([0, *classes])
    soft = labels.shape[1] == edges[-1] != len(classes)
    scores = []
    for d, (low, high) in enumerate(itertools.pairwise(edges)):
        gold = labels[:, low:high].argmax(1) if soft else labels[:, d]
        known = gold != MISSING
        if known.any():
            predicted = logits[known, low:high].argmax(1)
            present = sorted(set(gold[known].tolist()))
            scores.append(
                f1_score(gold[known], predicted, labels=present, average="macro", zero_division=0)
            )
    return float(np.mean(scores))
