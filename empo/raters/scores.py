"""What raters are measured by, as formulas over sums: confusion counts, errors, calibration.

Pooled counts, those of folds and those of resamples go through the same formula, along the first
axes.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from empo.raters.resampling import Values

CLASS_SCORES = (
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
)
"""Scores over all levels of a dimension; macro and weighted means take the levels that occur."""

ERROR_SCORES = ("mse", "mae", "pearson", "spearman", "cosine")
THRESHOLD_SCORES = CLASS_SCORES[:4]
ECE_BINS = 15

_quietly = partial(np.errstate, divide="ignore", invalid="ignore")


def class_scores(sums: np.ndarray) -> Values:
    """Accuracy, macro and weighted precision, recall and F1, and those of each class.

    `sums`, shape (..., K * K), are confusion counts, gold by predicted. As in scikit-learn with
    `zero_division=0`, precision is 0 for a class that is never predicted. Macro and weighted means
    go over the classes that occur in gold; `precision_k`, `recall_k` and `f1_k` of a class that
    does not occur are NaN.
    """
    k = round(np.sqrt(sums.shape[-1]))
    confusion = sums.reshape(*sums.shape[:-1], k, k)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    total = support.sum(axis=-1)
    occurs = support > 0
    with _quietly():
        each = {
            "precision": np.where(predicted > 0, hits / predicted, 0.0),
            "recall": hits / support,
            "f1": 2 * hits / (support + predicted),
        }
        each = {name: np.where(occurs, values, np.nan) for name, values in each.items()}
        values = {"accuracy": hits.sum(axis=-1) / total}
        for name, of in each.items():
            there = np.where(occurs, of, 0.0)
            values[f"macro_{name}"] = there.sum(axis=-1) / occurs.sum(axis=-1)
            values[f"weighted_{name}"] = (there * support).sum(axis=-1) / total
    for name, of in each.items():
        values |= {f"{name}_{i}": of[..., i] for i in range(k)}
    return values


def confusion_columns(gold: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """One column per cell of a k by k confusion matrix, shape (n, k * k), from codes of shape (n,)."""
    return np.eye(k * k)[gold * k + predicted]


def error_columns(gold: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """What `error_scores` needs of each item, shape (n, 15); gold and scores have shape (n,)."""
    error = scores - gold
    above = confusion_columns((gold > threshold).astype(int), (scores > threshold).astype(int), 2)
    sums = [error**2, np.abs(error), gold * scores, gold**2, scores**2]
    return np.column_stack([*sums, correlation_columns(scores, gold), above])


def error_scores(sums: np.ndarray) -> Values:
    """MSE, MAE, Pearson, the cosine of the vectors of scores and gold, classes at a threshold.

    `sums`, shape (..., 15), are sums of `error_columns`. The cosine (reported with some published
    raters) is close to a constant's value on a scale that does not cross 0; read it for comparison
    only. Accuracy and macro scores are those of "above the threshold" and "not above".
    """
    n = sums[..., 5]
    with _quietly():
        values = {
            "mse": sums[..., 0] / n,
            "mae": sums[..., 1] / n,
            "cosine": sums[..., 2] / np.sqrt(sums[..., 3] * sums[..., 4]),
        }
    values |= correlation(sums[..., 5:11])
    classes = class_scores(sums[..., 11:])
    return values | {name: classes[name] for name in THRESHOLD_SCORES}


def correlation_columns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What `correlation` needs of each item, shape (n, 6), of x and y, shape (n,).

    Both are standardised first, so that sums of squares lose no digits.
    """
    x, y = (_standard(values) for values in (x, y))
    return np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y])


def correlation(sums: np.ndarray) -> Values:
    """Pearson's correlation from sums of `correlation_columns`, shape (..., 6)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with _quietly():
        variances = [xx / n - (x / n) ** 2, yy / n - (y / n) ** 2]
        varied = (variances[0] > 1e-12) & (variances[1] > 1e-12)  # below: rounding
        r = (xy / n - x * y / n**2) / np.sqrt(variances[0] * variances[1])
        return {"pearson": np.where(varied, np.clip(r, -1, 1), np.nan)}


def calibration_columns(
    gold: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> np.ndarray:
    """Count, top probability and correctness of each item in its bin, shape (n, 3 * bins).

    `gold` holds codes of levels, shape (n,), `probabilities` has shape (n, levels). Bins have equal
    widths, closed above.
    """
    top = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == gold
    place = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    inside = np.eye(bins)[place]
    return np.hstack([inside, inside * top[:, None], inside * correct[:, None]])


def calibration_error(sums: np.ndarray) -> Values:
    """Expected calibration error from sums of `calibration_columns`, shape (..., 3 * bins).

    The mean over items of |share correct - mean top probability| of their bin (Naeini, Cooper and
    Hauskrecht 2015; Guo, Pleiss, Sun and Weinberger 2017, equation 3), 0 is perfect.
    """
    count, top, correct = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3), -2, 0)
    with _quietly():
        return {"ece": np.abs(correct - top).sum(axis=-1) / count.sum(axis=-1)}


def _standard(values: np.ndarray) -> np.ndarray:
    if len(values) == 0 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return np.zeros(len(values))
    return (values - values.mean()) / values.std()
