import numpy as np
import pytest
import scipy.stats

from empo.metrics.run_statistics import length_controlled_over_runs, over_runs, t_test
from empo.metrics.statistics import length_controlled, length_regression


def test_welch_agrees_with_its_formula():
    a, b = np.array([0.71, 0.74, 0.69]), np.array([0.80, 0.77])
    found, reason = t_test(a, b)
    assert (found["test"], reason) == ("Welch", None)
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 2
    assert found["t"] == pytest.approx((a.mean() - b.mean()) / (va + vb) ** 0.5)
    assert found["df"] == pytest.approx((va + vb) ** 2 / (va**2 / 2 + vb**2 / 1))
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(found["t"]), found["df"]))
    assert found["interval"][0] < a.mean() - b.mean() < found["interval"][1] < 0.05
    assert t_test(np.full(2, 0.1), np.full(3, 0.1)) == (
        None,
        "the runs do not differ in this value",
    )


def test_runs_against_a_single_one_by_hand():
    a, b = np.array([0.2, 0.3, 0.4]), np.array([0.1])
    found, _ = t_test(a, b)
    # mean .3, standard error .1 / root 3
    assert found["test"] == "one-sample"
    assert found["t"] == pytest.approx(0.2 / (0.1 / 3**0.5))
    assert found["df"] == 2
    half = scipy.stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert found["interval"] == pytest.approx([0.2 - half, 0.2 + half])
    turned, _ = t_test(b, a)
    assert turned["t"] == -found["t"] and turned["p"] == found["p"]
    assert turned["interval"] == pytest.approx([-0.2 - half, -0.2 + half])


def crossed(rng, runs, n, run_sd, exchange_sd, noise):
    """Values of one system, shape (runs, n): true mean 0, runs and exchanges random."""
    exchange = rng.normal(0, exchange_sd, n)
    return exchange + rng.normal(0, run_sd, (runs, 1)) + rng.normal(0, noise, (runs, n))


def test_over_runs_by_hand():
    a, b = np.array([[1.0, 3, 5], [3, 5, 7]]), np.array([[1.0, 1, 1]])
    found = over_runs(a, b, fixed=(False, True))
    # run-averaged differences 1, 3, 5: mean 3, variance 4; run means 3, 5: variance 2
    assert found["difference"] == pytest.approx(3)
    assert found["variances"] == pytest.approx({"exchanges": 4 / 3, "a": 2 / 2, "b": 0})
    assert found["t"] == pytest.approx(3 / (7 / 3) ** 0.5)
    assert found["df"] == pytest.approx((7 / 3) ** 2 / ((4 / 3) ** 2 / 2 + 1 / 1))
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(found["t"], found["df"]))
    half = scipy.stats.t.ppf(0.975, found["df"]) * (7 / 3) ** 0.5
    assert found["interval"] == pytest.approx([3 - half, 3 + half])
    assert (found["runs"], found["n"], found["fixed"]) == ([2, 1], 3, [False, True])
    assert found["reasons"] == {}
    turned = over_runs(b, a, fixed=(True, False))
    assert turned["t"] == pytest.approx(-found["t"])
    assert turned["interval"] == pytest.approx([-3 - half, -3 + half])


