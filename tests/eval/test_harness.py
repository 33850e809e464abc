"""The command on tiny models and tiny tasks: figures, restarts, settings."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import pytest
from tiny_harness import SCRIPT, accuracy, items, main

from empo import models
from empo.prompts import ChatFormat
from empo.records import UserError, read_json, write_json
from empo.reporting.harness_results import read_harness

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
