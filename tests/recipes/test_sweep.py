"""recipes/sweep.py: a real grid of two cells, what a second run does, cells that fail."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from killed import asked_to_stop
from tiny_runs import TINY, Shelf, recipe
from tiny_sweeps import OURS, refused, state, sweep, written

from empo.records import UserError, read_json, read_responses
from empo.runs import LOCK, alone
from empo.sweep.steps import Step, Steps


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
    assert start["trained"]["command"] == "sft" and "pairs" not in start["trained"]
    assert (trained["pairs"]["choose"], trained["pairs"]["exchanges"]) == ("random", 64)


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
    assert str(error.value).endswith(
        "What is done stays done; once this is mended, the same command goes on here."
    )
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
    assert "Restore it. Delete that folder to train it anew, or take another output_dir." in said
    assert "--fresh" not in said
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
    with alone(out / LOCK, out):
        said = refused(done)
    assert said == (
        f"{out}: another process is at work on it. Wait until it has ended, stop it, or choose "
        "another place for this one."
    )
    assert state(out) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    assert refused(written(tmp_path, shelf)) == (
        f"{tmp_path / 'out'}: the folder is not empty and holds no sweep. Choose an empty or a new "
        "output folder."
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_a_sweep_stops_with_its_step_and_goes_on_inside_it(
    done: Path, shelf: Shelf, tmp_path: Path
) -> None:
    cell, seed = "lora_alpha=4", tmp_path / "out" / "seed-42"
    path = written(tmp_path, shelf, overrides={**OURS, "eval_strategy": "no"})
    log = seed / "models" / cell / "log.jsonl"
    said = tmp_path / "said.txt"
    code = asked_to_stop(signal.SIGTERM, log.exists, said, lambda: sweep(path))
    assert code == 143
    (number,) = (int(folder.name[11:]) for folder in (seed / "models" / cell).glob("checkpoint-*"))
    assert said.read_text().endswith(
        f"stopped by SIGTERM. Saved in {seed / 'models' / cell / f'checkpoint-{number}'}: the same "
        "command goes on with what is missing.\n"
    )
    known = read_json(tmp_path / "out" / "sweep.json")["steps"]
    assert list(known) == ["nidf", "start, replies"]
    assert sweep(path) == 0
    assert read_json(seed / "models" / cell / "run.json")["status"] == "complete"
    whole = tmp_path / "whole"
    whole.mkdir()
    assert sweep(written(whole, shelf, overrides={**OURS, "eval_strategy": "no"})) == 0
    for name in ("results.json", "responses/lora_alpha=4.jsonl"):
        one, two = ((folder / "out" / "seed-42" / name) for folder in (tmp_path, whole))
        if name.endswith(".jsonl"):
            assert one.read_bytes() == two.read_bytes()
        else:
            assert read_json(one)["systems"] == read_json(two)["systems"]


LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()  # as accelerate: it dies of the signal
"""
TRAINING = """
import signal, sys, time
from pathlib import Path
from empo.process import Stopped, run, stop_when_saved
from empo.runs import LOCK, alone
def main():
    folder = Path(sys.argv[1])
    with alone(folder / LOCK, folder), stop_when_saved("it is done") as stop:
        (folder / "begun").touch()
        while stop.number is None:
            time.sleep(0.01)
        time.sleep(1)
        (folder / "saved").touch()
    raise Stopped(stop.number)
run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_a_launched_step_and_the_sweep_waits_until_it_has_saved(
    tmp_path: Path, number: int, code: int
) -> None:
    script, launcher = tmp_path / "training.py", tmp_path / "launcher.py"
    script.write_text(TRAINING)
    launcher.write_text(LAUNCHER)
    folder = tmp_path / "model"
    launch = (sys.executable, str(launcher))
    step = Step("a", 1, "train", str(script), [str(folder)], [], [folder / "run.json"], launch)
    said = tmp_path / "said.txt"
    begun = (folder / "begun").exists
    steps = Steps(tmp_path / "sweep.json")
    assert asked_to_stop(number, begun, said, lambda: int(steps.do(step))) == code
    assert (folder / "saved").exists()
    assert said.read_text().splitlines()[-1] == (
        f"stopped by {signal.Signals(number).name}. What is done is kept: the same command goes on "
        "with what is missing."
    )
    assert not (tmp_path / "sweep.json").exists()


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
