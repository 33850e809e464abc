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
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import set_seed

from empo.corpora.labelled import Example
from empo.raters import losses
from empo.raters.classifier import PairClassifier, PairClassifierConfig, PairOutput
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, positions, resolve_encoder
from empo.raters.inputs import InputSettings, PairTokenizer, Row, rationale_marks
from empo.raters.settings import RaterSettings
from empo.raters.splits import label_matrix
from empo.rating import Dimension
from empo.records import UserError

logger = logging.getLogger(__name__)

IGNORED = -100
BENEATH = "weights.safetensors"
"""File of a checkpoint with the weights beneath their average."""


def trainer_arguments(given: Mapping[str, Any], args: TrainingArguments) -> dict[str, Any]:
    """The values for TrainingArguments among those given to a recipe, and what is added to them.

    bf16 on a CPU without it is switched off, and said so: emulated, it is slower than float32.
    """
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
) -> tuple[EncoderRater, dict[str, Any]]:
    """A rater trained on `train`, its epoch chosen by macro-F1 on `validation`.

    `arguments` are fields of TrainingArguments; checkpoints lie in `folder`, and a training that was
    stopped goes on from the last one. Returns the rater and facts: best score, epochs, counts.

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
    rows, unread = _rows(train, dimensions, reader, settings)
    valid_rows, valid_unread = _rows(validation, dimensions, reader, settings)
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
        data_collator=lambda items: _collate(items, reader, len(dimensions)),
        loss=_Loss(settings, model, _counts(rows, config.classes)),
        compute_metrics=lambda prediction: {"macro_f1": _macro_f1(prediction, config.classes)},
        callbacks=[EarlyStoppingCallback(settings.patience)],
        optimizers=(_optimizer(model, args, settings.head_learning_rate), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Lines())
    if settings.ema_decay:
        trainer.add_callback(WeightAverage(model, settings.ema_decay))
    checkpoint = _last_checkpoint(folder, BENEATH if settings.ema_decay else TRAINER_STATE_NAME)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    described = rater_config(
        name,
        dimensions,
        inputs,
        encoder=encoder_name,
        architecture=settings.architecture,
        loss=settings.loss,
        seed=seed,
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


def _last_checkpoint(folder: Path, last_file: str) -> str | None:
    """The newest checkpoint that has the file which is written last; others were interrupted."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{last_file}")]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


