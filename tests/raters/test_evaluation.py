import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from empo.raters.evaluation import aggregate, evaluate_predictions, evidence, paired
from empo.raters.folder import RaterConfig
from empo.raters.predictions import Predictions, nearest_level
from empo.raters.resampling import GroupBootstrap, Sample
from empo.raters.scores import (
    class_scores,
    confusion_columns,
    correlation,
    correlation_columns,
    error_columns,
    error_scores,
)
from empo.rating import Dimension
from empo.records import UserError

LEVELS = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
SCALE = Dimension("event", 1, 4, "interval")
GOLD = [0, 0, 0, 1, 1, 2]
SAID = [0, 0, 1, 1, 2, 2]


def of(gold, scores, **further):
    """Predictions of one dimension, every input a group of its own unless given."""
    gold, scores = (np.array(values, dtype=float)[:, None] for values in (gold, scores))
    n = len(gold)
    given = {"groups": np.arange(n), "lengths": np.arange(1, n + 1)} | further
    baselines = given.pop("baselines", {})
    baselines = {name: np.array(v, dtype=float)[:, None] for name, v in baselines.items()}
    return Predictions(gold, scores, baselines=baselines, **given)


def evaluate(predictions, dimension=LEVELS, seed=0, **options):
    """The entry of the one dimension; the whole must be JSON without NaN."""
    found = evaluate_predictions(predictions, [dimension], seed, **{"resamples": 400} | options)
    json.dumps(found, allow_nan=False)
    return found["dimensions"][dimension.name]


def rater_of(entry, key):
    return entry["predictors"]["rater"][key]["value"]


def two_classes(n=80, seed=1):
    """Half zeros, half ones, and a rater that is right in four of five."""
    rng = np.random.default_rng(seed)
    gold = np.arange(n) % 2
    return gold, np.where(rng.random(n) < 0.8, gold, 1 - gold)


