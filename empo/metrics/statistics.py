"""Tests, intervals and length control for values that systems have on the same exchanges.

A value that cannot be computed is None, and `reasons` beside it says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import statsmodels.api as sm
from statsmodels.regression.linear_model import RegressionResultsWrapper
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests

from empo.records import finite

RESAMPLES = 9_999
CONFIDENCE = 0.95
AT_ONCE = 2_000_000
"""Numbers that resampling holds at once, 16 MB: few enough for a processor's cache. What is drawn
does not depend on it."""


def describe(values: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean, sample standard deviation, bootstrap interval of the mean, correlation with length.

    `values` and `lengths` have shape (n,); a NaN value is left out, `n` says how many are in. The
    correlation is Pearson's.
    """
    known = np.isfinite(values)
    values, lengths = values[known], lengths[known]
    n = len(values)
    reasons: dict[str, str] = {}
    if n == 0:
        reasons["mean"] = "no response has this value"
    if n < 2:
        reasons["sd"] = reasons["interval"] = "needs two responses that have this value"
    if n < 2 or np.ptp(values) == 0 or np.ptp(lengths) == 0:
        reasons["length_correlation"] = "needs responses that differ in value and in length"
    described: dict[str, Any] = {
        "n": n,
        "mean": None if "mean" in reasons else float(values.mean()),
        "sd": None if "sd" in reasons else float(values.std(ddof=1)),
        "interval": None if "interval" in reasons else bootstrap_interval(values, seed),
        "length_correlation": None
        if "length_correlation" in reasons
        else float(scipy.stats.pearsonr(values, lengths).statistic),
    }
    return described | ({"reasons": reasons} if reasons else {})


def histogram(values: np.ndarray, bins: int) -> list[int]:
    """Counts in equal bins of 0..1; NaN is left out."""
    return np.histogram(values[np.isfinite(values)], bins=bins, range=(0, 1))[0].tolist()


