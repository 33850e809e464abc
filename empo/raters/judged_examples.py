"""Judged examples as every rater of a comparison gets them: in folds, beside fitted baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.baselines import BASELINES, baseline_predictions, characters
from empo.raters.predictions import Predictions, drawn_units
from empo.raters.splits import label_matrix
from empo.rating import Dimension, Rater, Ratings
from empo.records import UserError

FOLDS = 5

BASELINE_FIT = (
    "{folds}-fold cross validation by {unit} within the evaluated file itself, since the raters' "
    "training parts are not known here; spread over folds is that over these parts."
)


class JudgedExamples:
    """Examples as every rater gets them, in folds; baselines are fitted once per dimension."""

    def __init__(self, corpus: LabelledCorpus, examples: Sequence[Example], seed: int) -> None:
        """Raises UserError where there is no example."""
        if not examples:
            raise UserError(f"{corpus.source}: no example to evaluate on.")
        self.examples, self.symmetric = examples, corpus.symmetric
        self.inputs = [example.input for example in examples]
        self.folds, self._unit = _folds(examples, seed)
        self._baselines: dict[Dimension, dict[str, np.ndarray]] = {}

    def predictions(
        self, rater: Rater, ratings: Ratings, columns: Mapping[str, int], own: Sequence[Dimension]
    ) -> Predictions:
        """The rater's scores in these columns beside labels and baselines, measured as `own`."""
        for dimension in own:
            if dimension not in self._baselines:
                self._baselines[dimension] = _baselines(
                    self.examples, dimension, self.symmetric, self.folds
                )
        return Predictions(
            gold=label_matrix(self.examples, own),
            scores=ratings.scores[:, list(columns.values())],
            groups=np.array([example.group for example in self.examples]),
            lengths=np.array([characters(each, self.symmetric) for each in self.inputs]),
            folds=self.folds,
            probabilities=[
                ratings.probabilities[c] if rater.dimensions[c] == dimension else None
                for c, dimension in zip(columns.values(), own, strict=True)
            ],
            baselines={
                name: np.column_stack([self._baselines[dimension][name] for dimension in own])
                for name in (BASELINES if self.folds.any() else ())
            },
            truncated=ratings.truncated,
            response_truncated=ratings.response_truncated,
        )

    def baseline_facts(self) -> dict[str, Any]:
        """Which baselines there are, and how they were fitted."""
        if not self.folds.any():
            return {"baselines": {}, "baseline_fit": "not fitted: that needs two inputs."}
        fit = BASELINE_FIT.format(folds=self.folds.max() + 1, unit=self._unit)
        return {"baselines": BASELINES, "baseline_fit": fit}


def _folds(examples: Sequence[Example], seed: int) -> tuple[np.ndarray, str]:
    """The fold of every example and what is kept whole; 0 everywhere with a single input."""
    from sklearn.model_selection import GroupKFold

    units, drawn = drawn_units(np.array([example.group for example in examples]))
    folds = np.zeros(len(examples), dtype=int)
    parts = min(FOLDS, len(set(units.tolist())))
    if parts > 1:
        splitter = GroupKFold(parts, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(folds, groups=units)):
            folds[held_out] = fold
    if drawn == "inputs":
        return folds, "input (more than half of the inputs are one group)"
    return folds, "group"


def _baselines(
    examples: Sequence[Example], dimension: Dimension, symmetric: bool, folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Cross-validated baselines of one dimension, (n,) each; none with a single group."""
    inputs = [example.input for example in examples]
    labels = label_matrix(examples, [dimension])
    found: dict[str, np.ndarray] = {}
    for fold in range(folds.max() + 1) if folds.any() else ():
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        predicted = baseline_predictions(
            [inputs[i] for i in train],
            labels[train],
            [inputs[i] for i in test],
            [dimension],
            symmetric=symmetric,
        )
        for name, values in predicted.items():
            found.setdefault(name, np.full(len(examples), np.nan))[test] = values[:, 0]
    return found
