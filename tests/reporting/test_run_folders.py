import copy
import math

import pytest

from empo.metrics.evaluation import evaluate
from empo.records import Response, UserError, read_json, write_json, write_jsonl
from empo.reporting.results import read_results, write_results
from empo.reporting.run_folders import (
    check_comparable,
    label_runs,
    mean_over_runs,
    read_folder,
    read_folders,
    reply_sets,
    shared_ids,
)

METRICS = ("length", "trie")


def responses(texts, system="dpo", first=0, reference="that is sad"):
    return [
        Response(
            id=f"hit:{i}_conv:{i}",
            emotion="sad",
            context=[{"role": "user", "content": "my day was bad"}],
            reference=f"{reference} {'!' * i}",
            response=text,
            system=system,
        )
        for i, text in enumerate(texts, start=first)
    ]


@pytest.fixture
def write(tmp_path):
    """Measure one system and write what eval/responses.py writes; returns the folder."""

    def measured(name, texts=("i am sorry", "oh no"), trained=None, **how):
        results = evaluate({"dpo": responses(texts, **how)}, metrics=METRICS, resamples=99)
        results["systems"]["dpo"]["trained"] = trained
        write_results(tmp_path / name / "results.json", results)
        return tmp_path / name

    return measured


def rewrite(folder, change):
    results = read_json(folder / "results.json")
    change(results)
    write_json(folder / "results.json", results)


def seeded(seed):
    return {"command": "dpo", "seed": seed, "settings": {"seed": seed}}


def test_a_folder_has_results_and_values_by_system_and_exchange(write):
    folder = write("a")
    run = read_folder(folder)
    assert run["results"] == read_results(folder / "results.json")
    assert list(run["per_response"]) == ["dpo", "human"]
    assert run["per_response"]["dpo"]["hit:0_conv:0"]["length.characters"] == 10
    assert run["harness"] == {}


def test_older_results_without_values_per_exchange_are_read(write):
    folder = write("a")
    (folder / "per_response.jsonl").unlink()
    assert read_folder(folder)["per_response"] is None


@pytest.mark.parametrize(
    "lines, message",
    [
        (lambda rows: rows[:-1], "it has 2 rows of 'dpo', 1 rows of 'human', but results.json"),
        (lambda rows: [*rows, rows[0]], "line 5, field 'id': 'hit:0_conv:0' was there already"),
        (lambda rows: [{"id": "x"}], "line 1, field 'system': missing"),
        (
            lambda rows: [{**rows[0], "values": {"nidf": "high"}}],
            "line 1, field 'values': numbers or null by name are expected, not {'nidf': 'high'}.",
        ),
        (
            lambda rows: [{**rows[0], "id": "other"}, *rows[1:]],
            "its systems do not have the same exchanges",
        ),
    ],
)
def test_values_that_do_not_belong_to_the_results_are_refused(write, lines, message):
    folder = write("a")
    file = folder / "per_response.jsonl"
    results = evaluate({"dpo": responses(["i am sorry", "oh no"])}, metrics=METRICS, resamples=99)
    write_jsonl(file, lines(results["per_response"]))
    rewrite(folder, lambda results: results.pop("per_response_sha256"))  # as older files are
    with pytest.raises(UserError) as error:
        read_folder(folder)
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))


def test_values_of_another_measurement_are_refused(write):
    one, two = write("one"), write("two", texts=("i am so sorry", "oh no"))
    assert read_folder(one)["per_response"] is not None
    (one / "per_response.jsonl").write_bytes((two / "per_response.jsonl").read_bytes())
    with pytest.raises(UserError) as error:
        read_folder(one)
    told = read_json(one / "results.json")["per_response_sha256"][:12]
    assert str(error.value).startswith(f"{one / 'per_response.jsonl'}: SHA-256 ")
    assert f"but results.json beside it was written with {told}: the folder was measured" in str(
        error.value
    )


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda results: results["comparisons"][0].update(b="gpt"), "comparisons.0.b"),
        (
            lambda results: results["samples"][1]["responses"].update(gpt="hi"),
            "samples.1.responses",
        ),
    ],
)
def test_systems_that_are_not_there_are_named(write, change, field):
    folder = write("a")
    rewrite(folder, change)
    with pytest.raises(UserError) as error:
        read_folder(folder)
    assert str(error.value) == (
        f"{folder / 'results.json'}, field {field!r}: 'gpt' is none of its systems (dpo, human). "
        "Measure the responses again with eval/responses.py."
    )


def replies(*of_run):
    """Runs with one system: digest and seed of each."""
    return [
        {
            "folder": "",
            "results": {"systems": {"x": {"digest": digest, "trained": seed and seeded(seed)}}},
            "per_response": None,
            "harness": {},
        }
        for digest, seed in of_run
    ]


@pytest.mark.parametrize(
    "of_run, sets",
    [
        ([("A", None), ("A", None), ("A", None)], 1),
        ([("A", None), ("A", None), ("B", None)], 3),  # two trainings may agree by chance
        ([("A", 1), ("A", 1), ("B", 2)], 2),
        ([("A", 1), ("A", 2), ("A", 3)], 3),
        ([("A", 1), ("A", 1), ("A", None)], 1),
        ([("A", 1), ("A", 2), ("A", None)], 3),
        ([("A", 7), ("A", 7)], 1),
    ],
)
def test_equal_replies_are_one_set_where_it_is_told_or_where_all_runs_have_them(of_run, sets):
    found = reply_sets(replies(*of_run), [(i, "x") for i in range(len(of_run))])
    assert list(found) == list(range(len(of_run)))
    assert len(set(found.values())) == sets


