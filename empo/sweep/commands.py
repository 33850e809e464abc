"""The commands of a sweep, each as a step: which script, with which words, from what to what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from empo.suites import load_suite, suite_path
from empo.sweep.grid import START, Cell, SweepSettings, recipe_of, words
from empo.sweep.steps import RUN, Step


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
    return _training(settings, f"before/{name}", None, recipe, argv, [Path(path)], output, model)


def train_step(settings: SweepSettings, cell: Cell, seed: int, model: str | None) -> Step:
    """The training of a cell."""
    output = seed_folder(settings, seed) / "models" / cell.name
    argv = ["--config", settings.recipe_config, "--output_dir", str(output)]
    argv += ["--dialogues", settings.dialogues, *(["--model", model] if model else [])]
    argv += ["--seed", str(seed), *words({**settings.overrides, **cell.settings})]
    files = [Path(settings.recipe_config)]
    return _training(settings, cell.name, seed, settings.recipe, argv, files, output, model)


def start_steps(settings: SweepSettings, model: str) -> list[Step]:
    """Replies and language understanding of the model that all cells start from.

    Once: no training seed moves it. Its replies are measured beside the cells of every seed.
    """
    seed, replies = settings.seeds[0], _start_replies(settings)
    return [
        _replies(settings, START, None, model, seed, replies),
        *_harness(settings, START, None, model, seed_folder(settings, seed)),
    ]


def cell_steps(settings: SweepSettings, cell: Cell, seed: int) -> list[Step]:
    """Replies and language understanding of a trained cell."""
    folder = seed_folder(settings, seed)
    model = str(folder / "models" / cell.name)
    replies = folder / "responses" / f"{cell.name}.jsonl"
    return [
        _replies(settings, cell.name, seed, model, seed, replies),
        *_harness(settings, cell.name, seed, model, folder),
    ]


def metrics_step(settings: SweepSettings, seed: int, cells: Sequence[Cell]) -> Step:
    """The metrics on the replies of one seed; the seeds share the ratings they have in common."""
    folder, root = seed_folder(settings, seed), Path(settings.output_dir)
    replies = [_start_replies(settings)] * settings.baseline
    replies += [folder / "responses" / f"{cell.name}.jsonl" for cell in cells]
    table = Path(settings.nidf_table) if settings.nidf_table else nidf_path(settings)
    argv = ["--responses", *map(str, replies), "--output", str(folder), "--nidf-table", str(table)]
    argv += ["--suite", settings.suite] if settings.suite else []
    argv += ["--metrics", ",".join(settings.metrics)] if settings.metrics else []
    argv += ["--lexicons", settings.lexicons] if settings.lexicons else []
    if settings.rater:
        argv += ["--rater", *settings.rater, "--rater-cache", str(root / "ratings.sqlite")]
    argv += words(settings.measure)
    raters = [Path(rater) / "rater_config.json" for rater in settings.rater or ()]
    inputs = [*replies, table, *raters]
    output = [folder / "results.json"]
    return Step("metrics", seed, "metrics", "eval/responses.py", argv, inputs, output)


def report_step(settings: SweepSettings, seeds: Sequence[int]) -> Step:
    """One report over the seeds."""
    folders = [seed_folder(settings, seed) for seed in seeds]
    output = Path(settings.output_dir) / "report.md"
    inputs = [folder / "results.json" for folder in folders]
    inputs += [path for folder in folders for path in sorted(folder.glob("harness/*/harness.json"))]
    argv = [*map(str, folders), "--output", str(output)]
    return Step("report", None, "report", "eval/report.py", argv, inputs, [output])


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
    named = load_suite(suite_path(settings.suite))["harness"].get("tasks", "")
    return [name for name in named.split(",") if name]


def _start_replies(settings: SweepSettings) -> Path:
    return Path(settings.output_dir) / "responses" / f"{START}.jsonl"


def _training(
    settings: SweepSettings,
    cell: str,
    seed: int | None,
    recipe: str,
    argv: Sequence[str],
    files: Sequence[Path],
    output: Path,
    model: str | None,
) -> Step:
    inputs = [*files, *_run_of(model)]
    launch = tuple(settings.launch or ())
    outputs = [output / RUN]
    return Step(cell, seed, "train", f"recipes/{recipe}.py", argv, inputs, outputs, launch)


def _replies(
    settings: SweepSettings, system: str, shown: int | None, model: str, seed: int, output: Path
) -> Step:
    argv = ["--model", model, "--dialogues", settings.dialogues, "--system", system]
    argv += ["--output", str(output), "--seed", str(seed)]
    argv += ["--limit", str(settings.limit)] if settings.limit is not None else []
    argv += words(settings.generate)
    outputs = [output, output.with_name(f"{output.name}.manifest.json")]
    inputs = _run_of(model)
    return Step(system, shown, "replies", "recipes/generate.py", argv, inputs, outputs)


def _harness(
    settings: SweepSettings, system: str, shown: int | None, model: str, folder: Path
) -> list[Step]:
    """One step, or none where no task is asked for."""
    if not harness_tasks(settings):
        return []
    output = folder / "harness" / system
    argv = ["--model", model, "--system", system, "--output", str(output)]
    argv += ["--suite", settings.suite] if settings.suite else []
    argv += ["--tasks", ",".join(settings.harness_tasks)] if settings.harness_tasks else []
    argv += words(settings.harness)
    outputs = [output / "harness.json"]
    return [Step(system, shown, "harness", "eval/harness.py", argv, _run_of(model), outputs)]


def _run_of(model: str | None) -> list[Path]:
    """What says that a model is another one than before: the facts of its run."""
    return [Path(model) / RUN] if model else []
