"""A look at every command line of a sweep before the first one runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from empo.alignment.launching import check_options, defaults_of
from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import BaseSettings, DpoSettings, RewardSettings, SftSettings
from empo.measure import ResponsesSettings
from empo.pairs import PairsSettings
from empo.raters.folder import RaterConfig
from empo.raters.identity import identities, refuse_same_weights
from empo.records import UserError, listed
from empo.settings import parse, resolve
from empo.suites import parse_with_suite
from empo.sweep.commands import before_step, metrics_step, pairs_step, start_steps, train_step
from empo.sweep.grid import SweepSettings, needs_rater
from empo.sweep.rounds import RoundsSettings, round_steps
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
        _training(step, problems)
        model = str(step.outputs[0].parent)
    found = settings.found_cells()
    for cell in found:
        try:
            if pairs := pairs_step(settings, cell, settings.seeds[0]):
                (asked,) = parse(pairs.argv, PairsSettings, prog="empo pairs", description="")
                _raters(asked.rater or (), asked.rater_dimension, cell.name, problems)
        except UserError as error:
            _note(problems, cell.name, error)
        step = train_step(settings, cell, settings.seeds[0], model)
        if cell.recipe == "rounds":
            given = _rounds(step, problems)
        else:
            chosen_by = settings.reward if needs_rater(cell.pairs or {}) else None
            given = _training(step, problems, chosen_by or ())
        model = model or given.get("model")
    for name in ("rater", "reward"):
        _raters(getattr(settings, name) or (), None, name, problems)
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
                _raters(measured.ratings or (), None, step.kind, problems)
        except UserError as error:
            _note(problems, step.kind, error)
    if problems or model is None:
        told = (
            f"{'all cells' if len(where) == len(found) > 1 else '; '.join(where)}: {line}"
            for line, where in problems.items()
        )
        raise _refusal("recipes/sweep.py", "sweep", list(told))
    return model


def check_rounds(settings: RoundsSettings) -> None:
    """Read the commands of a round as they will be read; UserError with all problems."""
    problems: dict[str, list[str]] = {}
    try:
        steps = round_steps(settings, 1)
    except UserError as error:
        raise _refusal("recipes/rounds.py", "rounds", _lines(error)) from None
    _raters(settings.rater, settings.rater_dimension, "rater", problems)
    for step in steps:
        if step.kind == "samples":
            script = load_script(step.script)
            try:
                parse(step.argv, script.GenerateSettings, prog=step.script, description="")
            except UserError as error:
                _note(problems, step.kind, error)
        elif step.kind == "train":
            _training(replace(step, cell=step.kind), problems, settings.rater)
    if problems:
        told = [f"{where}: {line}" for line, (where, *_) in problems.items()]
        raise _refusal("recipes/rounds.py", "rounds", told)


def _raters(
    folders: Sequence[str],
    dimensions: Sequence[str] | None,
    where: str,
    problems: dict[str, list[str]],
) -> None:
    """Open rater folders, and look for the dimensions that are asked of them."""
    try:
        there = [each.name for folder in folders for each in RaterConfig.read(folder).dimensions]
    except UserError as error:
        _note(problems, where, error)
        return
    if unknown := [name for name in dimensions or () if name not in there]:
        told = f"the rater has no dimension {listed(unknown)}; it has: {', '.join(there)}."
        _note(problems, where, UserError(told))


def _rounds(step: Step, problems: dict[str, list[str]]) -> dict[str, Any]:
    """The values that the rounds of a cell are given; what is wrong with them goes into `problems`."""
    try:
        (rounds,) = parse(step.argv, RoundsSettings, prog=step.script, description="")
        check_rounds(rounds)
    except UserError as error:
        _note(problems, step.cell, error)
        return {}
    return {"model": rounds.model}


def _training(
    step: Step, problems: dict[str, list[str]], chosen_by: Sequence[str] = ()
) -> dict[str, Any]:
    """The values that a training is given; what is wrong with them goes into `problems`.

    `chosen_by` are the raters that choose its pairs.
    """
    from trl import DPOConfig, GRPOConfig, SFTConfig

    recipe = step.script[len("recipes/") : -len(".py")]
    # where training is launched elsewhere, this process may have no GPU
    on_cpu = ["--use_cpu", "true"] if step.launch else []
    try:
        (ours, args), given = resolve(
            [*step.argv, *on_cpu],
            _SETTINGS[recipe],
            {"dpo": DPOConfig, "reward": GRPOConfig}.get(recipe, SFTConfig),
            prog=step.script,
            description="",
            defaults=defaults_of(_SETTINGS[recipe]),
        )
        check_options(args)
        if recipe != "base":
            choose_best(ours, args, given)
            rewarding = ours.rater if recipe == "reward" else chosen_by
            if ours.select_rater:
                refuse_same_weights(identities(rewarding), ours.select_rater)
    except UserError as error:
        _note(problems, step.cell, error)
        return {}
    return given


def _refusal(command: str, what: str, problems: Sequence[str]) -> UserError:
    return UserError(
        f"{command}: {len(problems)} problem{'s' * (len(problems) > 1)} in the commands of the "
        f"{what}:\n" + "\n".join(f"  - {problem}" for problem in problems)
    )


def _note(problems: dict[str, list[str]], where: str, error: UserError) -> None:
    for line in _lines(error):
        problems.setdefault(line, []).append(where)


def _lines(error: UserError) -> list[str]:
    """The problems that an error names."""
    lines = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
    return lines or [str(error)]
