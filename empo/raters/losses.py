"""Losses of the raters: tensors in, one number out, no state.

Every loss is the mean over the inputs that have a label. A label that is missing is `MISSING` (a
class) or NaN (a number); where none is left the loss is 0 and its gradient too, so that one batch
can serve several heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from empo.records import UserError

if TYPE_CHECKING:
    from empo.raters.settings import RaterSettings

MISSING = -100
"""The class label of an input, or of a token, that has none."""


class UnsuitedLabels(UserError):
    """Labels that a loss cannot learn from; another loss may."""


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean of -log p of the labelled class, weighted per class where `weights` are given.

    `logits` (n, K), `labels` (n,) in 0..K-1 or `MISSING`, `weights` (K,). With weights the sum is
    divided by the weights of the labels, as in torch. `smoothing` is the share of every label that
    is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """
    logits, labels = _with_class(logits, labels)
    if not len(labels):
        return logits.sum()
    return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Mean of -alpha (1 - p)^gamma log p, where p is the probability of the labelled class.

    `logits` (n, K), `labels` (n,) in 0..K-1 or `MISSING`. Lin et al. (2017), equation 5, with the
    softmax over K classes in place of the sigmoid. For more than two classes their alpha has no
    other class to balance against and is a constant factor; None is a factor of 1.
    """
    logits, labels = _with_class(logits, labels)
    if not len(labels):
        return logits.sum()
    log_p = -functional.cross_entropy(logits, labels, reduction="none")
    missed = -torch.expm1(log_p)
    # A power between 0 and 1 has no finite gradient at 0, where the class is certain.
    missed = missed.clamp_min(torch.finfo(missed.dtype).eps)
    return (1.0 if alpha is None else alpha) * (-(missed**gamma) * log_p).mean()


def ldam_margins(class_counts: Sequence[int], max_margin: float = 0.5) -> list[float]:
    """The margin of every class: n_j^(-1/4), scaled so that the largest is `max_margin`.

    Cao et al. (2019), equation 13: the margin that trades the classes off best grows with the
    fourth root of 1/n_j. Raises UserError where a class has no example.
    """
    for j, count in enumerate(class_counts):
        if count <= 0:
            raise UnsuitedLabels(
                f"ldam: class {j} has {count} training examples (all classes: "
                f"{list(class_counts)}), and its margin would have no bound. Merge the class, or "
                "choose the loss 'focal'."
            )
    margins = [count**-0.25 for count in class_counts]
    return [margin * max_margin / max(margins) for margin in margins]


def ldam(
    logits: Tensor,
    labels: Tensor,
    class_counts: Sequence[int],
    max_margin: float = 0.5,
    scale: float = 30.0,
) -> Tensor:
    """Cross-entropy of scale · z, after the margin of its class was taken off the labelled logit.

    `logits` (n, K), `labels` (n,) in 0..K-1 or `MISSING`, `class_counts` the K numbers of training
    examples per class. Cao et al. (2019), equations 12 and 13. Their logits are cosines of
    normalised features and weights, and scale 30 stretches these; on the logits of a plain linear
    head the same scale makes the softmax steep.
    """
    margins = torch.tensor(ldam_margins(class_counts, max_margin), device=logits.device)
    logits, labels = _with_class(logits, labels)
    if not len(labels):
        return logits.sum()
    taken = functional.one_hot(labels, logits.shape[1]) * margins
    return functional.cross_entropy(scale * (logits - taken), labels)


def refuse_one_hot(target: Tensor) -> None:
    """Raise UserError where every row of `target` (n, K) gives all its weight to one class.

    On such targets the KL divergence is the cross-entropy, and a comparison of the two compares
    nothing.
    """
    if target.ndim == 1 or bool((target.max(dim=1).values == 1).all()):
        raise UnsuitedLabels(
            "soft_label_kl: every target is one single class. On one-hot labels the KL divergence "
            "equals the cross-entropy, so there is nothing to compare. Choose the loss "
            "'cross_entropy', or give soft labels (the share of the judges per class)."
        )


def level_loss(settings: RaterSettings, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The loss that settings name, of one dimension: cross_entropy, focal or ldam.

    `logits` (n, K), `labels` (n,) in 0..K-1 or `MISSING`, `counts` (K,) the training examples per
    class.
    """
    counts = counts.to(logits.device)
    if not (labels != MISSING).any():
        return logits.sum() * 0
    weights = None
    if settings.class_weighting:
        weights = (counts.sum() / len(counts) / counts) ** settings.class_weighting
    if settings.loss == "cross_entropy":
        return cross_entropy(logits, labels, weights, settings.label_smoothing)
    if settings.loss == "focal":
        return focal(logits, labels, settings.focal_gamma, settings.focal_alpha)
    margin, scale = settings.ldam_margin, settings.ldam_scale
    return ldam(logits, labels, counts.int().tolist(), margin, scale)


def soft_label_kl(logits: Tensor, target: Tensor, *, checked: bool = False) -> Tensor:
    """Mean KL divergence of the target distribution from the predicted one: Σ t (log t − log p).

    `logits` (n, K), `target` (n, K) with rows that sum to 1. Raises UserError on one-hot targets.
    `checked`: `refuse_one_hot` has seen all training targets; a small batch of soft labels may be
    one-hot by chance.
    """
    if not checked:
        refuse_one_hot(target)
    log_p = logits.float().log_softmax(dim=1)
    return functional.kl_div(log_p, target.float(), reduction="batchmean")


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error; `prediction` and `target` (n,), NaN in the target = no label."""
    prediction, target = _with_number(prediction, target)
    return _mean((prediction - target) ** 2)


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error; `prediction` and `target` (n,), NaN in the target = no label."""
    prediction, target = _with_number(prediction, target)
    return _mean((prediction - target).abs())


def contrastive(distance: Tensor, target: Tensor, margin: float = 0.5) -> Tensor:
    """Mean of y d² + (1 − y) max(0, m − d)²: like pairs together, unlike ones m apart.

    `distance` d (n,) ≥ 0, `target` y (n,) in 0..1 or NaN = no label. Hadsell et al. (2006),
    equation 4 without its factor ½, with a graded y. d is 1 − cos for two vectors and
    1 − sigmoid(output) for one output.
    """
    distance, target = _with_number(distance, target)
    apart = (margin - distance).clamp_min(0)
    return _mean(target * distance**2 + (1 - target) * apart**2)


def cosine_embedding(cosine: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 − y cos.

    `cosine` (n,) in -1..1, `target` y (n,) in 0..1 or NaN = no label. The loss falls with every
    cosine, whatever y > 0 is: it weighs pairs by their label and pushes none apart.
    """
    cosine, target = _with_number(cosine, target)
    return _mean(1 - target * cosine)


def _with_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled rows, in float32 at least: a softmax in half precision loses small p."""
    kept = labels != MISSING
    return logits[kept].float() if logits.dtype != torch.float64 else logits[kept], labels[kept]


def _with_number(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    kept = ~target.isnan()
    return prediction[kept], target[kept].to(prediction.dtype)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