def test_two_fixed_systems_have_the_paired_t_over_exchanges():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.2, 1, (1, 300)), rng.normal(0, 1, (1, 300))
    found = over_runs(a, b, fixed=(True, True))
    expected = scipy.stats.ttest_1samp((a - b)[0], 0)
    assert (found["t"], found["df"], found["p"]) == pytest.approx(
        (expected.statistic, 299, expected.pvalue)
    )
    assert found["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert found["welch"] is None
    assert found["reasons"] == {"welch": "needs two runs of one of the systems"}


@pytest.mark.parametrize("fixed", [False, True])
def test_without_differences_between_exchanges_it_is_the_t_on_run_means(fixed):
    rng = np.random.default_rng(4)
    exchange = rng.normal(0, 1, 50)
    a = exchange + rng.normal(0, 1, (4, 1))
    b = exchange + (np.zeros((1, 1)) if fixed else rng.normal(0, 1, (3, 1)))
    found = over_runs(a, b, fixed=(False, fixed))
    expected, _ = t_test(a.mean(axis=1), b.mean(axis=1))
    assert found["welch"] == expected
    assert expected["test"] == ("one-sample" if fixed else "Welch")
    for key in ("t", "df", "p", "interval"):
        assert found[key] == pytest.approx(expected[key])


COVERAGE = 600


@pytest.mark.parametrize("runs", [2, 3, 4])
@pytest.mark.parametrize(
    "run_sd, exchange_sd, noise",
    [(0.3, 0, 0), (0, 1, 0), (0, 0, 1), (0.1, 1, 0), (0.1, 1, 1), (0.4, 1, 1)],
    ids=["runs", "exchanges", "residual", "runs = exchanges", "all", "runs over exchanges"],
)
def test_intervals_over_runs_cover_the_true_difference(runs, run_sd, exchange_sd, noise):
    """100 exchanges, so exchanges of SD 1 weigh as much as runs of SD .1; the true difference is 0,
    so a miss is a false positive too.

    Two runs with both kinds of noise cover 93.6 % at worst (over 200,000 draws). Binomial(600,
    .936): fewer than 542 once in 1,000; that is the tolerance.
    """
    rng = np.random.default_rng([runs, int(10 * run_sd), exchange_sd, noise])
    covered = 0
    for _ in range(COVERAGE):
        a, b = (crossed(rng, runs, 100, run_sd, exchange_sd, noise) for _ in range(2))
        found = over_runs(a, b)
        low, high = found["interval"]
        assert (low <= 0 <= high) == (found["p"] >= 0.05)
        covered += low <= 0 <= high
    assert covered >= 542


@pytest.mark.parametrize("runs, least", [(2, 499), (3, 531), (4, 542)])
def test_against_a_fixed_system_two_runs_cover_less(runs, least):
    """Where runs weigh three times as much as exchanges the coverage is worst: 87.6, 92.1 and
    93.6 % for two, three and four runs (200,000 draws). Each bound is passed by chance once in
    1,000 (binomial).
    """
    rng = np.random.default_rng(runs)
    covered = 0
    for _ in range(COVERAGE):
        a = crossed(rng, runs, 100, 0.3 * runs**0.5, 1, 0)
        low, high = over_runs(a, np.zeros((1, 100)), fixed=(False, True))["interval"]
        covered += low <= 0 <= high
    assert covered >= least


def test_the_exchanges_that_welch_takes_as_fixed_are_not():
    """Equal systems that answer each exchange differently: Welch finds them apart, over_runs not."""
    rng = np.random.default_rng(6)
    positives = {"welch": 0, "crossed": 0}
    for _ in range(400):
        a, b = (crossed(rng, 3, 50, 0, 1, 0.3) for _ in range(2))
        found = over_runs(a, b)
        positives["welch"] += found["welch"]["p"] < 0.05
        positives["crossed"] += found["p"] < 0.05
    assert positives["welch"] > 200
    assert positives["crossed"] <= 36  # binomial(400, .05): 20 expected, more once in 2,000


def test_a_single_training_is_not_tested():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, 1, (1, 20)), rng.normal(0, 1, (3, 20))
    for fixed in ((False, False), (False, True)):
        found = over_runs(a, b, fixed=fixed)
        assert found["difference"] == pytest.approx(a.mean() - b.mean())
        nothing = ("interval", "p", "t", "df", "variances", "welch")
        assert [found[key] for key in nothing] == [None] * len(nothing)
        reason = "one training cannot say how far trainings differ"
        assert found["reasons"] == dict.fromkeys(nothing, reason)


