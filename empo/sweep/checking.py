"""A look at every command line of a sweep before the first one runs."""

from __future__ import annotations

from typing import Any

from empo.alignment.launching import check_options
from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import (
    DEFAULTS,
    BaseSettings,
    DpoSettings,
    RewardSettings,
    SftSettings,
)
from empo.measure import ResponsesSettings
from empo.pairs import PairsSettings
from empo.records import UserError
from empo.settings import parse, resolve
from empo.suites import parse_with_suite
from empo.sweep.commands import before_step, metrics_step, pairs_step, start_steps, train_step
from empo.sweep.grid import SweepSettings
from empo.sweep.rounds import RoundsSettings
from empo.sweep.steps import Step, load_script

_SETTINGS = {
    "base": BaseSettings,
    "sft": SftSettings,
    "dpo": DpoSettings,
    "reward": RewardSettings,
}


def check(settings: SweepSettings) -> str:
    """Read every command line as its command will.

    Returns the model that the first training of a cell starts from. Raises UserError with all
    problems; one that all cells have is told once.
    """
    problems: dict[str, list[str]] = {}
    model = settings.model
    for path in settings.before or ():
        step = before_step(settings, path, model)
        _read(step, step.script[len("recipes/") : -len(".py")], problems)
        model = str(step.outputs[0].parent)
    found = settings.found_cells()
    for cell in found:
        if pairs := pairs_step(settings, cell, settings.seeds[0]):
            try:
                parse(pairs.argv, PairsSettings, prog="empo pairs", description="")
            except UserError as error:
                _note(problems, cell.name, error)
        step = train_step(settings, cell, settings.seeds[0], model)
        given = _read(step, cell.recipe, problems)
        model = model or given.get("model")
    start = start_steps(settings, model or "-")
    steps = [*start, metrics_step(settings, settings.seeds[0], found)]
    for step in steps:
        script, told = load_script(step.script), {"prog": step.script, "description": ""}
        try:
            if step.kind == "replies":
                parse(step.argv, script.GenerateSettings, **told)
            elif step.kind == "harness":
                parse_with_suite(step.argv, script.Settings, "harness", **told)
            else:
                measured = parse_with_suite(step.argv, ResponsesSettings, "responses", **told)
                if "diff_epitome" in measured.asked and not measured.rater:
                    raise UserError("diff_epitome needs raters: give their folders as --rater.")
        except UserError as error:
            _note(problems, step.kind, error)
    if problems or model is None:
        told = (
            f"  - {'all cells' if len(where) == len(found) > 1 else '; '.join(where)}: {line}"
            for line, where in problems.items()
        )
        raise UserError(
            f"recipes/sweep.py: {len(problems)} problem{'s' * (len(problems) > 1)} in the commands "
            "of the sweep:\n" + "\n".join(told)
        )
    return model


def _read(step: Step, recipe: str, problems: dict[str, list[str]]) -> dict[str, Any]:
    """The values that a training is given; what is wrong with them goes into `problems`."""
    from trl import DPOConfig, GRPOConfig, SFTConfig

    if recipe == "rounds":
        try:
            (rounds,) = parse(step.argv, RoundsSettings, prog=step.script, description="")
        except UserError as error:
            _note(problems, step.cell, error)
            return {}
        return {"model": rounds.model}
    # where training is launched elsewhere, this process may have no GPU
    on_cpu = ["--use_cpu", "true"] if step.launch else []
    try:
        (ours, args), given = resolve(
            [*step.argv, *on_cpu],
            _SETTINGS[recipe],
            {"dpo": DPOConfig, "reward": GRPOConfig}.get(recipe, SFTConfig),
            prog=step.script,
            description="",
            defaults=DEFAULTS,
        )
        check_options(args)
        if recipe != "base":
            choose_best(ours, args, given)
    except UserError as error:
        _note(problems, step.cell, error)
        return {}
    return given


def _note(problems: dict[str, list[str]], where: str, error: UserError) -> None:
    lines = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
    for line in lines or [str(error)]:
        problems.setdefault(line, []).append(where)
