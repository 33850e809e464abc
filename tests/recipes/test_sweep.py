"""recipes/sweep.py: a real grid of two cells, what a second run does, what is refused or fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import LORA, ROOT, TINY, Shelf, command, recipe

from empo.alignment.settings import DEFAULTS, SftSettings
from empo.records import UserError, read_json, read_responses, write_json
from empo.settings import parse, resolve
from empo.sweep.checking import check
from empo.sweep.commands import before_step, cell_steps, metrics_step, start_steps, train_step
from empo.sweep.grid import SweepSettings, cells, words
from empo.sweep.inputs import digests, files_of
from empo.sweep.lock import LOCK, alone
from empo.sweep.steps import Step, Steps

OURS = dict(zip([word[2:] for word in LORA[::2]], map(yaml.safe_load, LORA[1::2]), strict=True))
OURS |= {"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 16}
del OURS["lora_alpha"]


def written(folder: Path, shelf: Shelf, **changed: Any) -> Path:
    """A YAML for a sweep of DPO on the SFT model of the shelf; on `folder`/corpus where it is."""
    corpus = folder / "corpus"
    settings: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "dialogues": str(corpus if corpus.is_dir() else shelf.corpus),
        "recipe": "dpo",
        "recipe_config": str(TINY / "dpo.yaml"),
        "model": str(shelf.sft),
        "overrides": OURS,
        "grid": {"lora_alpha": [4, 64]},
        "seeds": [42],
        "limit": 12,
        "generate": {"max_new_tokens": 20},
        "metrics": ["trie", "nidf", "length"],
        **changed,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def sweep(path: Path, *more: str) -> int:
    return recipe("sweep")(["--config", str(path), *more])


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder with its size and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


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


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        sweep(path)
    return str(error.value)


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


def test_every_file_that_moves_a_figure_is_an_input(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rater, lexicons, tasks = (tmp_path / name for name in ("rater", "lexicons", "tasks"))
    recipe_config, templates = tmp_path / "sft.yaml", tmp_path / "own.jinja"
    read = {
        "metrics": [
            *(rater / "rater_config.json", rater / "er" / "model.safetensors"),
            *(lexicons / "NRC-VAD-Lexicon.txt", tmp_path / "suite.yaml", tmp_path / "nidf.json"),
            tmp_path / "out/responses/start.jsonl.manifest.json",
        ],
        "train": [
            *(recipe_config, templates, shelf.corpus / "train.csv", shelf.corpus / "valid.csv"),
            *(shelf.sft / "run.json", shelf.sft / "merged" / "model.safetensors"),
        ],
        "replies": [
            *(shelf.corpus / "test.csv", shelf.sft / "adapter_model.safetensors", templates),
            shelf.base / "model.safetensors",
        ],
        "harness": [
            *(tasks / "mine.yaml", tasks / "mine.jsonl", tmp_path / "suite.yaml"),
            shelf.sft / "merged" / "tokenizer.json",
        ],
    }
    for path in (file for files in read.values() for file in files):
        if not path.is_relative_to(shelf.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    (rater / "units").mkdir()
    (rater / "units" / "model.safetensors").touch()
    (tasks / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {tasks / 'mine.jsonl'}}}\n"
    )
    (tmp_path / "suite.yaml").write_text(
        f"responses: {{lexicons: {lexicons}}}\nharness: {{include_path: {tasks}, tasks: mine}}\n"
    )
    recipe_config.write_text(f"chat_template: {templates}\n")
    given = {
        "output_dir": str(tmp_path / "out"),
        "dialogues": str(shelf.corpus),
        "recipe": "dpo",
        "recipe_config": str(recipe_config),
        "model": str(shelf.sft),
        "generate": {"chat_template": str(templates)},
        "suite": str(tmp_path / "suite.yaml"),
        "rater": [str(rater)],
        "nidf_table": str(tmp_path / "nidf.json"),
    }
    settings = SweepSettings(**given)
    (cell,) = cells("dpo", {})
    replies, harness = start_steps(settings, str(shelf.sft))
    steps = {
        "metrics": metrics_step(settings, 42, [cell]),
        "train": train_step(settings, cell, 42, str(shelf.sft)),
        "replies": replies,
        "harness": harness,
    }
    for kind, step in steps.items():
        assert set(read[kind]) <= set(step.inputs), kind
    assert rater / "units" / "model.safetensors" not in steps["metrics"].inputs
    assert set(read["train"][-2:]) <= set(steps["train"].start)
    before = before_step(settings, str(recipe_config), str(shelf.base))
    assert {shelf.corpus / "train.csv", recipe_config} <= set(before.inputs)
    monkeypatch.setenv("EMPO_DATA", str(tmp_path))
    own = SweepSettings(**{**given, "suite": None})
    assert lexicons / "NRC-VAD-Lexicon.txt" in metrics_step(own, 42, [cell]).inputs


def test_a_step_is_done_again_where_an_input_or_an_output_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, missing, output = (tmp_path / name for name in ("w.safetensors", "no", "out.json"))
    for path in (weights, output):
        path.write_text("one")
    nothing = (sys.executable, "-c", "")
    step = Step("a", 1, "metrics", "eval/responses.py", [], [weights, missing], [output], nothing)

    def status() -> str:
        steps = Steps(tmp_path / "sweep.json")
        steps.do(step)
        return steps.outcomes[0][1]

    assert [status(), status()] == ["done", "done before"]
    weights.write_text("two")
    assert [status(), status()] == ["done", "done before"]
    missing.write_text("there now")
    assert [status(), status()] == ["done", "done before"]
    capsys.readouterr()
    output.write_text("two")
    assert [status(), status()] == ["done", "done before"]
    assert f"changed since it was done: {output}\n" in capsys.readouterr().out


def test_what_a_command_writes_is_none_of_its_inputs(tmp_path: Path) -> None:
    for name in ("cache.sqlite", "out.jsonl", "map.yaml"):
        (tmp_path / name).touch()
    given = {
        "rater_cache": str(tmp_path / "cache.sqlite"),
        "output": str(tmp_path / "out.jsonl"),
        "mapping": str(tmp_path / "map.yaml"),
        "dtype": "float32",
        "limit": 3,
    }
    assert files_of(given) == [tmp_path / "map.yaml"]


def test_digests_are_read_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import empo.sweep.inputs

    path = tmp_path / "model.safetensors"
    path.write_text("one")
    read: list[Path] = []
    original = empo.sweep.inputs.sha256
    monkeypatch.setattr(
        empo.sweep.inputs, "sha256", lambda path: (read.append(path), original(path))[1]
    )
    first = digests([path])
    assert digests([path]) == first and read == [path]
    path.write_text("another")
    assert digests([path]) != first and read == [path, path]


def test_the_order_of_the_seeds_moves_nothing_of_the_start(tmp_path: Path, shelf: Shelf) -> None:
    given = {
        "output_dir": str(tmp_path / "out"),
        "dialogues": str(shelf.corpus),
        "recipe": "dpo",
        "recipe_config": str(TINY / "dpo.yaml"),
        "harness_tasks": ["empo_emotions"],
    }
    one = [step.command for step in start_steps(SweepSettings(**given, seeds=[1, 2]), "m")]
    assert "--seed" not in one[0]
    (tmp_path / "out" / "seed-1" / "harness" / "start").mkdir(parents=True)
    assert one == [step.command for step in start_steps(SweepSettings(**given, seeds=[2, 1]), "m")]


def test_cells_are_compared_with_the_start_on_language_understanding(
    tmp_path: Path, shelf: Shelf
) -> None:
    def compared(**changed: Any) -> list[str]:
        settings = SweepSettings(
            output_dir=str(tmp_path / "out"),
            dialogues=str(shelf.corpus),
            recipe="dpo",
            recipe_config=str(TINY / "dpo.yaml"),
            harness_tasks=["empo_emotions"],
            **changed,
        )
        (step,) = [s for s in cell_steps(settings, cells("dpo", {})[0], 42) if s.kind == "harness"]
        at = list(step.argv).index("--compare") if "--compare" in step.argv else len(step.argv)
        others = [word for word in step.argv[at + 1 :] if not word.startswith("--")]
        assert {Path(other) / "harness.json" for other in others} <= set(step.inputs)
        return others

    start = str(tmp_path / "out" / "seed-42" / "harness" / "start")
    assert compared() == [start]
    assert compared(baseline=False) == []
    assert compared(harness={"compare": ["other"]}) == [start, "other"]
    assert compared(harness={"compare": ["other"]}, baseline=False) == ["other"]


# --- sweep.json and the lock ---


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "schema: Field required."),
        ("[]", "the whole file: Input should be a valid dictionary."),
        ('{"schema": "empo.sweep/1", "steps": {}}', "schema: Input should be 'empo.sweep/2'."),
        (
            '{"schema": "empo.sweep/2", "steps": {"report": 3}}',
            "steps.report: Input should be a valid dictionary.",
        ),
        (
            '{"schema": "empo.sweep/2", "steps": {"report": {"status": "x"}}}',
            "steps.report.status: Input should be 'done' or 'incomplete'.",
        ),
        ("", "the file is empty."),
        ("{", "not JSON"),
    ],
)
def test_a_broken_sweep_json_is_refused_with_the_remedy(
    tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        Steps(path)
    said = str(error.value)
    assert said.startswith(f"{path}") and told in said
    assert said.endswith("Delete the file: every command finds by itself what it has done already.")


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


def test_what_cannot_run_by_name_gives_3(tmp_path: Path) -> None:
    """A step that ends with 3 has its outputs, and is done again by the next run."""
    steps = Steps(tmp_path / "sweep.json")
    script = ROOT / "recipes" / "generate.py"
    for _ in range(2):
        launch = (sys.executable, "-c", "raise SystemExit(3)")
        assert steps.do(Step("a", 1, "metrics", str(script), [], [], [script], launch))
    assert steps.code == 3
    assert [status for _, status, _ in steps.outcomes] == ["incomplete", "incomplete"]


def test_a_start_that_was_trained_again_is_refused(tmp_path: Path) -> None:
    launch = (sys.executable, "-c", "")
    start, output = tmp_path / "sft" / "run.json", tmp_path / "dpo" / "run.json"
    for path in (start, output):
        path.parent.mkdir()
        path.write_text("{}")
    step = Step("a", 1, "train", "recipes/dpo.py", [], [start], [output], launch, [start])
    assert Steps(tmp_path / "sweep.json").do(step)
    again = Steps(tmp_path / "sweep.json")
    assert again.do(step) and again.outcomes[0][1] == "done before"
    start.write_text("{ }")
    with pytest.raises(UserError, match=f"this model was trained before {start} was written anew"):
        Steps(tmp_path / "sweep.json").do(step)


# --- what is refused before anything runs ---


def refusal(path: Path, *more: str) -> str:
    with pytest.raises(UserError) as error:
        sweep(path, *more)
    assert not path.with_name("out").exists()
    return str(error.value)


def test_all_commands_are_read_before_the_first_one_runs(tmp_path: Path, shelf: Shelf) -> None:
    path = written(
        tmp_path,
        shelf,
        overrides={},
        grid={"lora_alfa": [4, 8], "lora_r": [8, 0]},
        generate={"max_new_token": 5, "batch_size": 0},
        metrics=["tree"],
        harness={"num_shots": 5},
        harness_tasks=["empo_emotions"],
    )
    said = refusal(path)
    assert said.splitlines()[0] == "recipes/sweep.py: 6 problems in the commands of the sweep:"
    for line in (
        "all cells: --lora_alfa: no such option; did you mean --lora_alpha?",
        "lora_alfa=4,lora_r=0; lora_alfa=8,lora_r=0: lora_r: 0 is no rank; at least 1 is needed.",
        "replies: --max_new_token: no such option; did you mean --max_new_tokens?",
        "replies: --batch-size: 0 is below 1.",
        "metrics: --metrics: no such metric: tree; known: ",
        "harness: --num_shots: no such option",
    ):
        assert f"  - {line}" in said
    said = refusal(written(tmp_path, shelf, metrics=["diff_epitome"]))
    assert "metrics: diff_epitome needs raters: give their folders as --rater." in said


def test_settings_that_cannot_work_are_told_at_once(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = written(
        tmp_path,
        shelf,
        dialogues=str(shelf.corpus / "train.csv"),
        grid={"seed": [1], "lora_alpha": [4, 4.0], "lora_r": []},
        overrides={"output_dir": "x", "lora_r": 4},
        seeds=[42, 42],
        before=["recipes/tiny/base.yaml", "recipes/small/base.yaml", "none/adapt.yaml"],
        launch=["no-such-launcher"],
        rater=["no/rater"],
        nidf_table="no.json",
    )
    said = refusal(path)
    for line in (
        f"dialogues: {shelf.corpus / 'train.csv'} is a single file",
        "launch: start the sweep itself with python; it launches its trainings.",
        "launch: no-such-launcher: no such program.",
        "seeds: [42, 42]: at least one, and each once.",
        "grid: seed is set by the sweep itself.",
        "overrides: output_dir is set by the sweep itself.",
        "overrides: lora_r is in the grid already.",
        "grid: lora_alpha: [4, 4.0]: at least one value, and each once.",
        "grid: lora_r: []: at least one value, and each once.",
        "none/adapt.yaml: no such file.",
        "before: none/adapt.yaml: the name begins with none of base, sft, dpo.",
        "before: two files are named base.",
        "model: a base is trained from scratch and starts from none.",
        "rater: no/rater: no such folder.",
        "nidf_table: no.json: no such file.",
    ):
        assert f"  - {line}" in said


def test_the_command_ends_with_2_and_one_message(tmp_path: Path) -> None:
    done = command([sys.executable, ROOT / "recipes/sweep.py", "--output_dir", tmp_path / "out"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipes/sweep.py: 3 problems in the settings:\n")
    assert "--recipe-config: missing (YAML of that recipe)" in done.stderr


# --- cells and words ---


def test_cells_are_every_combination_under_names_of_files() -> None:
    grid = {"lora_alpha": [4, 16], "learning_rate": [1e-5], "full_training": [True]}
    names = [cell.name for cell in cells("dpo", grid)]
    assert names == [
        f"lora_alpha={alpha},learning_rate=1e-05,full_training=true" for alpha in (4, 16)
    ]
    assert cells("dpo", grid)[1].settings == {
        "lora_alpha": 16,
        "learning_rate": 1e-5,
        "full_training": True,
    }
    (alone,) = cells("dpo", {})
    assert (alone.name, alone.settings) == ("dpo", {})


def test_names_are_safe_and_unique() -> None:
    grid = {"x": ["a/b", "a:b", "A/B", ["q", "v"], None, "ä"]}
    names = [cell.name for cell in cells("dpo", grid)]
    assert names == ["x=a-b", "x=a-b-2", "x=A-B-3", "x=q+v", "x=null", "x=ä"]
    long = [cell.name for cell in cells("dpo", {"targets": ["q" * 200 + end for end in "ab"]})]
    assert [len(name) for name in long] == [100, 100] and long[0] != long[1]


def test_settings_are_read_back_from_their_words() -> None:
    from trl import SFTConfig

    given = {
        "lora_targets": ["q_proj", "v_proj"],
        "lora_alpha": 4,
        "lora_dropout": 0.25,
        "full_training": False,
        "threads": None,
        "system_message": "- Be kind; say 'yes'.",
        "learning_rate": 1e-05,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "max_steps": -1,
        "eval_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }
    argv = ["--dialogues", "-", "--model", "-", *words(given)]
    _, read = resolve(argv, SftSettings, SFTConfig, prog="sft", description="", defaults=DEFAULTS)
    assert {key: read[key] for key in given} == given


@pytest.mark.parametrize("name", ["tiny", "small", "zephyr-7b"])
def test_every_shipped_sweep_has_settings_that_exist_and_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = f"recipes/{name}/sweep.yaml"
    (settings,) = parse(["--config", str(ROOT / path)], SweepSettings, prog="sweep", description="")
    assert f"#   python recipes/sweep.py --config {path}" in (ROOT / path).read_text()
    assert check(settings)
    alphas = settings.grid.get("lora_alpha")
    if name == "zephyr-7b":
        assert alphas == [16, 64, 256, 1024, 2048] and settings.launch
        assert settings.measure == {"subset": "published"}
    if name == "small":
        assert len(settings.seeds) == 4 and not settings.grid