def test_equal_systems_differ_in_nothing_over_runs():
    values = np.random.default_rng(8).random((3, 9))
    found = over_runs(values, values[::-1])
    assert (found["difference"], found["p"], found["interval"]) != (0, 1, [0, 0])  # runs differ
    assert found["difference"] == pytest.approx(0, abs=1e-12)
    same = np.tile(values[0], (3, 1))
    for b, fixed in ((same[:2], (False, False)), (values[:1], (False, True))):
        found = over_runs(same, b, fixed=fixed)
        assert (found["difference"], found["p"], found["interval"]) == (0, 1, [0, 0])
        assert (found["t"], found["df"]) == (None, None)
        assert found["reasons"]["t"] == found["reasons"]["df"] == "all differences are 0"
    shifted = over_runs(same + 0.1, same)
    assert (shifted["p"], shifted["interval"]) == (None, None)
    assert shifted["reasons"]["p"] == "the difference is the same in all exchanges and runs"


def test_over_runs_leaves_out_nan():
    a = np.array([[1.0, np.nan, 3.0, np.nan], [1.0, 2.0, 3.0, np.nan]])
    b = np.zeros((2, 4))
    found = over_runs(a, b)
    assert (found["difference"], found["n"]) == (2, 3)
    for nothing in (over_runs(np.full((1, 3), np.nan), b[:, :3]), over_runs(a[:, 3:], b[:, 3:])):
        assert nothing["difference"] is nothing["interval"] is nothing["p"] is None
        assert set(nothing["reasons"].values()) == {"a run has no value"}
    one = over_runs(a[:, :1], b[:, :1])
    assert (one["difference"], one["p"]) == (1, None)
    assert one["reasons"]["p"] == "needs two exchanges"


# --- at equal length ---


def lengthy(rng, runs, n, run_sd, length_sd, exchange, longer=0.0):
    """Values and characters of one system, shape (runs, n): a hundredth per character, else of mean 0."""
    values, characters = exchange
    characters = characters + longer + rng.normal(0, length_sd, (runs, 1))
    characters = characters + rng.normal(0, 20, (runs, n))
    noise = rng.normal(0, run_sd, (runs, 1)) + rng.normal(0, 1, (runs, n))
    return values + 0.01 * characters + noise, characters


