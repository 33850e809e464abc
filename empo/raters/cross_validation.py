"""Seeds and folds: every training writes its held-out predictions, and a restart does the rest.

OUTPUT/units/seed-1/fold-0/   predictions.jsonl, unit.json (written last), model/ of the best so far
"""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.baselines import BASELINES
from empo.raters.encoders import encoder_identity, resolve_encoder
from empo.raters.folder import RATER_CONFIG, UNITS, RaterConfig, attest
from empo.raters.held_out import PREDICTIONS, Unit, best_unit, measure, predict
from empo.raters.kinds import train_rater
from empo.raters.loading import load_rater
from empo.raters.settings import CLASS_LOSSES, RaterSettings
from empo.raters.splits import Split, check_separate, splits, with_test
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import (
    AGREEMENT_SCHEMA,
    RATER_RESULTS_SCHEMA,
    UserError,
    finite,
    read_json,
    write_json,
    write_jsonl,
)
from empo.runs import Run, now, versions

logger = logging.getLogger(__name__)

MODEL = "model"

_DEFAULTED = {"report_to", "ddp_find_unused_parameters", "remove_unused_columns", "logging_steps"}
_VOLATILE = {"output_dir", "threads", "processes", "disable_tqdm"}

GOLDEN = (
    RatingInput("My cat died last night and the flat feels empty.", "Okay."),
    RatingInput(
        "My cat died last night and the flat feels empty.",
        "I am so sorry. It must be strange to come home to silence. How long was she with you?",
    ),
    RatingInput(
        "I finally passed my driving test!", "You must be relieved after all that practice."
    ),
)
"""Inputs whose scores stand on every card, to see at a glance that a rater was loaded right."""


def suited(corpus: LabelledCorpus, settings: RaterSettings) -> LabelledCorpus:
    """The corpus cut to the dimensions and groups that are asked for, its labels as the loss needs.

    A loss that learns numbers gets intervals; on the scale `unit` every label as its place in the
    range, 0..1. Raises UserError for an unknown dimension.
    """
    dimensions = chosen_dimensions(corpus, settings.dimensions)
    names = {dimension.name for dimension in dimensions}
    examples = [e for e in corpus.examples if names & e.labels.keys()]
    examples = cut_groups(examples, settings.limit, settings.split_seed)
    numbers = settings.loss not in CLASS_LOSSES
    if numbers and settings.scale == "unit":
        span = {d.name: (d.low, d.high - d.low) for d in dimensions}
        examples = [
            dataclasses.replace(
                e,
                labels={k: (y - span[k][0]) / span[k][1] for k, y in e.labels.items() if k in span},
            )
            for e in examples
        ]
        dimensions = [Dimension(d.name, 0.0, 1.0, "interval") for d in dimensions]
    elif numbers:
        dimensions = [dataclasses.replace(d, kind="interval", levels=None) for d in dimensions]
    return dataclasses.replace(corpus, dimensions=tuple(dimensions), examples=examples)


def cross_validate(
    settings: RaterSettings,
    given: Mapping[str, Any],
    arguments: Mapping[str, Any],
    corpus: LabelledCorpus,
    test: LabelledCorpus | None,
    output: Path,
) -> dict[str, Any]:
    """Train, measure and keep a rater in `output`; a restart does only what is missing.

    `given` are the settings as given, by which a restart knows its run. Returns the content of
    results.json, which is also what the card is made from.
    """
    corpus = suited(corpus, settings)
    test = None if test is None else suited(test, settings)
    agreement = _agreement(settings.agreement, {d.name for d in corpus.dimensions})
    run = Run.start(output, "rater", {k: v for k, v in given.items() if k not in _VOLATILE})
    data = [part.facts() for part in (corpus, test) if part is not None]
    path, encoder_name = resolve_encoder(settings.encoder)
    encoder = {"name": encoder_name, "identity": encoder_identity(path)}
    run.check_identity({"data": [facts["files"] for facts in data], "encoder": encoder})
    run.facts.update(name=output.name, data=data)
    if run.complete:
        print(f"{output}: this run is complete.")
    else:
        run.save()
    used = f"{len(corpus.examples):,} examples in {data[0]['groups']:,} groups"
    print(
        f"used: {used}{'' if settings.limit is None else f' (limit {settings.limit:,})'}; "
        f"seeds x folds: {len(settings.seeds)} x {settings.folds}; {settings.architecture} with "
        f"{settings.loss}",
        flush=True,
    )
    dimensions = corpus.dimensions
    units, parts = train_units(corpus, test, settings, arguments, output)
    evaluation, shown = measure(units, dimensions)
    keep_rater(best_unit(units), output, shown)
    rater = load_rater(output, "cpu")
    golden = rater.score(GOLDEN)
    split = {
        "group": "examples of one group stay on one side",
        "folds": len(parts),
        "split_seed": settings.split_seed,
        "inner_validation_by": "example" if parts[0].inner_by_example else "group",
        "sizes": [
            {name: len(getattr(part, name)) for name in ("train", "validation", "test")}
            for part in parts
        ],
    }
    results = {
        "schema": RATER_RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "name": output.name,
        "kind": RaterConfig.read(output).kind,
        "signature": rater.signature,
        "raters": {output.name: rater.signature},
        "licence": settings.licence,
        "note": settings.note,
        "golden": _golden(golden),
        "seeds": list(settings.seeds),
        "split": split,
        "kept": {key: best_unit(units).facts()[key] for key in ("seed", "fold")},
        "trainings": [unit.facts() for unit in units],
        "dimensions": [dimension.facts() for dimension in rater.dimensions],
        "label_dimensions": [dimension.facts() for dimension in dimensions],
        "encoder": encoder,
        "data": data,
        "settings": {
            **{k: v for k, v in dataclasses.asdict(settings).items() if v is not None},
            **{k: v for k, v in arguments.items() if k not in _DEFAULTED},
        },
        "agreement": agreement,
        "evaluation": evaluation,
        "evidence": shown,
        "baselines": BASELINES,
        "warnings": list(golden.warnings),
    }
    if not run.complete:  # a complete run is only read again
        write_json(output / "results.json", results)
    run.save(status="complete")
    return results


