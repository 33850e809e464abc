"""Held-out predictions of a rater as arrays, and one dimension of them ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from empo.raters import scores as formulas
from empo.raters.resampling import GroupBootstrap, Sample, Spread
from empo.rating import Dimension
from empo.records import UserError

RATER = "rater"
"""The name of the rater among the predictors; the others are baselines."""


@dataclass(frozen=True)
class Predictions:
    """What a rater said about n labelled inputs that it was not fitted on.

    `gold` and `scores` have shape (n, D), native units, NaN = no label, no score; `groups` (n,)
    labels; `lengths` (n,) characters of the response, of both texts where they are alike; `folds`
    (n,) labels, None where there is one part; `probabilities` per dimension (n, levels) or None;
    `baselines` (n, D) by name, fitted on other groups; `truncated` and `response_truncated` (n,)
    flags.
    """

    gold: np.ndarray
    scores: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray
    folds: np.ndarray | None = None
    probabilities: Sequence[np.ndarray | None] | None = None
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    truncated: np.ndarray | None = None
    response_truncated: np.ndarray | None = None

    def columns(self, kept: Sequence[int]) -> Predictions:
        """The predictions in some of the dimensions, by index."""
        return replace(
            self,
            gold=self.gold[:, kept],
            scores=self.scores[:, kept],
            probabilities=None
            if self.probabilities is None
            else [self.probabilities[d] for d in kept],
            baselines={name: table[:, kept] for name, table in self.baselines.items()},
        )

    def check(self, dimensions: Sequence[Dimension]) -> None:
        """Raise UserError where there is nothing to evaluate or the arrays do not fit together."""
        shape = (len(self.gold), len(dimensions))
        if shape[0] == 0:
            raise UserError("there is nothing to evaluate: no labelled input was given.")
        tables = {"gold": self.gold, "scores": self.scores}
        tables |= {f"baseline {name!r}": values for name, values in self.baselines.items()}
        for name, values in tables.items():
            if values.shape != shape:
                raise UserError(f"{name}: shape {values.shape}, but {shape} is needed.")
        rows = {"groups": self.groups, "lengths": self.lengths, "folds": self.folds}
        rows |= {"truncated": self.truncated, "response_truncated": self.response_truncated}
        for d, values in enumerate(self.probabilities or ()):
            rows[f"probabilities of {dimensions[d].name!r}"] = values
        for name, values in rows.items():
            if values is not None and len(values) != shape[0]:
                raise UserError(f"{name}: {len(values)} rows for {shape[0]} labelled inputs.")


def task(dimension: Dimension) -> Literal["classes", "interval"]:
    """How a dimension is measured: classes where it has levels and is no interval scale."""
    return "interval" if dimension.kind == "interval" or dimension.levels is None else "classes"


def drawn_units(groups: np.ndarray) -> tuple[np.ndarray, Literal["groups", "inputs"]]:
    """What intervals draw, one label per input: its group, or the input itself.

    Inputs where one group has more than half of them (story pairs that hang together): then draws
    of groups are the whole or next to nothing, and say nothing about spread.
    """
    _, counts = np.unique(groups, return_counts=True)
    if 2 * counts.max() > len(groups):
        return np.arange(len(groups)), "inputs"
    return np.asarray(groups), "groups"


def all_of(predictions: Predictions, seed: int, resamples: int) -> tuple[Sample, list[str]]:
    """The sample of all inputs, and the names of the folds."""
    n = len(predictions.gold)
    folds = np.zeros(n, int) if predictions.folds is None else np.asarray(predictions.folds)
    names, codes = np.unique(folds, return_inverse=True)
    bootstrap = GroupBootstrap(drawn_units(predictions.groups)[0], seed, resamples)
    return Sample(bootstrap, codes, len(names), np.arange(n)), [str(name) for name in names]


def nearest_level(scores: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Index of the level nearest to each score, shape (n,), halves up; `levels` ascend."""
    table = np.asarray(levels, dtype=float)
    return np.searchsorted((table[1:] + table[:-1]) / 2, scores, side="right")


class View:
    """One dimension of the predictions on the inputs that count."""

    def __init__(
        self, p: Predictions, d: int, dimension: Dimension, sample: Sample, threshold: float | None
    ) -> None:
        self.predictions, self.d, self.dimension, self.sample = p, d, dimension, sample
        self.gold = p.gold[sample.items, d]
        self.scores = p.scores[sample.items, d]
        self.threshold = (
            (dimension.low + dimension.high) / 2 if threshold is None else float(threshold)
        )
        if task(dimension) == "classes":
            self.codes = nearest_level(self.gold, dimension.levels)
            wrong = ~np.isclose(np.asarray(dimension.levels)[self.codes], self.gold)
            if wrong.any():
                row = int(np.argmax(wrong))
                levels = ", ".join(f"{level:g}" for level in dimension.levels)
                raise UserError(
                    f"input {sample.items[row] + 1}: the label {self.gold[row]:g} of "
                    f"{dimension.name!r} is none of its levels {levels}."
                )

    def baseline(self, name: str) -> np.ndarray:
        """Predictions of a baseline, shape (n,)."""
        return self.predictions.baselines[name][self.sample.items, self.d]

    def spreads(self) -> dict[str, Spread]:
        """The rater and every baseline that has a prediction for all of these inputs."""
        p = self.predictions
        whole = {
            name: table
            for name, table in p.baselines.items()
            if np.isfinite(self.baseline(name)).all()
        }
        return {RATER: self.spread(p.scores)} | {n: self.spread(t) for n, t in whole.items()}

    def spread(self, table: np.ndarray) -> Spread:
        """Scores of a table of predictions, shape (inputs, D): pooled, by fold, resampled."""
        scores = table[self.sample.items, self.d]
        if task(self.dimension) == "classes":
            k = len(self.dimension.levels)
            predicted = nearest_level(scores, self.dimension.levels)
            columns = formulas.confusion_columns(self.codes, predicted, k)
            return self.sample.spread(columns, formulas.class_scores)
        columns = formulas.error_columns(self.gold, scores, self.threshold)
        found = self.sample.spread(columns, formulas.error_scores)
        found |= self.sample.spearman(self.gold, scores)
        if self.constant(scores):
            # the constants of several folds differ, which is no correlation with anything
            for values in (found.pooled, found.folds, found.draws):
                values |= {k: np.full_like(values[k], np.nan) for k in ("pearson", "spearman")}
        return found

    def constant(self, scores: np.ndarray) -> bool:
        """Whether the scores have one value in every fold."""
        folds = self.sample.folds[self.sample.items]
        return all(np.ptp(scores[folds == fold]) < 1e-9 for fold in np.unique(folds))

    def why(self, key: str, predictor: str = RATER) -> str:
        """Why a value of this dimension is undefined, if it is."""
        if len(self.sample) == 0:
            return "no input has both a label and a score"
        if key.rpartition("_")[2].isdigit():
            return "no label has this level"
        if key == "cosine":
            return "all labels or all scores are 0"
        if np.ptp(self.gold) == 0:
            return f"every label is {self.gold[0]:g}"
        scores = self.scores if predictor == RATER else self.baseline(predictor)
        if self.constant(scores):
            return "the scores do not vary within a fold, as a constant's"
        return "the scores do not vary"
