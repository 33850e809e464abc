"""A grid of recipe runs: train, reply and measure every cell with every seed, end in one report.

    python recipes/sweep.py --config recipes/tiny/sweep.yaml
    python recipes/sweep.py --config recipes/zephyr-7b/sweep.yaml --dialogues ED --seeds 42 43

Writes into OUTPUT_DIR: before/ (runs that the cells start from), seed-S/models/CELL,
seed-S/pairs/CELL (of cells with `pairs`), seed-S/responses/CELL.jsonl, seed-S/harness/CELL, seed-S/results.json, report.md, and sweep.json,
which keeps what was done: the same command again does only what is missing or has changed, and goes
on inside the step that was stopped. A
failing step stops the sweep; with `--keep_going true` the other cells go on. Exit code 0: all is
done; 1: a step failed and others went on; 2: an error in what was given; 3: something asked for by
name could not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from empo.alignment.launching import quiet_dependencies
from empo.process import run
from empo.records import UserError, write_json
from empo.runs import LOCK, alone
from empo.settings import parse
from empo.sweep.grid import Cell, SweepSettings
from empo.sweep.steps import Steps


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check every command, run them, report, say what was done."""
    (settings,) = parse(argv, SweepSettings, prog="recipes/sweep.py", description=__doc__ or "")
    quiet_dependencies()
    from empo.sweep.checking import check
    from empo.sweep.commands import report_step

    start = check(settings)
    found = settings.found_cells()
    print(f"cells: {', '.join(cell.name for cell in found)}; seeds: {settings.seeds}")
    folder = Path(settings.output_dir)
    refuse_others(folder)
    with alone(folder / LOCK, folder):
        steps = Steps(folder / "sweep.json", settings.keep_going)
        try:
            if prepare(settings, steps, start):
                model = start if settings.before or settings.model else None
                seeds = [s for s in settings.seeds if measure(settings, steps, found, s, model)]
                if seeds:
                    steps.do(report_step(settings, seeds))
        finally:
            print(f"\n{steps.table()}")
    print(f"\n{settings.output_dir}")
    return steps.code


def refuse_others(folder: Path) -> None:
    """Raise UserError where a folder holds other files than a sweep's."""
    names = {path.name for path in folder.glob("*")} - {LOCK}
    if names and not any(name.startswith(("sweep.", "seed-", "before", "nidf.")) for name in names):
        raise UserError(
            f"{folder}: the folder is not empty and holds no sweep. Choose an empty or a new output "
            "folder."
        )


def prepare(settings: SweepSettings, steps: Steps, start: str) -> bool:
    """What the cells start from: its training, its replies, the word frequencies of the corpus."""
    from empo.sweep.commands import before_step, nidf_step, start_steps

    model = settings.model
    for path in settings.before or ():
        step = before_step(settings, path, model)
        if not steps.do(step):
            return False
        model = str(step.outputs[0].parent)
    if settings.nidf_table is None and not steps.do(
        nidf_step(settings, lambda: write_table(settings))
    ):
        return False
    begun = [steps.do(step) for step in start_steps(settings, start) if settings.baseline]
    return all(begun)


def write_table(settings: SweepSettings) -> int:
    """The word frequencies of the training and the validation dialogues; the exit code."""
    from empo.corpora import load_corpus
    from empo.metrics.nidf import build_table
    from empo.sweep.commands import nidf_path

    splits = [load_corpus(settings.dialogues, split) for split in ("train", "valid")]
    table = build_table(dialogue for corpus in splits for dialogue in corpus.dialogues)
    write_json(nidf_path(settings), table)
    return 0


def measure(
    settings: SweepSettings, steps: Steps, found: Sequence[Cell], seed: int, model: str | None
) -> bool:
    """Every cell with one seed, and the metrics over those that have replies."""
    from empo.sweep.commands import cell_steps, metrics_step, pairs_step, train_step

    replied = []
    for cell in found:
        pairs = pairs_step(settings, cell, seed)
        if (pairs is None or steps.do(pairs)) and steps.do(train_step(settings, cell, seed, model)):
            done = [steps.do(step) for step in cell_steps(settings, cell, seed)]
            replied += [cell] * done[0]
    return bool(replied) and steps.do(metrics_step(settings, seed, replied))


if __name__ == "__main__":
    run(main)
