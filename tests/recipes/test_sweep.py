"""recipes/sweep.py: a real grid of two cells, what a second run does, what is refused or fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import LORA, ROOT, TINY, Shelf, command, recipe

from empo.alignment.settings import DEFAULTS, SftSettings
from empo.records import UserError, read_json, read_responses
from empo.settings import parse, resolve
from empo.sweep.checking import check
from empo.sweep.grid import SweepSettings, cells, words
from empo.sweep.steps import Step, Steps

OURS = dict(zip([word[2:] for word in LORA[::2]], map(yaml.safe_load, LORA[1::2]), strict=True))
OURS |= {"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 16}
del OURS["lora_alpha"]


def written(folder: Path, shelf: Shelf, **changed: Any) -> Path:
    """A YAML for a sweep of DPO on the SFT model of the shelf."""
    settings: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "dialogues": str(shelf.corpus),
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
    """The YAML of a sweep that has run."""
    path = written(tmp_path_factory.mktemp("sweep"), shelf)
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
            *("start, replies", "lora_alpha=4, seed 42, train", "lora_alpha=4, seed 42, replies"),
            *("lora_alpha=64, seed 42, train", "lora_alpha=64, seed 42, replies"),
            *("metrics, seed 42", "report"),
        )
    ]
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert table[0] == ["cell", "seed", "status", "seconds"]
    assert table[2] == ["lora_alpha=4", "42", "done", "before", "-"]


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
    step = Step("a", 1, "train", "recipes/dpo.py", [], [start], [output], launch)
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
    if name == "small":
        assert len(settings.seeds) == 4 and not settings.grid
