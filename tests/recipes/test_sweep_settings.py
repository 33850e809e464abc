"""Settings of a sweep: its cells, and what is refused before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT, Shelf, command
from tiny_sweeps import sweep, written

from empo.alignment.settings import DEFAULTS, SftSettings
from empo.records import UserError
from empo.settings import parse, resolve
from empo.sweep.checking import check
from empo.sweep.grid import SweepSettings, cells, words

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
    names = [cell.name for cell in cells("dpo", "dpo.yaml", grid, {})]
    assert names == [
        f"lora_alpha={alpha},learning_rate=1e-05,full_training=true" for alpha in (4, 16)
    ]
    assert cells("dpo", "dpo.yaml", grid, {})[1].settings == {
        "lora_alpha": 16,
        "learning_rate": 1e-5,
        "full_training": True,
    }
    (alone,) = cells("dpo", "dpo.yaml", {}, {})
    assert (alone.name, alone.settings) == ("dpo", {})


def test_names_are_safe_and_unique() -> None:
    grid = {"x": ["a/b", "a:b", "A/B", ["q", "v"], None, "ä"]}
    names = [cell.name for cell in cells("dpo", "dpo.yaml", grid, {})]
    assert names == ["x=a-b", "x=a-b-2", "x=A-B-3", "x=q+v", "x=null", "x=ä"]
    long = [
        cell.name
        for cell in cells("dpo", "dpo.yaml", {"targets": ["q" * 200 + end for end in "ab"]}, {})
    ]
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
