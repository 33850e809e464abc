import copy
import json
import math

import pytest

from empo.metrics.evaluation import evaluate
from empo.rating import MECHANISMS, Dimension, Ratings
from empo.records import Response, UserError
from empo.reporting.over_runs import REPORT_SCHEMA, combine


def hand_made(folder, means, *, digests=None, trained=None, **more):
    """A run with known means: system -> NIDF."""
    systems = {
        name: {
            "n": 2,
            "digest": (digests or {}).get(name, f"{folder} {name}"),
            "trained": (trained or {}).get(name),
            "metrics": {
                "nidf": {"mean": mean, "histogram": [1, 1]},
                "iva": {"valence": {"mean_signed": None, "reasons": {"mean_signed": "no words"}}},
            },
        }
        for name, mean in means.items()
    }
    results = {
        "schema": "empo.results/1",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.11"},
        "seed": 0,
        "left_out": {},
        "signatures": {"nidf": "a table"},
        "systems": systems,
        "comparisons": [],
        "not_run": [],
        "samples": [],
    }
    return {"folder": folder, "results": results | more, "per_response": None, "harness": {}}


def seeded(seed):
    return {"dpo": {"command": "dpo", "seed": seed, "settings": {"seed": seed, "beta": 0.1}}}


def with_harness(runs):
    """The runs with a harness file each."""
    score = {"metric": "acc", "value": 0.5, "stderr": 0.1, "n": 9, "shots": 0, "truncated": 0}
    of_run = {
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "system": "base",
        "model": {},
        "trained": None,
        "settings": {},
        "tasks": {"mmlu": score},
        "groups": {},
        "comparisons": [],
        "not_run": [],
    }
    return [{**run, "harness": {f"{run['folder']}/harness.json": of_run}} for run in runs]


THREE = (0.2, 0.4, 0.9)


@pytest.fixture
def three():
    """Three seeds of dpo, the same sft and references."""
    fixed = {"sft": "same", "human": "same"}
    return [
        hand_made(
            f"run-{i}",
            {"sft": 0.3, "dpo": mean, "human": 0.5},
            digests=fixed,
            trained=seeded(i),
            published=True,
        )
        for i, mean in enumerate(THREE)
    ]


def test_mean_and_spread_are_those_computed_by_hand(three):
    report = combine(three)
    assert report["schema"] == REPORT_SCHEMA == "empo.report/1"
    value = report["systems"]["dpo"]["values"]["nidf.mean"]
    assert value["mean"] == pytest.approx(0.5)
    assert value["sd"] == pytest.approx(math.sqrt(0.13))
    assert value["runs"] == {"seed 0": 0.2, "seed 1": 0.4, "seed 2": 0.9}
    assert "nidf.histogram" not in report["systems"]["dpo"]["values"]


def test_trainings_that_end_in_the_same_replies_are_runs_without_spread(three):
    for one in three:
        one["results"]["systems"]["dpo"]["digest"] = "same"
    value = combine(three)["systems"]["dpo"]["values"]["nidf.mean"]
    assert value["of"] == 3


def test_the_same_replies_count_once(three):
    system = combine(three)["systems"]["sft"]
    assert system["runs"] == ["seed 0"]
    assert system["same"] == {"seed 1": "seed 0", "seed 2": "seed 0"}
    value = system["values"]["nidf.mean"]
    assert (value["mean"], value["sd"], value["of"]) == (0.3, None, 1)
    assert value["reasons"] == {"sd": "needs two runs that have this value"}
    assert (
        "The same replies in seed 0, seed 1, seed 2: sft, human. Each counts as one run and has no "
        "spread over runs."
    ) in combine(three)["notes"]


def test_without_digests_systems_count_once_per_run_and_human_once(three):
    for run in three:
        for system in run["results"]["systems"].values():
            del system["digest"]
    report = combine(three)
    assert report["systems"]["sft"]["values"]["nidf.mean"]["of"] == 3
    assert report["systems"]["human"]["values"]["nidf.mean"]["of"] == 1
    assert any(note.startswith("No digest of the replies in") for note in report["notes"])


def test_what_older_files_lack_is_said(three):
    del three[1]["results"]["systems"]["dpo"]["trained"]
    notes = " ".join(combine(three)["notes"])
    assert "No training settings in the results.json of run-1 (an older file)" in notes
    assert "No per_response.jsonl beside the results.json of run-0, run-1, run-2" in notes
    assert combine(three)["comparisons"] == []
    assert combine(three)["shared"] is None


def test_a_null_keeps_its_reason(three):
    value = combine(three)["systems"]["dpo"]["values"]["iva.valence.mean_signed"]
    assert (value["mean"], value["sd"], value["of"]) == (None, None, 0)
    assert value["reasons"]["mean"] == "no words"
    assert value["reasons"]["runs.seed 1"] == "no words"


def test_a_metric_that_some_runs_lack_is_averaged_over_the_others_and_said(three):
    del three[1]["results"]["systems"]["dpo"]["metrics"]["nidf"]
    report = combine(three)
    value = report["systems"]["dpo"]["values"]["nidf.mean"]
    assert (value["mean"], value["of"]) == (pytest.approx(0.55), 2)
    assert (
        "nidf was not measured in seed 1: its means of dpo are over the other runs."
        in report["notes"]
    )


