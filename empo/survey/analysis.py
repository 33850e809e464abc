"""What ratings say about systems: means per item, paired tests, effects, agreement, a mixed model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import scipy.stats
from tqdm import tqdm

from empo.metrics.statistics import (
    CONFIDENCE,
    RESAMPLES,
    cohens_d,
    compare,
    describe,
    holm,
)
from empo.records import UserError, listed
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
    of all systems; `comparisons` every pair in every aspect, paired by exchange; `mixed` in both is of
    the mixed model; `variances` aspect -> of its groups and the residual. `interval` and `p` of a
    comparison take items for independent, although one rater is behind many: they are too narrow and
    mostly too small; those of `mixed` and of `d` are not. Holm's correction is over all comparisons.
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
            found["systems"][name][aspect] = table.described(name, fit, seed)
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

    def _place(self, name: str) -> int | None:
        """The system's number in the mixed model, None where it was not rated."""
        return next(iter(np.flatnonzero(self.known == self.systems.index(name)).tolist()), None)

    def described(self, name: str, fit: MixedFit | str, seed: int) -> dict[str, Any]:
        """The item means of a system, its mean in the mixed model; `fewest` ratings behind one."""
        values, lengths = self._column(name)
        known = np.isfinite(values)
        values, lengths = values[known], lengths[known]
        counts = self.counts[known, self.systems.index(name)]
        told = np.isfinite(lengths).all()
        described = describe(values, lengths if told else np.zeros(len(values)), seed)
        if not told:
            described.setdefault("reasons", {})["length_correlation"] = "the lengths are not given"
        del described["interval"]  # of independent items, which one rater's are not
        described.get("reasons", {}).pop("interval", None)
        return described | {
            "mixed": _mixed_mean(fit, self._place(name)),
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
        mixed = _mixed(fit, self._place(a), self._place(b))
        return row | {"d": _effects(of_a, of_b, mixed), "mixed": mixed}


def _effects(of_a: np.ndarray, of_b: np.ndarray, mixed: Mapping[str, Any]) -> dict[str, Any]:
    """Cohen's d: `pooled` is the mixed model's difference over the pooled spread of item means.

    Its interval has the model's standard error and, to first order, that of the spread (Hedges and
    Olkin 1985). `paired` is of the item means alone, without an interval. `reasons` has a sentence for
    every None.
    """
    raw = cohens_d(of_a, of_b)
    reasons = {key: text for key, text in raw.get("reasons", {}).items() if key == "paired"}
    found: dict[str, Any] = {"paired": raw["paired"], "pooled": None, "pooled_interval": None}
    n = len(of_a)
    spread = float(np.sqrt((of_a.var(ddof=1) + of_b.var(ddof=1)) / 2)) if n > 1 else 0.0
    why = None
    if mixed["difference"] is None:
        why = mixed["reasons"]["difference"]
    elif n < 2:
        why = "needs two exchanges"
    elif spread <= 1e-12 * max(1.0, float(np.abs(of_a).max())):
        why = "the values do not vary, so there is nothing to divide by"
    if why is None:
        d = mixed["difference"] / spread
        stderr = float(np.hypot(mixed["stderr"] / spread, d / np.sqrt(4 * (n - 1))))
        found |= {"pooled": d, "pooled_interval": _around(d, stderr)}
    else:
        reasons |= dict.fromkeys(("pooled", "pooled_interval"), why)
    return found | ({"reasons": reasons} if reasons else {})


def _around(value: float, stderr: float) -> list[float]:
    """The 95 % interval by the normal distribution."""
    half = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)) * stderr
    return [value - half, value + half]


def _variances(fit: MixedFit | str, groups: Iterable[str]) -> dict[str, Any]:
    names = (*groups, "residual")
    if isinstance(fit, str):
        return {**dict.fromkeys(names), "reasons": dict.fromkeys(names, fit)}
    return dict(zip(names, fit.variances, strict=True))


_UNRATED = "a system was not rated in this aspect"


def _mixed_mean(fit: MixedFit | str, place: int | None) -> dict[str, Any]:
    """A system's mean in the mixed model, over raters, exchanges and replies like those that are there."""
    keys = ("mean", "stderr", "interval")
    if isinstance(fit, str) or place is None:
        reason = fit if isinstance(fit, str) else _UNRATED
        return {**dict.fromkeys(keys), "reasons": dict.fromkeys(keys, reason)}
    mean, stderr = float(fit.means[place]), float(np.sqrt(fit.covariance[place, place]))
    return {"mean": mean, "stderr": stderr, "interval": _around(mean, stderr)}


def _mixed(fit: MixedFit | str, a: int | None, b: int | None) -> dict[str, Any]:
    """A pair in the mixed model: z test, interval by the normal distribution."""
    keys = ("difference", "stderr", "interval", "p", "p_holm")
    if isinstance(fit, str) or a is None or b is None:
        reason = fit if isinstance(fit, str) else _UNRATED
        return {**dict.fromkeys(keys), "reasons": dict.fromkeys(keys, reason)}
    difference, stderr = fit.difference(a, b)
    return {
        "difference": difference,
        "stderr": stderr,
        "interval": _around(difference, stderr),
        "p": float(2 * scipy.stats.norm.sf(abs(difference) / stderr)),
        "p_holm": None,
    }
