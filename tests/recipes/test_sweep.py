"""recipes/sweep.py: a real grid of two cells, what a second run does, cells that fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY, Shelf, recipe
from tiny_sweeps import OURS, refused, state, sweep, written

from empo.records import UserError, read_json, read_responses, write_json
from empo.sweep.lock import LOCK, alone


@pytest.fixture(scope="module")
def done(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a sweep that has run, on a corpus of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copytree(shelf.corpus, folder / "corpus")
    path = written(folder, shelf)
    assert sweep(path) == 0
    return path


# --- a sweep ---


def test_every_cell_is_trained_replied_with_and_measured(done: Path) -> None:
    out = done.with_name("out")
    seed = out / "seed-42"
    for alpha in (4, 64):
        run = read_json(seed / "models" / f"lora_alpha={alpha}" / "run.json")
        assert run["status"] == "complete" and run["settings"]["lora_alpha"] == alpha
        replies = read_responses(seed / "responses" / f"lora_alpha={alpha}.jsonl")
        assert {reply.system for reply in replies} == {f"lora_alpha={alpha}"}
        assert len(replies) == 12 and max(r.response_tokens for r in replies) <= 20
    systems = read_json(seed / "results.json")["systems"]
    assert list(systems) == ["start", "lora_alpha=4", "lora_alpha=64", "human"]
    assert all(set(s["metrics"]) == {"trie", "nidf", "length"} for s in systems.values())
    report = (out / "report.md").read_text()
    assert "lora\\_alpha=64" in report or "lora_alpha=64" in report


def test_the_results_know_how_a_system_was_trained(done: Path, shelf: Shelf) -> None:
    seed = done.with_name("out") / "seed-42"
    manifest = read_json(seed / "responses" / "lora_alpha=64.jsonl.manifest.json")
    trained = manifest["trained"]
    assert (trained["command"], trained["seed"]) == ("dpo", 42)
    assert trained["settings"]["lora_alpha"] == 64
    assert not {"output_dir", "dialogues", "model"} & trained["settings"].keys()
    assert str(shelf.folder) not in json.dumps(trained)
    assert read_json(seed / "results.json")["systems"]["lora_alpha=64"]["trained"] == trained
    start = read_json(done.with_name("out") / "responses" / "start.jsonl.manifest.json")
    assert start["trained"]["command"] == "sft"


def test_a_model_that_no_run_made_was_trained_by_nobody() -> None:
    trained_by = recipe("generate").__globals__["trained_by"]
    assert trained_by({}) is None and trained_by({"command": "merge", "seed": 1}) is None
    run = {"command": "sft", "settings": {"dialogues": "x", "hub_model_id": "y", "lora_r": 8}}
    assert trained_by(run) == {"command": "sft", "seed": None, "settings": {"lora_r": 8}}


def test_a_second_run_does_nothing_and_says_so(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(done.with_name("out"))
    assert sweep(done) == 0
    assert state(done.with_name("out")) == before
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("== ")] == [
        f"== {step}: done before"
        for step in (
            *("nidf", "start, replies"),
            *("lora_alpha=4, seed 42, train", "lora_alpha=4, seed 42, replies"),
            *("lora_alpha=64, seed 42, train", "lora_alpha=64, seed 42, replies"),
            *("metrics, seed 42", "report"),
        )
    ]
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert table[0] == ["cell", "seed", "status", "seconds"]
    assert table[3] == ["lora_alpha=4", "42", "done", "before", "-"]


def test_what_is_lost_or_asked_anew_is_done_again_and_no_more(
    done: Path, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    out = done.with_name("out")
    (out / "seed-42" / "responses" / "lora_alpha=4.jsonl").unlink()
    weights = state(out / "seed-42" / "models")
    assert sweep(written(done.parent, shelf, metrics=["trie", "length"])) == 0
    ran = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert [line[3:] for line in ran if not line.endswith("done before")] == [
        *("lora_alpha=4, seed 42, replies", "metrics, seed 42", "report")
    ]
    assert state(out / "seed-42" / "models") == weights
    assert set(read_json(out / "seed-42" / "results.json")["signatures"]) == {"trie", "length"}
    written(done.parent, shelf)


def test_without_sweep_json_the_commands_find_what_they_did(done: Path) -> None:
    out = done.with_name("out")
    weights = state(out / "seed-42" / "models")
    (out / "sweep.json").unlink()
    assert sweep(done) == 0
    assert state(out / "seed-42" / "models") == weights


def test_another_setting_is_refused_with_the_cell_and_the_difference(
    done: Path, shelf: Shelf
) -> None:
    path = written(done.parent, shelf, overrides={**OURS, "beta": 0.5})
    with pytest.raises(UserError) as error:
        sweep(path)
    assert str(error.value).startswith("lora_alpha=4, seed 42, train: ")
    assert "  - beta: 0.05 there, 0.5 now" in str(error.value)
    assert str(error.value).endswith("What is done stays done: the same command goes on here.")
    written(done.parent, shelf)


# --- what has changed since ---


def cut(path: Path, lines: int) -> str:
    """Drop the last lines of a file; returns what it was."""
    whole = path.read_text("utf-8")
    path.write_text("".join(whole.splitlines(keepends=True)[:-lines]), "utf-8")
    return whole


def test_replies_that_were_cut_are_no_done_replies(done: Path) -> None:
    replies = done.with_name("out") / "seed-42" / "responses" / "lora_alpha=64.jsonl"
    whole = cut(replies, 4)
    said = refused(done)
    assert said.startswith(
        f"lora_alpha=64, seed 42, replies: {replies}: the file has been edited since"
    )
    replies.write_text(whole, "utf-8")
    assert sweep(done) == 0


def test_another_test_split_is_noticed_by_the_replies(done: Path) -> None:
    split = done.with_name("corpus") / "test.csv"
    text = split.read_text("utf-8")
    split.write_text(text.replace("I ", "We "), "utf-8")
    assert refused(done).startswith("start, replies: ") and "(it differs in data)" in refused(done)
    split.write_text(text, "utf-8")
    assert sweep(done) == 0


def test_another_training_split_is_noticed_by_trainings_and_word_frequencies(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = done.with_name("corpus"), done.with_name("out")
    table = (out / "nidf.json").read_bytes()
    text = (corpus / "train.csv").read_text("utf-8")
    (corpus / "train.csv").write_text(text.replace("I ", "We "), "utf-8")
    said = refused(done)
    model = out / "seed-42" / "models" / "lora_alpha=4"
    assert said.startswith(
        f"lora_alpha=4, seed 42, train: {model}: this run was trained on other data: "
        f"{corpus / 'train.csv'} (train) is not the file that it began with."
    )
    assert "Restore it, or choose another output folder." in said
    printed = capsys.readouterr().out
    assert f"== nidf\nchanged since it was done: {corpus / 'train.csv'}\nempo nidf-table" in printed
    assert (out / "nidf.json").read_bytes() != table
    (corpus / "train.csv").write_text(text, "utf-8")
    assert sweep(done) == 0
    assert (out / "nidf.json").read_bytes() == table


def test_a_report_that_was_edited_is_written_again(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = done.with_name("out") / "report.md"
    text = report.read_text("utf-8")
    report.write_text("nothing", "utf-8")
    assert sweep(done) == 0
    assert report.read_text("utf-8") == text
    ran = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert [line for line in ran if not line.endswith("done before")] == ["== report"]


# --- the lock, and runs before the cells ---


def test_a_second_sweep_in_the_folder_stops_at_once(done: Path) -> None:
    out = done.with_name("out")
    before = state(out)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        lock = {"process": other.pid, "host": os.uname().nodename, "started": "today"}
        write_json(out / LOCK, lock)
        said = refused(done)
        other.communicate(b"\n")
    assert said == (
        f"{out}: another sweep works in this folder (process {other.pid} on {lock['host']}, since "
        "today). Wait for it, or take another output_dir. If that process is no sweep any more, "
        f"delete {out / LOCK}."
    )
    (out / LOCK).unlink()
    assert state(out) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with (
        pytest.raises(UserError, match="the folder is not empty and holds no sweep"),
        alone(tmp_path),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_lock_is_held_taken_over_from_the_dead_and_released(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path):
        assert read_json(tmp_path / LOCK)["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = {"process": dead.pid, "host": os.uname().nodename, "started": "today"}
    write_json(tmp_path / LOCK, lock)
    with pytest.raises(ValueError, match="stopped"), alone(tmp_path):
        assert read_json(tmp_path / LOCK)["process"] == os.getpid()
        raise ValueError("stopped")
    assert f"process {dead.pid} has died without releasing it; this" in capsys.readouterr().out
    assert not (tmp_path / LOCK).exists()
    write_json(tmp_path / LOCK, {**lock, "host": "another-machine"})
    with pytest.raises(UserError, match="on another-machine, since today"), alone(tmp_path):
        pass
    (tmp_path / LOCK).write_text("{}")
    told = "this is no lock of a sweep. If no sweep runs in"
    with pytest.raises(UserError, match=told), alone(tmp_path):
        pass
    assert (tmp_path / LOCK).is_file()


@pytest.mark.slow
def test_runs_before_the_cells_a_launcher_and_tasks_of_the_harness(
    tmp_path: Path, shelf: Shelf
) -> None:
    sft = tmp_path / "sft.yaml"
    own = yaml.safe_load((TINY / "sft.yaml").read_text()) | OURS | {"full_training": False}
    sft.write_text(yaml.safe_dump(own))
    path = written(
        tmp_path,
        shelf,
        before=[str(sft)],
        model=str(shelf.base),
        launch=[sys.executable],
        grid={},
        seeds=[1, 2],
        harness_tasks=["empo_emotions"],
        harness={"limit": 8},
    )
    assert sweep(path) == 0
    out = path.with_name("out")
    start = read_json(out / "before" / "sft" / "run.json")
    assert start["status"] == "complete" and start["base_model"]["name"] == str(shelf.base)
    runs = [read_json(out / f"seed-{seed}" / "models" / "dpo" / "run.json") for seed in (1, 2)]
    assert [run["seed"] for run in runs] == [1, 2]
    assert {run["base_model"]["name"] for run in runs} == {str(out / "before" / "sft" / "merged")}
    for folder in ("seed-1/harness/start", "seed-1/harness/dpo", "seed-2/harness/dpo"):
        assert (out / folder / "harness.json").is_file()
    assert not (out / "seed-2" / "harness" / "start").exists()
    for seed in (1, 2):
        compared = read_json(out / f"seed-{seed}" / "harness" / "dpo" / "harness.json")
        rows = [(r["b"], r["task"], r["n"]) for r in compared["comparisons"]]
        assert rows == [("start", "empo_emotions", 8)]
    assert "empo\\_emotions" in (out / "report.md").read_text()


# --- cells that fail ---


@pytest.fixture
def failing(tmp_path: Path, shelf: Shelf) -> Path:
    """The first of two cells has an attention that no model has."""
    grid = {"attention": ["nonsense", "sdpa"]}
    overrides = {**OURS, "lora_alpha": 4}
    return written(tmp_path, shelf, grid=grid, overrides=overrides, baseline=False)


def test_a_failing_cell_stops_the_sweep(failing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        sweep(failing)
    assert str(error.value).startswith("attention=nonsense, seed 42, train: ")
    table = capsys.readouterr().out.splitlines()[-1].split()
    assert table[:3] == ["attention=nonsense", "42", "failed"]
    assert not (failing.with_name("out") / "seed-42" / "responses").exists()


def test_a_sweep_that_keeps_going_measures_the_others_and_ends_with_1(
    failing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(failing, "--keep_going", "true") == 1
    seed = failing.with_name("out") / "seed-42"
    assert list(read_json(seed / "results.json")["systems"]) == ["attention=sdpa", "human"]
    said = capsys.readouterr()
    assert "error: attention=nonsense, seed 42, train: " in said.err
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if line.strip()}
    assert rows["attention=nonsense"][2] == "failed" and rows["attention=sdpa"][2] == "done"


def test_a_launched_training_that_fails_is_named_with_its_exit_code(
    tmp_path: Path, shelf: Shelf
) -> None:
    launch = [sys.executable, "-c", "import sys; sys.exit(sys.argv[1].endswith('dpo.py') * 7)"]
    path = written(tmp_path, shelf, launch=launch, baseline=False)
    with pytest.raises(
        UserError, match="lora_alpha=4, seed 42, train: exit code 7; what went wron"
    ):
        sweep(path)
