"""Ratings as a sum of system, rater, exchange, reply and noise: what is left of systems.

The mean of an item's ratings still has its raters in it, and a rater is behind many items. So tests on
item means take for many what is one person's habit, or one person's liking for a system, above all
where a person rated one system only. The mixed model with crossed random intercepts, among them one of
every rater under every system, knows it.

Own code, not statsmodels': the same restricted likelihood, in a second instead of minutes, from the cross
products alone (Bates, Mächler, Bolker and Walker 2015, section 3); tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize

_STARTS = (0.5, 0.05)


@dataclass(frozen=True)
class MixedFit:
    """`means` of the systems, shape (s,), their `covariance`, shape (s, s), and the variances.

    `variances` are those of the random intercepts in their order, and of the residual last.
    """

    means: np.ndarray
    covariance: np.ndarray
    variances: tuple[float, ...]

    def difference(self, a: int, b: int) -> tuple[float, float]:
        """Mean of system a - b with its standard error."""
        contrast = np.zeros(len(self.means))
        contrast[a], contrast[b] = 1, -1
        return float(contrast @ self.means), float(np.sqrt(contrast @ self.covariance @ contrast))


def fit_crossed(
    values: np.ndarray, system: np.ndarray, groups: Sequence[np.ndarray]
) -> MixedFit | str:
    """Fit by restricted maximum likelihood; a sentence where that is not possible.

    `values`, `system` (codes) and each of `groups` (codes of replies, of raters, ...) have shape (n,);
    the first group is best the largest.
    """
    n, fixed = len(values), int(system.max()) + 1
    scale = float(values.std())
    if n <= fixed:
        return "there are no more ratings than systems"
    if scale <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return "the ratings do not vary"
    products = _Products((values - values.mean()) / scale, system, groups)
    try:
        fits = [
            scipy.optimize.minimize(
                lambda spread: products.factor(spread)[0],
                [start] * len(groups),
                method="L-BFGS-B",
                bounds=[(0, None)] * len(groups),
            )
            for start in _STARTS
        ]
        best = min(fits, key=lambda fit: fit.fun)
        _, upper = products.factor(best.x)
    except np.linalg.LinAlgError:
        return "the ratings are explained without rest, so there is no noise to measure against"
    residual = upper[-1, -1] ** 2 / (n - fixed) * scale**2
    block = upper[-1 - fixed : -1, -1 - fixed : -1]
    inverse = scipy.linalg.solve_triangular(block, np.eye(fixed))
    return MixedFit(
        means=inverse @ upper[-1 - fixed : -1, -1] * scale + values.mean(),
        covariance=residual * inverse @ inverse.T,
        variances=tuple(float(ratio) * residual for ratio in (*best.x**2, 1.0)),
    )


class _Products:
    """Cross products of the one-hot columns of the groups and systems, and of the values.

    The columns of one group never meet, so the first, largest one is taken out by division.
    """

    def __init__(
        self, values: np.ndarray, system: np.ndarray, groups: Sequence[np.ndarray]
    ) -> None:
        first, *others = groups
        one_hot = [np.eye(codes.max() + 1)[codes] for codes in (*others, system)]
        table = np.column_stack([*one_hot, values])
        self.counts = np.bincount(first).astype(float)
        self.mixed = np.zeros((len(self.counts), table.shape[1]))
        np.add.at(self.mixed, first, table)
        self.inner = table.T @ table
        self.sizes = [part.shape[1] for part in one_hot[:-1]]
        self.fixed = one_hot[-1].shape[1]
        self.free = len(values) - self.fixed

    def factor(self, spread: np.ndarray) -> tuple[float, np.ndarray]:
        """The deviance at these ratios to the residual, shape (groups,), and the Cholesky factor.

        The factor is of the penalised cross products without the first group.
        """
        random = sum(self.sizes)
        scales = np.concatenate([np.repeat(spread[1:], self.sizes), np.ones(self.fixed + 1)])
        penalised = spread[0] ** 2 * self.counts + 1
        mixed = self.mixed * scales
        inner = self.inner * scales[:, None] * scales
        inner[np.arange(random), np.arange(random)] += 1
        inner -= mixed.T @ (mixed * (spread[0] ** 2 / penalised)[:, None])
        upper = np.linalg.cholesky(inner).T
        logs = np.log(penalised).sum() + 2 * np.log(np.diag(upper)[:-1]).sum()
        return float(logs + self.free * np.log(upper[-1, -1] ** 2 / self.free)), upper
