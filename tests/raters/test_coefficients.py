"""Coefficients of agreement against values from the literature, by hand, and from the libraries."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.raters.coefficients import (
    PAIRWISE,
    alpha,
    classes,
    pair_coefficients,
    resampled_alpha,
    resampled_pair,
)

NAN = np.nan
KRIPPENDORFF = np.array(  # Krippendorff (2011), example C: 12 units, 4 observers
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_halves_are_rounded_up() -> None:
    given_values = array(0.5, 1.5, 2.4, 2.5, 3.5, 4, -0.5, -2.5, -2.6)
    assert classes(given_values).tolist() == [1, 2, 2, 3, 4, 4, 0, -2, -3]
    assert classes(array(0.49999999999999994)).tolist() == [0]  # floor(x + 0.5) gives 1


def test_two_raters_by_hand() -> None:
    # equal in 3 of 4; by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2; deviations give r = .5 / sqrt(.75)
    values, reasons = pair_coefficients(array(1, 1, 2, 2), array(1, 2, 2, 2))
    assert values["agreement"] == 0.75
    assert values["kappa"] == pytest.approx(0.5, abs=1e-15)
    assert values["pearson"] == pytest.approx(0.5 / 0.75**0.5, abs=1e-15)
    assert values["spearman"] == pytest.approx(values["pearson"], abs=1e-15)  # two values are ranks
    assert reasons == {}


def test_kappa_of_the_textbook() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: (0.7 - 0.5) / (1 - 0.5)
    x = np.repeat([1.0, 1, 0, 0], [20, 5, 10, 15])
    y = np.repeat([1.0, 0, 1, 0], [20, 5, 10, 15])
    assert pair_coefficients(x, y)[0]["kappa"] == pytest.approx(0.4, abs=1e-15)


def test_kappa_takes_classes_and_the_correlations_take_values() -> None:
    x, y = array(1, 2.5, 3.5, 4), array(1, 3, 4, 3.5)
    values, _ = pair_coefficients(x, y)
    assert values["kappa"] == values["agreement"] == 1
    assert values["spearman"] == pytest.approx(0.8, abs=1e-15)  # 1 - 6 * 2 / (4 * 15)
    assert values["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-15)


def test_spearman_sees_only_the_order() -> None:
    values, _ = pair_coefficients(array(1, 2, 3, 4), array(1, 10, 100, 1000))
    assert values["spearman"] == pytest.approx(1, abs=1e-15)
    assert values["pearson"] < 0.9


@pytest.mark.parametrize(
    ("x", "y", "undefined", "reason"),
    [
        ([1], [1], set(PAIRWISE), "fewer than 2 items rated by both"),
        ([], [], set(PAIRWISE), "fewer than 2 items rated by both"),
        ([2, 2], [1, 2], {"pearson", "spearman"}, "the first rater gives one value"),
        ([1, 2], [2, 2], {"pearson", "spearman"}, "the second rater gives one value"),
        ([1, 1], [2, 2], {"pearson", "spearman"}, "both raters give one value"),
        ([2.5, 3.4], [3, 3.3], {"kappa"}, "both raters give one class"),
    ],
)
def test_a_coefficient_that_is_not_defined_has_a_reason(
    x: list[float], y: list[float], undefined: set[str], reason: str
) -> None:
    values, reasons = pair_coefficients(array(*x), array(*y))
    assert {name for name in PAIRWISE if values[name] is None} == undefined == reasons.keys()
    assert all(reason in text for text in reasons.values())


def test_alpha_of_krippendorff_example() -> None:
    value, reason = alpha(KRIPPENDORFF)
    assert round(value, 3) == 0.849
    assert reason == ""


def test_alpha_by_hand() -> None:
    # squared differences of the items 0, 1, 0; of all 15 pairs of 1 1 1 2 2 2: 9 are 1
    # observed (0 + 2 + 0) / 6, expected 2 * 9 / (6 * 5)
    value, _ = alpha(np.array([[1, 1], [1, 2], [2, 2]], dtype=float))
    assert value == pytest.approx(1 - (2 / 6) / (18 / 30), abs=1e-15)


def test_an_item_with_one_rating_does_not_count_in_alpha() -> None:
    values = np.array([[1, 1], [1, 2], [2, 2]], dtype=float)
    more = np.vstack([values, [[4, NAN], [NAN, 1], [NAN, NAN]]])
    assert alpha(more) == alpha(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1, NAN], [NAN, 2]], "no item has two ratings"),
        ([[1], [2]], "no item has two ratings"),
        ([[2, 2], [2, 2], [5, NAN]], "all ratings have one value"),
        ([[0, 1e-200], [1e-200, 1e-200]], "differ by too little"),
    ],
)
def test_alpha_that_is_not_defined_has_a_reason(values: list[list[float]], reason: str) -> None:
    value, why = alpha(np.array(values, dtype=float))
    assert value is None
    assert reason in why


def test_alpha_of_many_continuous_ratings_is_that_of_the_package() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(75, 1)) + rng.normal(size=(75, 3))
    values[rng.random(values.shape) < 0.1] = NAN
    pairable = np.isfinite(values).sum(axis=1) >= 2
    assert len(np.unique(values[pairable])) ** 2 * pairable.sum() > 2_000_000
    expected = krippendorff.alpha(values.T, level_of_measurement="interval")
    assert alpha(values)[0] == pytest.approx(expected, abs=1e-12)


ratings = st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0, 4.0])


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two raters' values, shape (n,), and how often each item was drawn, shape (3, n)."""
    n = draw(st.integers(1, 7))
    x, y = (draw(st.lists(ratings, min_size=n, max_size=n)) for _ in range(2))
    weights = [draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for _ in range(3)]
    return array(*x), array(*y), np.array(weights, dtype=float)


@settings(max_examples=150, deadline=None)
@given(samples())
def test_resampled_pairs_are_the_libraries_on_repeated_items(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, y, weights = drawn
    found = resampled_pair(x, y, weights)
    for b, times in enumerate(weights.astype(int)):
        expected, _ = pair_coefficients(np.repeat(x, times), np.repeat(y, times))
        for name in PAIRWISE:
            if expected[name] is None:
                assert np.isnan(found[name][b]), name
            else:
                assert found[name][b] == pytest.approx(expected[name], abs=1e-12), name


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(
                st.lists(ratings | st.just(NAN), min_size=3, max_size=3), min_size=n, max_size=n
            ),
            st.lists(st.integers(0, 3), min_size=n, max_size=n),
        )
    )
)
def test_resampled_alpha_is_the_package_on_repeated_items(
    drawn: tuple[list[list[float]], list[int]],
) -> None:
    values, times = np.array(drawn[0]), drawn[1]
    expected, _ = alpha(np.repeat(values, times, axis=0))
    found = resampled_alpha(values, array(*times)[None])[0]
    if expected is None:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_resampled_pearson_is_exact_far_from_zero() -> None:
    x, y = array(1, 2, 3, 5), array(2, 1, 4, 4)
    near, far = (resampled_pair(x + c, y + c, np.ones((1, 4))) for c in (0, 1e6))
    assert far["pearson"][0] == pytest.approx(near["pearson"][0], abs=1e-9)
    constant = resampled_pair(array(0.1, 0.1, 0.1, 0.7), y, array(3, 3, 1, 0)[None])
    assert np.isnan(constant["pearson"][0])  # not the ratio of two rounding errors
