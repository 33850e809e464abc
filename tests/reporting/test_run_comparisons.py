import numpy as np
import pytest
import scipy.stats

from empo.metrics.run_statistics import length_controlled_over_runs, over_runs, t_test
from empo.metrics.statistics import holm, length_controlled
from empo.reporting.comparisons import at_equal_length
from empo.reporting.run_comparisons import compare_over_runs, on_the_same

RNG = np.random.default_rng(5)
IDS = [f"hit:{i}_conv:{i}" for i in range(12)]
LABELS = ["one", "two", "three"]
KEYS = ("nidf", "length.characters", "diff_epitome", "bertscore")


def of_run(arrays):
    """A run as far as comparisons go: system -> value -> array of shape (12,)."""
    per_response = {
        name: {
            key: {value: None if np.isnan(a[i]) else float(a[i]) for value, a in of.items()}
            for i, key in enumerate(IDS)
        }
        for name, of in arrays.items()
    }
    return {
        "folder": "",
        "results": {"comparisons": []},
        "per_response": per_response,
        "harness": {},
    }


@pytest.fixture
def values():
    """Three runs; `sft` and `human` are the same in all of them."""
    fixed = {name: {key: RNG.random(12) for key in KEYS} for name in ("sft", "human")}
    return [
        {
            **{name: {key: RNG.random(12) for key in KEYS} for name in ("dpo", "ipo")},
            **fixed,
        }
        for _ in range(3)
    ]


def compared(runs, fixed=("sft", "human"), ids=IDS):
    names = {(i, n): n for i, run in enumerate(runs) for n in run["per_response"]}
    systems = {
        name: {
            "runs": LABELS[:1] if name in fixed else LABELS[: len(runs)],
            "fixed": name in fixed,
        }
        for name in dict.fromkeys(names.values())
    }
    rows = compare_over_runs(runs, LABELS[: len(runs)], systems, names, ids)
    return {(row["a"], row["b"], row["metric"]): row for row in rows}


def test_values_are_those_of_the_functions_on_the_arrays(values):
    rows = compared([of_run(of) for of in values])
    dpo, ipo = (np.array([of[name]["nidf"] for of in values]) for name in ("dpo", "ipo"))
    expected = over_runs(dpo, ipo)
    row = rows["dpo", "ipo", "nidf"]
    for key in expected.keys() - {"reasons"}:
        assert row[key] == expected[key]
    tested, _ = t_test(dpo.mean(axis=1), ipo.mean(axis=1))
    for key in ("t", "df", "p"):
        assert row["welch"][key] == pytest.approx(tested[key])
    assert row["difference"] == pytest.approx(dpo.mean() - ipo.mean())

    sft = np.array([values[0]["sft"]["nidf"]])
    row = rows["dpo", "sft", "nidf"]
    assert row["runs"] == [3, 1]
    assert row["fixed"] == [False, True]
    assert row["p"] == over_runs(dpo, sft, fixed=(False, True))["p"]
    assert row["welch"]["test"] == "one-sample"  # sft was not trained again
    row = rows["sft", "human", "nidf"]  # the paired t over exchanges
    differences = sft[0] - values[0]["human"]["nidf"]
    assert row["p"] == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue)


def test_a_single_training_has_no_p_and_says_so(values):
    rows = compared([of_run({**of, "ipo": values[0]["ipo"]}) for of in values], fixed=("human",))
    assert rows["dpo", "ipo", "nidf"]["p"] is not None
    del values[1]["ipo"], values[2]["ipo"]
    row = compared([of_run(of) for of in values])["dpo", "ipo", "nidf"]
    assert (row["runs"], row["p"], row["p_holm"], row["interval"]) == ([3, 1], None, None, None)
    assert row["reasons"]["p"] == "one training cannot say how far trainings differ"
    assert row["reasons"]["p_holm"] == "there is no p to correct"


def test_length_is_controlled_on_the_averages_over_runs(values):
    values[0]["dpo"]["nidf"][3] = np.nan
    rows = compared([of_run(of) for of in values])
    of = {
        name: {key: np.nanmean([v[name][key] for v in values], axis=0) for key in KEYS}
        for name in ("dpo", "ipo")
    }
    of_value, of_length = (of["dpo"][key] - of["ipo"][key] for key in ("nidf", "length.characters"))
    found = rows["dpo", "ipo", "nidf"]["length_controlled"]
    pooled = length_controlled(of_value, of_length)
    for key in ("intercept", "slope", "share_longer", "share_shorter"):
        assert found[key] == pytest.approx(pooled[key])
    arrays = [
        np.array([v[name][key] for v in values]) for key in KEYS[:2] for name in ("dpo", "ipo")
    ]
    assert found == length_controlled_over_runs(*arrays)[0]
    low, high = found["interval"]
    assert low < pooled["interval"][0] < pooled["interval"][1] < high
    row = rows["dpo", "ipo", "length.characters"]
    assert row["length_controlled"] is None
    assert row["reasons"]["length_controlled"] == "length itself"
    for run in (values[0], values[1], values[2]):
        for system in run.values():
            system.pop("length.characters", None)
        row = compared([of_run(of) for of in values])["dpo", "ipo", "nidf"]
        assert row["reasons"]["length_controlled"] == "not both systems have lengths"