def test_scores_by_hand():
    entry = evaluate(of(GOLD, SAID))
    # level 0: P 1, R 2/3, F1 4/5; level 1: P R F1 1/2; level 2: P 1/2, R 1, F1 2/3
    assert rater_of(entry, "accuracy") == pytest.approx(4 / 6)
    assert rater_of(entry, "macro_precision") == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert rater_of(entry, "macro_recall") == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert rater_of(entry, "macro_f1") == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert rater_of(entry, "weighted_f1") == pytest.approx((3 * 4 / 5 + 2 * 1 / 2 + 2 / 3) / 6)
    classes = entry["predictors"]["rater"]["classes"]
    assert [(c["support"], c["predicted"]) for c in classes.values()] == [(3, 2), (2, 2), (1, 2)]
    assert classes["0"]["f1"]["value"] == pytest.approx(4 / 5)
    assert entry["predictors"]["rater"]["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert (entry["n"], entry["missing"], entry["unscored"]) == (6, 0, 0)


codes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(codes)
@settings(max_examples=60, deadline=None)
def test_class_scores_are_those_of_scikit_learn(pairs):
    gold, said = np.array(pairs).T
    values = class_scores(confusion_columns(gold, said, 4).sum(axis=0))
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(
            gold, said, labels=np.unique(gold), average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert values[f"{average}_{name}"] == pytest.approx(value)
    assert values["accuracy"] == pytest.approx((gold == said).mean())


def test_errors_and_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    gold = rng.integers(2, 9, 200) / 2
    scores = gold + rng.normal(0, 1, 200)
    entry = evaluate(of(gold, scores), SCALE)
    expected = {
        "mse": np.mean((gold - scores) ** 2),
        "mae": np.mean(np.abs(gold - scores)),
        "pearson": scipy.stats.pearsonr(gold, scores).statistic,
        "spearman": scipy.stats.spearmanr(gold, scores).statistic,
        "cosine": gold @ scores / np.linalg.norm(gold) / np.linalg.norm(scores),
        "accuracy": np.mean((gold > 2.5) == (scores > 2.5)),
    }
    assert {key: rater_of(entry, key) for key in expected} == pytest.approx(expected)


def test_every_draw_is_the_score_of_the_drawn_inputs():
    rng = np.random.default_rng(3)
    n = 60
    groups, gold, said = rng.integers(0, 20, n), rng.integers(0, 3, n), rng.integers(0, 3, n)
    values = gold + rng.normal(0, 1, n)
    bootstrap = GroupBootstrap(groups, seed=5, resamples=30)
    sample = Sample(bootstrap, np.zeros(n, int), 1, np.arange(n))
    f1 = sample.spread(confusion_columns(gold, said, 3), class_scores).draws["macro_f1"]
    r = sample.spread(correlation_columns(values, gold), correlation).draws["pearson"]
    mse = sample.spread(error_columns(gold, values, 1), error_scores).draws["mse"]
    rho = sample.spearman(values, gold).draws["spearman"]
    for draw in range(30):
        counts = bootstrap.counts[draw]
        assert counts.sum() == bootstrap.groups
        drawn = np.repeat(np.arange(n), counts[bootstrap.codes])
        g, s, v = gold[drawn], said[drawn], values[drawn]
        expected = precision_recall_fscore_support(
            g, s, labels=np.unique(g), average="macro", zero_division=0
        )[2]
        assert f1[draw] == pytest.approx(expected)
        assert r[draw] == pytest.approx(scipy.stats.pearsonr(v, g).statistic)
        assert mse[draw] == pytest.approx(np.mean((v - g) ** 2))
        assert rho[draw] == pytest.approx(scipy.stats.spearmanr(v, g).statistic)


def test_copies_of_an_input_in_its_group_narrow_no_interval():
    gold, said = two_classes(60)
    once = evaluate(of(gold, said))["predictors"]["rater"]["accuracy"]["interval"]
    ten = of(np.repeat(gold, 10), np.repeat(said, 10), groups=np.repeat(np.arange(60), 10))
    assert evaluate(ten)["predictors"]["rater"]["accuracy"]["interval"] == pytest.approx(once)
    assert once[1] - once[0] > 0.1


def test_the_order_of_inputs_does_not_matter():
    gold, said = two_classes()
    groups, order = np.arange(80) // 4, np.random.default_rng(0).permutation(80)
    lengths = np.random.default_rng(1).integers(1, 200, 80)
    ordered = of(gold, said, groups=groups, lengths=lengths)
    shuffled = of(gold[order], said[order], groups=groups[order], lengths=lengths[order])
    a, b = evaluate(ordered), evaluate(shuffled)
    for of_entry in (
        lambda entry: entry["predictors"]["rater"]["macro_f1"],
        lambda entry: entry["length_correlation"]["rater"]["spearman"],
    ):
        assert of_entry(a)["interval"] == pytest.approx(of_entry(b)["interval"])


def test_a_rater_equal_to_the_constant_shows_nothing_and_a_perfect_one_does():
    gold = np.array([0] * 30 + [1] * 15 + [2] * 5)
    baselines = {"constant": np.zeros(50), "length": np.arange(50) % 3}
    same = evaluate(of(gold, np.zeros(50), baselines=baselines))["differences"]["constant"]
    for key in ("macro_f1", "accuracy"):
        assert same[key]["difference"] == 0
        assert same[key]["interval"] == [0, 0]
    perfect = evaluate(of(gold, gold, baselines=baselines))["differences"]
    # constant: F1 of level 0 is 2 * 30 / (30 + 50) = .75, of the others 0
    assert perfect["constant"]["macro_f1"]["difference"] == pytest.approx(1 - 0.75 / 3)
    for baseline in ("constant", "length"):
        assert perfect[baseline]["macro_f1"]["interval"][0] > 0


def test_differences_are_paired():
    gold, said = two_classes(200)
    other = said.copy()
    other[:10] = 1 - other[:10]
    entry = evaluate(of(gold, said, baselines={"constant": other, "length": other}))
    low, high = entry["differences"]["constant"]["accuracy"]["interval"]
    alone = entry["predictors"]["rater"]["accuracy"]["interval"]
    assert high - low < alone[1] - alone[0]


def test_errors_differ_in_favour_of_the_rater_where_positive():
    gold = np.tile([1.0, 2.0, 3.0, 4.0], 10)
    baselines = {"constant": np.full(40, 2.5), "length": np.full(40, 2.5)}
    difference = evaluate(of(gold, gold, baselines=baselines), SCALE)["differences"]["constant"]
    assert difference["mse"]["difference"] == pytest.approx((1.5**2 + 0.5**2) / 2)
    assert difference["mse"]["interval"][0] > 0
    worse = evaluate(of(gold, 5 - gold, baselines=baselines), SCALE)["differences"]["constant"]
    assert worse["mse"]["interval"][1] < 0


def test_evidence_is_what_a_rater_folder_reads():
    gold, said = np.tile([0, 1, 2], 20), np.zeros(60)
    baselines = {"constant": said, "length": said}
    for scores, warned in ((gold, False), (said, True)):
        found = evaluate_predictions(of(gold, scores, baselines=baselines), [LEVELS], 0)
        for evaluation in (found, aggregate([found])):
            shown = evidence(evaluation)
            assert (shown["n"], shown["groups"]) == (60, 60)
            assert (shown["drawn"], shown["notes"]) == ("groups", [])
            assert shown["dimensions"]["warmth"]["metric"] == "macro_f1"
            config = RaterConfig("k", "r", (LEVELS,)).bound(shown, "w")
            assert bool(config.warnings("w")) is warned
    few = evaluate_predictions(
        of(gold, gold, groups=np.arange(60) % 9, baselines=baselines), [LEVELS], 0
    )
    assert evidence(few)["notes"] == [
        "Intervals from 9 groups are unreliable and mostly too narrow."
    ]
    config = RaterConfig("k", "r", (LEVELS,)).bound(evidence(few), "w")
    assert "only 9 groups" in config.warnings("w")[0]
    interval = evaluate_predictions(of([1, 2, 3], [1, 2, 3]), [SCALE], 0)
    assert evidence(interval)["dimensions"]["event"] == {
        "metric": "mse",
        "constant": {"difference": None, "interval": None},
        "length": {"difference": None, "interval": None},
    }


def test_one_class_is_measured_and_said():
    entry = evaluate(of(np.zeros(8), [0, 0, 0, 0, 0, 0, 1, 2]))
    assert entry["absent"]["data"] == ["1", "2"]
    assert rater_of(entry, "accuracy") == pytest.approx(6 / 8)
    level = entry["predictors"]["rater"]["classes"]["1"]
    assert level["support"] == 0
    assert level["f1"]["value"] is None
    assert level["f1"]["reasons"]["value"] == "no label has this level"
    correlations = entry["length_correlation"]
    assert correlations["gold"]["pearson"]["reasons"]["value"] == "the values do not vary"
    assert correlations["rater"]["spearman"]["value"] > 0


def test_a_level_absent_from_a_fold_is_said():
    entry = evaluate(of(GOLD, SAID, folds=np.array(["a", "a", "b", "b", "b", "a"])))
    assert entry["absent"] == {"data": [], "folds": {"a": ["1"], "b": ["2"]}}
    accuracy = entry["predictors"]["rater"]["accuracy"]
    assert accuracy["folds"] == pytest.approx([1, 1 / 3])
    assert accuracy["sd_folds"] == pytest.approx(np.std([1, 1 / 3], ddof=1))
    assert entry["predictors"]["rater"]["classes"]["1"]["f1"]["folds"][0] is None


def test_a_level_in_two_groups_has_no_interval():
    gold = np.array([0] * 28 + [2] * 2)
    recall = evaluate(of(gold, gold))["predictors"]["rater"]["classes"]["2"]["recall"]
    assert recall["value"] == 1
    assert recall["interval"] is None
    assert "of 400 resamples do not define it" in recall["reasons"]["interval"]


def test_a_rater_that_scores_nothing():
    for dimension in (LEVELS, SCALE):
        entry = evaluate(of([1, 2, 2], [np.nan] * 3, baselines={"constant": [2] * 3}), dimension)
        assert (entry["n"], entry["unscored"]) == (0, 3)
        accuracy = entry["predictors"]["rater"]["accuracy"]
        assert accuracy["value"] is None
        assert accuracy["reasons"]["value"] == "no input has both a label and a score"


def test_missing_labels_and_scores_are_counted_and_left_out():
    entry = evaluate(of([0, 0, np.nan, 1, 1], [0, np.nan, 1, 1, 0]))
    assert (entry["n"], entry["missing"], entry["unscored"]) == (3, 1, 1)
    assert rater_of(entry, "accuracy") == pytest.approx(2 / 3)


@pytest.mark.parametrize("scores", [[2.5] * 6, [2.4, 2.6] * 3], ids=["one value", "one per fold"])
def test_a_constant_has_no_correlation(scores):
    folds = np.array([0, 1] * 3)
    entry = evaluate(of([1, 2, 3, 4, 2, 3], scores, folds=folds), SCALE)
    for key in ("pearson", "spearman"):
        found = entry["predictors"]["rater"][key]
        assert found["value"] is None
        assert found["reasons"]["value"] == "the scores do not vary within a fold, as a constant's"
    assert rater_of(entry, "cosine") > 0.9  # near that of a perfect rater: no sign of anything


def test_one_label_has_no_correlation():
    entry = evaluate(of([2, 2, 2], [1, 2, 3]), SCALE)
    assert entry["predictors"]["rater"]["pearson"]["reasons"]["value"] == "every label is 2"


def test_threshold():
    predictions = of([2.5, 3, 1, 4], [2.5, 2, 3, 4])
    entry = evaluate(predictions, SCALE)
    assert entry["threshold"] == 2.5  # not above it: inputs 1 and 3; said: 1 and 2
    assert rater_of(entry, "accuracy") == pytest.approx(2 / 4)
    assert rater_of(evaluate(predictions, SCALE, threshold=1.5), "accuracy") == pytest.approx(3 / 4)


@pytest.mark.parametrize("mode, errors", [("both", [1, 1]), ("under", [0, 1]), ("over", [1, 0])])
def test_severe_errors(mode, errors):
    # label 1 is overestimated by 1.5 and by exactly 1, label 4 underestimated by 2 and by 0
    entry = evaluate(of([1, 1, 4, 4], [2.5, 2, 2, 4]), SCALE, severe=mode)["severe"]
    assert entry["above"] == 1
    assert [part["errors"] for part in entry["by_gold"].values()] == errors
    assert [part["support"] for part in entry["by_gold"].values()] == [2, 2]
    assert entry["all"]["share"]["value"] == pytest.approx(sum(errors) / 4)


def test_many_labels_are_shown_in_ten_bins():
    gold = np.linspace(1, 4, 31)
    by_gold = evaluate(of(gold, gold), SCALE)["severe"]["by_gold"]
    assert next(iter(by_gold)) == "1 to 1.3"
    assert sum(part["support"] for part in by_gold.values()) == 31
    assert len(by_gold) == 10


def test_calibration_by_hand():
    tops = np.array([[0.95, 0.05, 0], [0.95, 0.05, 0], [0.45, 0.55, 0], [0.45, 0.55, 0]])
    predictions = of([0, 1, 1, 1], tops.argmax(axis=1), probabilities=[tops])
    found = evaluate(predictions)["calibration"]
    # bin of .95: half right; bin of .55: all right; both hold half of the inputs
    assert found["ece"]["value"] == pytest.approx((abs(0.5 - 0.95) + abs(1 - 0.55)) / 2)
    assert [(row["n"], row["accuracy"]) for row in found["bins"]] == [(2, 1.0), (2, 0.5)]
    assert [row["confidence"] for row in found["bins"]] == pytest.approx([0.55, 0.95])
    low, high = found["bins"][1]["low"], found["bins"][1]["high"]
    assert (low, high) == pytest.approx((14 / 15, 1))


def test_no_probabilities_no_calibration():
    entry = evaluate(of(GOLD, SAID))
    assert entry["calibration"] is None
    assert entry["reasons"]["calibration"] == "the rater gives no probabilities of levels"


def test_correlation_with_length():
    gold = np.tile([0, 1, 2], 10)
    entry = evaluate(of(gold, gold[::-1], lengths=100 + 10 * gold[::-1]))["length_correlation"]
    assert entry["rater"]["pearson"]["value"] == pytest.approx(1)
    assert entry["gold"]["pearson"]["value"] == pytest.approx(
        scipy.stats.pearsonr(gold, gold[::-1]).statistic
    )
    same = evaluate(of(gold, gold, lengths=np.full(30, 7)))["length_correlation"]
    assert same["rater"]["spearman"]["reasons"]["value"] == "all responses are equally long"


def test_means_over_dimensions():
    gold, said = two_classes()
    dims = [Dimension(name, 0, 1, "binary", (0.0, 1.0)) for name in "ab"]
    tables = [np.column_stack(pair).astype(float) for pair in ((gold, gold), (said, gold))]
    zeros = {name: np.zeros((80, 2)) for name in ("constant", "length")}
    p = Predictions(*tables, np.arange(80), np.arange(80), baselines=zeros)
    found = evaluate_predictions(p, dims, 0)
    mean = found["mean"]["classes"]
    each = [found["dimensions"][name]["predictors"]["rater"]["macro_f1"]["value"] for name in "ab"]
    assert mean["predictors"]["rater"]["macro_f1"]["value"] == pytest.approx(np.mean(each))
    difference = mean["differences"]["constant"]["macro_f1"]
    assert difference["difference"] == pytest.approx(
        np.mean(each) - mean["predictors"]["constant"]["macro_f1"]["value"]
    )
    assert difference["interval"][0] > 0
    assert mean["dimensions"] == ["a", "b"]


def test_errors_of_different_ranges_have_no_mean():
    gold = np.array([[0.1, 1], [0.5, 2], [0.9, 4]])
    p = Predictions(gold, gold, np.arange(3), np.arange(3))
    dims = [Dimension("a", 0, 1, "interval"), Dimension("b", 1, 4, "interval")]
    mean = evaluate_predictions(p, dims, 0)["mean"]["interval"]["predictors"]["rater"]
    assert mean.keys() == {"pearson", "spearman"}


def test_inputs_are_drawn_where_one_group_holds_most_of_them():
    gold, said = two_classes()
    groups = np.array(["one"] * 78 + ["two", "three"])
    found = evaluate_predictions(of(gold, said, groups=groups), [LEVELS], 0)
    assert (found["groups"], found["drawn"]) == (3, "inputs")
    assert "inputs are drawn instead of groups" in found["notes"][0]
    few = evaluate_predictions(of(gold, said, groups=np.arange(80) // 20), [LEVELS], 0)
    assert (few["groups"], few["drawn"]) == (4, "groups")
    assert few["notes"] == ["Intervals from 4 groups are unreliable and mostly too narrow."]


def test_a_score_counts_as_the_nearest_level_halves_up():
    assert nearest_level(np.array([-1, 0.49, 0.5, 1.2, 1.5, 9]), (0, 1, 2)).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(
    "predictions, message",
    [
        (of([], []), "there is nothing to evaluate"),
        (of([0, 1], [0]), r"scores: shape \(1, 1\), but \(2, 1\) is needed"),
        (of([0, 1], [0, 1], groups=["a"]), "groups: 1 rows for 2 labelled inputs"),
        (of([0, 1], [0, 1], lengths=[1, 2, 3]), "lengths: 3 rows for 2 labelled inputs"),
        (of([0, 1], [0, 1], baselines={"length": [0]}), "baseline 'length': shape"),
        (of([0, 1.5], [0, 1]), "input 2: the label 1.5 of 'warmth' is none of its levels 0, 1, 2"),
        (
            of([0, 1], [0, 1], probabilities=[np.eye(2)]),
            "probabilities of 'warmth': 2 columns for 3 levels",
        ),
    ],
)
def test_what_cannot_be_evaluated(predictions, message):
    with pytest.raises(UserError, match=message):
        evaluate_predictions(predictions, [LEVELS], 0)


def test_a_baseline_without_predictions_is_said():
    found = evaluate(of(GOLD, SAID, baselines={"constant": [np.nan] * 6, "length": SAID}))
    assert found["differences"]["constant"] is None
    reason = found["reasons"]["differences.constant"]
    assert reason == "the baseline has no prediction for 6 inputs"
    assert found["differences"]["length"]["macro_f1"]["difference"] == 0


def test_paired():
    gold, said = two_classes(120)
    good, bad = of(gold, gold), of(gold, said)
    found = paired(good, bad, [LEVELS], 0)
    accuracy = found["dimensions"]["warmth"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(1 - np.mean(gold == said))
    assert accuracy["interval"][0] > 0
    back = paired(bad, good, [LEVELS], 0)["dimensions"]["warmth"]["accuracy"]
    assert back["difference"] == pytest.approx(-accuracy["difference"])
    assert back["interval"] == pytest.approx([-bound for bound in accuracy["interval"][::-1]])
    same = paired(bad, bad, [LEVELS], 0)
    assert same["mean"]["classes"]["macro_f1"]["interval"] == [0, 0]
    assert (same["n"], same["groups"], same["seed"], same["resamples"]) == (120, 120, 0, 2000)


def test_paired_on_inputs_that_both_scored():
    a, b = of(GOLD, [np.nan, *SAID[1:]]), of(GOLD, [*SAID[:-1], np.nan])
    assert paired(a, b, [LEVELS], 0)["dimensions"]["warmth"]["n"] == 4
    errors = paired(of([1, 2, 4], [1, 2, 4]), of([1, 2, 4], [2, 3, 3]), [SCALE], 0)
    assert errors["dimensions"]["event"]["mse"]["difference"] == pytest.approx(1)


def test_paired_needs_the_same_inputs():
    with pytest.raises(UserError, match="the two raters have other labels or groups"):
        paired(of(GOLD, SAID), of(GOLD[::-1], SAID), [LEVELS], 0)


def seeds_of(*accurate):
    """Evaluations of raters with that many of 20 right, one seed each."""
    gold = np.arange(20) % 2
    found = []
    for seed, right in enumerate(accurate):
        said = np.where(np.arange(20) < right, gold, 1 - gold)
        p = of(gold, said, baselines={"constant": np.zeros(20), "length": np.zeros(20)})
        found.append(evaluate_predictions(p, [LEVELS], seed))
    return found


def test_aggregate_by_hand():
    parts = seeds_of(20, 16, 18)
    whole = aggregate(parts)
    json.dumps(whole, allow_nan=False)
    assert whole["seeds"] == [0, 1, 2]
    entry = whole["dimensions"]["warmth"]["predictors"]["rater"]
    accuracy = entry["accuracy"]
    assert accuracy["seeds"] == [1, 0.8, 0.9]
    assert accuracy["value"] == pytest.approx(0.9)
    assert accuracy["sd_seeds"] == pytest.approx(0.1)
    bounds = [
        p["dimensions"]["warmth"]["predictors"]["rater"]["accuracy"]["interval"] for p in parts
    ]
    assert accuracy["interval"] == [min(b[0] for b in bounds), max(b[1] for b in bounds)]
    assert np.sum(entry["confusion"]) == 60
    assert whole["dimensions"]["warmth"]["n"] == 20
    difference = whole["mean"]["classes"]["differences"]["constant"]["accuracy"]
    assert difference["seeds"] == pytest.approx([0.5, 0.3, 0.4])
    assert difference["difference"] == pytest.approx(0.4)


def test_aggregate_of_one_seed_has_no_spread():
    accuracy = aggregate(seeds_of(18))["mean"]["classes"]["predictors"]["rater"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.9)
    assert accuracy["sd_seeds"] is None
    assert accuracy["reasons"]["sd_seeds"] == "needs two seeds that have this value"


def test_aggregate_of_seeds_with_other_held_out_parts():
    small = evaluate_predictions(of(GOLD, SAID), [LEVELS], 1)
    large = evaluate_predictions(of(GOLD * 2, SAID * 2), [LEVELS], 2)
    whole = aggregate([small, large])
    assert whole["n"] == [6, 12]
    assert whole["dimensions"]["warmth"]["predictors"]["rater"]["classes"]["2"]["support"] == [1, 2]


def test_reliability_bins_of_seeds_are_pooled():
    tops = np.array([[0.95, 0.05, 0], [0.95, 0.05, 0]])
    parts = [
        evaluate_predictions(of(gold, [0, 0], probabilities=[tops]), [LEVELS], seed)
        for seed, gold in enumerate(([0, 0], [0, 1]))
    ]
    (row,) = aggregate(parts)["dimensions"]["warmth"]["calibration"]["bins"]
    assert (row["n"], row["accuracy"]) == (4, 0.75)


def test_what_cannot_be_aggregated():
    with pytest.raises(UserError, match="there is no evaluation to aggregate"):
        aggregate([])
    first = seeds_of(18)[0]
    with pytest.raises(UserError, match=r"the seeds of the evaluations must differ.*\[0, 0\]"):
        aggregate([first, first])
    other = evaluate_predictions(of([1, 2], [1, 2]), [SCALE], 1)
    with pytest.raises(UserError, match="Aggregate evaluations of the same dimensions"):
        aggregate([first, other])
    a, b = (evaluate_predictions(of([1, 2], [1, 2]), [SCALE], s, threshold=s + 1.0) for s in (0, 1))
    with pytest.raises(UserError, match="threshold is not the same in all seeds: 1.0"):
        aggregate([a, b])


def test_the_same_seed_gives_the_same_evaluation():
    gold, said = two_classes()
    first, again, other = (
        evaluate_predictions(of(gold, said), [LEVELS], seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first["dimensions"] != other["dimensions"]
