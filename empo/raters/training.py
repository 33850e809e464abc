"""Training of one PairClassifier: a seed and a split in, the best epoch on the inner validation out."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import set_seed

from empo.raters import losses
from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, positions, resolve_encoder
from empo.raters.fit import fit
from empo.raters.inputs import InputSettings, PairTokenizer
from empo.raters.level_training import (
    LevelRows,
    LevelTrainer,
    level_arguments,
    validation_macro_f1,
)
from empo.raters.settings import RaterSettings
from empo.raters.targets import HeadLoss, collate, level_counts, training_rows
from empo.raters.training_task import TrainingTask
from empo.raters.weight_average import WeightAverage
from empo.rating import Dimension
from empo.records import UserError

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


def train_classifier(task: TrainingTask) -> tuple[EncoderRater, dict[str, Any]]:
    """A rater of levels, its epoch chosen by macro-F1; and facts: best score, epochs, counts.

    Raises UserError for labels that the loss cannot use.
    """
    settings = task.settings
    set_seed(task.seed)
    path, encoder_name = resolve_encoder(settings.encoder)
    encoder, tokenizer = load_encoder(path)
    config = _model_config(settings, task.dimensions)
    model = PairClassifier.from_encoder(encoder, config)
    inputs = InputSettings.of(settings)
    reader = PairTokenizer(
        tokenizer, settings.architecture, inputs, positions(encoder.config, tokenizer)
    )
    rows = LevelRows.of(
        task, lambda examples: training_rows(examples, task.dimensions, reader, settings)
    )
    if settings.loss == "soft_label_kl":
        soft = torch.from_numpy(np.stack([item["labels"] for item in rows.train]))
        for target in soft.split(config.classes, dim=1):
            losses.refuse_one_hot(target)
    args = level_arguments(task)
    trainer = _Trainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        data_collator=lambda items: collate(items, reader, len(task.dimensions)),
        loss=HeadLoss(settings, model, level_counts(rows.train, config.classes)),
        compute_metrics=lambda found: {"macro_f1": validation_macro_f1(found, config.classes)},
        optimizers=(_optimizer(model, args, settings.head_learning_rate), None),
    )
    if settings.ema_decay:
        trainer.keep_average(WeightAverage(model, settings.ema_decay))
    fit(trainer, task.run, settings.patience)
    described = rater_config(
        task.name,
        task.dimensions,
        inputs,
        encoder=encoder_name,
        architecture=settings.architecture,
        loss=settings.loss,
        seed=task.seed,
        note=settings.note,
    )
    rater = EncoderRater(model.eval(), tokenizer, described, weights="", device=args.device.type)
    return rater, rows.facts(trainer)


def _model_config(settings: RaterSettings, dimensions: Sequence[Dimension]) -> PairClassifierConfig:
    return PairClassifierConfig(
        architecture=settings.architecture,
        classes=[len(dimension.levels or ()) for dimension in dimensions],
        pooling=settings.pooling,
        head=settings.head,
        dropout=settings.dropout,
        rationales=settings.rationale_weight > 0,
        freeze_context_encoder=settings.freeze_context_encoder,
    )


class _Trainer(LevelTrainer):
    """The heads' loss; evaluates and saves the average of the weights where one is kept."""

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
