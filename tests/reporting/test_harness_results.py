import pytest

from empo.records import UserError, write_json
from empo.reporting.harness_results import plain_summary, read_harness, write_harness


@pytest.fixture
def harness():
    """What eval/harness.py writes: a group of two tasks, another task, one that did not run."""

    def task(value, n, **more):
        figure = {"value": value, "stderr": 0.1}
        return {
            **figure,
            "metric": "acc",
            "n": n,
            "shots": 5,
            "truncated": 0,
            "metrics": {"acc": figure},
            "version": "1.0",
            "dataset": "owner/name",
            **more,
        }

    def comparison(name, **changed):
        row = {"a": "dpo", "b": "sft", "task": name, "difference": -0.125, "n": 16}
        row |= {"only_a": 1, "only_b": 3, "p": 0.625, "p_holm": 1.0, "test": "McNemar, exact"}
        return {**row, "reasons": {}, **changed}

    untested = dict.fromkeys(("difference", "only_a", "only_b", "p", "p_holm"))
    return {
        "schema": "empo.harness/1",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"lm_eval": "0.4.13"},
        "seed": 42,
        "command": "python eval/harness.py",
        "system": "dpo",
        "model": {"base": {"name": "base"}, "adapters": []},
        "trained": None,
        "settings": {"limit": None},
        "tasks": {
            "algebra": task(0.25, 4),
            "law": task(0.5, 12, truncated=2),
            "words": task(1.0, 3, shots=0),
        },
        "groups": {
            "mmlu": {
                "metric": "acc",
                "value": 0.4375,
                "stderr": None,
                "n": 16,
                "tasks": ["algebra", "law"],
                "reasons": {"stderr": "none"},
            }
        },
        "comparisons": [
            comparison("law"),
            comparison("mmlu"),
            comparison("words", **untested, reasons=dict.fromkeys(untested, "sft has no words.")),
        ],
        "not_run": [{"task": "gpqa", "reason": "gated"}],
    }


def test_what_is_written_is_read(harness, tmp_path):
    write_harness(tmp_path / "harness.json", harness | {"further": 1})
    assert read_harness(tmp_path / "harness.json") == harness | {"further": 1}


def test_what_does_not_fit_is_not_written(harness, tmp_path):
    with pytest.raises(ValueError, match="only_a"):
        del harness["comparisons"][0]["only_a"]
        write_harness(tmp_path / "harness.json", harness)
    harness["comparisons"] = []
    harness["tasks"]["law"]["value"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_harness(tmp_path / "harness.json", harness)
    assert not (tmp_path / "harness.json").exists()


def test_errors_name_file_and_field(harness, tmp_path):
    path = tmp_path / "harness.json"
    write_json(path, [])
    with pytest.raises(UserError, match=r"harness\.json: this is no file of the schema 'empo.harn"):
        read_harness(path)
    write_json(path, harness | {"schema": "empo.harness/9"})
    with pytest.raises(
        UserError, match="'empo.harness/9', but this version reads 'empo.harness/1'"
    ):
        read_harness(path)
    harness["tasks"]["law"]["n"] = "twelve"
    write_json(path, harness)
    with pytest.raises(
        UserError, match=r"harness\.json, field 'tasks.law.n': Input should be a valid int"
    ):
        read_harness(path)


def test_the_summary_shows_groups_and_what_is_in_none(harness):
    assert plain_summary(harness).splitlines() == [
        "       metric  value  stderr   n  shots",
        "mmlu   acc     0.438       —  16      5",
        "words  acc     1.000   0.100   3      0",
        "",
        "       against  difference  only a  only b   n      p  p (Holm)",
        "mmlu   sft          −0.125       1       3  16  0.625     1.000",
        "words  sft               —       —       —  16      —         —",
        "",
        "law: 2 of 12 prompts were too long for the model and lost their beginning.",
    ]


def test_the_summary_of_nothing_is_empty(harness):
    assert plain_summary(harness | {"tasks": {}, "groups": {}, "comparisons": []}) == ""
