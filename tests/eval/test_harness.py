"""The command on tiny models and tiny tasks: figures, restarts, comparisons, what cannot run."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from empo import models
from empo.metrics.statistics import holm
from empo.prompts import ChatFormat
from empo.records import UserError, read_json, write_json, write_jsonl
from empo.reporting.harness_results import read_harness, write_harness

SCRIPT = Path(__file__).parents[2] / "eval" / "harness.py"

CHOICE = """
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: options
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
GENERATE = """
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{options[answer]}}"
generation_kwargs: {max_gen_toks: 8, until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(xyz)"}, {function: take_first}]}
  - {name: loose, filter: [{function: take_first}]}
"""
FUNCTIONS = """
from pathlib import Path

def half(doc, results):
    return {"acc": 0.5}

def shaky(doc, results):
    if Path(__file__).with_name("broken").exists():
        raise RuntimeError("the power is gone")
    return {"acc": 1.0}
"""


def load_script():
    spec = importlib.util.spec_from_file_location("eval_harness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


main = load_script().main


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny bases that answer differently, the first as a run with its settings."""
    folder = tmp_path_factory.mktemp("shelf")
    tokenizer = models.train_tokenizer(["How does the speaker feel? Answer: sad"] * 5, 300)
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        models.small_base(tokenizer, 16, 1, 2, 1024).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    facts = {"status": "complete", "command": "base", "seed": 3, "settings": {"layers": 1}}
    write_json(folder / "one" / "run.json", facts)
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with task files: a group of two sizes, answers that are generated, odd ones."""
    folder = tmp_path / "tasks"
    for name, items in (("small", 5), ("large", 11)):
        docs = [
            {"question": f"{name} {i}: which?", "options": ["ab", "cd", "ef"], "answer": i % 3}
            for i in range(items)
        ]
        write_jsonl(folder / f"{name}.jsonl", docs)

    def task(name: str, data: str, text: str) -> None:
        kwargs = {"data_files": {"test": str(folder / data)}, "cache_dir": str(tmp_path / "cache")}
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(kwargs)}\n"
        (folder / f"{name}.yaml").write_text(head + text)

    task("tiny_small", "small.jsonl", CHOICE)
    task("tiny_large", "large.jsonl", CHOICE)
    task("tiny_words", "small.jsonl", GENERATE)
    task("tiny_long", "small.jsonl", GENERATE.replace("toks: 8", "toks: 2000"))
    task("tiny_half", "small.jsonl", CHOICE + "process_results: !function functions.half\n")
    task("tiny_shaky", "small.jsonl", CHOICE + "process_results: !function functions.shaky\n")
    task("tiny_code", "small.jsonl", CHOICE + "unsafe_code: true\n")
    task("tiny_absent", "absent.jsonl", CHOICE)
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "group.yaml").write_text(
        "group: tiny\ntask: [tiny_small, tiny_large]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return folder


@pytest.fixture
def run(shelf: Path, tasks: Path, tmp_path: Path) -> Callable[..., int]:
    """The command on the first model, its output in `out` where nothing else is given."""

    def command(names: str, *more: str | Path, model: str = "one", output: str = "out") -> int:
        argv = ["--model", shelf / model, "--tasks", names, "--output", tmp_path / output]
        return main([str(word) for word in (*argv, "--include-path", tasks, *more)])

    return command


def items(folder: Path, task: str) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the items")

    lines = (folder / "items" / f"{task}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def accuracy(rows: list[dict], metric: str = "acc") -> tuple[float, float]:
    """Mean and standard error of right and wrong, by the formula for a share."""
    values = [row["metrics"][metric] for row in rows]
    p, n = sum(values) / len(values), len(values)
    return p, math.sqrt(p * (1 - p) / (n - 1))


# --- figures ---


def test_figures_are_those_of_the_items(run, tmp_path, shelf):
    assert run("empo_emotions", "--limit", "40") == 0
    results = read_harness(tmp_path / "out" / "harness.json")
    found, rows = results["tasks"]["empo_emotions"], items(tmp_path / "out", "empo_emotions")
    assert len(rows) == found["n"] == 40
    for metric in ("acc", "acc_norm"):
        value, stderr = accuracy(rows, metric)
        assert found["metrics"][metric]["value"] == pytest.approx(value, abs=1e-12)
        assert found["metrics"][metric]["stderr"] == pytest.approx(stderr, abs=1e-12)
    assert {"metric": "acc", "shots": 0, "truncated": 0, "version": "1.0"}.items() <= found.items()
    assert (found["value"], found["dataset"]) == (accuracy(rows)[0], "empo_emotions")
    for row in rows:  # the option with the highest log-likelihood is what acc scores
        best = max(range(4), key=row["log_likelihoods"].__getitem__)
        assert row["metrics"]["acc"] == (best == row["target"])
    assert results["trained"] == {"command": "base", "seed": 3, "settings": {"layers": 1}}
    assert (results["system"], results["seed"], results["not_run"]) == ("one", 42, [])
    assert results["model"]["base"] == {
        "name": str(shelf / "one"),
        **models.weights_identity(str(shelf / "one")),
    }
    assert results["command"].startswith("python eval/harness.py --model ")
    assert not (tmp_path / "out" / ".partial").exists()


def test_a_group_is_the_mean_over_the_items_of_its_tasks(run, tmp_path):
    assert run("tiny") == 0
    results = read_harness(tmp_path / "out" / "harness.json")
    small, large = (items(tmp_path / "out", name) for name in ("tiny_small", "tiny_large"))
    group = results["groups"]["tiny"]
    assert (group["metric"], group["n"], group["tasks"]) == (
        "acc",
        16,
        ["tiny_small", "tiny_large"],
    )
    assert group["value"] == pytest.approx(accuracy(small + large)[0], abs=1e-12)
    squares = sum((len(r) - 1) * accuracy(r)[1] ** 2 * len(r) for r in (small, large))
    assert group["stderr"] == pytest.approx(math.sqrt(squares / 14 / 16), abs=1e-12)
    assert results["tasks"]["tiny_large"]["dataset"] == "large.jsonl"


def test_generated_answers_are_kept_for_every_filter(run, tmp_path, capsys):
    assert run("tiny_words", "--limit", "1") == 0
    found = read_harness(tmp_path / "out" / "harness.json")["tasks"]["tiny_words"]
    (row,) = items(tmp_path / "out", "tiny_words")
    assert (
        set(found["metrics"]) == set(row["metrics"]) == {"exact_match,strict", "exact_match,loose"}
    )
    assert row["answer,strict"] == "[invalid]" and row["target"] == "ab"
    assert (found["metric"], found["value"], found["stderr"]) == ("exact_match,strict", 0.0, None)
    assert found["reasons"]["stderr"].startswith("lm-eval has none: a single item")
    assert "tiny_words  exact_match,strict  0.000" in capsys.readouterr().out


def test_prompts_that_lose_their_beginning_are_counted(run, tmp_path, shelf, capsys):
    tokenizer = models.load_tokenizer(models.resolve(str(shelf / "one")))
    lines = (SCRIPT.parent / "tasks" / "empo_emotions.jsonl").read_text("utf-8").splitlines()
    ask = "Situation: {}\nQuestion: How does the speaker feel?\nAnswer: {}"
    longest = sorted(
        max(len(tokenizer(ask.format(i["situation"], o)).input_ids) for o in i["options"])
        for i in map(json.loads, lines[:20])
    )
    fits = longest[10]  # with its last token, which is predicted and not read
    cut = sum(length > fits for length in longest)
    assert 0 < cut < 10
    assert run("empo_emotions", "--max-length", str(fits - 1), "--limit", "20") == 0
    found = read_harness(tmp_path / "out" / "harness.json")["tasks"]["empo_emotions"]
    assert found["truncated"] == cut
    assert f"empo_emotions: {cut} of 20 prompts were too long" in capsys.readouterr().out


def test_examples_and_chat_template_change_the_prompt(run, tmp_path, shelf):
    with pytest.raises(UserError, match="one: --apply-chat-template: the tokenizer has no chat"):
        run("tiny_small", "--apply_chat_template", "true")
    shutil.copytree(shelf / "one", tmp_path / "chat")
    tokenizer = models.load_tokenizer(models.resolve(str(tmp_path / "chat")))
    tokenizer.chat_template = ChatFormat(tokenizer, "zephyr", "", training=False).template
    tokenizer.save_pretrained(tmp_path / "chat")
    said = set()
    for more in ([], ["--num_fewshot", "2"], ["--apply_chat_template", "true"]):
        output = f"out{len(said)}"
        assert (
            run("empo_emotions", "--limit", "3", *more, model=tmp_path / "chat", output=output) == 0
        )
        said.add(
            json.dumps(
                [row["log_likelihoods"] for row in items(tmp_path / output, "empo_emotions")]
            )
        )
    assert len(said) == 3
    settings = read_json(tmp_path / "out2" / "harness.json")["settings"]
    assert settings["apply_chat_template"] is True


def test_numbers_of_examples_follow_the_benchmark_and_never_a_fixed_zero(run, tmp_path, tasks):
    fixed = (tasks / "tiny_small.yaml").read_text().replace("tiny_small", "tiny_fixed")
    (tasks / "tiny_fixed.yaml").write_text(fixed + "num_fewshot: 0\n")
    assert run("tiny_fixed,tiny_large", "--num_fewshot", "2") == 0
    found = read_json(tmp_path / "out" / "harness.json")["tasks"]
    assert {name: figures["shots"] for name, figures in found.items()} == {
        "tiny_fixed": 0,
        "tiny_large": 2,
    }
    (tasks / "v1.yaml").write_text("group: winogrande\ntask: [tiny_large]\n")  # five examples
    with pytest.raises(UserError, match="tiny_large is asked for with 5 and, in tiny, with 0 exam"):
        run("winogrande,tiny", output="both")
    assert run("winogrande", output="v1") == 0
    assert read_json(tmp_path / "v1" / "harness.json")["tasks"]["tiny_large"]["shots"] == 5


# --- again ---


def test_a_complete_evaluation_is_not_run_again(run, tmp_path, capsys):
    assert run("tiny_shaky") == 0
    written = (tmp_path / "out" / "harness.json").read_bytes()
    (tmp_path / "tasks" / "broken").touch()  # it could not be run
    assert run("tiny_shaky") == 0
    assert capsys.readouterr().out.count("complete already") == 1
    assert (tmp_path / "out" / "harness.json").read_bytes() == written


def test_another_evaluation_in_the_folder_is_refused(run, tmp_path):
    assert run("tiny_small") == 0
    with pytest.raises(UserError) as error:
        run("tiny_small,tiny_half", "--seed", "1", model="two")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'out'}: the folder holds another evaluation.")
    for line in (
        "settings.seed: 42 there, 1 now",
        "settings.tasks: ['tiny_small'] there, ['tiny_small', 'tiny_half'] now",
        "system: 'one' there, 'two' now",
    ):
        assert f"  - {line}\n" in text
    assert "model.base.sha256: " in text


def test_the_same_weights_and_tasks_by_another_path_are_the_same_evaluation(
    run, tmp_path, shelf, capsys
):
    assert run("tiny_small") == 0
    shutil.copytree(tmp_path / "tasks", tmp_path / "moved")
    assert (
        run("tiny_small", "--include-path", tmp_path / "moved", model=f"../{shelf.name}/one") == 0
    )
    assert "complete already" in capsys.readouterr().out


def test_data_that_were_cut_are_another_evaluation(run, tmp_path, tasks):
    assert run("tiny_small,tiny_large") == 0
    lines = (tasks / "large.jsonl").read_text().splitlines(keepends=True)
    (tasks / "large.jsonl").write_text("".join(lines[:4]))
    with pytest.raises(UserError) as error:
        run("tiny_small,tiny_large")
    (line,) = [line for line in str(error.value).splitlines() if line.startswith("  - ")]
    assert line.startswith("  - task_files.tiny_large.large.jsonl: '")
    (tasks / "large.jsonl").write_text("".join(lines))
    assert run("tiny_small,tiny_large") == 0
    text = (tasks / "tiny_small.yaml").read_text()
    (tasks / "tiny_small.yaml").write_text(text.replace("{{question}}", "Now: {{question}}"))
    with pytest.raises(UserError, match="task_files.tiny_small.tiny_small.yaml: "):
        run("tiny_small,tiny_large")


def test_an_evaluation_is_not_finished_on_other_data_or_by_another_lm_eval(run, tmp_path, tasks):
    (tasks / "broken").touch()
    with pytest.raises(RuntimeError, match="the power is gone"):
        run("tiny_large,tiny_shaky")
    (tasks / "broken").unlink()
    whole = (tasks / "large.jsonl").read_text()
    (tasks / "large.jsonl").write_text(whole.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="task_files.tiny_large.large.jsonl: "):
        run("tiny_large,tiny_shaky")
    (tasks / "large.jsonl").write_text(whole)
    started = tmp_path / "out" / ".partial" / "identity.json"
    write_json(started, {**read_json(started), "lm_eval": "0.0"})
    with pytest.raises(UserError, match="  - lm_eval: '0.0' there, "):
        run("tiny_large,tiny_shaky")


def test_after_a_crash_only_the_rest_is_run(run, tmp_path, tasks, capsys):
    (tasks / "broken").touch()
    with pytest.raises(RuntimeError, match="the power is gone"):
        run("tiny_small,tiny_shaky,tiny_large")
    done = tmp_path / "out" / "items" / "tiny_small.jsonl"
    written = done.stat().st_mtime_ns
    assert not (tmp_path / "out" / "harness.json").exists()
    with pytest.raises(
        UserError, match=r"another evaluation(.|\n)*settings.limit: None there, 2 now"
    ):
        run("tiny_small,tiny_shaky,tiny_large", "--limit", "2")
    (tasks / "broken").unlink()
    capsys.readouterr()
    assert run("tiny_small,tiny_shaky,tiny_large") == 0
    assert "tiny_shaky: 1 of 2\n" in capsys.readouterr().err
    assert done.stat().st_mtime_ns == written
    assert run("tiny_small,tiny_shaky,tiny_large", output="whole") == 0
    continued, whole = (read_json(tmp_path / name / "harness.json") for name in ("out", "whole"))
    assert continued["tasks"] == whole["tasks"]
    for name in whole["tasks"]:
        assert items(tmp_path / "out", name) == items(tmp_path / "whole", name)


# --- what cannot run ---


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


# --- two systems ---


def test_two_systems_are_compared_on_their_items(run, tmp_path, capsys):
    assert run("tiny,empo_emotions,tiny_half", output="a") == 0
    compare = ["--compare", tmp_path / "a"]
    assert run("tiny,empo_emotions,tiny_half", *compare, model="two", output="b") == 0
    comparisons = read_harness(tmp_path / "b" / "harness.json")["comparisons"]
    by_task = {row["task"]: row for row in comparisons}
    assert list(by_task) == ["tiny_small", "tiny_large", "empo_emotions", "tiny_half", "tiny"]
    pairs = {
        task: [(x["metrics"]["acc"], y["metrics"]["acc"]) for x, y in zip(*both, strict=True)]
        for task in ("tiny_small", "tiny_large", "empo_emotions")
        for both in [(items(tmp_path / "b", task), items(tmp_path / "a", task))]
    }
    pairs["tiny"] = pairs["tiny_small"] + pairs["tiny_large"]
    for task, values in pairs.items():
        row = by_task[task]
        assert (row["a"], row["b"], row["n"]) == ("two", "one", len(values))
        assert row["only_a"] == values.count((1, 0)) and row["only_b"] == values.count((0, 1))
        assert row["difference"] == pytest.approx((row["only_a"] - row["only_b"]) / len(values))
    emotions = by_task["empo_emotions"]
    assert emotions["test"] == "McNemar, exact"
    assert min(emotions["only_a"], emotions["only_b"]) > 0
    exact = binomtest(emotions["only_a"], emotions["only_a"] + emotions["only_b"]).pvalue
    assert emotions["p"] == pytest.approx(exact)
    corrected = holm([row["p"] for row in comparisons])
    assert [row["p_holm"] for row in comparisons] == corrected
    half = by_task["tiny_half"]
    assert (half["difference"], half["p"], half["p_holm"], half["only_a"]) == (
        0.0,
        None,
        None,
        None,
    )
    assert half["reasons"]["p"] == "an item is not simply right or wrong in this metric."
    assert set(half["reasons"]) == {"p", "p_holm", "only_a", "only_b"}
    assert "against" in capsys.readouterr().out


def test_a_model_against_itself_shows_no_difference(run, tmp_path):
    assert run("tiny_large", "--system", "first", output="a") == 0
    assert run("tiny_large", "--system", "second", output="b") == 0
    capture = (tmp_path / "b" / "harness.json").read_text()
    # compared afterwards, without the model being asked again
    assert run("tiny_large", "--system", "second", "--compare", tmp_path / "a", output="b") == 0
    results = read_harness(tmp_path / "b" / "harness.json")
    (row,) = results["comparisons"]
    assert (row["difference"], row["only_a"], row["only_b"]) == (0.0, 0, 0)
    assert (row["p"], row["p_holm"], row["n"]) == (1.0, 1.0, 11)
    assert results["created"] == json.loads(capture)["created"]


def test_a_comparison_on_a_part_of_the_items_says_so(run, tmp_path, capsys):
    assert run("tiny,empo_emotions", "--limit", "4", output="a") == 0
    assert run("tiny,empo_emotions", "--compare", tmp_path / "a", model="two", output="b") == 0
    rows = read_harness(tmp_path / "b" / "harness.json")["comparisons"]
    told = {row["task"]: row["reasons"].get("n") for row in rows}
    assert told["tiny_small"] == "4 items are in both: of 5 of two and of 4 of one."
    assert told["tiny"] == "8 items are in both: of 16 of two and of 8 of one."
    said = capsys.readouterr().out.splitlines()
    assert "tiny against one: 8 items are in both: of 16 of two and of 8 of one." in said
    assert any(line.startswith("empo_emotions against one: 4 items are in both") for line in said)
    assert not any(line.startswith("tiny_small against") for line in said)


def test_systems_that_share_nothing_are_refused_and_nothing_is_lost(run, tmp_path):
    assert run("tiny_small", output="a") == 0
    changed = [{**row, "doc_hash": "other"} for row in items(tmp_path / "a", "tiny_small")]
    write_jsonl(tmp_path / "a" / "items" / "tiny_small.jsonl", changed)
    with pytest.raises(UserError, match="no item stands in"):
        run("tiny_small", "--compare", tmp_path / "a", model="two", output="b")
    assert read_harness(tmp_path / "b" / "harness.json")["tasks"]["tiny_small"]["n"] == 5
    with pytest.raises(UserError, match="that system is called 'one' too"):
        run("tiny_small", "--compare", tmp_path / "a", output="c")
    other = read_json(tmp_path / "a" / "harness.json")
    write_harness(tmp_path / "a" / "harness.json", {**other, "system": "x"})
    with pytest.raises(UserError, match="seed is 42 there and 3 here"):
        run("tiny_small", "--compare", tmp_path / "a", "--seed", "3", output="c")
    with pytest.raises(UserError, match="max_length is None there and 64 here"):
        run("tiny_small", "--compare", tmp_path / "a", "--max-length", "64", output="c")
    old = {**other, "system": "x", "versions": {**other["versions"], "lm_eval": "0.0"}}
    write_harness(tmp_path / "a" / "harness.json", old)
    with pytest.raises(UserError, match="lm_eval is '0.0' there and '"):
        run("tiny_small", "--compare", tmp_path / "a", output="c")
    assert not (tmp_path / "c").exists()


# --- settings ---


def test_problems_are_told_at_once(run, tmp_path):
    with pytest.raises(UserError) as error:
        run(" , ", "--limit", "0", "--batch_size", "0", "--include-path", tmp_path / "nowhere")
    assert [line.strip(" -") for line in str(error.value).splitlines()[1:]] == [
        "tasks: no name is given.",
        "limit: 0 is below 1.",
        f"include-path: {tmp_path / 'nowhere'} is no folder.",
        "batch-size: 0 is below 1.",
    ]
    with pytest.raises(UserError, match="limit: -3 is below 1"):
        run("tiny", "--limit=-3")


def test_settings_come_from_a_file_or_a_suite(shelf, tmp_path):
    given = {"model": str(shelf / "one"), "tasks": "empo_emotions", "limit": 2}
    write_json(tmp_path / "settings.yaml", given)
    assert main(["--config", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "a")]) == 0
    argv = ["--suite", "quick", "--model", str(shelf / "one"), "--limit", "2"]
    assert main([*argv, "--output", str(tmp_path / "b")]) == 0
    a, b = (read_json(tmp_path / name / "harness.json") for name in "ab")
    assert a["tasks"] == b["tasks"] and a["tasks"]["empo_emotions"]["n"] == 2


@pytest.mark.parametrize("argv", [["--help"], ["--tasks", "mmlu", "--limit", "0"]])
def test_help_and_mistakes_do_not_wait_for_lm_eval(argv):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['harness.py', *{argv!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('CODE', end.code)\n"
        "print('LOADED', *sorted({'lm_eval', 'torch', 'transformers'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == [f"CODE {0 if argv == ['--help'] else 2}", "LOADED"]
