"""What a sweep runs: its settings, the cells of its grid, their settings as command-line words."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from empo.records import UserError, listed, shown
from empo.settings import option

START = "start"
"""The system whose model the training of every cell starts from."""
FIXED = ("output_dir", "dialogues", "model", "seed", "fresh")
"""Settings of a recipe that the sweep gives itself."""
LONGEST_NAME = 100
Recipe = Literal["sft", "dpo", "reward", "rounds"]
REWARDED = ("reward", "rounds")
"""Recipes that a rater takes part in; the sweep gives it to them."""
_OF_A_CELL = ("settings", "pairs", "recipe", "recipe_config")
_GIVEN = {
    "settings": (*FIXED, "pairs", "rater"),
    "pairs": ("dialogues", "output", "split", "limit", "epochs", "seed", "rejected", "rater"),
}
"""Keys of a cell that the sweep gives itself: of the recipe, and of empo pairs."""


@dataclass(kw_only=True)
class SweepSettings:
    """Settings of recipes/sweep.py."""

    output_dir: str = option(help="folder of the sweep: models, replies, results, report.md")
    dialogues: str = option(help="folder with train, valid and test of a corpus, or hub:owner/name")
    recipe: Recipe = option(help="recipe that every cell runs")
    recipe_config: str = option(help="YAML of that recipe")
    grid: dict[str, list[Any]] = option(
        default_factory=dict,
        help="setting of the recipe -> its values; several settings: every combination",
    )
    cells: dict[str, dict[str, Any]] = option(
        default_factory=dict,
        help="instead of a grid, cells by name: `settings` of the recipe, `pairs` (options of empo "
        "pairs that draw its pairs), another `recipe` with its `recipe_config`",
    )
    reward: list[str] | None = option(
        None, help="rater folders for cells that mine pairs by scores or have a reward"
    )
    seeds: list[int] = option(
        default_factory=lambda: [42], help="every cell is trained with each of these seeds"
    )
    overrides: dict[str, Any] = option(
        default_factory=dict, help="settings of the recipe, the same in all cells that run it"
    )
    before: list[str] | None = option(
        None,
        help="YAML files of recipes to run first, once, in this order; each starts from the model "
        "of the one before, the cells from the last (recipe by the file's name: base, sft, dpo)",
    )
    model: str | None = option(
        None, help="model that the first training starts from (default: that of its YAML)"
    )
    baseline: bool = option(True, help=f"measure the model the cells start from, as `{START}`")
    launch: list[str] | None = option(
        None, help="words before a training script, such as accelerate launch (default: in-process)"
    )
    limit: int | None = option(None, help="reply only to the first N test exchanges")
    generate: dict[str, Any] = option(
        default_factory=dict, help="further settings of recipes/generate.py"
    )
    suite: str | None = option(None, help="suite of eval/responses.py and eval/harness.py")
    metrics: list[str] | None = option(
        None, help="metrics by name (default: those of the suite, else all that can run)"
    )
    measure: dict[str, Any] = option(
        default_factory=dict, help="further settings of eval/responses.py"
    )
    nidf_table: str | None = option(
        None, help="table for nidf (default: made from train and valid)"
    )
    lexicons: str | None = option(None, help="folder with the NRC lexicons, for iva")
    rater: list[str] | None = option(None, help="rater folders, for diff_epitome")
    harness_tasks: list[str] | None = option(
        None, help="tasks of eval/harness.py (default: those of the suite, else none)"
    )
    harness: dict[str, Any] = option(
        default_factory=dict, help="further settings of eval/harness.py"
    )
    keep_going: bool = option(False, help="go on with the other cells when one fails")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if Path(self.dialogues).is_file():
            found.append(
                f"dialogues: {self.dialogues} is a single file; a folder with train, valid and "
                "test is needed."
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            found.append("launch: start the sweep itself with python; it launches its trainings.")
        if self.launch and shutil.which(self.launch[0]) is None:
            found.append(f"launch: {self.launch[0]}: no such program.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            found.append(f"seeds: {self.seeds}: at least one, and each once.")
        own = (*FIXED, "rater") if self.recipe in REWARDED else FIXED
        for where, given in (("grid", self.grid), ("overrides", self.overrides)):
            if taken := [key for key in own if key in given]:
                found.append(f"{where}: {', '.join(taken)} is set by the sweep itself.")
        if twice := [key for key in self.grid if key in self.overrides]:
            found.append(f"overrides: {', '.join(twice)} is in the grid already.")
        found += self._cell_problems()
        for key, values in self.grid.items():
            if not values or any(value in values[:i] for i, value in enumerate(values)):
                found.append(f"grid: {key}: {values}: at least one value, and each once.")
        stems = [Path(path).stem for path in self.before or ()]
        for path in (self.recipe_config, *(self.before or ())):
            if not Path(path).is_file():
                found.append(f"{path}: no such file.")
        for path, stem in zip(self.before or (), stems, strict=True):
            if recipe_of(path) not in ("base", "sft", "dpo"):
                found.append(f"before: {path}: the name begins with none of base, sft, dpo.")
            if stems.count(stem) > 1:
                found.append(f"before: two files are named {stem}.")
        if self.model and stems and recipe_of(stems[0]) == "base":
            found.append("model: a base is trained from scratch and starts from none.")
        for name, folders in (
            ("rater", self.rater),
            ("reward", self.reward),
            ("lexicons", [self.lexicons]),
        ):
            for folder in filter(None, folders or ()):
                if not Path(folder).is_dir():
                    found.append(f"{name}: {folder}: no such folder.")
        if self.nidf_table and not Path(self.nidf_table).is_file():
            found.append(f"nidf_table: {self.nidf_table}: no such file.")
        return found

    def _cell_problems(self) -> list[str]:
        """What cannot work in cells that are given by name."""
        found = []
        if self.cells and self.grid:
            found.append("cells: there is a grid already; give one of the two.")
        if not self.cells and self.recipe in REWARDED and not self.reward:
            found.append(f"reward: recipe {self.recipe} needs raters; name their folders.")
        taken = [START, "human"]
        for name, of in self.cells.items():
            if re.fullmatch(r"[\w][\w.,=+-]*", name) is None or len(name) > LONGEST_NAME:
                found.append(
                    f"cells: {shown(name)}: a name has letters, digits and . , = + - alone."
                )
            if name.lower() in taken:
                found.append(f"cells: {name}: this name is taken.")
            taken.append(name.lower())
            if unknown := sorted(of.keys() - _OF_A_CELL):
                found.append(
                    f"cells: {name}: {listed(unknown)} is unknown; known: {', '.join(_OF_A_CELL)}."
                )
            for key in ("settings", "pairs"):
                options = of.get(key, {})
                if not isinstance(options, dict):
                    found.append(f"cells: {name}, {key}: keys with values are expected.")
                    continue
                if own := [k for k in options if k in _GIVEN[key]]:
                    found.append(f"cells: {name}: {', '.join(own)} is set by the sweep itself.")
                if key == "pairs" and needs_rater(options) and not self.reward:
                    found.append(
                        f"cells: {name}: pairs that are chosen by scores need the raters of `reward`."
                    )
            recipe = of.get("recipe", self.recipe)
            if recipe not in get_args(Recipe):
                found.append(
                    f"cells: {name}: recipe {shown(recipe)} is none of {', '.join(get_args(Recipe))}."
                )
            elif recipe != self.recipe and "recipe_config" not in of:
                found.append(f"cells: {name}: recipe {recipe} needs its recipe_config.")
            elif recipe in REWARDED and not self.reward:
                found.append(f"cells: {name}: recipe {recipe} needs the raters of `reward`.")
            if "pairs" in of and recipe != "dpo":
                found.append(f"cells: {name}: pairs are for the recipe dpo, not {recipe}.")
            config = of.get("recipe_config")
            if config is not None and not Path(str(config)).is_file():
                found.append(f"cells: {name}: {config}: no such file.")
        return found

    def found_cells(self) -> list[Cell]:
        """The cells by name, or those of the grid."""
        if not self.cells:
            return cells(self.recipe, self.recipe_config, self.grid, self.overrides)
        found = []
        for name, of in self.cells.items():
            recipe = of.get("recipe", self.recipe)
            shared = self.overrides if recipe == self.recipe else {}
            config = of.get("recipe_config", self.recipe_config)
            settings = {**shared, **of.get("settings", {})}
            found.append(Cell(name, settings, recipe, config, of.get("pairs")))
        return found


@dataclass(frozen=True)
class Cell:
    """One arm of a sweep; `name` is the system's name and a file's.

    `settings` are those given to the recipe, on top of its YAML `config`; `pairs` the options of
    `empo pairs` that draw its pairs, None where the training draws them itself.
    """

    name: str
    settings: Mapping[str, Any]
    recipe: str
    config: str
    pairs: Mapping[str, Any] | None = None


def needs_rater(pairs: Mapping[str, Any]) -> bool:
    """Whether pairs with these options are chosen by scores."""
    return pairs.get("choose", "random") != "random" or pairs.get("margin") is not None


def number_of_epochs(training: Mapping[str, Any]) -> float:
    """Epochs of a training whose pairs are files, an epoch each; UserError where it has no such number."""
    steps, epochs = training.get("max_steps", -1), training.get("num_train_epochs", 3)
    if isinstance(steps, int) and steps > 0:
        raise UserError(
            f"max_steps: {steps}: every epoch has its own pairs, so the training ends by epochs; leave "
            "max_steps out and set num_train_epochs."
        )
    if not isinstance(epochs, int | float) or not 0 < epochs < math.inf:
        raise UserError(f"num_train_epochs: {shown(epochs)} is no number of epochs.")
    return epochs


def cells(
    recipe: str, config: str, grid: Mapping[str, Sequence[Any]], overrides: Mapping[str, Any]
) -> list[Cell]:
    """Every combination of the grid, the last setting fastest; one cell, the recipe, without any."""
    found: list[Cell] = []
    taken = {START, "human"}
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        words = (f"{key}={_short(value)}" for key, value in settings.items())
        name = re.sub(r"[^\w.,=+-]", "-", ",".join(words)) or recipe
        if len(name) > LONGEST_NAME:
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[: LONGEST_NAME - 9]}-{digest}"
        unique, number = name, 1
        while unique.lower() in taken:  # some file systems do not tell the cases apart
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique.lower())
        found.append(Cell(unique, {**overrides, **settings}, recipe, config))
    return found


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_short, value))
    return value if isinstance(value, str) else json.dumps(value)


def words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line, read back as the same values by `empo.settings`."""
    found = []
    for key, value in settings.items():
        each = [_word(item) for item in value] if isinstance(value, list) else [_word(value)]
        if len(each) == 1 and each[0].startswith("-"):  # else it would be read as an option
            found.append(f"--{key}={each[0]}")
        else:
            found += [f"--{key}", *each]
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def recipe_of(path: str) -> str:
    """The recipe that a YAML file is for, by its name: dpo-qlora.yaml is for dpo."""
    return Path(path).stem.split("-")[0]
