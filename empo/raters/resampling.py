"""Intervals for values on held-out items: whole groups are drawn, since items of a group are alike.

Every value is a formula over sums of columns, so that pooled, per fold and in each of 2,000
resamples it costs one sum or one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from empo.records import finite

RESAMPLES = 2_000
CONFIDENCE = 0.95

_CHUNK = 250  # resamples x groups in float64 at a time

Values = dict[str, np.ndarray]
Formula = Callable[[np.ndarray], Values]
"""Sums of columns, shape (..., columns), to named values of shape (...), NaN where undefined."""


@dataclass(frozen=True)
class Spread:
    """Named values of one predictor: pooled (), in each fold (folds,), in each resample (R,)."""

    pooled: Values
    folds: Values
    draws: Values

    def __or__(self, other: Spread) -> Spread:
        """The values of both."""
        return Spread(
            self.pooled | other.pooled, self.folds | other.folds, self.draws | other.draws
        )

    def combined(self, other: Spread, key: str, sign: int) -> Spread:
        """sign * (self - other) in one value, draw by draw: the paired difference."""
        return Spread(
            *(
                {key: sign * (mine[key] - others[key])}
                for mine, others in (
                    (self.pooled, other.pooled),
                    (self.folds, other.folds),
                    (self.draws, other.draws),
                )
            )
        )

    def report(self, key: str, why: str, name: str = "value") -> dict[str, Any]:
        """One value as JSON: {name, interval, folds, sd_folds}; `reasons` for every None of these.

        `why` says why the pooled value is undefined, if it is. A fold where the value is undefined
        has None in `folds`.
        """
        value = finite(float(self.pooled[key]))
        folds = [finite(float(fold)) for fold in self.folds[key]]
        known = [fold for fold in folds if fold is not None]
        if value is None:
            bounds, missing = None, why
        else:
            bounds, missing = percentiles(self.draws[key])
        reasons = {name: why} if value is None else {}
        if bounds is None:
            reasons["interval"] = missing
        if len(known) < 2:
            reasons["sd_folds"] = why if value is None else "needs two folds that have this value"
        entry = {
            name: value,
            "interval": bounds,
            "folds": folds,
            "sd_folds": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        }
        return entry | ({"reasons": reasons} if reasons else {})


def mean_of(spreads: Sequence[Spread], key: str) -> Spread:
    """The unweighted mean of one value over several dimensions, draw by draw."""
    return Spread(
        {key: np.mean([spread.pooled[key] for spread in spreads], axis=0)},
        {key: np.mean([spread.folds[key] for spread in spreads], axis=0)},
        {key: np.mean([spread.draws[key] for spread in spreads], axis=0)},
    )


def percentiles(draws: np.ndarray) -> tuple[list[float] | None, str]:
    """95 % percentile interval of the draws, shape (R,), and why it is None ("" where it is not)."""
    known = draws[np.isfinite(draws)]
    tail = (1 - CONFIDENCE) / 2
    missing = len(draws) - len(known)
    if len(draws) == 0:
        return None, "needs two inputs"
    if missing > 2 * tail * len(draws):  # what is undefined could be the whole of both tails
        return None, f"{missing:,} of {len(draws):,} resamples do not define it"
    low, high = np.quantile(known, [tail, 1 - tail])
    return [float(low), float(high)], ""


class GroupBootstrap:
    """Draws of all groups with replacement; the same groups and seed give the same draws.

    `groups` has shape (n,), one label per item. A single group is never drawn.
    """

    def __init__(self, groups: Sequence[Any], seed: int, resamples: int = RESAMPLES) -> None:
        names, self.codes = np.unique(np.asarray(groups), return_inverse=True)
        self.groups = len(names)
        self.resamples = resamples if self.groups > 1 else 0
        rng = np.random.default_rng(seed)
        equal = np.full(self.groups, 1 / self.groups)
        self.counts = np.empty((self.resamples, self.groups), dtype=np.uint16)
        for start in range(0, self.resamples, _CHUNK):
            rows = min(_CHUNK, self.resamples - start)
            self.counts[start : start + rows] = rng.multinomial(self.groups, equal, size=rows)


@dataclass(frozen=True)
class Sample:
    """The items on which something is measured, with their resampling and their folds.

    `items` are indices into the groups of the bootstrap and into `folds`, shape (n,), whose values
    are 0 to `n_folds` - 1.
    """

    bootstrap: GroupBootstrap
    folds: np.ndarray
    n_folds: int
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def where(self, kept: np.ndarray) -> Sample:
        """The sample of the items for which `kept`, shape (items,), is true."""
        return Sample(self.bootstrap, self.folds, self.n_folds, self.items[kept])

    def spread(self, columns: np.ndarray, formula: Formula) -> Spread:
        """The formula on the sums of columns of shape (items, columns)."""
        groups = _sums(columns, self.bootstrap.codes[self.items], self.bootstrap.groups)
        parts = np.array_split(self.bootstrap.counts, self.bootstrap.resamples // _CHUNK + 1)
        resampled = np.concatenate([part.astype(float) @ groups for part in parts])
        folds = _sums(columns, self.folds[self.items], self.n_folds)
        return Spread(formula(columns.sum(axis=0)), formula(folds), formula(resampled))

    def spearman(self, x: np.ndarray, y: np.ndarray) -> Spread:
        """Spearman's rank correlation of x and y, shape (items,), ranked anew in every resample."""
        levels = [np.unique(values, return_inverse=True)[1] for values in (x, y)]
        codes, folds = self.bootstrap.codes[self.items], self.folds[self.items]
        once = np.ones(len(self))
        pooled = _rank_correlation(*levels, once)
        in_folds = [_rank_correlation(*levels, once * (folds == k)) for k in range(self.n_folds)]
        draws = [_rank_correlation(*levels, row[codes].astype(float)) for row in self._rows()]
        key = "spearman"
        return Spread({key: np.array(pooled)}, {key: np.array(in_folds)}, {key: np.array(draws)})

    def _rows(self) -> np.ndarray:
        return self.bootstrap.counts if len(self) else np.empty((0, 0), dtype=np.uint16)


def _sums(columns: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    """Sums of columns, shape (n, F), over the items of each code, shape (size, F)."""
    sums = np.zeros((size, columns.shape[1]))
    np.add.at(sums, codes, columns)
    return sums


def _rank_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's correlation of the mid-ranks of integer codes where item i counts weights[i] times."""
    total = weights.sum()
    if total < 2:
        return float("nan")
    a, b = (_ranks(codes, weights) - (total + 1) / 2 for codes in (x, y))
    variance = (weights @ (a * a)) * (weights @ (b * b))
    # ranks are multiples of 1/2, so a variance that is not 0 is no rounding error
    return float(weights @ (a * b) / np.sqrt(variance)) if variance > 0 else float("nan")


def _ranks(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    counts = np.bincount(codes, weights)
    return (np.cumsum(counts) - (counts - 1) / 2)[codes]
