"""Steps of a sweep: the files that they read, and when one is done again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import ROOT, TINY, Shelf

from empo.records import UserError
from empo.sweep.commands import (
    before_step,
    cell_steps,
    metrics_step,
    pairs_step,
    start_steps,
    train_step,
)
from empo.sweep.grid import SweepSettings
from empo.sweep.inputs import digests, files_of
from empo.sweep.rounds import RoundsSettings, round_steps
from empo.sweep.steps import Step, Steps


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
    (cell,) = settings.found_cells()
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
        (step,) = [
            s for s in cell_steps(settings, settings.found_cells()[0], 42) if s.kind == "harness"
        ]
        at = list(step.argv).index("--compare") if "--compare" in step.argv else len(step.argv)
        others = [word for word in step.argv[at + 1 :] if not word.startswith("--")]
        assert {Path(other) / "harness.json" for other in others} <= set(step.inputs)
        return others

    start = str(tmp_path / "out" / "seed-42" / "harness" / "start")
    assert compared() == [start]
    assert compared(baseline=False) == []
    assert compared(harness={"compare": ["other"]}) == [start, "other"]
    assert compared(harness={"compare": ["other"]}, baseline=False) == ["other"]


# --- sweep.json ---


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "field 'schema': Field required."),
        ("[]", "the whole file: Input should be a valid dictionary."),
        (
            '{"schema": "empo.sweep/1", "steps": {}}',
            "field 'schema': Input should be 'empo.sweep/2'.",
        ),
        (
            '{"schema": "empo.sweep/2", "steps": {"report": 3}}',
            "field 'steps.report': Input should be a valid dictionary.",
        ),
        (
            '{"schema": "empo.sweep/2", "steps": {"report": {"status": "x"}}}',
            "field 'steps.report.status': Input should be 'done' or 'incomplete'.",
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


# --- pairs and raters that a training has learnt from ---


def learning(tmp_path: Path, **changed: Any) -> tuple[SweepSettings, Path]:
    """A sweep with a rater of a file, and a cell of each kind that it takes part in."""
    rater = tmp_path / "rater"
    rater.mkdir()
    for name in ("model.safetensors", "rater_config.json", "results.json"):
        (rater / name).write_text("{}")
    rounds = tmp_path / "rounds.yaml"
    rounds.write_text(f"rounds: 2\ndpo_config: {TINY / 'dpo.yaml'}\n")
    cells = {
        "hardest": {"pairs": {"candidates": 2, "choose": "hardest"}},
        "grpo": {"recipe": "reward", "recipe_config": str(TINY / "reward.yaml")},
        "on-policy": {"recipe": "rounds", "recipe_config": str(rounds)},
    }
    given = {"dialogues": str(tmp_path), "recipe_config": str(TINY / "dpo.yaml"), "cells": cells}
    given |= {"output_dir": str(tmp_path / "out"), "recipe": "dpo", "reward": [str(rater)]}
    return SweepSettings(**{**given, **changed}), rater


@pytest.mark.parametrize("cell", ["hardest", "grpo", "on-policy"])
def test_a_model_that_learnt_from_others_is_not_up_to_date(tmp_path: Path, cell: str) -> None:
    settings, rater = learning(tmp_path)
    pairs = tmp_path / "out" / "seed-42" / "pairs" / "hardest" / "manifest.json"
    pairs.parent.mkdir(parents=True)
    pairs.write_text("{}")

    def step() -> Step:
        (found,) = [each for each in settings.found_cells() if each.name == cell]
        made = train_step(settings, found, 42, None)
        return replace(made, launch=(sys.executable, "-c", ""))

    for path in step().outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    changing = pairs if cell == "hardest" else rater / "model.safetensors"
    assert changing in step().start and rater / "results.json" not in step().start
    for path in (rater / "results.json", rater / "rater_config.json"):  # evaluated once more
        assert Steps(tmp_path / "sweep.json").do(step())
        path.write_text("{ }")
    assert Steps(tmp_path / "sweep.json").do(step())
    changing.write_text("{ }")
    with pytest.raises(UserError) as error:
        Steps(tmp_path / "sweep.json").do(step())
    model = tmp_path / "out" / "seed-42" / "models" / cell
    assert f"{model}: this model was trained before {changing} was written anew." in str(
        error.value
    )


def test_a_round_was_trained_on_the_pairs_of_then(tmp_path: Path) -> None:
    given = {"output_dir": str(tmp_path), "dialogues": "d", "model": "m", "rater": ["r"]}
    steps = round_steps(RoundsSettings(**given, dpo_config=str(TINY / "dpo.yaml")), 1)
    (train,) = [step for step in steps if step.kind == "train"]
    assert tmp_path / "round-1" / "pairs" / "manifest.json" in train.start


def test_pairs_are_drawn_from_what_the_training_reads(tmp_path: Path) -> None:
    own = {"opposites": "own.csv", "mapping": "columns.yaml", "split": "most", "limit": 7}
    settings, _ = learning(tmp_path, overrides=own)
    step = pairs_step(settings, settings.found_cells()[0], 42)
    assert step is not None
    words = dict(zip(step.argv[::2], step.argv[1::2], strict=True))
    assert {name: words[f"--{name}"] for name in own} == {**own, "limit": "7"}
