from __future__ import annotations

import pytest

from empo.corpora.labelled import Example
from empo.raters.similarity import SCALES
from empo.raters.similarity_pairs import TextPair, cosine_targets, split_at, text_pairs, triplets
from empo.rating import Dimension, RatingInput
from empo.records import UserError

EMPATHY = Dimension("empathy", 1.0, 4.0, "ordinal")


def example(first: str, second: str, **labels: float) -> Example:
    return Example(f"{first}-{second}", first, RatingInput(first, second), labels)


def pair(first: str, second: str, label: float) -> TextPair:
    return TextPair(f"{first}-{second}", first, second, label)


def test_what_cannot_be_trained_on_is_counted() -> None:
    found, counts = text_pairs(
        [
            example("a", "b", empathy=1.0),
            example("a", "c", event=2.0),
            example("a", " ", empathy=2.0),
            example("b", "c", empathy=3.5),
        ],
        EMPATHY,
        "train",
    )
    assert found == [pair("a", "b", 1.0), pair("b", "c", 3.5)]
    assert counts == {"examples": 4, "without_label": 1, "blank": 1}


@pytest.mark.parametrize(
    "examples, said",
    [
        ([example("a", "b", empathy=1.0)], "valid: 1 of 1 examples have two texts and a label"),
        ([], "valid: 0 of 0 examples"),
        (
            [example("a", "b", empathy=2.0), example("a", "c", empathy=2.0)],
            "valid: all 2 labels in 'empathy' are 2, so there is nothing to learn",
        ),
        (
            [example("a", "b", empathy=2.0), example("a", "c", empathy=5.0)],
            "valid example a-c: its label 5 in 'empathy' lies outside 1 to 4",
        ),
    ],
)
def test_examples_that_teach_nothing(examples: list[Example], said: str) -> None:
    with pytest.raises(UserError) as error:
        text_pairs(examples, EMPATHY, "valid")
    assert said in str(error.value)


def test_targets_by_hand() -> None:
    pairs = [pair("a", "b", 1.0), pair("a", "c", 2.5), pair("b", "c", 4.0)]
    assert cosine_targets(pairs, SCALES["affine"], "mse", 0.0) == pytest.approx([0, 0.5, 1])
    assert cosine_targets(pairs, SCALES["times4"], "mse", 0.0) == pytest.approx([0.25, 0.625, 1])


@pytest.mark.parametrize(
    "label, scale, low, said",
    [
        (3.5, "unit", 0.0, "on the scale 'unit' its label 3.5 asks for the target 3.5"),
        (
            0.5,
            "affine",
            0.0,
            "asks for the target -0.166667, but the loss 'contrastive' takes 0 to 1",
        ),
    ],
)
def test_targets_outside_what_a_loss_takes(label: float, scale: str, low: float, said: str) -> None:
    with pytest.raises(UserError) as error:
        cosine_targets([pair("a", "b", label)], SCALES[scale], "contrastive", low)
    assert said in str(error.value) and "example a-b" in str(error.value)


def test_a_negative_cosine_is_a_target_where_the_loss_takes_it() -> None:
    found = cosine_targets([pair("a", "b", 0.5)], SCALES["affine"], "mse", -1.0)
    assert found == pytest.approx([-1 / 6])


PAIRS = [pair("a", "b", 4.0), pair("a", "c", 1.0), pair("b", "d", 2.0), pair("e", "f", 3.5)]


def test_above_the_median_and_above_a_number() -> None:
    value, above, below = split_at(PAIRS, None)
    assert (value, above, below) == (2.75, [PAIRS[0], PAIRS[3]], [PAIRS[1], PAIRS[2]])
    assert split_at(PAIRS, 3.5) == (3.5, [PAIRS[0]], PAIRS[1:])


@pytest.mark.parametrize(
    "threshold, said",
    [
        (4.0, "no training pair lies above the threshold 4; the labels run from 1 to 4"),
        (0.5, "no training pair lies at or below the threshold 0.5"),
    ],
)
def test_a_threshold_with_all_pairs_on_one_side(threshold: float, said: str) -> None:
    with pytest.raises(UserError) as error:
        split_at(PAIRS, threshold)
    assert said in str(error.value)


def test_a_median_that_is_the_largest_label_is_named() -> None:
    most = [pair("a", "b", 4.0), pair("a", "c", 4.0), pair("b", "c", 1.0)]
    with pytest.raises(UserError, match=r"above the threshold 4 \(the median\)"):
        split_at(most, None)


def test_triplets_by_hand() -> None:
    _, above, below = split_at(PAIRS, None)
    found, missing = triplets(above, below, seed=1)
    assert found == [("a", "b", "c"), ("b", "a", "d")]
    assert missing == 2, "neither e nor f forms a negative pair"


def test_the_negative_of_a_triplet_is_drawn_by_the_seed() -> None:
    below = [pair("a", text, 1.0) for text in "bcdefgh"]
    above = [pair("a", "z", 4.0)] * 20
    first, missing = triplets(above, below, seed=1)
    assert missing == 20  # z as anchor
    assert first == triplets(above, below, seed=1)[0]
    assert first != triplets(above, below, seed=2)[0]
    assert {negative for _, _, negative in first} <= set("bcdefgh")


def test_a_positive_is_no_negative_of_the_same_anchor() -> None:
    found, missing = triplets([pair("a", "b", 4.0)], [pair("b", "a", 1.0)], seed=1)
    assert (found, missing) == ([], 2)
