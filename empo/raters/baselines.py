"""What any rater must beat: a constant, and the lengths of the texts alone.

Both are fitted on all that is not held out (training and inner validation part of a split) and
predict for the held-out part, as a rater does.
Judged empathy rises with the length of a response, so a rater that does no better than the
length-only baseline has learnt length.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from empo.raters.predictions import task
from empo.rating import Dimension, RatingInput
from empo.records import UserError

BASELINES = {
    "constant": "the most frequent level, or the mean, of all that is not held out",
    "length": "log characters and log words of the response, of both texts if they are alike: a "
    "logistic regression over bins (class weights by inner macro F1), or ridge; fitted on all that is not held out",
}

_BINS = 8
_INNER_FOLDS = 3
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)


def baseline_predictions(
    train_inputs: Sequence[RatingInput],
    train_labels: np.ndarray,
    test_inputs: Sequence[RatingInput],
    dimensions: Sequence[Dimension],
    *,
    symmetric: bool = False,
) -> dict[str, np.ndarray]:
    """Predictions of both baselines for the held-out inputs: {"constant", "length"}, (m, D) each.

    `train_labels` has shape (n, D), NaN = no label; a dimension without any label there gets
    NaN. `symmetric`: context and response are alike, so that both lengths count and
    their order does not. Native units; the ridge's predictions are kept in the dimension's range.
    Deterministic.

    Raises UserError where the numbers of inputs and labels differ.
    """
    train_labels = np.asarray(train_labels, dtype=float)
    if train_labels.shape != (len(train_inputs), len(dimensions)):
        raise UserError(
            f"labels of shape {train_labels.shape} for {len(train_inputs)} training inputs and "
            f"{len(dimensions)} dimensions."
        )
    train, test = (length_features(inputs, symmetric) for inputs in (train_inputs, test_inputs))
    shape = (len(test_inputs), len(dimensions))
    constants, lengths = np.full(shape, np.nan), np.full(shape, np.nan)
    for d, dimension in enumerate(dimensions):
        known = np.isfinite(train_labels[:, d])
        labels = train_labels[known, d]
        if len(labels) and len(test):
            constants[:, d] = constant(labels, dimension)
            lengths[:, d] = from_length(train[known], labels, test, dimension)
    return {"constant": constants, "length": lengths}


def constant(labels: np.ndarray, dimension: Dimension) -> float:
    """The most frequent of the labels, shape (n,), n >= 1 (of equals the lowest); or their mean."""
    if task(dimension) == "interval":
        return float(labels.mean())
    values, counts = np.unique(labels, return_counts=True)
    return float(values[np.argmax(counts)])


def length_features(inputs: Sequence[RatingInput], symmetric: bool = False) -> np.ndarray:
    """Log of 1 + characters and of 1 + words, shape (n, 2); of the shorter and the longer text of a
    symmetric input, shape (n, 4).
    """
    rows = []
    for each in inputs:
        sizes = sorted((len(text), len(text.split())) for text in _texts(each, symmetric))
        rows.append([size for pair in sizes for size in pair])
    return np.log1p(np.array(rows, dtype=float).reshape(len(rows), 4 if symmetric else 2))


def characters(each: RatingInput, symmetric: bool = False) -> int:
    """Characters of the response; of both texts together where they are alike."""
    return sum(map(len, _texts(each, symmetric)))


def _texts(each: RatingInput, symmetric: bool) -> list[str]:
    """The texts whose length counts."""
    if not symmetric:
        return [each.response]
    return [each.response, "\n".join(turn.text for turn in each.turns)]


def from_length(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, dimension: Dimension
) -> np.ndarray:
    """Labels predicted from `length_features`, shape (m,); the constant where nothing varies.

    A logistic regression alone mostly predicts the majority, which macro F1 punishes and a rater
    would beat too easily; so balanced class weights are taken where they raise macro F1 in cross
    validation within what is given. The ridge's penalty is chosen by leaving one out, so that
    it comes close to the mean where length says nothing.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

    varying = np.ptp(train, axis=0) > 0
    if not varying.any() or np.ptp(labels) == 0:
        return np.full(len(test), constant(labels, dimension))
    train, test = train[:, varying], test[:, varying]
    features = make_union(
        StandardScaler(),
        KBinsDiscretizer(
            _BINS,
            encode="onehot-dense",
            strategy="quantile",
            quantile_method="averaged_inverted_cdf",
        ),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Bins whose width are too small")
        if task(dimension) == "interval":
            fitted = make_pipeline(features, RidgeCV(_PENALTIES)).fit(train, labels)
            return np.clip(fitted.predict(test), dimension.low, dimension.high)
        classifier = make_pipeline(features, LogisticRegression(max_iter=5_000))
        levels, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if counts.min() >= _INNER_FOLDS:
            classifier = GridSearchCV(
                classifier,
                {"logisticregression__class_weight": [None, "balanced"]},
                scoring="f1_macro",
                cv=StratifiedKFold(_INNER_FOLDS, shuffle=True, random_state=0),
            )
        return levels[classifier.fit(train, codes).predict(test)]