def covered(seed, repeats, runs, n, run_sd, length_sd, longer=0.0, fixed=False):
    """How many intervals at equal length hold the true 0: over runs, and those that leave runs out."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(2, int)
    for _ in range(repeats):
        exchange = rng.normal(0, 1, n), 60 + rng.normal(0, 20, n)
        a, of_a = lengthy(rng, runs, n, run_sd, length_sd, exchange, longer)
        again = (1, n, 0, 0) if fixed else (runs, n, run_sd, length_sd)
        b, of_b = lengthy(rng, *again, exchange)
        found, reason = length_controlled_over_runs(a, b, of_a, of_b, fixed=(False, fixed))
        assert reason is None
        pooled = length_controlled(a.mean(0) - b.mean(0), of_a.mean(0) - of_b.mean(0))
        assert found["intercept"] == pytest.approx(pooled["intercept"])
        counts += [low <= 0 <= high for low, high in (found["interval"], pooled["interval"])]
    return counts


def test_equal_length_over_runs_covers_the_true_difference():
    """Binomial(300, .94): fewer than 267 once in 1,000. The regression alone leaves the runs out."""
    crossed, pooled = covered(9, 300, runs=3, n=500, run_sd=0.1, length_sd=10)
    assert crossed >= 267
    assert pooled < 210


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 3, 4])
@pytest.mark.parametrize(
    "n, run_sd, length_sd, longer",
    [(500, 0.1, 0, 0), (100, 0.3, 10, 30), (100, 0.1, 10, 0), (100, 0, 0, 0)],
    ids=["many exchanges", "runs over exchanges, longer", "all", "no runs"],
)
def test_equal_length_over_runs_covers_under_many_conditions(runs, n, run_sd, length_sd, longer):
    """Binomial(3000, .94): fewer than 2,779 once in 1,000."""
    crossed, _ = covered([9, runs, n], 3000, runs, n, run_sd, length_sd, longer)
    assert crossed >= 2779


@pytest.mark.slow
@pytest.mark.parametrize("runs, least", [(2, 0.87), (3, 0.92), (4, 0.936)])
def test_equal_length_against_a_fixed_system_covers_as_over_runs(runs, least):
    crossed, _ = covered([8, runs], 3000, runs, 500, 0.3, 10, fixed=True)
    assert crossed >= 3000 * least - 3.1 * (3000 * least * (1 - least)) ** 0.5


def test_equal_length_over_runs_by_hand():
    # value = length + 1 (run one) or + 3 (run two), against 0: intercepts 1 and 3, mean 2
    of_a = np.array([[-1.0, 0, 1, 2, 3], [-1.0, 0, 1, 2, 3]])
    bent = np.array([0.1, -0.1, 0, -0.1, 0.1])  # keeps the line, so that it has an error
    a = of_a + np.array([[1.0], [3.0]]) + bent
    nothing = np.zeros((1, 5))
    found, reason = length_controlled_over_runs(a, nothing, of_a, nothing, fixed=(False, True))
    assert reason is None
    assert (found["intercept"], found["slope"]) == pytest.approx((2, 1))
    assert (found["share_longer"], found["share_shorter"]) == (0.6, 0.2)
    own = float(length_regression(a.mean(axis=0), of_a[0]).bse[0] ** 2)
    assert found["variances"] == pytest.approx({"exchanges": own, "a": 2 / 2, "b": 0})
    assert found["df"] == pytest.approx((1 + own) ** 2 / (own**2 / 3 + 1))
    half = scipy.stats.t.ppf(0.975, found["df"]) * (1 + own) ** 0.5
    assert found["interval"] == pytest.approx([2 - half, 2 + half])


def test_runs_that_differ_only_by_their_length_do_not_differ_at_equal_length():
    rng = np.random.default_rng(10)
    of_b = rng.integers(20, 90, (1, 60)).astype(float)
    of_a = of_b + rng.normal(0, 10, (1, 60)) + np.array([[-30.0], [0.0], [30.0]])
    a, b = 0.01 * of_a, 0.01 * of_b + rng.normal(0, 1e-3, (1, 60))
    found, _ = length_controlled_over_runs(a, b, of_a, of_b, fixed=(False, True))
    assert over_runs(a, b, fixed=(False, True))["variances"]["a"] == pytest.approx(0.03, rel=0.1)
    assert found["variances"]["a"] < 1e-5


def test_two_fixed_systems_have_the_regression_over_exchanges_at_equal_length():
    rng = np.random.default_rng(11)
    values = [rng.normal(0, 1, (1, 50)) for _ in range(4)]
    found, _ = length_controlled_over_runs(*values, fixed=(True, True))
    pooled = length_controlled((values[0] - values[1])[0], (values[2] - values[3])[0])
    assert found["interval"] == pytest.approx(pooled["interval"]) and found["df"] == 48


def test_what_has_no_interval_at_equal_length_says_why():
    rng = np.random.default_rng(12)
    a, b, of_a, of_b = (rng.normal(0, 1, (2, 9)) for _ in range(4))
    same = np.ones((2, 9))
    needs = "needs length differences that vary over the exchanges"
    assert length_controlled_over_runs(a, b, same, same) == (None, needs)
    found, reason = length_controlled_over_runs(a[:1], b, of_a[:1], of_b)
    assert reason == "one training cannot say how far trainings differ"
    assert [found[key] for key in ("interval", "df", "variances")] == [None] * 3
    a[0, 1:] = np.nan
    found, reason = length_controlled_over_runs(a, b, of_a, of_b)
    assert (found["interval"], reason) == (
        None,
        "a run has too few values for a regression on length",
    )
    nothing = np.zeros((2, 9))
    found, reason = length_controlled_over_runs(nothing, nothing, of_a, of_b)
    assert (found["interval"], reason) == ([0, 0], None)
    found, reason = length_controlled_over_runs(nothing + 0.5, nothing, of_a, of_b)
    assert found["interval"] is None
    assert reason == "the difference is the same in all exchanges and runs"
