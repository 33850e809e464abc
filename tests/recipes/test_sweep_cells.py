"""Cells by name: one sweep over ways to make pairs, rounds and a reward, in one report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import ROOT, TINY, Shelf, recipe
from tiny_sweeps import OURS, refused, sweep, written

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.raters.identity import identities
from empo.records import UserError, read_json, read_responses
from empo.settings import parse
from empo.sweep.grid import SweepSettings

FEW = {"num_generations": 4, "max_completion_length": 6, "max_steps": 2, "save_steps": 2}
FEW |= {"limit": 12, "lora_r": 4, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def raters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("raters")
    return tiny_rater(folder / "reward", 5), tiny_rater(folder / "measure", 6)


def rounds_config(folder: Path) -> Path:
    path = folder / "rounds.yaml"
    settings = {
        **{"output_dir": "-", "dialogues": "-", "model": "-", "rater": ["-"]},
        **{"samples": 4, "limit": 8, "rounds": 1, "min_pairs": 2},
        **{"dpo_config": str(TINY / "dpo.yaml"), "overrides": OURS},
        "generate": {"max_new_tokens": 40, "device": "cpu"},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def named(folder: Path, shelf: Shelf, raters: tuple[Path, Path], **changed: Any) -> Path:
    cells = {
        "random": {},
        "margin": {"pairs": {"candidates": 3, "margin": 0.0, "rater_value": "expected"}},
        "two": {"settings": {"rejected_per_prompt": 2}},
        "on-policy": {"recipe": "rounds", "recipe_config": str(rounds_config(folder))},
        "grpo": {
            **{"recipe": "reward", "recipe_config": str(TINY / "reward.yaml")},
            "settings": FEW,
        },
    }
    given = {
        **{"grid": None, "cells": cells, "reward": [str(raters[0])], "metrics": ["length"]},
        "measure": {"ratings": [str(rater) for rater in raters]},
        **changed,
    }
    return written(folder, shelf, **given)


@pytest.fixture(scope="module")
def done(shelf: Shelf, raters: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    assert sweep(named(folder, shelf, raters)) == 0
    return folder / "out"


@pytest.mark.slow
def test_every_cell_replies_and_says_who_rewarded_it(done: Path, raters: tuple[Path, Path]) -> None:
    systems = read_json(done / "seed-42" / "results.json")["systems"]
    assert set(systems) == {"start", "random", "margin", "two", "on-policy", "grpo", "human"}
    (behind,) = identities([raters[0]])
    rewarded = {
        name: [reward["weights"] for reward in system["reward"]]
        for name, system in systems.items()
        if "reward" in system
    }
    assert rewarded == {name: [behind["weights"]] for name in ("margin", "on-policy", "grpo")}
    for name in ("random", "margin", "two", "on-policy", "grpo"):
        assert len(read_responses(done / "seed-42" / "responses" / f"{name}.jsonl")) == 12


@pytest.mark.slow
def test_pairs_are_drawn_as_the_training_reads_them(done: Path) -> None:
    manifest = read_json(done / "seed-42" / "pairs" / "margin" / "manifest.json")
    assert (manifest["epochs"], manifest["seed"]) == (OURS["num_train_epochs"], 42)
    assert manifest["mining"]["margin"] == 0.0
    assert not (done / "seed-42" / "pairs" / "random").exists()
    two = read_json(done / "seed-42" / "models" / "two" / "run.json")
    assert two["settings"]["rejected_per_prompt"] == 2 and "pairs" not in two


@pytest.mark.slow
def test_the_report_shows_the_reward_beside_the_other_rater(done: Path) -> None:
    report = (done / "report.md").read_text()
    section = report.split("## Ratings")[1].split("##")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(lines) == 2 * 3 * 7  # raters, dimensions, systems with the start and the human
    marked = {line.split("|")[3].strip() for line in lines if "†" in line}
    assert marked == {"margin †", "on-policy †", "grpo †"}
    assert all(line.startswith("| reward |") for line in lines if "†" in line)


@pytest.mark.slow
def test_the_same_command_does_nothing_twice(
    done: Path, shelf: Shelf, raters: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(done.with_name("sweep.yaml")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert told and all(line.endswith("done before") for line in told)


def test_cells_that_cannot_work_are_told_before_anything_runs(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    cells = {
        "start": {},
        "a b": {},
        "odd": {"setings": {}, "recipe": "ppo"},
        "seeded": {"settings": {"seed": 1}, "pairs": {"epochs": 3}},
        "reward": {"recipe": "reward"},
        "plain": {"recipe": "sft", "recipe_config": "no.yaml", "pairs": {}},
    }
    said = refused(named(tmp_path, shelf, raters, cells=cells, grid={"beta": [4]}))
    for line in (
        "cells: there is a grid already; give one of the two.",
        "cells: start: this name is taken.",
        "cells: 'a b': a name has letters, digits and . , = + - alone.",
        "cells: odd: setings is unknown; known: settings, pairs, recipe, recipe_config.",
        "cells: odd: recipe 'ppo' is none of sft, dpo, reward, rounds.",
        "cells: seeded: seed is set by the sweep itself.",
        "cells: seeded: epochs is set by the sweep itself.",
        "cells: reward: recipe reward needs its recipe_config.",
        "cells: plain: pairs are for the recipe dpo, not sft.",
        "cells: plain: no.yaml: no such file.",
    ):
        assert f"  - {line}" in said
    config = {"recipe": "reward", "recipe_config": str(TINY / "reward.yaml")}
    said = refused(named(tmp_path, shelf, raters, cells={"g": config}, reward=None))
    assert "cells: g: recipe reward needs the raters of `reward`." in said


def test_every_command_of_a_cell_is_read_first(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    cells = {
        "few": {"pairs": {"choose": "hardest"}},
        "wrong": {"recipe": "rounds", "recipe_config": str(rounds_config(tmp_path)),
                  "settings": {"samples": 1}},
        "grpo": {"recipe": "reward", "recipe_config": str(TINY / "reward.yaml"),
                 "settings": {"betta": 0.1}},
    }  # fmt: skip
    said = refused(named(tmp_path, shelf, raters, cells=cells))
    assert "few: --choose hardest: of 1 candidates 1 are rejected" in said
    assert "wrong: samples: 1 is too few; at least 2 is needed." in said
    assert "grpo: --betta: no such option; did you mean --beta?" in said
    assert not (tmp_path / "out").exists()


def test_cells_that_go_by_scores_need_a_rater(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    cells = {
        "hardest": {"pairs": {"candidates": 2, "choose": "hardest"}},
        "margin": {"pairs": {"candidates": 2, "margin": 0.1}},
        "on-topic": {"pairs": {"on_topic": 32}},
    }
    said = refused(named(tmp_path, shelf, raters, cells=cells, reward=None))
    needed = "pairs that are chosen by scores need the raters of `reward`."
    assert said.splitlines()[1:] == [
        f"  - cells: {name}: {needed}" for name in ("hardest", "margin")
    ]
    grid = {"cells": None, "grid": {"beta": [0.1], "rater": [["a"]]}, "recipe": "reward"}
    said = refused(named(tmp_path, shelf, raters, **grid, reward=None))
    assert "  - reward: recipe reward needs raters; name their folders." in said
    assert "  - grid: rater is set by the sweep itself." in said


def test_pairs_and_rounds_have_a_number_of_epochs(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    rounds = {"recipe": "rounds", "recipe_config": str(rounds_config(tmp_path))}
    cells = {
        "steps": {"pairs": {}, "settings": {"max_steps": 8}},
        "two": {"pairs": {}, "settings": {"num_train_epochs": "two"}},
        "rounds": {**rounds, "settings": {"overrides": {"max_steps": 8}}},
        "drawn": {"settings": {"max_steps": 8}},
    }
    said = refused(named(tmp_path, shelf, raters, cells=cells))
    assert "  - rounds; steps: max_steps: 8: every epoch has its own pairs" in said
    assert "  - two: num_train_epochs: 'two' is no number of epochs." in said
    assert "drawn" not in said


def test_what_every_round_runs_is_read_first(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    config = rounds_config(tmp_path)
    wrong = {"overrides": {"betta": 1}, "generate": {"max_new_tokenz": 3}}
    part = {"overrides": {"num_train_epochs": 1.5}}
    cells = {
        name: {"recipe": "rounds", "recipe_config": str(config), "settings": settings}
        for name, settings in (("wrong", wrong), ("part", part))
    }
    lines = [
        "samples: --max-new-tokenz: no such option; did you mean --max_new_tokens?",
        "train: --betta: no such option; did you mean --beta?",
    ]
    said = refused(named(tmp_path, shelf, raters, cells=cells))
    assert all(f"  - wrong: {line}" in said for line in lines)
    assert f"  - part: {TINY / 'dpo.yaml'}: num_train_epochs is 1.5; rounds train whole" in said
    given = ["--config", config, "--output_dir", tmp_path / "out", "--dialogues", shelf.corpus]
    given += ["--model", shelf.sft, "--rater", raters[0]]
    more = [word for name, value in wrong.items() for word in (f"--{name}", json.dumps(value))]
    with pytest.raises(UserError) as error:
        recipe("rounds")([*map(str, given), *more])
    assert str(error.value).splitlines() == [
        "recipes/rounds.py: 2 problems in the commands of the rounds:",
        *(f"  - {line}" for line in lines),
    ]
    assert not (tmp_path / "out").exists()


def test_no_cell_chooses_its_checkpoint_by_its_reward(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    chosen = {"select_by": "diff_epitome", "select_rater": [str(raters[0])]}
    chosen |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    reward = {"recipe": "reward", "recipe_config": str(TINY / "reward.yaml")}
    rounds = {"recipe": "rounds", "recipe_config": str(rounds_config(tmp_path))}
    cells = {
        "hardest": {"pairs": {"candidates": 2, "choose": "hardest"}, "settings": chosen},
        "plain": {"settings": chosen},
        "grpo": {**reward, "settings": chosen},
        "on-policy": {**rounds, "settings": {"overrides": {**OURS, **chosen}}},
    }
    said = refused(named(tmp_path, shelf, raters, cells=cells)).splitlines()[1:]
    same = "select_rater: reward has the same weights as the reward reward"
    assert [line.split(";")[:2] for line in said] == [
        ["  - grpo", f" hardest: {same}"],
        [f"  - on-policy: train: {same}", said[1].split(";")[1]],
    ]


def test_a_training_is_read_with_the_defaults_of_its_recipe(
    tmp_path: Path, shelf: Shelf, raters: tuple[Path, Path]
) -> None:
    cells = {"by-length": {"settings": {"ld_alpha": 0.5}}}
    said = refused(named(tmp_path, shelf, raters, cells=cells))
    assert "by-length: ld_alpha: it needs the reference token by token" in said


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_shipped_ablations_compare_the_same_seven_ways(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raters: tuple[Path, Path]
) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--config", f"recipes/{name}/ablation.yaml", "--reward", str(raters[0])]
    given += ["--rater", str(raters[1])]
    (settings,) = parse(given, SweepSettings, prog="sweep", description="")
    found = {cell.name: cell.recipe for cell in settings.found_cells()}
    assert found == {
        **dict.fromkeys(("random", "on-topic", "hardest", "margin", "rejected-4"), "dpo"),
        **{"on-policy": "rounds", "grpo": "reward"},
    }
    assert len(settings.seeds) == 3
