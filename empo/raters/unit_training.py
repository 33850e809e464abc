"""Every seed trained on every fold: held-out predictions on disk, and a restart does the rest.

OUTPUT/units/seed-1/fold-0/   predictions.jsonl, unit.json (written last), model/ of the best so far
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.folder import RATER_CONFIG, UNITS, RaterConfig, attest
from empo.raters.held_out import PREDICTIONS, Unit, best_unit, predict
from empo.raters.kinds import train_rater
from empo.raters.prompt_settings import PROMPT
from empo.raters.settings import RaterSettings
from empo.raters.splits import Split, check_separate, splits, with_test
from empo.raters.training_task import TrainingTask
from empo.records import write_json, write_jsonl
from empo.runs import Run

logger = logging.getLogger(__name__)

MODEL = "model"


def train_units(
    corpus: LabelledCorpus,
    test: LabelledCorpus | None,
    settings: RaterSettings,
    arguments: Mapping[str, Any],
    output: Path,
    run: Run,
) -> tuple[list[Unit], list[Split]]:
    """Train every seed on every fold that is not done yet; the best model on validation is kept.

    Returns the units in order, and the split of each fold.
    """
    examples, parts = _parts(corpus, test, settings)
    units = [
        Unit(seed, fold, output / UNITS / f"seed-{seed}" / f"fold-{fold}")
        for seed in settings.seeds
        for fold in range(len(parts))
    ]
    _clear(units)  # what a stop behind the end of a unit has left
    for unit in units:
        if unit.complete:
            continue
        logger.info("seed %d, fold %d of %d", unit.seed, unit.fold + 1, len(parts))
        _train_unit(unit, parts[unit.fold], examples, corpus, settings, arguments, run)
        _clear(units)
    return units, parts


def _parts(
    corpus: LabelledCorpus, test: LabelledCorpus | None, settings: RaterSettings
) -> tuple[list[Example], list[Split]]:
    """All examples, those of a test corpus last, and the split of each fold in places of them."""
    examples = list(corpus.examples)
    learns = settings.architecture != PROMPT or settings.shots == "few"
    if test is None:
        parts = splits(
            examples,
            corpus.dimensions,
            folds=settings.folds,
            test_share=settings.test_share,
            validation_share=settings.validation_share,
            seed=settings.split_seed,
            learns=learns,
        )
    else:
        held_out = list(test.examples)
        parts = [
            with_test(
                examples,
                held_out,
                corpus.dimensions,
                validation_share=settings.validation_share,
                seed=settings.split_seed,
                learns=learns,
            )
        ]
        examples += held_out
    for split in parts:
        check_separate(examples, split)
    return examples, parts


def _train_unit(
    unit: Unit,
    split: Split,
    examples: Sequence[Example],
    corpus: LabelledCorpus,
    settings: RaterSettings,
    arguments: Mapping[str, Any],
    run: Run,
) -> None:
    """Train one seed on one fold; its model, its held-out predictions, and unit.json last."""
    started = time.monotonic()
    trained = train_rater(
        TrainingTask(
            train=[examples[i] for i in split.train],
            validation=[examples[i] for i in split.validation],
            dimensions=corpus.dimensions,
            settings=settings,
            arguments=arguments,
            folder=unit.folder,
            run=run,
            seed=unit.seed,
            name=run.folder.name,
            symmetric=corpus.symmetric,
        )
    )
    rows = predict(trained.rater, unit, split, examples, corpus.dimensions, corpus.symmetric)
    trained.rater.save(unit.folder / MODEL)
    facts = {"validation_score": trained.score, **trained.facts}
    facts |= trained.held_out([examples[i] for i in split.test])
    write_jsonl(unit.folder / PREDICTIONS, rows)
    facts |= {"seed": unit.seed, "fold": unit.fold, "test": len(rows)}
    facts["seconds"] = round(time.monotonic() - started, 1)
    write_json(unit.folder / "unit.json", facts)


def _clear(units: Sequence[Unit]) -> None:
    """Remove the checkpoints of complete units, and their models but for the best."""
    done = [unit for unit in units if unit.complete]
    best = best_unit(done) if done else None
    for unit in done:
        for checkpoint in list(unit.folder.rglob("checkpoint-*")):
            shutil.rmtree(checkpoint)
        if unit is not best:
            shutil.rmtree(unit.folder / MODEL, ignore_errors=True)


def keep_rater(unit: Unit, output: Path, evidence: Mapping[str, Any]) -> None:
    """Put the model of a unit into the rater folder itself, bound to its evidence.

    A folder that is not whole yet is no rater: rater_config.json goes first and comes last, that of
    raters side by side after those of its members.
    """
    source = unit.folder / MODEL
    if not source.is_dir():
        return  # it was put there before
    configs = sorted(source.rglob(RATER_CONFIG), key=lambda path: len(path.parts))
    for config in configs:
        (output / config.relative_to(source)).unlink(missing_ok=True)
    shutil.copytree(source, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RATER_CONFIG))
    for config in reversed(configs):
        RaterConfig.read(config.parent).write(output / config.parent.relative_to(source))
    attest(output, evidence)
    shutil.rmtree(source)
