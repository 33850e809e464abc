"""Tasks that cannot run: each is named with its reason, and the others go on."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from tiny_harness import main

from empo.records import read_json
from empo.reporting.harness_results import read_harness


def test_what_is_missing_stops_only_itself_and_can_be_made_up_for(run, tmp_path, tasks, capsys):
    assert run("tiny_absent,tiny_small") == 3
    results = read_harness(tmp_path / "out" / "harness.json")
    assert list(results["tasks"]) == ["tiny_small"]
    (entry,) = results["not_run"]
    assert entry["task"] == "tiny_absent"
    assert "absent.jsonl" in entry["reason"]
    assert "asked for, but not run: tiny_absent: the task cannot" in capsys.readouterr().err
    shutil.copy(tasks / "small.jsonl", tasks / "absent.jsonl")
    assert run("tiny_absent,tiny_small") == 0
    assert "tiny_absent: 1 of 1\n" in capsys.readouterr().err
    results = read_harness(tmp_path / "out" / "harness.json")
    assert (list(results["tasks"]), results["not_run"]) == (["tiny_absent", "tiny_small"], [])


def test_tasks_that_this_model_cannot_do_say_why(run, tmp_path):
    assert run("tiny_long,tiny_code,empo_emotions,tiny_small", "--num_fewshot", "9") == 3
    reasons = {e["task"]: e["reason"] for e in read_json(tmp_path / "out/harness.json")["not_run"]}
    assert reasons == {
        "tiny_long": "answers may have 2,000 tokens, and the model holds 1,024 in all.",
        "tiny_code": "the task runs code that the model writes, which this command does not do.",
        "empo_emotions": "9 examples are asked for, and the task has 8.",
        "tiny_small": "9 examples are asked for, and the task has 5.",
    }


def test_a_group_without_one_of_its_tasks_has_no_value(run, tmp_path, tasks):
    (tasks / "group.yaml").write_text(
        "group: tiny\ntask: [tiny_small, tiny_code]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    assert run("tiny") == 3
    group = read_harness(tmp_path / "out" / "harness.json")["groups"]["tiny"]
    assert (group["value"], group["stderr"], group["n"]) == (None, None, 5)
    assert group["reasons"]["value"] == "1 of 2 tasks have no acc: tiny_code"


def lm_eval_folder(name: str) -> Path:
    """Task files of lm-eval alone, so that its 14,000 others are not read."""
    return Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / name


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, as on a machine that has never been online."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty")


def test_mmlu_offline_is_told_before_a_model_is_loaded(shelf, tmp_path, offline, capsys):
    argv = ["--model", "nobody/nothing", "--output", str(tmp_path / "out"), "--tasks", "mmlu"]
    assert main([*argv, "--include-path", str(lm_eval_folder("mmlu/default"))]) == 3
    printed = capsys.readouterr().err
    assert "asked for, but not run: mmlu: the data set cannot be loaded: " in printed
    assert "'cais/mmlu'" in printed and "Run the command once online" in printed


def test_the_leaderboard_is_six_benchmarks_that_fail_apart(shelf, tmp_path, offline):
    argv = ["--model", str(shelf / "one"), "--output", str(tmp_path / "out"), "--limit", "2"]
    argv += ["--include-path", str(lm_eval_folder("leaderboard"))]
    assert main([*argv, "--tasks", "leaderboard,empo_emotions"]) == 3
    results = read_harness(tmp_path / "out" / "harness.json")
    reasons = {entry["task"]: entry["reason"] for entry in results["not_run"]}
    assert list(reasons) == [
        f"leaderboard_{name}" for name in "bbh math_hard gpqa musr mmlu_pro ifeval".split()
    ]
    assert "'Idavidrein/gpqa'" in reasons["leaderboard_gpqa"]
    assert "accept its terms" in reasons["leaderboard_gpqa"]
    assert list(results["tasks"]) == ["empo_emotions"]
    for extra, package in (("math", "math_verify"), ("ifeval", "langdetect")):
        if importlib.util.find_spec(package) is None:
            reason = next(r for name, r in reasons.items() if extra in name)
            assert reason.startswith(f"a package is missing (pip install 'lm-eval[{extra}]')")
