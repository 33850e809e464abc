import copy

import pytest
from markdown_it import MarkdownIt

from empo.records import UserError, write_json
from empo.reporting.harness_results import write_harness
from empo.reporting.language_understanding import (
    language_understanding,
    not_run_rows,
    understanding_section,
)
from empo.reporting.run_folders import read_folder


def task(value, n=100, **more):
    figure = {"value": value, "stderr": 0.01, "metric": "acc", "n": n, "shots": 5, "truncated": 0}
    return {**figure, "metrics": {}, "version": "1", "dataset": "data/of it", **more}


def harness(system, values, trained=None, **more):
    """A harness file: task -> score; two tasks of mmlu and one of its own."""
    tasks = {name: task(value) for name, value in values.items()}
    group = sum(values[name] for name in ("mmlu_law", "mmlu_art")) / 2
    return {
        "schema": "empo.harness/1",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"lm_eval": "0.4"},
        "seed": 42,
        "command": f"python eval/harness.py --model {system}",
        "system": system,
        "model": {"name": "base"},
        "trained": trained,
        "settings": {"tasks": ["mmlu"], "limit": None, "seed": 42},
        "tasks": tasks,
        "groups": {
            "mmlu": {
                "metric": "acc",
                "value": group,
                "stderr": 0.007,
                "n": 200,
                "tasks": ["mmlu_law", "mmlu_art"],
            }
        },
        "comparisons": [],
        "not_run": [],
        **more,
    }


def run(*files, results=None):
    harness = {f"harness/{i}/harness.json": file for i, file in enumerate(files)}
    return {"folder": "here", "results": results, "per_response": None, "harness": harness}


def trained(seed):
    return {"command": "dpo", "seed": seed, "settings": {}}


VALUES = {"mmlu_law": 0.5, "mmlu_art": 0.7, "musr": 0.4}


@pytest.fixture
def three():
    """Three seeds of dpo beside one base."""
    return [
        run(
            harness("base", VALUES),
            harness("dpo", VALUES | {"musr": musr}, trained(seed)),
        )
        for seed, musr in enumerate((0.2, 0.4, 0.9))
    ]


LABELS = ["seed 0", "seed 1", "seed 2"]


def test_nothing_where_no_run_has_scores():
    assert language_understanding([run()], ["a"]) is None


def test_groups_and_tasks_of_no_group_are_shown(three):
    found = language_understanding(three, LABELS)
    assert found["shown"] == ["mmlu", "musr"]
    assert found["facts"]["mmlu"] == {"metric": "acc", "shots": [5], "n": 200}
    assert found["facts"]["musr"] == {
        "metric": "acc",
        "shots": 5,
        "version": "1",
        "dataset": "data/of it",
        "n": 100,
    }


def test_mean_and_spread_over_runs_by_hand(three):
    score = language_understanding(three, LABELS)["systems"]["dpo"]["musr"]
    assert score["mean"] == pytest.approx(0.5)
    assert score["sd"] == pytest.approx(0.13**0.5)
    assert score["runs"] == {"seed 0": 0.2, "seed 1": 0.4, "seed 2": 0.9}
    assert score["stderr"] == dict.fromkeys(LABELS, 0.01)


def test_a_model_that_was_not_trained_counts_once(three):
    score = language_understanding(three, LABELS)["systems"]["base"]["musr"]
    assert (score["mean"], score["of"], score["sd"]) == (0.4, 1, None)
    for i, one in enumerate(three):
        for file in one["harness"].values():
            file["model"] = {"name": f"another {i}"}
    assert language_understanding(three, LABELS)["systems"]["base"]["musr"]["of"] == 3


def test_the_same_replies_are_the_same_model(three):
    for one in three:
        one["results"] = {"systems": {"dpo": {"digest": "same", "trained": {"seed": 1}}}}
    assert language_understanding(three, LABELS)["systems"]["dpo"]["musr"]["of"] == 1
    for seed, one in enumerate(three):  # trained again, though to the same replies
        one["results"]["systems"]["dpo"]["trained"] = {"seed": seed}
    assert language_understanding(three, LABELS)["systems"]["dpo"]["musr"]["of"] == 3


