"""Losses of the sentence-transformers raters, as modules for their trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import losses as library
from torch import Tensor, nn

from empo.raters import losses

BINARY_MARGIN = 0.8
"""Cosine distance that negative pairs keep in contrastive_binary and online_contrastive (P-B)."""

TRIPLET_MARGIN = 0.5
"""Cosine distance by which the negative lies farther off than the positive; ours, none published."""


class GradedCosineLoss(nn.Module):
    """A loss of the cosine of two texts and its target, for the trainer of sentence-transformers."""

    def __init__(
        self, model: SentenceTransformer, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of a batch: features of the two texts, `labels` (n,)."""
        first, second = (self.model(column)["sentence_embedding"] for column in features)
        return self.loss(torch.cosine_similarity(first, second), labels)


class GradedOutputLoss(nn.Module):
    """A loss of the sigmoid of a cross-encoder's one output and its target in 0..1."""

    def __init__(self, model: CrossEncoder, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, texts: list[list[str]], labels: Tensor, prompt: Any = None, task: Any = None
    ) -> Tensor:
        """The loss of a batch: `texts` are the n first and the n second ones, `labels` (n,).

        `prompt` and `task` are sentence-transformers' and empty here.
        """
        features = self.model.preprocess(list(zip(*texts, strict=True)))
        features = {
            key: value.to(labels.device) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }
        output = self.model(features)["scores"].view(-1)
        return self.loss(output.sigmoid(), labels)


@dataclass(frozen=True)
class Objective:
    """A loss for embeddings: what it is fed with, and how it is made for a model.

    `data`: `target` (the cosine that a label asks for, from `low` to 1), `rank` (the labels, of
    which only the order counts), `binary`, `positives` or `triplets`.
    """

    data: Literal["target", "rank", "binary", "positives", "triplets"]
    build: Callable[[SentenceTransformer, float], nn.Module]
    low: float = -1.0


OBJECTIVES = {
    "cosine": Objective("target", lambda m, _: library.CosineSimilarityLoss(m)),
    "mse": Objective("target", lambda m, _: library.CosineSimilarityLoss(m)),
    "mae": Objective("target", lambda m, _: library.CosineSimilarityLoss(m, loss_fct=nn.L1Loss())),
    "contrastive": Objective(
        "target",
        lambda m, margin: GradedCosineLoss(
            m, lambda cosine, y: losses.contrastive(1 - cosine, y, margin)
        ),
        low=0.0,
    ),
    "cosine_embedding": Objective(
        "target", lambda m, _: GradedCosineLoss(m, losses.cosine_embedding), low=0.0
    ),
    "cosent": Objective("rank", lambda m, _: library.CoSENTLoss(m, scale=1.0)),
    "angle": Objective("rank", lambda m, _: library.AnglELoss(m, scale=1.0)),
    "contrastive_binary": Objective(
        "binary", lambda m, _: library.ContrastiveLoss(m, margin=BINARY_MARGIN)
    ),
    "online_contrastive": Objective(
        "binary", lambda m, _: library.OnlineContrastiveLoss(m, margin=BINARY_MARGIN)
    ),
    "multiple_negatives": Objective(
        "positives", lambda m, _: library.MultipleNegativesRankingLoss(m)
    ),
    "triplet": Objective(
        "triplets",
        lambda m, _: library.TripletLoss(
            m, library.TripletDistanceMetric.COSINE, triplet_margin=TRIPLET_MARGIN
        ),
    ),
}
"""Losses of `train_embedding`. `cosine` and `mse` are two papers' names of one loss."""

OUTPUT_LOSSES = {
    "mse": lambda margin: losses.mse,
    "mae": lambda margin: losses.mae,
    "contrastive": lambda margin: lambda p, y: losses.contrastive(1 - p, y, margin),
}
"""Losses of `train_cross_encoder`, on the sigmoid of its output."""
