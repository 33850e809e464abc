"""Training of one PairClassifier: a seed and a split in, the best epoch on the inner validation out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import set_seed

from empo.checkpoints.trainer import SealedTrainer
from empo.corpora.labelled import Example
from empo.raters import losses
from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, positions, resolve_encoder
from empo.raters.fit import fit
from empo.raters.inputs import InputSettings, PairTokenizer
from empo.raters.settings import RaterSettings
from empo.raters.targets import IGNORED, HeadLoss, collate, level_counts, training_rows
from empo.raters.weight_average import WeightAverage
from empo.rating import Dimension
from empo.records import UserError
from empo.runs import Run

logger = logging.getLogger(__name__)


def trainer_arguments(given: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    """The values for TrainingArguments among those given to a recipe, and what is added to them.

    bf16 on a CPU without it is switched off, and said so: emulated, it is slower than float32.
    """
    if args.per_device_train_batch_size < 1 or args.num_train_epochs <= 0:
        raise UserError(
            f"per_device_train_batch_size {args.per_device_train_batch_size}, num_train_epochs "
            f"{args.num_train_epochs:g}: both must be above 0."
        )
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    taken = {k: v for k, v in given.items() if k in names and k not in ("output_dir", "seed")}
    if args.bf16 and args.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("bf16: this processor has no bfloat16; training in float32")
        taken["bf16"] = False
    return {"disable_tqdm": not sys.stderr.isatty(), "logging_strategy": "no", **taken}


def train_classifier(
    train: Sequence[Example],
    validation: Sequence[Example],
    dimensions: Sequence[Dimension],
    settings: RaterSettings,
    arguments: dict[str, Any],
    folder: Path,
    seed: int,
    name: str,
    run: Run,
) -> tuple[EncoderRater, dict[str, Any]]:
    """A rater trained on `train`, its epoch chosen by macro-F1 on `validation`.

    `arguments` are fields of TrainingArguments; checkpoints of `run` lie in `folder`, and a training
    that was stopped goes on from the last one. Returns the rater and facts: best score, epochs, counts.

    Raises UserError for labels that the loss cannot use.
    """
    set_seed(seed)
    path, encoder_name = resolve_encoder(settings.encoder)
    encoder, tokenizer = load_encoder(path)
    config = PairClassifierConfig(
        architecture=settings.architecture,
        classes=[len(dimension.levels or ()) for dimension in dimensions],
        pooling=settings.pooling,
        head=settings.head,
        dropout=settings.dropout,
        rationales=settings.rationale_weight > 0,
        freeze_context_encoder=settings.freeze_context_encoder,
    )
    model = PairClassifier.from_encoder(encoder, config)
    inputs = InputSettings(
        settings.max_length,
        settings.response_max_length,
        settings.lowercase,
        settings.turns,
        settings.following,
    )
    reader = PairTokenizer(
        tokenizer, settings.architecture, inputs, positions(encoder.config, tokenizer)
    )
    rows, unread = training_rows(train, dimensions, reader, settings)
    valid_rows, valid_unread = training_rows(validation, dimensions, reader, settings)
    if not rows or not valid_rows:
        raise UserError("no response of the training or the validation part can be read.")
    if settings.loss == "soft_label_kl":
        soft = torch.from_numpy(np.stack([item["labels"] for item in rows]))
        for target in soft.split(config.classes, dim=1):
            losses.refuse_one_hot(target)
    args = TrainingArguments(
        **arguments | {"output_dir": str(folder), "seed": seed, "remove_unused_columns": False},
        label_names=["labels"],
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # how long there was no better score
    )
    trainer = _Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=valid_rows,
        data_collator=lambda items: collate(items, reader, len(dimensions)),
        loss=HeadLoss(settings, model, level_counts(rows, config.classes)),
        compute_metrics=lambda prediction: {"macro_f1": _macro_f1(prediction, config.classes)},
        optimizers=(_optimizer(model, args, settings.head_learning_rate), None),
    )
    if settings.ema_decay:
        trainer.keep_average(WeightAverage(model, settings.ema_decay))
    fit(trainer, run, settings.patience)
    described = rater_config(
        name,
        dimensions,
        inputs,
        encoder=encoder_name,
        architecture=settings.architecture,
        loss=settings.loss,
        seed=seed,
        note=settings.note,
    )
    rater = EncoderRater(model.eval(), tokenizer, described, weights="", device=args.device.type)
    facts = {
        "validation_macro_f1": trainer.state.best_metric,
        "epochs": trainer.state.epoch,
        "train": len(rows),
        "validation": len(valid_rows),
        "unread": unread + valid_unread,
        "context_cut": sum(item["row"].truncated for item in rows),
        "response_cut": sum(item["row"].response_truncated for item in rows),
    }
    return rater, facts


class _Trainer(SealedTrainer):
    """transformers' trainer with length-grouped batches whose order depends on seed and epoch only."""

    def __init__(self, *, loss: HeadLoss, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = loss
        self.average: WeightAverage | None = None

    def keep_average(self, average: WeightAverage) -> None:
        """Evaluate and save the average in place of the weights."""
        self.average = average
        self.add_callback(average)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The checkpoint's model, and beneath it the weights whose average it is."""
        super()._save(output_dir, state_dict)
        if self.average is not None and output_dir is not None:
            self.average.write(output_dir)

    def compute_loss(
        self,
        model: PairClassifier,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean over a batch; the trainer itself takes the mean over the batches of a step.

        To a `compute_loss_func` it would leave that, and not say how many batches a step has: the
        last of an epoch may have fewer.
        """
        output = model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
        loss = self.loss(output, inputs["labels"])
        return (loss, output) if return_outputs else loss

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


def _optimizer(
    model: PairClassifier, args: TrainingArguments, head_rate: float | None
) -> torch.optim.Optimizer:
    """AdamW; the fresh heads may learn faster than the pretrained encoder."""
    groups: dict[str, list[torch.nn.Parameter]] = {"encoder": [], "heads": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith(("encoder.", "context_encoder.")) else "heads"
            groups[part].append(parameter)
    rates = {"encoder": args.learning_rate, "heads": head_rate or args.learning_rate}
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rates[part]} for part, parameters in groups.items()],
        weight_decay=args.weight_decay,
    )


def _macro_f1(prediction: EvalPrediction, classes: Sequence[int]) -> float:
    """Mean over dimensions of macro-F1 over the levels that occur in the gold labels."""
    logits, labels = prediction.predictions, prediction.label_ids
    logits = logits[0] if isinstance(logits, tuple) else logits
    edges = np.cumsum([0, *classes])
    soft = labels.shape[1] == edges[-1] != len(classes)
    scores = []
    for d, (low, high) in enumerate(itertools.pairwise(edges)):
        gold = labels[:, low:high].argmax(1) if soft else labels[:, d]
        known = gold != IGNORED
        if known.any():
            predicted = logits[known, low:high].argmax(1)
            present = sorted(set(gold[known].tolist()))
            scores.append(
                f1_score(gold[known], predicted, labels=present, average="macro", zero_division=0)
            )
    return float(np.mean(scores))
