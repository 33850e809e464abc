import tracemalloc

import numpy as np
import pytest
import scipy.stats

from empo.metrics import statistics
from empo.metrics.run_statistics import t_test
from empo.metrics.statistics import (
    RESAMPLES,
    bootstrap_interval,
    cohens_d,
    compare,
    describe,
    histogram,
    holm,
    length_controlled,
    mcnemar,
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


@pytest.mark.parametrize("n", [15, 100, 777])
def test_what_is_held_at_once_moves_no_bit(n, monkeypatch):
    values = np.random.default_rng(n).normal(0.1, 1, n)
    found = []
    for at_once in (1, 20 * n, 10**9):  # the last one: all in a single draw
        monkeypatch.setattr(statistics, "AT_ONCE", at_once)
        found.append((bootstrap_interval(values, seed=3), sign_flip_p(values, seed=3)))
    assert found[0] == found[1] == found[2]


def test_resampling_holds_little_at_once():
    values = np.random.default_rng(0).normal(0, 1, 200_000)
    tracemalloc.start()
    try:
        bootstrap_interval(values, seed=0, resamples=99)
        sign_flip_p(values, seed=0, resamples=99)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6  # all 99 at once: 158 MB for the flips, twice that for the bootstrap


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


def test_cohens_d_by_hand():
    a, b = np.array([3.0, 5.0, 7.0]), np.array([1.0, 2.0, 6.0])
    # differences 2, 3, 1: mean 2, sd 1; variances 4 and 7
    assert cohens_d(a, b) == {"paired": pytest.approx(2), "pooled": pytest.approx(2 / 5.5**0.5)}
    assert cohens_d(b, a)["pooled"] == -cohens_d(a, b)["pooled"]


def test_cohens_d_agrees_with_the_t_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 40), rng.normal(0, 2, 40)
    d = cohens_d(a, b)
    assert d["paired"] == pytest.approx(scipy.stats.ttest_rel(a, b).statistic / 40**0.5)
    # with equal n, Welch's t is the pooled d times the root of n / 2
    assert d["pooled"] == pytest.approx(t_test(a, b)[0]["t"] / 20**0.5)


def test_equal_systems_have_no_effect_and_constant_ones_no_d():
    values = np.array([1.0, 2.0, 2.0])
    equal = compare(values, values, values, values, seed=0)
    assert (equal["difference"], equal["p"]) == (0, 1)
    assert equal["d"] == {"paired": 0, "pooled": 0}
    shifted = cohens_d(values + 1, values)
    assert shifted["paired"] is None and shifted["pooled"] is not None
    assert shifted["reasons"] == {
        "paired": "the values do not vary, so there is nothing to divide by"
    }
    assert cohens_d(values[:1], values[:1])["reasons"]["pooled"] == "needs two exchanges"


@pytest.mark.parametrize("flips, exact", [(10, True), (200, False)])
def test_mcnemar_agrees_with_scipy(flips, exact):
    rng = np.random.default_rng(flips)
    a = rng.random(400) < 0.6
    b = a ^ (np.arange(400) < flips) & (rng.random(400) < 0.9)
    found = mcnemar(a, b)
    discordant = found["only_a"] + found["only_b"]
    assert found["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["n"] == 400
    if exact:
        assert discordant < 25 and found["test"] == "McNemar, exact"
        expected = scipy.stats.binomtest(found["only_a"], discordant).pvalue
    else:
        chi2 = (abs(found["only_a"] - found["only_b"]) - 1) ** 2 / discordant
        expected = scipy.stats.chi2.sf(chi2, 1)
    assert found["p"] == pytest.approx(expected)


def test_mcnemar_of_a_system_with_itself():
    same = np.array([True, False, True])
    assert mcnemar(same, same) | {"test": ""} == {
        "difference": 0, "only_a": 0, "only_b": 0, "n": 3, "p": 1, "test": "",
    }  # fmt: skip


def test_fewer_resamples_are_said_and_bound_p():
    a, b = np.ones(50), np.zeros(50)
    found = compare(a, b, a, b, seed=0, resamples=999)
    assert found["p"] == 1 / 1000
    assert "999 random flips (p ≥ 0.001)" in found["test"]


def test_rounding_breaks_no_tie_of_thirds():
    # .1 + .2 - .3 is not 0 in floating point; as integers 1 + 2 - 3 is
    assert sign_flip_p(np.array([0.1, 0.2, -0.3] * 3), seed=0) == sign_flip_p(
        np.array([1.0, 2.0, -3.0] * 3), seed=0
    )


def test_a_constant_difference_has_no_paired_d():
    b = np.random.default_rng(0).random(50)
    assert cohens_d(b + 0.1, b)["paired"] is None


def test_length_control_says_where_it_extrapolates_and_uses_t():
    rng = np.random.default_rng(1)
    lengths = rng.integers(10, 60, 40).astype(float)
    found = length_controlled(0.01 * lengths + rng.normal(0, 0.1, 40), lengths)
    assert (found["share_longer"], found["share_shorter"]) == (1, 0)
    three = length_controlled(np.array([0.0, 1.0, 1.5]), np.array([-1.0, 0.0, 2.0]))
    low, high = three["interval"]
    assert high - low > 10 * abs(three["intercept"])  # one degree of freedom