class _Trainer(Trainer):
    """transformers' trainer with length-grouped batches whose order depends on seed and epoch only."""

    def __init__(self, *, loss: _Loss, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = loss

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


class WeightAverage(TrainerCallback):
    """Evaluates and saves the exponential moving average of the weights, and trains on beneath it.

    Average of step t: d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)). A small corpus makes
    single steps noisy; the average is what is kept. At the end of an epoch average and weights
    change places, so that the trainer evaluates and saves the average; the weights themselves lie
    beside it in the checkpoint, and a training that goes on from there takes up both.
    """

    def __init__(self, model: PairClassifier, decay: float) -> None:
        self.decay = decay
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.other: dict[str, torch.Tensor] = {}
        self.shows_average = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the weights as they are, or with both as a checkpoint has them."""
        self.other = {name: p.detach().clone() for name, p in self.trained.items()}
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.other = load_file(folder / BENEATH, device=str(args.device))
            self.shows_average = True  # the model was loaded from the checkpoint

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train on the weights."""
        self._show(average=False)

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the average towards the weights."""
        step = state.global_step
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.trained.items():
            self.other[name].lerp_(parameter, share)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate and save the average."""
        self._show(average=True)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the weights beneath the average into the checkpoint; it counts only with them."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        beside = folder / f".{BENEATH}"
        save_file({name: value.contiguous() for name, value in self.other.items()}, beside)
        beside.replace(folder / BENEATH)

    @torch.no_grad()
    def _show(self, average: bool) -> None:
        if self.shows_average == average:
            return
        for name, parameter in self.trained.items():
            held = self.other[name]
            self.other[name] = parameter.detach().clone()
            parameter.copy_(held)
        self.shows_average = average


class _Lines(TrainerCallback):
    """A line per epoch, whether a bar is shown or not."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Loss and the score that chooses the epoch."""
        metrics = kwargs["metrics"]
        print(
            f"seed {args.seed}, epoch {state.epoch:.0f}, validation: loss "
            f"{metrics['eval_loss']:.4f}, macro-F1 {metrics['eval_macro_f1']:.4f}",
            flush=True,
        )


class _Loss:
    """The loss of all heads: the mean over dimensions, plus the marking of rationales."""

    def __init__(
        self,
        settings: RaterSettings,
        model: PairClassifier,
        counts: list[torch.Tensor],
    ) -> None:
        self.settings = settings
        self.model = model
        self.counts = counts

    def __call__(self, output: PairOutput, labels: torch.Tensor) -> torch.Tensor:
        """`labels`: (n, D) level numbers, -100 for none, or (n, sum of classes) soft labels."""
        parts = self.model.split(output.logits.float())
        total = sum(self._one(d, logits, labels) for d, logits in enumerate(parts)) / len(parts)
        if output.rationale_loss is not None:
            total = total + self.settings.rationale_weight * output.rationale_loss
        return total

    def _one(self, d: int, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        s, counts = self.settings, self.counts[d].to(logits.device)
        if s.loss == "soft_label_kl":
            return losses.soft_label_kl(logits, self.model.split(labels)[d], checked=True)
        target = labels[:, d]
        if not (target != IGNORED).any():
            return logits.sum() * 0
        weights = None
        if s.class_weighting:
            weights = (counts.sum() / len(counts) / counts) ** s.class_weighting
        if s.loss == "cross_entropy":
            return losses.cross_entropy(logits, target, weights, s.label_smoothing)
        if s.loss == "focal":
            return losses.focal(logits, target, s.focal_gamma, s.focal_alpha)
        return losses.ldam(logits, target, counts.int().tolist(), s.ldam_margin, s.ldam_scale)


def _rows(
    examples: Sequence[Example],
    dimensions: Sequence[Dimension],
    reader: PairTokenizer,
    settings: RaterSettings,
) -> tuple[list[dict[str, Any]], int]:
    """Tokens, level numbers and rationale marks per example; and how many could not be read."""
    labels = label_matrix(examples, dimensions)
    if settings.loss == "soft_label_kl":
        targets = np.concatenate(
            [_soft(labels[:, d], dimension) for d, dimension in enumerate(dimensions)], axis=1
        ).astype(np.float32)
    else:
        targets = np.stack(
            [_level_numbers(labels[:, d], dimension) for d, dimension in enumerate(dimensions)], 1
        )
    found = []
    read = reader.rows([example.input for example in examples])
    for example, row, target in zip(examples, read, targets, strict=True):
        if row is None:
            continue
        item: dict[str, Any] = {"row": row, "labels": target}
        if settings.rationale_weight:
            item["rationales"] = np.stack(
                [
                    rationale_marks(
                        row,
                        example.input.response,
                        example.rationales.get(dimension.name, ()),
                        settings.lowercase,
                    )
                    if dimension.name in example.labels
                    else np.full(len(row.offsets), IGNORED)
                    for dimension in dimensions
                ],
                axis=1,
            )
        found.append(item)
    return found, len(read) - len(found)


def _level_numbers(labels: np.ndarray, dimension: Dimension) -> np.ndarray:
    levels = np.array(dimension.levels or ())
    if dimension.kind == "interval" or not len(levels):
        raise UserError(
            f"dimension {dimension.name!r} is an interval, and this loss learns levels. Take mse, "
            "mae, contrastive or a loss of story similarity."
        )
    numbers = np.full(len(labels), IGNORED)
    for i, value in enumerate(labels):
        if np.isnan(value):
            continue
        match = np.flatnonzero(levels == value)
        if not len(match):
            raise UserError(
                f"dimension {dimension.name!r}: {value:g} is no level; known: "
                f"{', '.join(f'{level:g}' for level in levels)}."
            )
        numbers[i] = match[0]
    return numbers


def _soft(labels: np.ndarray, dimension: Dimension) -> np.ndarray:
    """A label between two levels (a mean over annotators) as their mixture, shape (n, levels)."""
    levels = np.array(dimension.levels or ())
    if len(levels) < 2 or np.isnan(labels).any():
        raise UserError(
            f"dimension {dimension.name!r}: soft labels need levels and a label for every example."
        )
    if (outside := (labels < levels[0]) | (labels > levels[-1])).any():
        raise UserError(
            f"dimension {dimension.name!r}: the label {labels[np.argmax(outside)]:g} lies outside its "
            f"levels, {levels[0]:g} to {levels[-1]:g}."
        )
    above = np.clip(np.searchsorted(levels, labels), 1, len(levels) - 1)
    share = (labels - levels[above - 1]) / (levels[above] - levels[above - 1])
    target = np.zeros((len(labels), len(levels)))
    target[np.arange(len(labels)), above] = share
    target[np.arange(len(labels)), above - 1] = 1 - share
    return target


def _collate(
    items: Sequence[dict[str, Any]], reader: PairTokenizer, dimensions: int
) -> dict[str, torch.Tensor]:
    rows: list[Row] = [item["row"] for item in items]
    batch = reader.batch(rows)
    batch["labels"] = torch.from_numpy(np.stack([item["labels"] for item in items]))
    if "rationales" in items[0]:
        marks = torch.full((*batch["input_ids"].shape, dimensions), IGNORED)
        for i, item in enumerate(items):
            marks[i, slice(*item["row"].target)] = torch.from_numpy(item["rationales"])
        batch["rationale_labels"] = marks
    return batch


def _counts(rows: Sequence[dict[str, Any]], classes: Sequence[int]) -> list[torch.Tensor]:
    labels = np.stack([item["labels"] for item in rows])
    if labels.dtype != np.int64:  # soft labels: no counts are needed
        return [torch.ones(n) for n in classes]
    return [
        torch.tensor(np.bincount(column[column != IGNORED], minlength=n), dtype=torch.float)
        for column, n in zip(labels.T, classes, strict=True)
    ]


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
