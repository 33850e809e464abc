"""What ratings say about systems: means per item, paired tests, effects, agreement, a mixed model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import scipy.stats
from tqdm import tqdm

from empo.metrics.statistics import (
    AT_ONCE,
    CONFIDENCE,
    RESAMPLES,
    cohens_d,
    compare,
    describe,
    holm,
)
from empo.records import UserError, finite, listed
from empo.survey.icc import intraclass
from empo.survey.mixed_model import MixedFit, fit_crossed
from empo.survey.ratings import Ratings

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def analyse(
    ratings: Ratings,
    systems: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Analyse ratings of `systems` (in the order of the comparisons), aspect by aspect.

    `systems` maps name -> aspect -> item means described; `agreement` aspect -> ICC over the items
    of all systems; `comparisons` every pair in every aspect, paired by exchange, with the same pair
    in the mixed model as `mixed`; `variances` aspect -> of replies, raters, exchanges and the residual.
    Holm's correction is over all comparisons.
    UserError where no exchange was rated under two systems.
    """
    aspects = list(dict.fromkeys(ratings.aspect))
    pairs = list(combinations(systems, 2))
    found: dict[str, Any] = {
        "raters": len(set(ratings.rater)),
        "ratings": len(ratings.value),
        "exchanges": len(set(ratings.exchange)),
        "systems": {name: {} for name in systems},
        "agreement": {},
        "variances": {},
        "comparisons": [],
    }
    tables = {
        aspect: _Table(ratings.where(ratings.aspect == aspect), systems) for aspect in aspects
    }
    if pairs and not any(table.shared(a, b).any() for table in tables.values() for a, b in pairs):
        raise UserError(
            f"no item was rated under two of the systems {listed(systems)}, so they cannot be "
            "compared. Items that are the same exchange need the same name in the column 'exchange'."
        )
    for aspect, table in tables.items():
        found["agreement"][aspect] = intraclass(table.ratings.value, table.items)
        fit = fit_crossed(table.ratings.value, table.present, list(table.groups.values()))
        found["variances"][aspect] = _variances(fit, table.groups)
        for name in systems:
            found["systems"][name][aspect] = table.described(name, seed)
        for a, b in tqdm(pairs, delay=2, disable=None, leave=False, desc=aspect):
            found["comparisons"].append(
                {"a": a, "b": b, "metric": aspect, **table.compared(a, b, fit, seed, resamples)}
            )
    rows = found["comparisons"]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    mixed = [row["mixed"] for row in rows]
    for row, p in zip(mixed, holm([row["p"] for row in mixed]), strict=True):
        row["p_holm"] = p
    return found


class _Table:
    """The ratings of one aspect as codes, and the item means as a table of exchanges by systems."""

    def __init__(self, ratings: Ratings, systems: Sequence[str]) -> None:
        self.ratings, self.systems = ratings, list(systems)
        system = np.array([self.systems.index(name) for name in ratings.system])
        self.raters = np.unique(ratings.rater.astype(str), return_inverse=True)[1]
        self.exchanges = np.unique(ratings.exchange.astype(str), return_inverse=True)[1]
        cells = self.exchanges * len(self.systems) + system
        self.items = np.unique(cells, return_inverse=True)[1]
        self.known, self.present = np.unique(system, return_inverse=True)
        shape = (self.exchanges.max() + 1, len(self.systems))
        size = shape[0] * shape[1]
        counts = np.bincount(cells, minlength=size)
        with np.errstate(invalid="ignore"):
            self.means, self.lengths = (
                (np.bincount(cells, column, minlength=size) / counts).reshape(shape)
                for column in (ratings.value, ratings.characters)
            )
        self.counts = counts.reshape(shape)
        taste = self.raters * len(self.systems) + system
        taste = np.unique(taste, return_inverse=True)[1]
        self.groups = {
            "reply": self.items,
            "rater x system": taste,
            "rater": self.raters,
            "exchange": self.exchanges,
        }
        if self.counts.max() < 2:
            del self.groups["reply"]  # it is the residual
        if taste.max() == self.raters.max() or taste.max() + 1 == len(taste):
            del self.groups["rater x system"]  # it is the rater, or the residual

    def _column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        column = self.systems.index(name)
        return self.means[:, column], self.lengths[:, column]

    def shared(self, a: str, b: str) -> np.ndarray:
        """Which exchanges were rated under both systems."""
        return np.isfinite(self._column(a)[0]) & np.isfinite(self._column(b)[0])

    def described(self, name: str, seed: int) -> dict[str, Any]:
        """The item means of a system; `fewest` ratings behind one of them."""
        values, lengths = self._column(name)
        known = np.isfinite(values)
        values, lengths = values[known], lengths[known]
        counts = self.counts[known, self.systems.index(name)]
        told = np.isfinite(lengths).all()
        described = describe(values, lengths if told else np.zeros(len(values)), seed)
        if not told:
            described.setdefault("reasons", {})["length_correlation"] = "the lengths are not given"
        return described | {
            "quantiles": [float(q) for q in np.quantile(values, QUANTILES)]
            if len(values)
            else None,
            "ratings": int(counts.sum()),
            "fewest": int(counts.min()) if len(counts) else 0,
        }

    def compared(
        self, a: str, b: str, fit: MixedFit | str, seed: int, resamples: int
    ) -> dict[str, Any]:
        """Two systems on the exchanges rated under both, and in the mixed model."""
        shared = self.shared(a, b)
        (of_a, long_a), (of_b, long_b) = (
            [column[shared] for column in self._column(name)] for name in (a, b)
        )
        if not (np.isfinite(long_a).all() and np.isfinite(long_b).all()):
            long_a = long_b = np.zeros(len(of_a))
        row = compare(of_a, of_b, long_a, long_b, seed, resamples)
        row["d"] = effects(of_a, of_b, seed, resamples)
        codes = [np.flatnonzero(self.known == self.systems.index(name)) for name in (a, b)]
        return row | {"mixed": _mixed(fit, codes)}


