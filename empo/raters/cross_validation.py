"""Seeds and folds: a rater trained, measured on what was held out, and kept with its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.corpora.labelled import LabelledCorpus
from empo.process import Stopped
from empo.raters.apart import chosen_dimensions, cut_groups, unseen_by
from empo.raters.baselines import BASELINES
from empo.raters.folder import RaterConfig
from empo.raters.held_out import best_unit, measure
from empo.raters.kinds import model_facts
from empo.raters.loading import load_rater
from empo.raters.settings import KEEP_LEVELS, RaterSettings
from empo.raters.splits import Split
from empo.raters.unit_training import keep_rater, train_units
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import (
    AGREEMENT_SCHEMA,
    RATER_RESULTS_SCHEMA,
    UserError,
    finite,
    read_typed,
    write_json,
)
from empo.runs import Run, now, versions

_DEFAULTED = {"report_to", "ddp_find_unused_parameters", "remove_unused_columns", "logging_steps"}
_VOLATILE = {"output_dir", "fresh", "threads", "processes", "disable_tqdm"}
"""Settings that move no weight."""

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
    examples = corpus.examples
    if settings.apart_from is not None:
        examples = unseen_by(settings.apart_from, corpus, settings)
    examples = [e for e in examples if names & e.labels.keys()]
    examples = cut_groups(examples, settings.limit, settings.split_seed)
    numbers = settings.loss not in KEEP_LEVELS
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
    encoder = model_facts(settings)
    run.check_identity({"data": [facts["files"] for facts in data], "encoder": encoder})
    run.facts.update(name=output.name, data=data)
    if run.complete:
        print(f"{output}: this run is complete.")
    else:
        run.save(status="running")
    _say_what_is_used(settings, len(corpus.examples), data[0]["groups"])
    dimensions = corpus.dimensions
    try:
        units, parts = train_units(corpus, test, settings, arguments, output, run)
    except Stopped:
        run.save(status="stopped")
        raise
    evaluation, shown = measure(units, dimensions)
    keep_rater(best_unit(units), output, shown)
    rater = load_rater(output, "cpu")
    golden = rater.score(GOLDEN)
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
        "split": _split_facts(parts, settings.split_seed),
        "kept": {key: best_unit(units).facts()[key] for key in ("seed", "fold")},
        "trainings": [unit.facts() for unit in units],
        "dimensions": [dimension.facts() for dimension in rater.dimensions],
        "label_dimensions": [dimension.facts() for dimension in dimensions],
        "encoder": encoder,
        "data": data,
        "settings": {
            **{k: v for k, v in settings.facts().items() if k != "fresh"},
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


def _say_what_is_used(settings: RaterSettings, examples: int, groups: int) -> None:
    used = f"{examples:,} examples in {groups:,} groups"
    print(
        f"used: {used}{'' if settings.limit is None else f' (limit {settings.limit:,})'}; "
        f"seeds x folds: {len(settings.seeds)} x {settings.folds}; {settings.architecture} with "
        f"{settings.loss}",
        flush=True,
    )


def _split_facts(parts: Sequence[Split], seed: int) -> dict[str, Any]:
    return {
        "group": "examples of one group stay on one side",
        "folds": len(parts),
        "split_seed": seed,
        "inner_validation_by": "example" if parts[0].inner_by_example else "group",
        "sizes": [
            {name: len(getattr(part, name)) for name in ("train", "validation", "test")}
            for part in parts
        ],
    }


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


@with_config(extra="allow")
class _Coefficient(TypedDict):
    value: float | None
    interval: list[float] | None


@with_config(extra="allow")
class _Coefficients(TypedDict):
    alpha: _Coefficient


@with_config(extra="allow")
class _Agreed(TypedDict):
    aspect: str
    group: str
    setting: str
    items: int
    raters: int
    coefficients: _Coefficients


@with_config(extra="allow")
class _Input(TypedDict):
    file: str


@with_config(extra="allow")
class _Agreement(TypedDict):
    """What is taken from agreement.json."""

    input: _Input
    rows: list[_Agreed]


_AGREEMENT = TypeAdapter(_Agreement)


def _agreement(path: str | None, dimensions: Collection[str]) -> dict[str, str] | None:
    """Krippendorff's alpha per dimension, of a file that `empo agreement` wrote, in words.

    Raises UserError where no aspect of the file is one of the dimensions.
    """
    if path is None:
        return None
    remedy = "Write it again with `empo agreement --output`."
    found = read_typed(path, AGREEMENT_SCHEMA, _AGREEMENT, remedy)
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