def bootstrap_interval(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> list[float]:
    """95 % percentile bootstrap interval of the mean of `values`, shape (n,), n >= 2."""
    interval = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, AT_ONCE // len(values)),
        rng=seed,
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def sign_flip_p(differences: np.ndarray, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided p of a paired permutation test on the mean of `differences`, shape (n,), n >= 1.

    Under the null hypothesis the two systems of a pair can be exchanged, so every sign is a coin.
    All 2^n flips where these are no more than `resamples`, else (count + 1) / (resamples + 1) over
    as many random flips. The same test as scipy.stats.permutation_test with
    permutation_type="samples" and the statistic |mean|, at a fifth of its time.
    """
    n = len(differences)
    total = differences.sum()
    # rounding must not break a tie with the observed sum: of thirds, say, that should cancel
    threshold = abs(total) - 1e-12 * np.abs(differences).sum()

    def extreme(flips: np.ndarray) -> int:
        return int((np.abs(total - 2 * (flips @ differences)) >= threshold).sum())

    if 2**n <= resamples:
        return extreme(np.arange(2**n)[:, None] >> np.arange(n) & 1) / 2**n
    rng = np.random.default_rng(seed)
    count, left = 0, resamples
    while left:
        rows = min(left, max(4, AT_ONCE // n // 4 * 4))  # numpy draws four bytes at a time
        bits = rng.integers(0, 256, (rows, n // 8 + 1), dtype=np.uint8)
        count += extreme(np.unpackbits(bits, axis=1, count=n).astype(float))
        left -= rows
    return (count + 1) / (resamples + 1)


def sign_flip_name(n: int, resamples: int = RESAMPLES) -> str:
    """What `sign_flip_p` does with n differences, and how small its p can get."""
    if 2**n <= resamples:
        return f"paired sign-flip permutation, all {2**n:,} flips"
    return f"paired sign-flip permutation, {resamples:,} random flips (p ≥ {1 / (resamples + 1):g})"


def cohens_d(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Standardised mean difference of a - b, arrays of shape (n,) on the same exchanges.

    `paired` divides by the standard deviation of the differences, `pooled` by the root mean square
    of the two standard deviations (Cohen 1988), which is the one that papers print. Equal values
    everywhere have d = 0. `reasons` has a sentence for every None.
    """
    differences = a - b
    effects: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, arrays in {"paired": (differences,), "pooled": (a, b)}.items():
        effects[name] = None
        if len(a) < 2:
            reasons[name] = "needs two exchanges"
        elif not differences.any():
            effects[name] = 0.0
        elif all(np.ptp(array) <= 1e-12 * np.abs(array).max() for array in arrays):
            reasons[name] = "the values do not vary, so there is nothing to divide by"
        else:
            spread = np.sqrt(np.mean([array.var(ddof=1) for array in arrays]))
            effects[name] = float(differences.mean() / spread)
    return effects | ({"reasons": reasons} if reasons else {})


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """McNemar's test of two systems that were right or wrong on the same items.

    Boolean arrays of shape (n,). Exact (binomial) below 25 items on which only one is right, else
    chi-square with continuity correction. `difference` is the accuracy of a minus that of b.
    """
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    exact = only_a + only_b < 25
    result = contingency_tables.mcnemar([[both, only_a], [only_b, neither]], exact=exact)
    return {
        "difference": (only_a - only_b) / len(a) if len(a) else None,
        "only_a": only_a,
        "only_b": only_b,
        "n": len(a),
        "p": min(1.0, float(result.pvalue)),
        "test": "McNemar, exact" if exact else "McNemar, chi-square with continuity correction",
    }


def compare(
    a: np.ndarray,
    b: np.ndarray,
    length_a: np.ndarray,
    length_b: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compare two systems on the same exchanges: mean of a - b, interval, p, d, length control.

    All arrays have shape (n,); exchanges where a or b is NaN are left out. `reasons` has a
    sentence for every None.
    """
    known = np.isfinite(a) & np.isfinite(b)
    differences = (a - b)[known]
    n = len(differences)
    reasons: dict[str, str] = {}
    if n == 0:
        reasons["difference"] = reasons["p"] = "no exchange where both systems have this value"
    if n < 2:
        reasons["interval"] = "needs two exchanges where both systems have this value"
    controlled = length_controlled(differences, (length_a - length_b)[known])
    if controlled is None:
        reasons["length_controlled"] = "needs length differences that vary over the exchanges"
    return {
        "difference": float(differences.mean()) if n else None,
        "interval": bootstrap_interval(differences, seed, resamples) if n > 1 else None,
        "p": sign_flip_p(differences, seed, resamples) if n else None,
        "test": sign_flip_name(n, resamples),
        "d": cohens_d(a[known], b[known]),
        "n": n,
        "length_controlled": controlled,
        "reasons": reasons,
    }


def length_controlled(differences: np.ndarray, lengths: np.ndarray) -> dict[str, Any] | None:
    """The difference that is left where both systems' replies are equally long.

    The intercept of `length_regression` with its 95 % interval, the slope per character, and
    `shares_longer`; None where there is no such regression.
    """
    fit = length_regression(differences, lengths)
    if fit is None:
        return None
    return {
        "intercept": float(fit.params[0]),
        "interval": fit.conf_int(1 - CONFIDENCE)[0].tolist(),
        "slope": float(fit.params[1]),
        **shares_longer(lengths),
    }


def shares_longer(lengths: np.ndarray) -> dict[str, float]:
    """Shares of exchanges where a's reply is longer, or shorter, than b's; `lengths` are a - b.

    Where one of them is near 1 a difference at equal length is an extrapolation.
    """
    return {
        "share_longer": float((lengths > 0).mean()),
        "share_shorter": float((lengths < 0).mean()),
    }


def length_regression(
    differences: np.ndarray, lengths: np.ndarray
) -> RegressionResultsWrapper | None:
    """Least squares of paired differences, shape (n,), on those of length in characters, shape (n,).

    Errors are HC3, tests t. None where the lengths do not determine a slope and its error.
    """
    if len(differences) < 3 or np.ptp(lengths) == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = sm.OLS(differences, sm.add_constant(lengths.astype(float))).fit(
            cov_type="HC3", use_t=True
        )
        error = finite(fit.bse[0])
    return None if error is None else fit  # where a single exchange determines the slope


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over all p that are there; None stays None."""
    known = [p for p in ps if p is not None]
    if not known:
        return list(ps)
    corrected = iter(multipletests(known, method="holm")[1].tolist())
    return [None if p is None else next(corrected) for p in ps]