def test_what_stands_after_the_sign_is_said(three):
    text = understanding_section(language_understanding(three, LABELS))
    assert "| base | 0.600 ± 0.007 | 0.400 ± 0.010 | standard error |\n" in text
    assert "| dpo | 0.600 ± 0.000 | 0.500 ± 0.361 | SD over 3 runs |\n" in text
    del three[0]["harness"]["harness/1/harness.json"]["tasks"]["musr"]
    del three[1]["harness"]["harness/1/harness.json"]["tasks"]["musr"]
    text = understanding_section(language_understanding(three, LABELS))
    assert "| 0.900 ± 0.010 | SD over 3 runs; standard error of one |\n" in text


def test_names_of_the_report_and_their_order(three):
    names = {(i, "dpo"): "dpo (beta 1)" for i in range(3)} | {(i, "base"): "base" for i in range(3)}
    found = language_understanding(three, LABELS, names)
    assert list(found["systems"]) == ["dpo (beta 1)", "base"]


COMPARED = {
    "a": "dpo",
    "b": "base",
    "task": "mmlu",
    "difference": -0.0123,
    "n": 200,
    "only_a": 31,
    "only_b": 47,
    "p": 0.0321,
    "p_holm": 0.0432,
    "test": "McNemar",
    "reasons": {},
}


def test_mcnemar_rows_of_every_run_once_and_of_shown_tasks_only(three):
    leaf = COMPARED | {"task": "mmlu_law"}
    for file in three[0]["harness"].values():
        file["comparisons"] = [COMPARED, leaf]
    three[1]["harness"]["harness/1/harness.json"]["comparisons"] = [
        COMPARED | {"p": None, "p_holm": None, "only_a": None, "only_b": None}
    ]
    found = language_understanding(three, LABELS)
    assert [row["run"] for row in found["comparisons"]] == ["seed 0", "seed 1"]
    text = understanding_section(found)
    assert "| dpo − base (seed 0) | mmlu | −0.012 | 31 | 47 | 200 | 0.0321 | 0.0321 \\* |\n" in text
    assert "Holm's correction over the 1 tests of this table" in text
    assert "| dpo − base (seed 1) | mmlu | −0.012 | — | — | 200 | — | — |\n" in text


def test_holm_is_over_the_rows_that_are_printed(three):
    """Each file corrected over its own rows: two tests below .05 each, but not together."""
    for i, p in enumerate((0.03, 0.04, None)):
        three[i]["harness"]["harness/1/harness.json"]["comparisons"] = [
            COMPARED | {"p": p, "p_holm": p},
            COMPARED | {"task": "mmlu_law", "p": 1e-9, "p_holm": 1e-9},  # is not printed
        ]
    rows = language_understanding(three, LABELS)["comparisons"]
    assert [row["p_holm"] for row in rows] == [0.06, 0.06, None]
    assert "over the 2 tests of this table" in understanding_section(
        language_understanding(three, LABELS)
    )


def test_one_run_needs_no_label(three):
    three[0]["harness"]["harness/1/harness.json"]["comparisons"] = [COMPARED]
    text = understanding_section(language_understanding(three[:1], LABELS[:1]))
    assert "| dpo − base | mmlu |" in text
    assert "| dpo | 0.600 ± 0.007 | 0.200 ± 0.010 | standard error |\n" in text


@pytest.mark.parametrize(
    "key, value",
    [("metric", "acc_norm"), ("shots", 0), ("n", 50), ("version", "2"), ("dataset", "others")],
)
def test_a_task_measured_in_two_ways_is_refused(three, key, value):
    three[2]["harness"]["harness/1/harness.json"]["tasks"]["musr"][key] = value
    with pytest.raises(UserError) as error:
        language_understanding(three, LABELS)
    text = str(error.value)
    assert text.startswith(f"harness/1/harness.json, task 'musr': {key} {value!r}, but ")
    assert "in harness/0/harness.json, so the scores are not comparable" in text


def test_a_score_in_two_files_of_one_run_is_refused():
    files = [harness("dpo", VALUES), harness("dpo", VALUES)]
    with pytest.raises(UserError, match="'mmlu' of 'dpo' is in another harness.json of here too"):
        language_understanding([run(*files)], ["a"])


def test_tasks_of_one_system_may_lie_in_several_files():
    one = harness("dpo", VALUES)
    two = copy.deepcopy(one) | {"groups": {}, "tasks": {"ifeval": task(0.3)}}
    found = language_understanding([run(one, two)], ["a"])
    assert list(found["systems"]["dpo"]) == ["mmlu", "musr", "ifeval"]