def effects(a: np.ndarray, b: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """`cohens_d` with 95 % percentile bootstrap intervals over exchanges.

    `reasons` has a sentence for every None.
    """
    found = cohens_d(a, b)
    reasons = found.pop("reasons", {})
    for name, spread in (("paired", _spread_paired), ("pooled", _spread_pooled)):
        found[f"{name}_interval"] = None
        reasons[f"{name}_interval"] = "needs three exchanges on which the systems differ"
        if not found[name] or len(a) < 3:
            continue

        def effect(a: np.ndarray, b: np.ndarray, axis: int, spread: Any = spread) -> np.ndarray:
            size = spread(a, b, axis)
            return np.divide(
                (a - b).mean(axis), size, out=np.full_like(size, np.nan), where=size > 0
            )

        with warnings.catch_warnings():  # of resamples that do not vary, which `reasons` tell
            warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
            interval = scipy.stats.bootstrap(
                (a, b),
                effect,
                paired=True,
                vectorized=True,
                n_resamples=resamples,
                confidence_level=CONFIDENCE,
                method="percentile",
                batch=max(1, AT_ONCE // len(a)),
                rng=seed,
            ).confidence_interval
        bounds = [finite(float(bound)) for bound in (interval.low, interval.high)]
        reasons[f"{name}_interval"] = "some resamples do not vary, so there is nothing to divide by"
        if None not in bounds:
            found[f"{name}_interval"] = bounds
            del reasons[f"{name}_interval"]
    return found | ({"reasons": reasons} if reasons else {})


def _spread_paired(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return (a - b).std(axis, ddof=1)


def _spread_pooled(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return np.sqrt((a.var(axis, ddof=1) + b.var(axis, ddof=1)) / 2)


def _variances(fit: MixedFit | str, groups: Iterable[str]) -> dict[str, Any]:
    names = (*groups, "residual")
    if isinstance(fit, str):
        return {**dict.fromkeys(names), "reasons": dict.fromkeys(names, fit)}
    return dict(zip(names, fit.variances, strict=True))


def _mixed(fit: MixedFit | str, codes: Sequence[np.ndarray]) -> dict[str, Any]:
    """A pair in the mixed model: z test, interval by the normal distribution."""
    keys = ("difference", "stderr", "interval", "p", "p_holm")
    reason = fit if isinstance(fit, str) else "a system was not rated in this aspect"
    if isinstance(fit, str) or not all(map(len, codes)):
        return {**dict.fromkeys(keys), "reasons": dict.fromkeys(keys, reason)}
    difference, stderr = fit.difference(*(int(code[0]) for code in codes))
    half = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)) * stderr
    return {
        "difference": difference,
        "stderr": stderr,
        "interval": [difference - half, difference + half],
        "p": float(2 * scipy.stats.norm.sf(abs(difference) / stderr)),
        "p_holm": None,
    }