def test_systems_that_some_runs_lack_are_named(three):
    del three[1]["results"]["systems"]["sft"]
    report = combine(three)
    assert "Not in every run: sft; missing in seed 1." in report["notes"]
    assert [name for name, system in report["systems"].items() if system["fixed"]] == ["human"]
    assert [report["systems"]["sft"]["runs"], report["systems"]["sft"]["same"]] == [
        ["seed 0"],
        {"seed 2": "seed 0"},
    ]


def test_what_is_the_same_in_every_run_is_fixed(three):
    assert {name: of["fixed"] for name, of in combine(three)["systems"].items()} == {
        "sft": True,
        "dpo": False,
        "human": True,
    }
    alone = combine(three[:1])["systems"]
    assert {name: of["fixed"] for name, of in alone.items()} == {
        "sft": False,
        "dpo": False,
        "human": True,
    }


def test_equal_replies_of_two_runs_without_manifest_are_two_runs(three):
    for run, digest in zip(three, ("A", "A", "B"), strict=True):
        run["results"]["systems"]["dpo"] |= {"digest": digest, "trained": None}
    system = combine(three)["systems"]["dpo"]
    assert (len(system["runs"]), system["same"]) == (3, {})
    for run in three:
        run["results"]["systems"]["dpo"]["digest"] = "A"
    assert len(combine(three)["systems"]["dpo"]["runs"]) == 1


def test_counts_are_summed_over_the_runs_that_count(three):
    for i, run in enumerate(three):
        run["results"]["systems"]["dpo"]["metrics"]["nidf"]["histogram"] = [i, 10]
        run["results"]["systems"]["dpo"]["metrics"]["diff_epitome"] = {
            "mechanisms": {"explorations": {"confusion": [[i, 1], [0, 5]], "interval": [0.1, 0.2]}}
        }
    systems = combine(three)["systems"]
    assert systems["dpo"]["counts"] == {
        "nidf": {"histogram": [3, 30]},
        "diff_epitome": {"mechanisms": {"explorations": {"confusion": [[3, 3], [0, 15]]}}},
    }
    assert systems["sft"]["counts"] == {"nidf": {"histogram": [1, 1]}}  # once, though in all runs
    three[2]["results"]["systems"]["dpo"]["metrics"]["nidf"]["histogram"] = [1, 2, 3]
    with pytest.raises(
        UserError, match="run-2/results.json, 'dpo': its 'histogram' cannot be added"
    ):
        combine(three)


def test_a_training_that_is_not_told_is_a_system_of_its_own(three):
    three[1]["results"]["systems"]["dpo"]["trained"]["settings"]["beta"] = 0.5
    three[2]["results"]["systems"]["dpo"]["trained"] = None
    report = combine(three)
    assert list(report["systems"])[1:4] == [
        "dpo (beta 0.1)",
        "dpo (beta 0.5)",
        "dpo (training not told)",
    ]
    assert report["systems"]["dpo (training not told)"]["runs"] == ["run-2"]
    assert (
        "No manifest tells the training behind dpo (training not told) of run-2, so it is no run of "
        "the systems whose settings are told."
    ) in report["notes"]


def test_human_is_the_last_system(three):
    three[0]["results"]["systems"] = dict(reversed(three[0]["results"]["systems"].items()))
    assert list(combine(three)["systems"]) == ["dpo", "sft", "human"]


def test_cells_of_a_sweep_do_not_mix(three):
    for run, beta in zip(three, (0.1, 0.1, 0.5), strict=True):
        run["results"]["systems"]["dpo"]["trained"]["settings"]["beta"] = beta
    report = combine(three)
    assert list(report["systems"]) == ["sft", "dpo (beta 0.1)", "dpo (beta 0.5)", "human"]
    assert report["systems"]["dpo (beta 0.1)"]["values"]["nidf.mean"]["mean"] == pytest.approx(0.3)
    assert report["systems"]["dpo (beta 0.5)"]["runs"] == ["seed 2"]
    assert report["sweeps"] == [
        {
            "setting": "beta",
            "lines": {"dpo": [[0.1, "dpo (beta 0.1)"], [0.5, "dpo (beta 0.5)"]]},
        }
    ]
    assert report["settings"] == {"beta": {"dpo (beta 0.1)": [0.1], "dpo (beta 0.5)": [0.5]}}


def test_published_rows_where_all_runs_were_measured_on_the_published_exchanges(three):
    assert combine(three)["published"] is True
    assert combine(three, published=False)["published"] is False
    assert combine(three, published=True)["published"] is True
    three[1]["results"]["published"] = False
    assert combine(three)["published"] is False
    with pytest.raises(UserError) as error:
        combine(three, published=True)
    assert str(error.value).startswith("--published true: run-1/results.json does not say that it")
    assert combine([{**run, "results": None} for run in with_harness(three)], published=True)


