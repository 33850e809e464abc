"""The commands of a sweep, each as a step: which script, with which words, from what to what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from empo.harness.task_files import local_files
from empo.settings import load_yaml
from empo.suites import load_suite, suite_path
from empo.sweep.grid import (
    REWARDED,
    START,
    Cell,
    SweepSettings,
    needs_rater,
    number_of_epochs,
    recipe_of,
    words,
)
from empo.sweep.inputs import RUN, environment_lexicons, files_of, start_files
from empo.sweep.rounds import RoundsSettings, model_of
from empo.sweep.steps import ROOT, Step

ROUNDS = "rounds.json"
"""What recipes/rounds.py keeps of its steps."""
_SHARED = ("limit", "split", "mapping", "opposites")
"""Settings of a training that its pairs have to be drawn with, too."""


def before_step(settings: SweepSettings, path: str, model: str | None) -> Step:
    """A recipe that runs before the cells, on `model` where it starts from one.

    A base learns from the folder `base` of the corpus where there is one, as in the demo.
    """
    recipe, name = recipe_of(path), Path(path).stem
    output = Path(settings.output_dir) / "before" / name
    dialogues = settings.dialogues
    if recipe == "base" and (Path(dialogues) / "base").is_dir():
        dialogues = str(Path(dialogues) / "base")
    argv = ["--config", path, "--output_dir", str(output), "--dialogues", dialogues]
    argv += ["--model", model] if model else []
    read = {**load_yaml(path), "config": path, "dialogues": dialogues}
    return _training(settings, f"before/{name}", None, recipe, argv, read, output, model)


def nidf_step(settings: SweepSettings, work: Callable[[], int]) -> Step:
    """The word frequencies of train and valid, where no table is given; `work` makes them."""
    argv = ["--dialogues", settings.dialogues, "--output", str(nidf_path(settings))]
    inputs = files_of({"dialogues": settings.dialogues})
    return Step("nidf", None, "nidf", "nidf-table", argv, inputs, [nidf_path(settings)], work=work)


def pairs_step(settings: SweepSettings, cell: Cell, seed: int) -> Step | None:
    """The pairs of a cell that has them drawn; None where its training draws them itself.

    As many epochs and rejected replies as the training has, of the dialogues that it reads, by its
    table of opposites. Raises UserError as `number_of_epochs`.
    """
    if cell.pairs is None:
        return None
    from empo.pairs import pairs_command

    training = training_settings(cell)
    output = _pairs_folder(settings, cell, seed)
    asked = {
        "dialogues": settings.dialogues,
        "output": str(output),
        "seed": seed,
        "epochs": math.ceil(number_of_epochs(training)),
        "rejected": training.get("rejected_per_prompt", 1),
        **{key: training[key] for key in _SHARED if training.get(key) is not None},
        **({"rater": settings.reward} if needs_rater(cell.pairs) else {}),
        **cell.pairs,
    }
    argv = words({key.replace("_", "-"): value for key, value in asked.items()})
    return Step(
        *(cell.name, seed, "pairs", "pairs", argv, files_of(asked), [output / "manifest.json"]),
        work=partial(pairs_command, argv),
    )


def train_step(settings: SweepSettings, cell: Cell, seed: int, model: str | None) -> Step:
    """The training of a cell."""
    output = seed_folder(settings, seed) / "models" / cell.name
    argv = ["--config", cell.config, "--output_dir", str(output)]
    argv += ["--dialogues", settings.dialogues, *(["--model", model] if model else [])]
    own = dict(cell.settings)
    if cell.recipe in REWARDED:
        own["rater"] = settings.reward
    if cell.pairs is not None:
        own["pairs"] = str(_pairs_folder(settings, cell, seed))
    if cell.recipe == "rounds" and settings.launch:
        own["launch"] = settings.launch
    argv += ["--seed", str(seed), *words(own)]
    read = {**training_settings(cell), **own, "config": cell.config}
    read["dialogues"] = settings.dialogues
    step = _training(settings, cell.name, seed, cell.recipe, argv, read, output, model)
    if cell.recipe != "rounds":
        return step
    policy = cell_model(settings, cell, seed)
    # its own list of steps first: the folder to delete, to train anew, is that of all rounds
    return replace(step, launch=(), outputs=[output / ROUNDS, policy / RUN])


def cell_model(settings: SweepSettings, cell: Cell, seed: int) -> Path:
    """The run folder of what a cell has trained; of rounds that of the last one."""
    folder = seed_folder(settings, seed) / "models" / cell.name
    if cell.recipe != "rounds":
        return folder
    return model_of(folder, training_settings(cell).get("rounds", RoundsSettings.rounds))


def training_settings(cell: Cell) -> dict[str, Any]:
    """What the recipe of a cell is given: its YAML, and the cell's own settings on top."""
    return {**load_yaml(cell.config), **cell.settings}


