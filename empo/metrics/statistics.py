"""Tests, intervals and length control for values that systems have on the same exchanges.

A value that cannot be computed is None, and `reasons` beside it says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from empo.records import finite

RESAMPLES = 9_999
CONFIDENCE = 0.95


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


def bootstrap_interval(values: np.ndarray, seed: int) -> list[float]:
    """95 % percentile bootstrap interval of the mean of `values`, shape (n,), n >= 2."""
    interval = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=500,  # 500 x n floats at a time
        rng=seed,
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def sign_flip_p(differences: np.ndarray, seed: int) -> float:
    """Two-sided p of a paired permutation test on the mean of `differences`, shape (n,), n >= 1.

    Under the null hypothesis the two systems of a pair can be exchanged, so every sign is a coin.
    All 2^n flips where these are no more than the random ones, else (count + 1) / (flips + 1) over
    9,999 random flips. The same test as scipy.stats.permutation_test with
    permutation_type="samples" and the statistic |mean|, at a fifth of its time.
    """
    n = len(differences)
    total = differences.sum()
    threshold = abs(total) * (1 - 1e-12)  # rounding must not break a tie with the observed sum

    def extreme(flips: np.ndarray) -> int:
        return int((np.abs(total - 2 * (flips @ differences)) >= threshold).sum())

    if 2**n <= RESAMPLES:
        return extreme(np.arange(2**n)[:, None] >> np.arange(n) & 1) / 2**n
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (RESAMPLES, n // 8 + 1), dtype=np.uint8)
    count = sum(  # 500 flips x n floats at a time
        extreme(np.unpackbits(rows, axis=1, count=n).astype(float))
        for rows in np.array_split(bits, RESAMPLES // 500 + 1)
    )
    return (count + 1) / (RESAMPLES + 1)


def sign_flip_name(n: int) -> str:
    """What `sign_flip_p` does with n differences, and how small its p can get."""
    if 2**n <= RESAMPLES:
        return f"paired sign-flip permutation, all {2**n:,} flips"
    return f"paired sign-flip permutation, {RESAMPLES:,} random flips (p ≥ {1 / (RESAMPLES + 1)})"


def compare(
    a: np.ndarray, b: np.ndarray, length_a: np.ndarray, length_b: np.ndarray, seed: int
) -> dict[str, Any]:
    """Compare two systems on the same exchanges: mean of a - b, interval, p, length control.

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
        "interval": bootstrap_interval(differences, seed) if n > 1 else None,
        "p": sign_flip_p(differences, seed) if n else None,
        "test": sign_flip_name(n),
        "n": n,
        "length_controlled": controlled,
        "reasons": reasons,
    }


def length_controlled(differences: np.ndarray, lengths: np.ndarray) -> dict[str, Any] | None:
    """The difference that is left where both systems' replies are equally long.

    Least squares of the paired differences, shape (n,), on the length differences in characters,
    shape (n,): the intercept with its 95 % interval (HC3 errors), and the slope per character.
    None where the lengths do not determine a slope.
    """
    if len(differences) < 3 or np.ptp(lengths) == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = sm.OLS(differences, sm.add_constant(lengths.astype(float))).fit(cov_type="HC3")
        low, high = (finite(bound) for bound in fit.conf_int(1 - CONFIDENCE)[0])
    if low is None or high is None:  # a single exchange determines the slope
        return None
    return {
        "intercept": float(fit.params[0]),
        "interval": [low, high],
        "slope": float(fit.params[1]),
    }


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over all p that are there; None stays None."""
    known = [p for p in ps if p is not None]
    if not known:
        return list(ps)
    corrected = iter(multipletests(known, method="holm")[1].tolist())
    return [None if p is None else next(corrected) for p in ps]