def test_replies_without_digest_are_in_no_set():
    assert list(reply_sets(replies(("A", 1), (None, 1)), [(0, "x"), (1, "x")])) == [0]


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder. Give the folders that"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match="empty: neither results.json nor harness.json nor survey.json is there"
    ):
        read_folder(tmp_path / "empty")


def test_another_schema_is_refused_with_what_was_seen(write):
    folder = write("a")
    rewrite(folder, lambda results: results.update(schema="empo.results/9"))
    with pytest.raises(UserError) as error:
        read_folder(folder)
    for part in (str(folder / "results.json"), "'empo.results/9'", "'empo.results/1'", "again"):
        assert part in str(error.value)


def test_the_same_folder_twice_is_refused(write):
    folder = write("a")
    with pytest.raises(UserError, match=r"a/\.\./a: the same folder as .*/a. Give every run once"):
        read_folders([folder, folder / ".." / "a"])


def test_another_signature_is_refused_with_both(write):
    one, two = write("one"), write("two")
    rewrite(two, lambda results: results["signatures"].update(trie="other tokens"))
    with pytest.raises(UserError) as error:
        read_folders([one, two])
    text = str(error.value)
    known = read_json(one / "results.json")["signatures"]["trie"]
    assert f"trie was not measured in the same way in {one} and {two}" in text
    assert f"- {one}: {known}\n  - {two}: other tokens\n" in text


def test_other_references_are_found_in_the_samples(write):
    runs = [read_folder(write("one")), read_folder(write("two", reference="that is bad"))]
    with pytest.raises(UserError) as error:
        check_comparable(runs)
    one, two = (run["folder"] for run in runs)
    assert str(error.value) == (
        f"{two}, hit:0_conv:0: the human reply is 'that is bad ', but 'that is sad ' in {one}. "
        "Runs of one report must answer the same exchanges."
    )


def test_other_references_of_the_same_length_are_found_by_their_digest(write):
    runs = [read_folder(write("one")), read_folder(write("two", reference="that is bad"))]
    for run in runs:
        run["results"]["samples"].clear()
    with pytest.raises(UserError) as error:
        check_comparable(runs)
    assert "its exchanges have the ids of those of" in str(error.value)
    assert "but other human replies (digest " in str(error.value)


def test_references_of_another_length_are_found_without_samples_and_digests(write):
    runs = [read_folder(write("one")), read_folder(write("two", reference="that is very sad"))]
    for run in runs:
        run["results"]["samples"].clear()
        del run["results"]["systems"]["human"]["digest"]
    with pytest.raises(
        UserError, match="characters of the human reply are 17.0, but 12.0 in .*one"
    ):
        check_comparable(runs)


def test_exchanges_that_all_runs_have(write):
    one = read_folder(write("one", texts=["a", "b", "c"]))
    two = read_folder(write("two", texts=["b", "c", "d"], first=1))
    assert shared_ids([two, one]) == ["hit:1_conv:1", "hit:2_conv:2"]
    assert shared_ids([{**one, "per_response": None}]) is None
    three = read_folder(write("three", texts=["x"], first=7))
    with pytest.raises(UserError) as error:
        shared_ids([one, three])
    assert f"{three['folder']}: it shares no exchange with {one['folder']}" in str(error.value)
    assert "'hit:7_conv:7' and 'hit:0_conv:0'" in str(error.value)


def test_runs_are_labelled_by_their_training_seed(write):
    runs = [
        read_folder(write(f"run-{seed}", texts=("i am sorry", "oh" * seed), trained=seeded(seed)))
        for seed in (1, 2)
    ]
    assert label_runs(runs) == ["seed 1", "seed 2"]
    runs[1]["results"]["systems"]["dpo"]["trained"]["seed"] = 1
    assert label_runs(runs) == ["run-1", "run-2"]
    runs[1]["results"]["systems"]["dpo"]["trained"] = None
    assert label_runs(runs) == ["run-1", "run-2"]


def test_a_system_that_was_not_trained_again_has_no_say_in_the_label(write):
    runs = [
        read_folder(write(f"run-{seed}", texts=("i am sorry", "oh" * seed), trained=seeded(seed)))
        for seed in (1, 2)
    ]
    for run in runs:
        sft = copy.deepcopy(run["results"]["systems"]["dpo"])
        run["results"]["systems"]["sft"] = sft | {"digest": "same", "trained": seeded(42)}
    assert label_runs(runs) == ["seed 1", "seed 2"]


def test_folders_of_one_name_are_told_apart_by_what_is_above(write):
    runs = [read_folder(write(f"{name}/results")) for name in ("a", "b")]
    assert label_runs(runs) == ["a/results", "b/results"]


def test_mean_and_spread_over_runs():
    combined = mean_over_runs({"a": 0.2, "b": 0.4, "c": 0.9})
    assert combined["mean"] == pytest.approx(0.5)
    assert combined["sd"] == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2))
    assert combined["of"] == 3
    assert combined["runs"] == {"a": 0.2, "b": 0.4, "c": 0.9}
    assert "reasons" not in combined


def test_a_missing_spread_or_value_has_its_reason():
    one = mean_over_runs({"a": 0.5})
    assert (one["mean"], one["sd"], one["of"]) == (0.5, None, 1)
    assert one["reasons"] == {"sd": "needs two runs that have this value"}
    part = mean_over_runs({"a": 0.5, "b": None}, {"b": "no words"})
    assert (part["mean"], part["sd"], part["of"]) == (0.5, None, 1)
    assert part["reasons"]["runs.b"] == "no words"
    none = mean_over_runs({"a": None}, {"a": "no words"})
    assert (none["mean"], none["reasons"]["mean"]) == (None, "no words")
