"""What the heads of a PairClassifier learn: level numbers, soft labels, rationale marks, their loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from empo.corpora.labelled import Example
from empo.raters import losses
from empo.raters.classifier import PairClassifier, PairOutput
from empo.raters.inputs import PairTokenizer, Row, rationale_marks
from empo.raters.losses import MISSING, UnsuitedLabels
from empo.raters.settings import RaterSettings
from empo.raters.splits import label_matrix
from empo.rating import Dimension


def training_rows(
    examples: Sequence[Example],
    dimensions: Sequence[Dimension],
    reader: PairTokenizer,
    settings: RaterSettings,
) -> tuple[list[dict[str, Any]], int]:
    """Tokens, level numbers and rationale marks per example; and how many could not be read."""
    labels = label_matrix(examples, dimensions)
    if settings.loss == "soft_label_kl":
        targets = np.concatenate(
            [soft_targets(labels[:, d], dimension) for d, dimension in enumerate(dimensions)],
            axis=1,
        ).astype(np.float32)
    else:
        targets = np.stack(
            [level_numbers(labels[:, d], dimension) for d, dimension in enumerate(dimensions)], 1
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
                    else np.full(len(row.offsets), MISSING)
                    for dimension in dimensions
                ],
                axis=1,
            )
        found.append(item)
    return found, len(read) - len(found)


def level_numbers(labels: np.ndarray, dimension: Dimension) -> np.ndarray:
    """Index of each label, shape (n,), among the levels, `MISSING` for NaN.

    Raises UserError for an interval dimension or a label that is no level.
    """
    levels = np.array(dimension.levels or ())
    if dimension.kind == "interval" or not len(levels):
        raise UnsuitedLabels(
            f"dimension {dimension.name!r} is an interval, and this loss learns levels. Take mse, "
            "mae, contrastive or a loss of story similarity."
        )
    numbers = np.full(len(labels), MISSING)
    for i, value in enumerate(labels):
        if np.isnan(value):
            continue
        match = np.flatnonzero(levels == value)
        if not len(match):
            raise UnsuitedLabels(
                f"dimension {dimension.name!r}: {value:g} is no level; known: "
                f"{', '.join(f'{level:g}' for level in levels)}."
            )
        numbers[i] = match[0]
    return numbers


def soft_targets(labels: np.ndarray, dimension: Dimension) -> np.ndarray:
    """A label between two levels (a mean over annotators) as their mixture, shape (n, levels)."""
    levels = np.array(dimension.levels or ())
    if len(levels) < 2 or np.isnan(labels).any():
        raise UnsuitedLabels(
            f"dimension {dimension.name!r}: soft labels need levels and a label for every example."
        )
    if (outside := (labels < levels[0]) | (labels > levels[-1])).any():
        raise UnsuitedLabels(
            f"dimension {dimension.name!r}: the label {labels[np.argmax(outside)]:g} lies outside its "
            f"levels, {levels[0]:g} to {levels[-1]:g}."
        )
    above = np.clip(np.searchsorted(levels, labels), 1, len(levels) - 1)
    share = (labels - levels[above - 1]) / (levels[above] - levels[above - 1])
    target = np.zeros((len(labels), len(levels)))
    target[np.arange(len(labels)), above] = share
    target[np.arange(len(labels)), above - 1] = 1 - share
    return target


def collate(
    items: Sequence[dict[str, Any]], reader: PairTokenizer, dimensions: int
) -> dict[str, torch.Tensor]:
    """A batch: the reader's tensors, `labels`, and `rationale_labels` (n, L, D) where there are any."""
    rows: list[Row] = [item["row"] for item in items]
    batch = reader.batch(rows)
    batch["labels"] = torch.from_numpy(np.stack([item["labels"] for item in items]))
    if "rationales" in items[0]:
        marks = torch.full((*batch["input_ids"].shape, dimensions), MISSING)
        for i, item in enumerate(items):
            marks[i, slice(*item["row"].target)] = torch.from_numpy(item["rationales"])
        batch["rationale_labels"] = marks
    return batch


def level_counts(rows: Sequence[dict[str, Any]], classes: Sequence[int]) -> list[torch.Tensor]:
    """Training examples per level, one tensor per dimension; ones for soft labels."""
    labels = np.stack([item["labels"] for item in rows])
    if labels.dtype != np.int64:  # soft labels: no counts are needed
        return [torch.ones(n) for n in classes]
    return [
        torch.tensor(np.bincount(column[column != MISSING], minlength=n), dtype=torch.float)
        for column, n in zip(labels.T, classes, strict=True)
    ]


class HeadLoss:
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
        """`labels`: (n, D) level numbers, `MISSING` for none, or (n, sum of classes) soft labels."""
        parts = self.model.split(output.logits.float())
        total = sum(self._one(d, logits, labels) for d, logits in enumerate(parts)) / len(parts)
        if output.rationale_loss is not None:
            total = total + self.settings.rationale_weight * output.rationale_loss
        return total

    def _one(self, d: int, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.settings.loss == "soft_label_kl":
            return losses.soft_label_kl(logits, self.model.split(labels)[d], checked=True)
        return losses.level_loss(self.settings, logits, labels[:, d], self.counts[d])