def _pairs_folder(settings: SweepSettings, cell: Cell, seed: int) -> Path:
    return seed_folder(settings, seed) / "pairs" / cell.name


def start_steps(settings: SweepSettings, model: str) -> list[Step]:
    """Replies and language understanding of the model that all cells start from.

    Once: no training seed moves it. Its replies are measured beside the cells of every seed.
    """
    return [
        _replies(settings, START, None, model, _start_replies(settings)),
        *_harness(settings, START, None, model, _start_harness(settings)),
    ]


def cell_steps(settings: SweepSettings, cell: Cell, seed: int) -> list[Step]:
    """Replies and language understanding of a trained cell."""
    folder = seed_folder(settings, seed)
    model = str(cell_model(settings, cell, seed))
    replies = folder / "responses" / f"{cell.name}.jsonl"
    return [
        _replies(settings, cell.name, seed, model, replies),
        *_harness(settings, cell.name, seed, model, folder / "harness" / cell.name),
    ]


def metrics_step(settings: SweepSettings, seed: int, cells: Sequence[Cell]) -> Step:
    """The metrics on the replies of one seed; the seeds share the ratings they have in common."""
    folder, root = seed_folder(settings, seed), Path(settings.output_dir)
    replies = [_start_replies(settings)] * settings.baseline
    replies += [folder / "responses" / f"{cell.name}.jsonl" for cell in cells]
    table = Path(settings.nidf_table) if settings.nidf_table else nidf_path(settings)
    argv = ["--responses", *map(str, replies), "--output", str(folder), "--nidf-table", str(table)]
    argv += ["--overwrite", "true", "--bertscore-cache", str(root / "bertscores.sqlite")]
    argv += ["--suite", settings.suite] if settings.suite else []
    argv += ["--metrics", ",".join(settings.metrics)] if settings.metrics else []
    argv += ["--lexicons", settings.lexicons] if settings.lexicons else []
    if settings.rater:
        argv += ["--rater", *settings.rater, "--rater-cache", str(root / "ratings.sqlite")]
    argv += words(settings.measure)
    read = {
        "lexicons": environment_lexicons(),
        **_of_suite(settings, "responses"),
        **settings.measure,
        **{key: value for key in ("rater", "lexicons") if (value := getattr(settings, key))},
    }
    manifests = [_manifest(path) for path in replies]
    inputs = [*replies, *manifests, table, *_suite_file(settings), *files_of(read)]
    outputs = [folder / "results.json", folder / "per_response.jsonl"]
    return Step("metrics", seed, "metrics", "eval/responses.py", argv, inputs, outputs)


def report_step(settings: SweepSettings, seeds: Sequence[int]) -> Step:
    """One report over the seeds."""
    folders = [seed_folder(settings, seed) for seed in seeds]
    output = Path(settings.output_dir) / "report.md"
    inputs = [folder / of for folder in folders for of in ("results.json", "per_response.jsonl")]
    inputs += [path for folder in folders for path in sorted(folder.glob("harness/*/harness.json"))]
    argv = [*map(str, folders), "--output", str(output)]
    outputs = [output, output.with_suffix(".json")]
    return Step("report", None, "report", "eval/report.py", argv, inputs, outputs)