def test_other_settings_and_cut_prompts_are_said(three):
    three[0]["harness"]["harness/1/harness.json"]["settings"]["limit"] = 10
    three[2]["harness"]["harness/1/harness.json"]["tasks"]["musr"]["truncated"] = 7
    found = language_understanding(three, LABELS)
    text = understanding_section(found)
    assert "Not all scores were measured with the same limit (null: base in seed 0" in text
    assert "; 10: dpo in seed 0)." in text
    assert "Prompts of musr that lost their beginning: 7 of 100 of dpo in seed 2." in text


def test_a_null_score_keeps_its_reason(three):
    file = three[0]["harness"]["harness/0/harness.json"]
    file["tasks"]["musr"] |= {"value": None, "stderr": None, "reasons": {"value": "no answer"}}
    score = language_understanding(three, LABELS)["systems"]["base"]["musr"]
    assert (score["mean"], score["reasons"]["mean"]) == (None, "no answer")
    text = understanding_section(language_understanding(three, LABELS))
    assert "| base | 0.600 ± 0.007 | — | standard error |\n" in text


def test_tasks_that_did_not_run_are_listed_once(three):
    for one in three:
        for file in one["harness"].values():
            file["not_run"] = [{"task": "gpqa", "reason": "needs a login"}]
    assert not_run_rows(language_understanding(three, LABELS)) == [
        ["gpqa of base", "needs a login", "seed 0, seed 1, seed 2"],
        ["gpqa of dpo", "needs a login", "seed 0, seed 1, seed 2"],
    ]
    assert not_run_rows(None) == []


def test_the_published_table_stands_apart_because_its_average_is_not_known(three):
    found = language_understanding(three, LABELS)
    assert "ublished" not in understanding_section(found)
    text = understanding_section(found, published=True)
    assert "It does not say which average its Open LLM figure is" in text
    assert (
        "| system, published | MMLU | Open LLM average |\n| --- | ---: | ---: |\n"
        "| baseline | .588 | .276 |\n| sft | .585 | .270 |\n| dpo | .584 | .266 |\n"
    ) in text
    ours = text.split("| system | mmlu | musr | ± |\n")[1]
    assert ours.index("| dpo | 0.600 ± 0.000 |") < ours.index("Published, Table 3")


def test_many_tasks_are_several_tables_with_equal_rows():
    many = {f"task_{i}": task(i / 20) for i in range(9)}
    name = "a|b `c` <i>$x$</i>\nd"
    file = harness(name, VALUES) | {"groups": {}, "tasks": many}
    text = understanding_section(language_understanding([run(file)], ["a"]))
    html = MarkdownIt().enable("table").render(text)
    assert html.count("<table>") == 3
    for row in html.split("<table>")[2].split("<tr>")[1:]:
        assert row.count("</td>") + row.count("</th>") == 1 + 7 + 1
    assert html.count("<td>a|b `c` &lt;i&gt;$x$&lt;/i&gt; d</td>") == 2


def test_files_of_a_folder_are_read_in_both_places(tmp_path):
    write_harness(tmp_path / "harness.json", harness("base", VALUES))
    write_harness(tmp_path / "harness" / "dpo" / "harness.json", harness("dpo", VALUES, trained(1)))
    found = read_folder(tmp_path)
    assert found["results"] is None
    assert [of["system"] for of in found["harness"].values()] == ["base", "dpo"]
    write_json(tmp_path / "harness.json", {"schema": "empo.harness/9"})
    with pytest.raises(UserError, match=r"harness.json, field 'schema': 'empo.harness/9'"):
        read_folder(tmp_path)


def test_scores_of_another_training_than_the_replies_are_noted(three):
    trained = {"command": "dpo", "seed": 7, "settings": {"lora_alpha": 4, "beta": 0.1}}
    for one in three:
        one["results"] = {"systems": {"dpo": {"digest": "same", "trained": trained}}}
        for file in one["harness"].values():
            if file["system"] == "dpo":
                file["trained"] = trained
    assert language_understanding(three, LABELS)["notes"] == []
    for file in three[1]["harness"].values():
        if file["system"] == "dpo":
            file["trained"] = {"command": "dpo", "seed": 8, "settings": {"lora_alpha": 16}}
    assert (
        "The scores of dpo in seed 1 are of another training than its replies (it differs in seed, "
        "lora_alpha)."
    ) in language_understanding(three, LABELS)["notes"]
