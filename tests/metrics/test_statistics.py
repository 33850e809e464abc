import numpy as np
import pytest
import scipy.stats

from empo.metrics.statistics import (
    RESAMPLES,
    bootstrap_interval,
    compare,
    describe,
    histogram,
    holm,
    length_controlled,
    sign_flip_name,
    sign_flip_p,
)


def scipy_p(differences):
    return scipy.stats.permutation_test(
        (differences,),
        lambda x, axis: np.abs(np.mean(x, axis=axis)),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=1,
        batch=500,
    ).pvalue


def test_sign_flips_by_hand():
    # of the 8 sums +-1 +-2 +-3 four are as large as 4 in absolute value: 6, 4, -4, -6
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0]), seed=0) == 4 / 8
    assert sign_flip_p(np.array([0.0, 0.0]), seed=0) == 1
    assert sign_flip_p(np.array([7.0]), seed=0) == 1


@pytest.mark.parametrize("n", [2, 5, 13])
def test_all_flips_are_those_of_scipy(n):
    differences = np.round(np.random.default_rng(n).normal(0.3, 1, n), 1)  # with ties
    assert sign_flip_p(differences, seed=0) == pytest.approx(scipy_p(differences), abs=1e-12)


def test_random_flips_agree_with_scipy():
    differences = np.random.default_rng(0).normal(0.1, 1, 200)
    p = scipy_p(differences)
    error = 4 * np.sqrt(2 * p * (1 - p) / RESAMPLES)
    assert abs(sign_flip_p(differences, seed=0) - p) < error


def test_p_is_bounded_by_the_number_of_flips_and_seeded():
    assert sign_flip_p(np.ones(100), seed=0) == 1 / 10_000
    differences = np.random.default_rng(1).normal(0.1, 1, 50)
    assert sign_flip_p(differences, seed=1) == sign_flip_p(differences, seed=1)
    assert sign_flip_p(differences, seed=1) != sign_flip_p(differences, seed=2)


def test_name_says_what_was_done():
    assert sign_flip_name(3) == "paired sign-flip permutation, all 8 flips"
    assert "9,999 random flips (p ≥ 0.0001)" in sign_flip_name(14)


def test_p_values_are_uniform_under_the_null_hypothesis():
    rng = np.random.default_rng(5)
    ps = [sign_flip_p(rng.normal(0, 1, 10), seed=0) for _ in range(400)]
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.001


def test_interval_of_a_normal_mean():
    values = np.random.default_rng(0).normal(2, 3, 500)
    half = 1.96 * values.std(ddof=1) / np.sqrt(500)
    assert bootstrap_interval(values, seed=0) == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.03
    )


def test_describe_leaves_out_nan():
    described = describe(np.array([1.0, np.nan, 3.0]), np.array([10.0, 99.0, 20.0]), seed=0)
    assert described["n"] == 2
    assert described["mean"] == 2
    assert described["sd"] == pytest.approx(np.sqrt(2))
    assert described["length_correlation"] == pytest.approx(1)
    assert "reasons" not in described


def test_describe_without_spread_of_length():
    described = describe(np.array([1.0, 3.0]), np.array([7.0, 7.0]), seed=0)
    assert described["length_correlation"] is None
    assert set(described["reasons"]) == {"length_correlation"}


def test_histogram():
    assert histogram(np.array([0, 0.1, 0.6, 1.0, np.nan]), bins=4) == [2, 0, 1, 1]


def test_length_control_finds_the_difference_behind_length():
    rng = np.random.default_rng(0)
    lengths = rng.normal(20, 10, 300)
    differences = 0.5 + 0.02 * lengths + rng.normal(0, 0.1, 300)
    found = length_controlled(differences, lengths)
    assert found["intercept"] == pytest.approx(0.5, abs=0.03)
    assert found["slope"] == pytest.approx(0.02, abs=0.001)
    low, high = found["interval"]
    assert low < 0.5 < high


def test_length_control_by_hand():
    # d = 1 + 2 * l through three points on a line
    found = length_controlled(np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    assert found["intercept"] == pytest.approx(1)
    assert found["slope"] == pytest.approx(2)


def test_length_control_needs_varying_lengths():
    assert length_controlled(np.array([1.0, 2.0, 4.0]), np.full(3, 5.0)) is None
    # a single exchange with another length fixes the slope: there is no error to estimate
    assert length_controlled(np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 3.0])) is None


def test_compare_pairs_by_exchange():
    a = np.array([1.0, 2.0, np.nan, 4.0])
    b = np.array([0.0, 1.0, 5.0, 3.0])
    compared = compare(a, b, np.zeros(4), np.zeros(4), seed=0)
    assert compared["n"] == 3
    assert compared["difference"] == 1
    assert compared["interval"] == [1, 1]
    assert compared["p"] == 2 / 8
    assert compared["length_controlled"] is None
    assert set(compared["reasons"]) == {"length_controlled"}


def test_compare_without_a_common_value():
    nothing = np.array([np.nan])
    compared = compare(nothing, np.array([1.0]), np.zeros(1), np.zeros(1), seed=0)
    assert compared["difference"] is compared["p"] is compared["interval"] is None
    assert set(compared["reasons"]) == {"difference", "p", "interval", "length_controlled"}


def test_holm_by_hand():
    # sorted: .01 * 3, .02 * 2, .03 * 1 with the running maximum
    assert holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([None]) == [None]