def seed_folder(settings: SweepSettings, seed: int) -> Path:
    """What belongs to one seed: models, responses, harness, results.json."""
    return Path(settings.output_dir) / f"seed-{seed}"


def nidf_path(settings: SweepSettings) -> Path:
    """The word frequencies that the sweep makes where no table is given."""
    return Path(settings.output_dir) / "nidf.json"


def harness_tasks(settings: SweepSettings) -> list[str]:
    """The tasks that are asked for: by name, or by the suite."""
    if settings.harness_tasks is not None or settings.suite is None:
        return settings.harness_tasks or []
    named = _of_suite(settings, "harness").get("tasks", "")
    return [name for name in named.split(",") if name]


def _start_replies(settings: SweepSettings) -> Path:
    return Path(settings.output_dir) / "responses" / f"{START}.jsonl"


def _start_harness(settings: SweepSettings) -> Path:
    """Beside the first seed's cells, where a report finds it; another order leaves it there."""
    folders = [seed_folder(settings, seed) / "harness" / START for seed in settings.seeds]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _of_suite(settings: SweepSettings, section: str) -> Mapping[str, Any]:
    return load_suite(suite_path(settings.suite)).get(section, {}) if settings.suite else {}


def _suite_file(settings: SweepSettings) -> list[Path]:
    return [suite_path(settings.suite)] if settings.suite else []


def _manifest(replies: Path) -> Path:
    return replies.with_name(f"{replies.name}.manifest.json")


def _training(
    settings: SweepSettings,
    cell: str,
    seed: int | None,
    recipe: str,
    argv: Sequence[str],
    read: Mapping[str, Any],
    output: Path,
    model: str | None,
) -> Step:
    """`read` are the settings it gets, for the files that they name."""
    start = start_files({**read, "model": model or read.get("model")})
    others = files_of({k: v for k, v in read.items() if k != "model"})
    inputs = list(dict.fromkeys([*others, *start]))
    launch = tuple(settings.launch or ())
    script = f"recipes/{recipe}.py"
    return Step(cell, seed, "train", script, argv, inputs, [output / RUN], launch, start)


def _replies(
    settings: SweepSettings, system: str, seed: int | None, model: str, output: Path
) -> Step:
    argv = ["--model", model, "--dialogues", settings.dialogues, "--system", system]
    argv += ["--output", str(output)]
    argv += ["--seed", str(seed)] if seed is not None else []
    argv += ["--limit", str(settings.limit)] if settings.limit is not None else []
    argv += words(settings.generate)
    inputs = files_of({"model": model, "dialogues": settings.dialogues, **settings.generate})
    outputs = [output, _manifest(output)]
    return Step(system, seed, "replies", "recipes/generate.py", argv, inputs, outputs)


def _harness(
    settings: SweepSettings, system: str, seed: int | None, model: str, output: Path
) -> list[Step]:
    """One step, or none where no task is asked for; a cell is compared with `start`."""
    names = harness_tasks(settings)
    if not names:
        return []
    argv = ["--model", model, "--system", system, "--output", str(output)]
    argv += ["--suite", settings.suite] if settings.suite else []
    argv += ["--tasks", ",".join(settings.harness_tasks)] if settings.harness_tasks else []
    own = dict(settings.harness)
    others = [Path(folder) for folder in own.get("compare", [])]
    if settings.baseline and system != START:
        others.insert(0, _start_harness(settings))
    if others:
        own["compare"] = list(map(str, others))
    argv += words(own)
    read = {"model": model, **_of_suite(settings, "harness"), **own}
    folders = [str(ROOT / "eval" / "tasks"), *filter(None, [read.get("include_path")])]
    tasks = [path for paths in local_files(names, folders).values() for path in paths]
    answered = [path for other in others for path in sorted(other.glob("items/*.jsonl"))]
    inputs = [*files_of(read), *_suite_file(settings), *tasks, *answered]
    inputs += [other / "harness.json" for other in others]
    return [
        Step(system, seed, "harness", "eval/harness.py", argv, inputs, [output / "harness.json"])
    ]
