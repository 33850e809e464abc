"""Training of one Seq2SeqRater: the loss is on the log-likelihoods of the answers allowed.

An example is a row per label, whose instruction says what is asked. Cross-entropy, focal and LDAM
take the answers' log-likelihoods for logits: what is trained is the ranking that predicts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import set_seed

from empo import small_models
from empo.corpora.labelled import Example
from empo.raters.encoders import DEFAULT_TOKENS, load_seq2seq, resolve_encoder
from empo.raters.fit import fit
from empo.raters.folder import RaterConfig
from empo.raters.inputs import InputSettings
from empo.raters.instructions import Instruction, load_instructions
from empo.raters.level_training import (
    LevelRows,
    LevelTrainer,
    level_arguments,
    validation_macro_f1,
)
from empo.raters.losses import MISSING, level_loss
from empo.raters.scratch_settings import SCRATCH
from empo.raters.seq2seq_rater import KIND, Questions, Seq2SeqRater, label_token
from empo.raters.settings import RaterSettings
from empo.raters.splits import label_matrix
from empo.raters.targets import level_counts, level_numbers
from empo.raters.training_task import TrainingTask, training_texts
from empo.rating import Dimension
from empo.records import UserError


def train_seq2seq(task: TrainingTask) -> tuple[Seq2SeqRater, dict[str, Any]]:
    """A rater of levels, its epoch chosen by macro-F1; and facts: best score, epochs, counts.

    Raises UserError for instructions that do not fit the dimensions, labels that are no levels, or a
    model without a decoder.
    """
    settings, dimensions = task.settings, task.dimensions
    if not settings.instruct and len(dimensions) > 1:
        raise UserError(
            f"instruct: without an instruction one model cannot tell {len(dimensions)} dimensions "
            "apart. Set one_model_per_dimension, or choose one of the dimensions."
        )
    set_seed(task.seed)
    instructions = load_instructions(dimensions, settings.instructions)
    model, tokenizer = _encoder_decoder(settings, task.train, instructions)
    if settings.label_tokens:
        options = {option for asked in instructions.values() for option in asked.options}
        _add_label_tokens(model, tokenizer, sorted(options))
    inputs = InputSettings.of(settings)
    how = {"instruct": settings.instruct, "label_tokens": settings.label_tokens}
    questions = Questions(tokenizer, model, dimensions, instructions, inputs, **how)
    rows = LevelRows.of(task, lambda examples: _rows(examples, dimensions, questions))
    classes = [len(dimension.levels or ()) for dimension in dimensions]
    args = level_arguments(task)
    trainer = _Trainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        data_collator=_collate,
        compute_metrics=lambda found: {"macro_f1": validation_macro_f1(found, classes)},
        questions=questions,
        counts=level_counts(rows.train, classes),
        settings=settings,
    )
    fit(trainer, task.run, settings.patience)
    kept = {
        "inputs": dataclasses.asdict(inputs),
        **how,
        "encoder": resolve_encoder(settings.encoder)[1],
        "loss": settings.loss,
        "seed": task.seed,
        "note": settings.note,
    }
    config = RaterConfig(KIND, task.name, tuple(dimensions), kept)
    rater = Seq2SeqRater(
        model.eval(), tokenizer, config, instructions, weights="", device=args.device.type
    )
    return rater, rows.facts(trainer)


def _add_label_tokens(model: Any, tokenizer: Any, options: Sequence[str]) -> None:
    """A new token per answer, which begins as the mean of the tokens of its words."""
    words = tokenizer(list(options), add_special_tokens=False).input_ids
    tokenizer.add_tokens([label_token(option) for option in options], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    new = tokenizer.convert_tokens_to_ids([label_token(option) for option in options])
    with torch.no_grad():  # rows that are alike would give no gradient
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for token, ids in zip(new, words, strict=True):
                table[token] = table[ids].mean(dim=0)


def _rows(
    examples: Sequence[Example], dimensions: Sequence[Dimension], questions: Questions
) -> tuple[list[dict[str, Any]], int]:
    """A row per example and label, and how many could not be read."""
    labels = label_matrix(examples, dimensions)
    found, unread = [], 0
    for d, dimension in enumerate(dimensions):
        numbers = level_numbers(labels[:, d], dimension)
        known = [i for i, number in enumerate(numbers) if number != MISSING]
        read = questions.readers[d].rows([examples[i].input for i in known])
        for i, row in zip(known, read, strict=True):
            if row is None:
                unread += 1
                continue
            target = np.full(len(dimensions), MISSING)
            target[d] = numbers[i]
            found.append({"row": row, "labels": target})
    return found, unread


def _collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    labels = torch.from_numpy(np.stack([item["labels"] for item in items]))
    return {"rows": [item["row"] for item in items], "labels": labels}


class _Trainer(LevelTrainer):
    """The loss of the answers' log-likelihoods, each row in the dimension that has its label."""

    loss_is_scaled_for_ga = False  # a mean over a batch, though the model takes any keyword

    def __init__(
        self,
        *,
        questions: Questions,
        counts: list[torch.Tensor],
        settings: RaterSettings,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.questions, self.counts, self.settings = questions, counts, settings

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean over a batch; with outputs, logits (n, sum of levels), 0 in other dimensions."""
        labels, rows = inputs["labels"], inputs["rows"]
        edges = np.cumsum([0, *map(len, self.counts)])
        logits = torch.zeros(len(rows), int(edges[-1]), device=labels.device)
        total = torch.zeros((), device=labels.device)
        for d, (low, high) in enumerate(itertools.pairwise(edges)):
            places = (labels[:, d] != MISSING).nonzero()[:, 0]
            if not len(places):
                continue
            asked = [rows[i] for i in places]
            likely = self.questions.log_likelihoods(model, asked, d, labels.device)
            loss = level_loss(self.settings, likely, labels[places, d], self.counts[d])
            total = total + loss * len(places) / len(rows)
            logits[places, low:high] = likely.detach()
        return (total, {"logits": logits}) if return_outputs else total


def _encoder_decoder(
    settings: RaterSettings, train: Sequence[Example], instructions: Mapping[str, Instruction]
) -> tuple[Any, Any]:
    """Model and tokenizer: of a folder or hub id, or small and untrained, of the training texts."""
    if settings.encoder != SCRATCH:
        return load_seq2seq(resolve_encoder(settings.encoder)[0])
    asked = [text for each in instructions.values() for text in (each.text, *each.options)]
    tokenizer = small_models.train_tokenizer([*training_texts(train), *asked], settings.vocab_size)
    tokenizer.model_max_length = DEFAULT_TOKENS  # as Flan-T5's: more was never trained on
    shape = (settings.hidden_size, settings.layers, settings.heads)
    return small_models.small_seq2seq(tokenizer, *shape), tokenizer
