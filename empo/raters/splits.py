"""Splits by group: no seeker post, dialogue or story is ever on two sides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from empo.corpora.labelled import Example
from empo.rating import Dimension
from empo.records import UserError


@dataclass(frozen=True)
class Split:
    """Indices into the examples: what is learnt from, what chooses the epoch, what is held out.

    `inner_by_example`: there were too few groups to cut the inner validation part by group, so
    groups may be on both sides of that cut; never on both sides of the held-out one.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    inner_by_example: bool = False


def splits(
    examples: Sequence[Example],
    dimensions: Sequence[Dimension],
    *,
    folds: int,
    test_share: float,
    validation_share: float,
    seed: int,
    learns: bool = True,
) -> list[Split]:
    """One split, or one per fold, over groups, stratified by the labels as far as groups allow.

    With one fold, the held-out part is the first of round(1 / test_share) folds. The inner
    validation part is cut from the training part the same way and never overlaps the held-out one.

    Raises UserError where there are too few groups, or a level that the corpus has is missing from
    a training part. Where nothing is learnt there (`learns` false), one label is enough, for the
    baselines.
    """
    labels = label_matrix(examples, dimensions)
    groups = np.array([example.group for example in examples])
    parts = folds if folds > 1 else _parts(test_share)
    found = []
    for fold, (rest, test) in enumerate(_folds(labels, groups, parts, seed, "folds")):
        if fold >= folds:
            break
        train, validation, by_example = _inner(
            labels[rest], groups[rest], _parts(validation_share), seed
        )
        split = Split(rest[train], rest[validation], test, by_example)
        check_separate(examples, split)
        _check_levels(labels, split.train, dimensions, f"fold {fold + 1} of {folds}", learns)
        found.append(split)
    return found


def with_test(
    examples: Sequence[Example],
    test: Sequence[Example],
    dimensions: Sequence[Dimension],
    *,
    validation_share: float,
    seed: int,
    learns: bool = True,
) -> Split:
    """The split where the held-out examples come from a corpus of their own.

    Indices count on into `[*examples, *test]`. Raises UserError where a group is on both sides, and
    for levels as `splits`.
    """
    labels = label_matrix(examples, dimensions)
    groups = np.array([example.group for example in examples])
    train, validation, by_example = _inner(labels, groups, _parts(validation_share), seed)
    split = Split(train, validation, len(examples) + np.arange(len(test)), by_example)
    check_separate([*examples, *test], split)
    _check_levels(labels, train, dimensions, "the data", learns)
    return split


def label_matrix(examples: Sequence[Example], dimensions: Sequence[Dimension]) -> np.ndarray:
    """Labels in native units, shape (n, D), NaN where an example has none."""
    return np.array(
        [
            [example.labels.get(dimension.name, np.nan) for dimension in dimensions]
            for example in examples
        ],
        dtype=float,
    ).reshape(len(examples), len(dimensions))


def check_separate(examples: Sequence[Example], split: Split) -> None:
    """Raise UserError where a group is on two sides of a split."""
    sides = {
        name: {examples[i].group for i in getattr(split, name)}
        for name in ("train", "validation", "test")
    }
    pairs = [("train", "test"), ("validation", "test")]
    if not split.inner_by_example:
        pairs.append(("train", "validation"))
    for a, b in pairs:
        if shared := sorted(sides[a] & sides[b]):
            raise UserError(
                f"{len(shared)} group{'s' * (len(shared) > 1)} in both {a} and {b}: "
                f"{', '.join(shared[:3])}. Scores on them would show memory, not rating: keep every "
                "group on one side."
            )


def _inner(
    labels: np.ndarray, groups: np.ndarray, parts: int, seed: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    by_example = len(set(groups)) < parts
    if by_example:
        groups = np.arange(len(groups))
    train, validation = next(_folds(labels, groups, parts, seed, "validation_share"))
    return train, validation, by_example


def _parts(share: float) -> int:
    return max(2, round(1 / share))


def _folds(labels: np.ndarray, groups: np.ndarray, parts: int, seed: int, setting: str):
    distinct = len(set(groups))
    if distinct < parts:
        held_out = (
            "Give other data to hold out with --test (EmpathicStories, where shared stories join nearly "
            "all pairs to one group: pairs_test.csv for pairs_dev.csv). Or use"
        )
        raise UserError(
            f"{distinct} groups cannot be split into {parts} parts. "
            f"{held_out if setting == 'folds' else 'Use'} fewer folds, a larger share, or more data "
            f"({setting})."
        )
    strata = np.unique(np.nan_to_num(labels, nan=-1.0), axis=0, return_inverse=True)[1].ravel()
    if np.bincount(strata).max() < parts:
        strata = np.zeros(len(strata), int)  # every combination is rare: nothing to balance
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a combination rarer than the parts
        yield from splitter.split(np.zeros(len(strata)), strata, groups)


def _check_levels(
    labels: np.ndarray,
    train: np.ndarray,
    dimensions: Sequence[Dimension],
    where: str,
    learns: bool,
) -> None:
    for d, dimension in enumerate(dimensions):
        known = labels[np.isfinite(labels[:, d]), d]
        if len(set(known)) < 2:
            raise UserError(
                f"dimension {dimension.name!r}: "
                + (f"all labels are equal ({known[0]:g})" if len(known) else "there are no labels")
                + "; there is nothing to learn. Leave it out with `dimensions`."
            )
        enough = not learns and np.isfinite(labels[train, d]).any()
        if dimension.kind == "interval" or enough:
            continue
        if missing := sorted(set(known) - set(labels[train, d])):
            raise UserError(
                f"dimension {dimension.name!r}: level {missing[0]:g} is absent from the training "
                f"part of {where}. Use fewer folds or another split_seed, or merge the level."
            )
