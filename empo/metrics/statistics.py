"""Tests, intervals and length control for values that systems have on the same exchanges.

A value that cannot be computed is None, and `reasons` beside it says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import statsmodels.api as sm
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


def t_test(a: np.ndarray, b: np.ndarray) -> tuple[dict[str, Any] | None, str | None]:
    """Test of two systems by the means of their runs, shapes (m,) and (k,).

    Welch's t where both have several runs; the one-sample t against a single one, such as a model
    that was not trained again. Returns the test, or None and the reason.
    """
    if len(a) < 2 and len(b) < 2:
        return None, "needs two runs of one of the systems"
    several = [sample for sample in (a, b) if len(sample) > 1]
    values = np.concatenate(several)
    noise = 1e-12 * max(np.abs(values).max(), np.finfo(float).tiny)
    if max(map(np.ptp, several)) <= noise:
        return None, "the runs do not differ in this value"
    with warnings.catch_warnings():  # of one system whose runs are all equal
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        if len(several) == 2:
            name, sign, single = "Welch", 1, 0.0
            found = scipy.stats.ttest_ind(a, b, equal_var=False)
        else:
            name, sign = "one-sample", 1 if len(a) > 1 else -1
            single = (b if len(a) > 1 else a)[0]
            found = scipy.stats.ttest_1samp(several[0], single)
    interval = [bound - single for bound in found.confidence_interval(CONFIDENCE)]
    return {
        "test": name,
        "t": sign * float(found.statistic),
        "df": float(found.df),
        "p": float(found.pvalue),
        "interval": sorted(sign * float(bound) for bound in interval),
    }, None


def over_runs(
    a: np.ndarray, b: np.ndarray, *, fixed: tuple[bool, bool] = (False, False)
) -> dict[str, Any]:
    """Compare two systems that were trained several times, on the same exchanges.

    `a` and `b` have shape (runs, n), the runs of one need not be those of the other; NaN is left
    out. Runs and exchanges are both random and crossed, so the p and the 95 % interval of
    `difference` (the mean over exchanges of the run-averaged paired differences) speak of systems
    trained again that answer other exchanges. Its squared standard error is the sum of `variances`:
    that of the paired differences over n, and for each side that of its run means over its runs; 0
    for a side that is `fixed`, such as the references or a model that is not trained again. The
    residual is in all of them, which errs on the safe side. t has Satterthwaite's (1946) degrees of
    freedom, as in Clark's (1973) quasi-F for two random factors. They are estimated too: with two
    runs against a fixed side the interval can cover 87 %, with three 92 %, else about 94 % or more.

    `welch` is `t_test` on the run means, for which the exchanges are fixed: it speaks of other
    trainings on these very exchanges. `reasons` has a sentence for every None.
    """
    means = [known_mean(values, axis=1) for values in (a, b)]
    differences = known_mean(a, axis=0) - known_mean(b, axis=0)
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    found: dict[str, Any] = dict.fromkeys(
        ("difference", "interval", "p", "t", "df", "variances", "welch")
    )
    tested, reason = None, "a run has no value"
    untested = dict.fromkeys(found, reason)
    if n and all(np.isfinite(of_runs).all() for of_runs in means):
        scale = max(float(np.nanmax(np.abs(values))) for values in (a, b))
        if any(len(of) < 2 and not same for of, same in zip(means, fixed, strict=True)):
            reason = "one training cannot say how far trainings differ"
            untested["welch"] = reason
        else:
            found["welch"], untested["welch"] = t_test(*means)
            tested, reason = _crossed(differences, means, fixed, 1e-12 * scale)
        found["difference"] = float(differences.mean())
    found |= tested or {}
    reasons = {key: untested["welch"] if key == "welch" else reason for key in found}
    return {
        **found,
        "runs": [len(a), len(b)],
        "n": n,
        "fixed": list(fixed),
        "reasons": {key: why for key, why in reasons.items() if found[key] is None},
    }


def _crossed(
    differences: np.ndarray, means: Sequence[np.ndarray], fixed: Sequence[bool], noise: float
) -> tuple[dict[str, Any] | None, str | None]:
    """The test of `over_runs`, or None and the reason; a standard error below `noise` is rounding."""
    n, difference = len(differences), float(differences.mean())
    if n < 2:
        return None, "needs two exchanges"
    variances = [float(differences.var(ddof=1) / n)]
    variances += [
        0.0 if same else float(of_runs.var(ddof=1) / len(of_runs))
        for of_runs, same in zip(means, fixed, strict=True)
    ]
    error = sum(variances) ** 0.5
    named = {"variances": dict(zip(("exchanges", "a", "b"), variances, strict=True))}
    if error <= noise:
        if abs(difference) > noise:
            return None, "the difference is the same in all exchanges and runs"
        nothing = {"difference": 0.0, "p": 1.0, "interval": [0.0, 0.0]}
        return named | nothing, "all differences are 0"
    freedom = [n - 1, *(max(1, len(of_runs) - 1) for of_runs in means)]
    df = error**4 / sum(v**2 / f for v, f in zip(variances, freedom, strict=True))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, df)) * error
    return named | {
        "t": difference / error,
        "df": df,
        "p": float(2 * scipy.stats.t.sf(abs(difference) / error, df)),
        "interval": [difference - half, difference + half],
    }, None


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the values along an axis that are no NaN, NaN where there is none."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


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

    Least squares of the paired differences, shape (n,), on the length differences in characters,
    shape (n,): the intercept with its 95 % interval (HC3 errors), and the slope per character.
    share_longer, share_shorter: shares of exchanges where a's reply is longer or shorter than b's;
    where one of them is near 1 the intercept is an extrapolation. None where the lengths do not determine a slope.
    """
    if len(differences) < 3 or np.ptp(lengths) == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = sm.OLS(differences, sm.add_constant(lengths.astype(float))).fit(
            cov_type="HC3", use_t=True
        )
        low, high = (finite(bound) for bound in fit.conf_int(1 - CONFIDENCE)[0])
    if low is None or high is None:  # a single exchange determines the slope
        return None
    return {
        "intercept": float(fit.params[0]),
        "interval": [low, high],
        "slope": float(fit.params[1]),
        "share_longer": float((lengths > 0).mean()),
        "share_shorter": float((lengths < 0).mean()),
    }


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over all p that are there; None stays None."""
    known = [p for p in ps if p is not None]
    if not known:
        return list(ps)
    corrected = iter(multipletests(known, method="holm")[1].tolist())
    return [None if p is None else next(corrected) for p in ps]
