"""Systems that were trained several times: tests and intervals in which runs are random, too.

A value that cannot be computed is None, and `reasons` beside it says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from empo.metrics.statistics import CONFIDENCE, length_regression, shares_longer


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


def length_controlled_over_runs(
    a: np.ndarray,
    b: np.ndarray,
    length_a: np.ndarray,
    length_b: np.ndarray,
    *,
    fixed: tuple[bool, bool] = (False, False),
) -> tuple[dict[str, Any] | None, str | None]:
    """`length_controlled` of run-averaged values and characters, with runs random as in `over_runs`.

    Values and lengths of a side have shape (runs, n); NaN is left out. The intercept is that of the
    regression of the run-averaged differences on those of length. Its squared standard error is the
    sum of `variances`: that of the regression (HC3), and for each side that of its run intercepts
    over its runs; 0 for a side that is `fixed`. A run's intercept is that of the regression of its
    values, less slope times characters, on the same length differences: the mean of one side's less
    that of the other's is the intercept of all. Degrees of freedom are Satterthwaite's, coverage is
    that of `over_runs`.

    Returns this, or None and the reason. Where only the interval is None, the reason is its own.
    """
    differences = known_mean(a, axis=0) - known_mean(b, axis=0)
    lengths = known_mean(length_a, axis=0) - known_mean(length_b, axis=0)
    known = np.isfinite(differences) & np.isfinite(lengths)
    differences, lengths = differences[known], lengths[known]
    fit = length_regression(differences, lengths)
    if fit is None:
        return None, "needs length differences that vary over the exchanges"
    intercept, slope = map(float, fit.params)
    tested, reason = None, "one training cannot say how far trainings differ"
    if all(len(of) > 1 or same for of, same in zip((a, b), fixed, strict=True)):
        adjusted = [
            values[:, known] - slope * characters[:, known]
            for values, characters in ((a, length_a), (b, length_b))
        ]
        intercepts = [
            np.array([0.0] if same else [_intercept(run, lengths) for run in of])
            for of, same in zip(adjusted, fixed, strict=True)
        ]
        if np.isfinite(np.concatenate(intercepts)).all():
            variances = [float(fit.bse[0]) ** 2, *map(_of_mean, intercepts, fixed)]
            freedom = [len(lengths) - 2, *(max(1, len(of) - 1) for of in (a, b))]
            noise = 1e-12 * max(float(np.nanmax(np.abs(of))) for of in (a, b))
            tested, reason = _quasi_f(intercept, variances, freedom, noise)
        else:
            reason = "a run has too few values for a regression on length"
    found = {
        "intercept": intercept,
        "slope": slope,
        **shares_longer(lengths),
        **{key: (tested or {}).get(key) for key in ("interval", "df", "variances")},
    }
    return found, None if found["interval"] else reason


def _intercept(values: np.ndarray, lengths: np.ndarray) -> float:
    """Of the least squares of values on lengths, shapes (n,); NaN where they do not determine it."""
    known = np.isfinite(values)
    if known.sum() < 2 or np.ptp(lengths[known]) == 0:
        return float("nan")
    return float(np.polynomial.polynomial.polyfit(lengths[known], values[known], 1)[0])


def _of_mean(values: np.ndarray, fixed: bool) -> float:
    """Variance of the mean of a side's runs, shape (runs,)."""
    return 0.0 if fixed else float(values.var(ddof=1) / len(values))


def _crossed(
    differences: np.ndarray, means: Sequence[np.ndarray], fixed: Sequence[bool], noise: float
) -> tuple[dict[str, Any] | None, str | None]:
    """The test of `over_runs`, or None and the reason."""
    n = len(differences)
    if n < 2:
        return None, "needs two exchanges"
    variances = [float(differences.var(ddof=1) / n), *map(_of_mean, means, fixed)]
    freedom = [n - 1, *(max(1, len(of_runs) - 1) for of_runs in means)]
    return _quasi_f(float(differences.mean()), variances, freedom, noise)


def _quasi_f(
    difference: float, variances: Sequence[float], freedom: Sequence[int], noise: float
) -> tuple[dict[str, Any] | None, str | None]:
    """t of a difference whose variance has three parts: of exchanges and of either side's runs.

    None and the reason where the standard error is below `noise`, which is rounding.
    """
    error = sum(variances) ** 0.5
    named = {"variances": dict(zip(("exchanges", "a", "b"), variances, strict=True))}
    if error <= noise:
        if abs(difference) > noise:
            return None, "the difference is the same in all exchanges and runs"
        nothing = {"difference": 0.0, "p": 1.0, "interval": [0.0, 0.0]}
        return named | nothing, "all differences are 0"
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
