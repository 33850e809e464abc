"""How far two raters agree, and all raters together: on the items, and on resamples of the items.

The values on the items themselves come from scipy, scikit-learn and krippendorff. The functions
named `resampled_...` give the same values for thousands of resamples at once, in which item i
counts weights[b, i] times.
"""

from __future__ import annotations

import warnings

import numpy as np

from empo.records import finite

PAIRWISE = ("pearson", "spearman", "kappa", "agreement")

_LIBRARY_CELLS = 2_000_000  # krippendorff holds several arrays of items x values x values


def classes(values: np.ndarray) -> np.ndarray:
    """Values rounded to the nearest whole number, halves up: 2.5 -> 3, -2.5 -> -2; any shape."""
    whole = np.floor(values)
    return whole + (values - whole >= 0.5)


def pair_coefficients(
    x: np.ndarray, y: np.ndarray
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Pearson, Spearman, kappa and share of equal classes of two raters, and why one is None.

    `x` and `y` have shape (n,): what the two gave to the items that both rated. Kappa (unweighted)
    and the share take the values rounded to `classes`.
    """
    from scipy.stats import NearConstantInputWarning, pearsonr, spearmanr
    from sklearn.metrics import cohen_kappa_score

    if len(x) < 2:
        reason = "fewer than 2 items rated by both"
        return dict.fromkeys(PAIRWISE), dict.fromkeys(PAIRWISE, reason)
    values: dict[str, float | None] = dict.fromkeys(PAIRWISE)
    reasons: dict[str, str] = {}
    constant = [name for name, given in (("first", x), ("second", y)) if np.ptp(given) == 0]
    if constant:
        who = f"the {constant[0]} rater gives" if len(constant) == 1 else "both raters give"
        reason = f"{who} one value to all items rated by both"
        reasons = {"pearson": reason, "spearman": reason}
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NearConstantInputWarning)
            values["pearson"] = float(pearsonr(x, y).statistic)
        values["spearman"] = float(spearmanr(x, y).statistic)
    rounded_x, rounded_y = classes(x), classes(y)
    values["agreement"] = float(np.mean(rounded_x == rounded_y))
    codes = np.unique(np.concatenate([rounded_x, rounded_y]), return_inverse=True)[1]
    if codes.max() == 0:
        reasons["kappa"] = "both raters give one class to all items rated by both"
    else:
        values["kappa"] = float(cohen_kappa_score(codes[: len(x)], codes[len(x) :]))
    return values, reasons


def alpha(values: np.ndarray) -> tuple[float | None, str]:
    """Krippendorff's alpha at the interval level, and why it is None; empty text where it is not.

    `values` has shape (items, raters), NaN = missing; items with one rating do not count.
    """
    import krippendorff

    pairable = values[np.isfinite(values).sum(axis=1) >= 2]
    if len(pairable) == 0:
        return None, "no item has two ratings"
    domain = np.unique(pairable[np.isfinite(pairable)])
    if len(domain) == 1:
        return None, "all ratings have one value"
    if len(pairable) * len(domain) ** 2 > _LIBRARY_CELLS:  # continuous ratings of many items
        value = finite(resampled_alpha(pairable, np.ones((1, len(pairable))))[0])
    else:
        with np.errstate(invalid="ignore"):  # the squares of tiny differences are 0
            value = finite(krippendorff.alpha(pairable.T, level_of_measurement="interval"))
    return value, "" if value is not None else "the values differ by too little to be squared"


def resampled_pair(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`pair_coefficients` where item i counts weights[b, i] times; arrays of shape (b,)."""
    total = weights.sum(axis=1)
    enough = total >= 2
    rounded_x, rounded_y = classes(x), classes(y)
    with np.errstate(invalid="ignore", divide="ignore"):
        same = weights @ (rounded_x == rounded_y) / total
        chance = np.zeros(len(weights))
        for label in np.intersect1d(rounded_x, rounded_y):
            chance += (weights @ (rounded_x == label)) * (weights @ (rounded_y == label))
        chance /= total**2
        found = {
            "pearson": _correlation(x, y, weights),
            "spearman": _correlation(_ranks(x, weights), _ranks(y, weights), weights),
            "kappa": (same - chance) / (1 - chance),  # 0 / 0 where all is one class
            "agreement": same,
        }
    return {name: np.where(enough, draws, np.nan) for name, draws in found.items()}


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation, shape (b,), of x and y, shape (n,) or (b, n)."""

    def centred(z: np.ndarray) -> np.ndarray:
        return z - ((weights * z).sum(axis=1) / weights.sum(axis=1))[:, None]

    def constant(z: np.ndarray) -> np.ndarray:  # exact, where a variance of 1e-32 would not be
        high = np.where(weights > 0, z, -np.inf).max(axis=1)
        return high == np.where(weights > 0, z, np.inf).min(axis=1)

    a, b = centred(x), centred(y)
    r = (weights * a * b).sum(axis=1)
    r /= np.sqrt((weights * a * a).sum(axis=1)) * np.sqrt((weights * b * b).sum(axis=1))
    return np.where(constant(x) | constant(y), np.nan, np.clip(r, -1, 1))  # rounding beyond 1


def _ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks, shape (b, n), of x, shape (n,), in the samples where item i counts weights times."""
    level = np.unique(x, return_inverse=True)[1]
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, level]


def resampled_alpha(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Interval alpha, shape (b,), of values, shape (n, raters), where item i counts weights times.

    With squared distances the sums over pairs of ratings are sums of squares: for m ratings of an
    item sum (x_i - x_j)^2 = 2 (m sum x^2 - (sum x)^2), so nothing of the size items x values^2 is
    held. Equal to `krippendorff.alpha` up to rounding.
    """
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    pairable = counts >= 2
    values, known, m = values[pairable], known[pairable], counts[pairable].astype(float)
    weights = weights[:, pairable]
    if not pairable.any():
        return np.full(len(weights), np.nan)
    x = np.where(known, values - values[known].mean(), 0.0)
    first, second = x.sum(axis=1), (x * x).sum(axis=1)
    n = weights @ m
    observed = weights @ ((m * second - first**2) / (m - 1))
    low = np.where(known, values, np.inf).min(axis=1)
    high = np.where(known, values, -np.inf).max(axis=1)
    lowest = np.where(weights > 0, low, np.inf).min(axis=1)
    varied = np.where(weights > 0, high, -np.inf).max(axis=1) > lowest
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (n * (weights @ second) - (weights @ first) ** 2) / (n - 1)
        return np.where(varied, 1 - observed / expected, np.nan)
