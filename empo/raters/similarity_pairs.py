"""Judged pairs of texts as training data: graded, above and below a threshold, or as triplets."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from empo.corpora.labelled import Example
from empo.raters.losses import UnsuitedLabels
from empo.raters.similarity import ScoreScale
from empo.rating import Dimension


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts and the label of one dimension, in native units."""

    id: str
    first: str
    second: str
    label: float


def text_pairs(
    examples: Sequence[Example], dimension: Dimension, part: str
) -> tuple[list[TextPair], dict[str, int]]:
    """The pairs of the examples that can be trained on, and how many cannot and why.

    `part` names the examples in errors. Raises UserError where fewer than two are left, a label
    lies outside the dimension, or all labels are equal.
    """
    pairs: list[TextPair] = []
    counts = {"examples": len(examples), "without_label": 0, "blank": 0}
    for example in examples:
        label = example.labels.get(dimension.name)
        first, second = example.input.prompt, example.input.response
        if label is None:
            counts["without_label"] += 1
        elif not first.strip() or not second.strip():
            counts["blank"] += 1
        elif not dimension.low <= label <= dimension.high:
            raise UnsuitedLabels(
                f"{part} example {example.id}: its label {label:g} in {dimension.name!r} lies "
                f"outside {dimension.low:g} to {dimension.high:g}."
            )
        else:
            pairs.append(TextPair(example.id, first, second, label))
    if len(pairs) < 2:
        raise UnsuitedLabels(
            f"{part}: {len(pairs)} of {len(examples)} examples have two texts and a label in "
            f"{dimension.name!r}; at least 2 are needed."
        )
    if len({pair.label for pair in pairs}) == 1:
        raise UnsuitedLabels(
            f"{part}: all {len(pairs)} labels in {dimension.name!r} are {pairs[0].label:g}, so "
            "there is nothing to learn or to choose a model by."
        )
    return pairs, counts


def cosine_targets(
    pairs: Sequence[TextPair], scale: ScoreScale, loss: str, low: float
) -> list[float]:
    """The cosine that every label asks for on a scale.

    Raises UserError where one lies outside `low` to 1, so that the loss has no meaning for it.
    """
    targets = [scale.cosine(pair.label) for pair in pairs]
    for pair, target in zip(pairs, targets, strict=True):
        if not low - 1e-9 <= target <= 1 + 1e-9:
            raise UnsuitedLabels(
                f"example {pair.id}: on the scale {scale.name!r} its label {pair.label:g} asks for "
                f"the target {target:g}, but the loss {loss!r} takes {low:g} to 1. Labels from 1 "
                "to 4 need the scale affine or times4, labels from 0 to 1 the scale unit."
            )
    return targets


def split_at(
    pairs: Sequence[TextPair], threshold: float | None
) -> tuple[float, list[TextPair], list[TextPair]]:
    """The threshold, the pairs above it (positive), and those at or below it (negative).

    None is the median of the labels. Raises UserError where one of the sides is empty.
    """
    labels = [pair.label for pair in pairs]
    value = statistics.median(labels) if threshold is None else threshold
    above = [pair for pair in pairs if pair.label > value]
    below = [pair for pair in pairs if pair.label <= value]
    if not above or not below:
        side = "above" if not above else "at or below"
        raise UnsuitedLabels(
            f"no training pair lies {side} the threshold {value:g}"
            f"{' (the median)' if threshold is None else ''}; the labels run from {min(labels):g} "
            f"to {max(labels):g}. Give another threshold."
        )
    return value, above, below


def triplets(
    above: Sequence[TextPair], below: Sequence[TextPair], seed: int
) -> tuple[list[tuple[str, str, str]], int]:
    """(anchor, positive, negative) for every text of a positive pair, and how many had no negative.

    The negative is drawn from the texts with which the anchor forms a negative pair.
    """
    unlike: defaultdict[str, list[str]] = defaultdict(list)
    for pair in below:
        unlike[pair.first].append(pair.second)
        unlike[pair.second].append(pair.first)
    draw = random.Random(seed)
    found: list[tuple[str, str, str]] = []
    missing = 0
    for pair in above:
        for anchor, positive in ((pair.first, pair.second), (pair.second, pair.first)):
            negatives = [text for text in unlike[anchor] if text != positive]
            if negatives:
                found.append((anchor, positive, draw.choice(negatives)))
            else:
                missing += 1
    return found, missing