def test_lengths_are_those_of_the_runs_that_have_the_value(values):
    del values[0]["dpo"]["nidf"]
    row = compared([of_run(of) for of in values])["dpo", "ipo", "nidf"]
    dpo, ipo = values[1:], values
    of = [
        np.array([v[name][key] for v in some])
        for key in KEYS[:2]
        for name, some in (("dpo", dpo), ("ipo", ipo))
    ]
    assert row["length_controlled"] == length_controlled_over_runs(*of)[0]


def test_at_equal_length_a_single_training_has_no_interval_and_says_so(values):
    del values[1]["ipo"], values[2]["ipo"]
    row = compared([of_run(of) for of in values])["dpo", "ipo", "nidf"]
    assert row["length_controlled"]["interval"] is None
    why = "one training cannot say how far trainings differ"
    assert row["reasons"]["length_controlled.interval"] == why
    assert at_equal_length(
        row["length_controlled"]
    ) == f"{row['length_controlled']['intercept']:.4f}".replace("-", "−")


def test_holm_is_over_the_whole_table(values):
    rows = compared([of_run(of) for of in values]).values()
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    # three pairs without human; three with it in the two values that it is compared in
    assert sum(row["p"] is not None for row in rows) == 3 * len(KEYS) + 3 * 2


def test_human_is_not_compared_in_values_in_which_it_is_compared_with_itself(values):
    rows = compared([of_run(of) for of in values])
    assert {key[2] for key in rows if "human" in key} == {"nidf", "length.characters"}
    assert {key[2] for key in rows if "human" not in key} == set(KEYS)


def test_only_the_shared_exchanges_count(values):
    rows = compared([of_run(of) for of in values], ids=IDS[:4])
    dpo, ipo = (np.array([of[name]["nidf"][:4] for of in values]) for name in ("dpo", "ipo"))
    assert rows["dpo", "ipo", "nidf"]["n"] == 4
    assert rows["dpo", "ipo", "nidf"]["difference"] == pytest.approx(dpo.mean() - ipo.mean())


def test_systems_are_compared_on_the_same_exchanges():
    nan = np.nan
    a, b = on_the_same([[1, nan, 3, nan], [nan, nan, 5, nan]], [[1, 1, 1, 1]])
    assert np.array_equal(a, [[1, 3], [nan, 5]], equal_nan=True)
    assert b.tolist() == [[1, 1]]


def test_an_exchange_without_a_value_of_one_system_is_out_for_both(values):
    values[0]["dpo"]["nidf"][0] = np.nan
    values[0]["ipo"]["nidf"][0] = 100
    row = compared([of_run(values[0])])["dpo", "ipo", "nidf"]
    dpo, ipo = values[0]["dpo"]["nidf"][1:], values[0]["ipo"]["nidf"][1:]
    assert row["n"] == 11
    assert row["difference"] == pytest.approx(dpo.mean() - ipo.mean())


def test_no_common_value_is_said(values):
    values[0]["dpo"]["nidf"][:] = np.nan
    row = compared([of_run(values[0])])["dpo", "ipo", "nidf"]
    assert (row["n"], row["difference"], row["interval"], row["p"]) == (0, None, None, None)
    assert row["reasons"]["difference"] == "a run has no value"


def test_effect_sizes_and_tests_of_the_runs_stand_beside_it(values):
    runs = [of_run(of) for of in values]
    for run, p, d in zip(runs, (0.01, 0.2, None), (0.5, 0.7, None), strict=True):
        effects = None if d is None else {"paired": 2 * d, "pooled": d}
        run["results"]["comparisons"] = [
            {"a": "dpo", "b": "ipo", "metric": "nidf", "p_holm": p, "d": effects}
        ]
    row = compared(runs)["dpo", "ipo", "nidf"]
    assert row["d"] == {"paired": pytest.approx(1.2), "pooled": pytest.approx(0.6)}
    assert row["p_of_runs"] == {"one": 0.01, "two": 0.2, "three": None}
    assert row["own"] == {"below": 1, "of": 2}
    for run in runs:  # the other way round
        run["results"]["comparisons"][0] |= {"a": "ipo", "b": "dpo"}
    assert compared(runs)["dpo", "ipo", "nidf"]["d"]["pooled"] == pytest.approx(-0.6)


def test_two_systems_that_count_once_have_one_test_of_their_own(values):
    runs = [of_run(of) for of in values]
    for run in runs:
        run["results"]["comparisons"] = [
            {"a": "sft", "b": "human", "metric": "nidf", "p_holm": 0.01, "d": None}
        ]
    row = compared(runs)["sft", "human", "nidf"]
    assert row["p_of_runs"] == {"one": 0.01}
    assert row["d"] == {"paired": None, "pooled": None}
    assert row["reasons"]["d.pooled"] == "no results.json has an effect size of this pair"


def test_runs_without_values_per_exchange_are_left_out(values):
    runs = [of_run(of) for of in values]
    names = {(i, n): n for i, run in enumerate(runs) for n in run["per_response"]}
    runs[2]["per_response"] = None
    systems = {name: {"runs": LABELS, "fixed": False} for name in ("dpo", "ipo")}
    names = {key: name for key, name in names.items() if name in systems}
    rows = compare_over_runs(runs, LABELS, systems, names, IDS)
    assert {tuple(row["runs"]) for row in rows} == {(2, 2)}