def _golden(ratings: Ratings) -> list[dict[str, Any]]:
    """The golden inputs with what the rater says about them, for the card."""
    names = [dimension.name for dimension in ratings.dimensions]
    return [
        {
            "context": pair.prompt,
            "response": pair.response,
            "scores": {name: finite(ratings.scores[i, k]) for k, name in enumerate(names)},
            "probabilities": {
                name: None if p is None or not np.isfinite(p[i]).all() else p[i].tolist()
                for name, p in zip(names, ratings.probabilities, strict=True)
            },
        }
        for i, pair in enumerate(GOLDEN)
    ]


def chosen_dimensions(corpus: LabelledCorpus, names: Sequence[str] | None) -> list[Dimension]:
    """The dimensions asked for, or all that the corpus does not derive from others.

    Raises UserError for an unknown name.
    """
    known = {dimension.name: dimension for dimension in corpus.dimensions}
    if names is None:
        return [d for d in corpus.dimensions if d.name not in corpus.derived]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"dimensions: {', '.join(unknown)} is unknown; {corpus.source} has: {', '.join(known)}."
        )
    return [known[name] for name in names]


def cut_groups(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """The examples of `limit` groups drawn by `seed`, in their order; a file is often sorted."""
    groups = list(dict.fromkeys(example.group for example in examples))
    if limit is None or limit >= len(groups):
        return list(examples)
    kept = set(random.Random(seed).sample(groups, limit))
    return [example for example in examples if example.group in kept]


def train_units(
    corpus: LabelledCorpus,
    test: LabelledCorpus | None,
    settings: RaterSettings,
    arguments: Mapping[str, Any],
    output: Path,
) -> tuple[list[Unit], list[Split]]:
    """Train every seed on every fold that is not done yet; the best model on validation is kept.

    Returns the units in order, and the split of each fold.
    """
    dimensions = corpus.dimensions
    examples = list(corpus.examples)
    if test is None:
        parts = splits(
            examples,
            dimensions,
            folds=settings.folds,
            test_share=settings.test_share,
            validation_share=settings.validation_share,
            seed=settings.split_seed,
        )
    else:
        held_out = list(test.examples)
        parts = [
            with_test(
                examples,
                held_out,
                dimensions,
                validation_share=settings.validation_share,
                seed=settings.split_seed,
            )
        ]
        examples += held_out
    for split in parts:
        check_separate(examples, split)
    units = [
        Unit(seed, fold, output / UNITS / f"seed-{seed}" / f"fold-{fold}")
        for seed in settings.seeds
        for fold in range(len(parts))
    ]
    _clear(units)  # what a stop behind the end of a unit has left
    for unit in units:
        if unit.complete:
            continue
        split = parts[unit.fold]
        logger.info("seed %d, fold %d of %d", unit.seed, unit.fold + 1, len(parts))
        started = time.monotonic()
        trained = train_rater(
            [examples[i] for i in split.train],
            [examples[i] for i in split.validation],
            dimensions,
            settings,
            arguments,
            unit.folder,
            seed=unit.seed,
            name=output.name,
            symmetric=corpus.symmetric,
        )
        rows = predict(trained.rater, unit, split, examples, dimensions, corpus.symmetric)
        trained.rater.save(unit.folder / MODEL)
        facts = {"validation_score": trained.score, **trained.facts}
        write_jsonl(unit.folder / PREDICTIONS, rows)
        facts |= {"seed": unit.seed, "fold": unit.fold, "test": len(rows)}
        facts["seconds"] = round(time.monotonic() - started, 1)
        write_json(unit.folder / "unit.json", facts)
        _clear(units)
    return units, parts


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


def _agreement(path: str | None, dimensions: Collection[str]) -> dict[str, str] | None:
    """Krippendorff's alpha per dimension, of a file that `empo agreement` wrote, in words.

    Raises UserError where no aspect of the file is one of the dimensions.
    """
    if path is None:
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != AGREEMENT_SCHEMA:
        raise UserError(f"{path}: this is no agreement.json of the schema {AGREEMENT_SCHEMA!r}.")
    shown = {}
    for row in found["rows"]:
        alpha = row["coefficients"]["alpha"]
        if alpha["value"] is None or row["aspect"] not in dimensions:
            continue
        name = " ".join(filter(None, (row["aspect"], row["group"], row["setting"])))
        bounds = " to ".join(f"{bound:.4f}" for bound in alpha["interval"] or ())
        shown[name] = (
            f"Krippendorff's alpha {alpha['value']:.4f} ({bounds or 'no interval'}), "
            f"{row['items']:,} items, {row['raters']} annotators, {found['input']['file']}"
        )
    if not shown:
        raise UserError(
            f"{path}: it says nothing about {', '.join(sorted(dimensions))}; its aspects are "
            f"{', '.join(sorted({row['aspect'] for row in found['rows']}))}."
        )
    return shown