def test_facts_of_the_runs(three):
    three[1]["results"] |= {"command": "python eval/responses.py", "versions": {"python": "3.12"}}
    three[1]["results"]["warnings"] = three[2]["results"]["warnings"] = ["no evidence"]
    three[1]["results"]["not_run"] = [{"metric": "iva", "reason": "no lexicons"}]
    three[2]["results"]["not_run"] = [{"metric": "iva", "reason": "no lexicons"}]
    three[2]["results"]["systems"]["dpo"]["n"] = 3
    report = combine(three)
    assert report["runs"][1] == {
        "label": "seed 1",
        "folder": "run-1",
        "training_seeds": {"dpo": 1},
        "seed": 0,
        "n": 2,
        "created": "2026-01-01T00:00:00+00:00",
        "command": "python eval/responses.py",
        "harness": {},
        "per_response": False,
    }
    assert report["versions"] == {"python": {"seed 0": "3.11", "seed 1": "3.12", "seed 2": "3.11"}}
    assert report["warnings"] == ["no evidence"]
    assert report["not_run"] == [
        {"metric": "iva", "reason": "no lexicons", "runs": ["seed 1", "seed 2"]}
    ]
    assert any("did not answer the same exchanges" in note for note in report["notes"])


def test_samples_are_those_of_the_first_run_under_the_names_of_the_report(three):
    sample = {"id": "a", "emotion": "sad", "prompt": "?", "responses": {"dpo": "!", "human": "."}}
    three[0]["results"]["samples"] = [sample]
    three[0]["results"]["systems"]["dpo"]["trained"]["settings"]["beta"] = 0.7
    found = combine(three)["samples"]
    assert (found["run"], found["seed"]) == ("seed 0", 0)
    assert found["samples"][0]["responses"] == {"dpo (beta 0.7)": "!", "human": "."}


class WordRater:
    """A rule as a rater: the levels follow the number of words."""

    dimensions = tuple(Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS)

    def score(self, pairs, *, batch_size=32):
        counts = [len(pair.response.split()) for pair in pairs]
        return Ratings.of(self.dimensions, [[min(n % 3, 2.0)] * 3 for n in counts], "words")


def measured(folder, systems, first=0, reference="i am sad"):
    """A run as the evaluation measures it: system -> replies."""
    responses = {
        name: [
            Response(
                id=f"hit:{i}_conv:{i}",
                emotion="sad",
                context=[{"role": "user", "content": "my day was bad"}],
                reference=f"{reference} {'too ' * i}",
                response=text,
                system=name,
            )
            for i, text in enumerate(texts, start=first)
        ]
        for name, texts in systems.items()
    }
    results = evaluate(
        responses, rater=WordRater(), metrics=("diff_epitome", "length"), resamples=199
    )
    rows = results.pop("per_response")
    per_response = {}
    for row in rows:
        per_response.setdefault(row["system"], {})[row["id"]] = row["values"]
    return {"folder": folder, "results": results, "per_response": per_response, "harness": {}}


REFERENCES = [f"i am sad {'too ' * i}" for i in range(4)]


def test_a_system_that_equals_the_references_differs_in_nothing():
    runs = [
        measured("one", {"echo": REFERENCES, "dpo": ["oh", "oh no", "i am sorry", "no"]}),
        measured("two", {"echo": REFERENCES, "dpo": ["oh", "oh", "i am so sorry", "no"]}),
    ]
    report = combine(runs)
    values = report["systems"]["echo"]["values"]
    for key in ("mean", *MECHANISMS):
        assert values[f"diff_epitome.{key}"]["mean"] == 0
    rows = {(row["a"], row["b"], row["metric"]): row for row in report["comparisons"]}
    for metric in ("epitome_levels", "length.characters", "length.tokens"):
        row = rows["echo", "human", metric]
        assert (row["difference"], row["interval"]) == (0, [0, 0])
        assert row["d"] == {"paired": 0, "pooled": 0}
        assert row["p"] == 1
        assert row["p_of_runs"] == {"one": 1}
    assert ("echo", "human", "diff_epitome") not in rows
    assert rows["echo", "dpo", "diff_epitome"]["difference"] < 0
    assert rows["echo", "dpo", "diff_epitome"]["runs"] == [1, 2]


def test_the_report_is_json_without_nan_and_repeatable():
    runs = [
        measured(name, {"sft": ["a", "b c", "", "d"], "dpo": [text, "b", "c", "d d"]})
        for name, text in (("one", "x"), ("two", "x y z"))
    ]
    report = combine(runs)
    text = json.dumps(report, allow_nan=False)
    again = json.loads(json.dumps(combine(copy.deepcopy(runs)), allow_nan=False))
    assert again | {"created": ""} == json.loads(text) | {"created": ""}


def test_runs_that_share_no_exchange_are_refused_and_others_say_what_they_share():
    one, two = measured("one", {"dpo": ["a", "b", "c"]}), measured("two", {"dpo": ["a"]}, first=9)
    with pytest.raises(UserError, match="two: it shares no exchange with one"):
        combine([one, two])
    some = measured("some", {"dpo": ["x", "y y"]}, first=1)
    report = combine([one, some])
    assert report["shared"] == 2
    assert any("comparisons over the 2 that all runs share" in note for note in report["notes"])
