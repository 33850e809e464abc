"""The mixed model: against statsmodels, against a balanced table by hand, and where it cannot be."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from simulated import simulated

from empo.survey.mixed_model import fit_crossed


def codes(values: np.ndarray) -> np.ndarray:
    return np.unique(values.astype(str), return_inverse=True)[1]


def test_the_same_as_statsmodels() -> None:
    ratings = simulated({"a": 0, "b": 5, "c": 12}, seed=5, items=30, taste=12)
    system, rater, item = map(codes, (ratings.system, ratings.rater, ratings.exchange))
    groups = {
        "reply": codes(item * 10 + system),
        "taste": codes(rater * 10 + system),
        "rater": rater,
        "item": item,
    }
    found = fit_crossed(ratings.value, system, list(groups.values()))
    table = pd.DataFrame({"value": ratings.value, "system": system, **groups})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = sm.MixedLM.from_formula(
            "value ~ 0 + C(system)",
            table,
            groups=np.ones(len(table)),
            re_formula="0",
            vc_formula={name: f"0 + C({name})" for name in groups},
        ).fit(reml=True, method=["bfgs", "lbfgs"])
    theirs = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True)) | {"residual": fit.scale}
    ours = dict(zip((*groups, "residual"), found.variances, strict=True))
    assert ours == pytest.approx(theirs, rel=0.02, abs=0.5)
    assert found.means == pytest.approx(fit.fe_params.to_numpy(), abs=0.02)
    assert found.covariance == pytest.approx(
        fit.cov_params().to_numpy()[:3, :3], rel=0.02, abs=0.05
    )


def test_a_balanced_table_by_hand() -> None:
    # two raters and two items crossed with two systems: additive but for 1 in one cell
    system, rater, item = (c.ravel() for c in np.indices((2, 2, 2)))
    values = 10.0 * system + 3 * rater + 5 * item
    values[7] += 1
    found = fit_crossed(values, system, [rater, item])
    difference, stderr = found.difference(1, 0)
    assert difference == pytest.approx(10.25, abs=1e-6)
    # residual: anova without interactions, 8 - 4 degrees of freedom; of 8 values two means of 4
    rest = (
        values
        - np.linalg.lstsq(design := np.column_stack([np.ones(8), system, rater, item]), values)[0]
        @ design.T
    )
    residual = (rest**2).sum() / 4
    assert found.variances[-1] == pytest.approx(residual, rel=1e-3)
    assert stderr == pytest.approx(np.sqrt(residual / 2), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full(8, 3.0), "the ratings do not vary"),
        (np.array([1.0] * 4 + [2.0] * 4), "the ratings are explained without rest"),
    ],
)
def test_what_cannot_be_fitted_has_a_reason(values: np.ndarray, reason: str) -> None:
    system, rater, item = (c.ravel() for c in np.indices((2, 2, 2)))
    found = fit_crossed(values, system, [rater, item])
    assert isinstance(found, str) and found.startswith(reason)


def test_too_few_ratings() -> None:
    two = np.arange(2)
    assert fit_crossed(np.array([1.0, 2.0]), two, [two]) == "there are no more ratings than systems"


def test_the_scale_does_not_matter() -> None:
    ratings = simulated({"a": 0, "b": 5}, seed=4, items=15)
    system, rater = codes(ratings.system), codes(ratings.rater)
    one = fit_crossed(ratings.value, system, [rater])
    other = fit_crossed(ratings.value * 1000 + 7, system, [rater])
    assert other.difference(1, 0) == pytest.approx(
        np.multiply(one.difference(1, 0), 1000), rel=1e-3
    )
