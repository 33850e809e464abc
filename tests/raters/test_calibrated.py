"""Calibration by anchors: who is compared with whom, what is averaged, what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from empo.corpora.labelled import Example
from empo.dialogues import Turn
from empo.raters.calibrated import Anchors, CalibratedRater
from empo.raters.scoring_lm import Question
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError

MOOD = Dimension("mood", 0.0, 4.0, "interval", (0.0, 1.0, 4.0))
POOL = [
    Example(f"e{i}", f"g{i // 2}", RatingInput("", f"text {i}"), {"mood": (0.0, 1.0, 4.0)[i % 3]})
    for i in range(12)
]
ITEMS = [RatingInput("", text) for text in ("alpha", "beta", "gamma")]


class Base:
    """Gives `standard` to every item that is not blank; in comparisons what `own` says of both."""

    signature = "base"
    warnings = ("it is only a test.",)

    def __init__(self, own, standard: float = 4.0, dimensions=(MOOD,)) -> None:
        self.own, self.standard, self.dimensions = own, standard, dimensions
        self.asked: list[Question] = []

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        scores = [[self.standard if p.response.strip() else np.nan] for p in pairs]
        scores = np.repeat(np.array(scores), len(self.dimensions), axis=1)
        return Ratings.of(self.dimensions, scores, self.signature, warnings=self.warnings)

    def compared(self, questions: Sequence[Question], batch_size: int = 32):
        self.asked += questions
        return [self.own(question) for question in questions]


def calibrated(base: Base, pool: Sequence[Example] = POOL, **how: object) -> CalibratedRater:
    return CalibratedRater(base, Anchors(pool, **how), name="test", signature="calibrated test")


def test_of_a_constant_rater_it_is_the_constant() -> None:
    for how in ({}, {"per_level": 4}, {"weights": "prior"}, {"order": "both"}):
        rater = calibrated(Base(lambda question: (1.0, 1.0)), **how)
        assert rater.score(ITEMS).scores.tolist() == [[1.0], [1.0], [1.0]], how


def test_one_anchor_per_level_of_another_group() -> None:
    pairs = [RatingInput("", "text 4"), ITEMS[0]]
    labels = {example.input: example.labels["mood"] for example in POOL}
    groups = {example.input: example.group for example in POOL}
    for item in pairs:
        base = Base(lambda question: (1.0, 1.0))
        calibrated(base, per_level=2).score([item])
        others = [q.second if q.first == item else q.first for q in base.asked]
        assert sorted(labels[other] for other in others) == [0.0, 0.0, 1.0, 1.0, 4.0, 4.0]
        assert len(set(others)) == 6
        if item == pairs[0]:
            assert "g2" not in {groups[other] for other in others}  # its own dialogue


def test_a_turn_that_two_items_share_tells_that_they_are_of_one_dialogue() -> None:
    opening = "I have lost my job this week."
    talk = (Turn("user", opening), Turn("assistant", "Oh."))
    pool = [
        *POOL,
        Example("first", "talk", RatingInput("", opening), {"mood": 0.0}),
        Example("later", "talk", RatingInput(talk, "Hm."), {"mood": 1.0}),
        Example("short", "other", RatingInput("Oh.", "Well."), {"mood": 4.0}),
    ]
    told = {"Hm.", opening}
    for item, kept in (
        (RatingInput("", "i have lost my job,  this week"), set()),
        (RatingInput(talk[:1], "No!"), set()),
        (RatingInput("Oh.", "No!"), told),  # too short to tell a dialogue
        (RatingInput("", "hm"), set()),
    ):
        base = Base(lambda question: (1.0, 1.0))
        calibrated(base, pool, per_level=9).score([item])
        asked = {(q.second if q.first == item else q.first).response for q in base.asked}
        assert asked & told == kept, item
        assert "Well." in asked


def test_a_level_that_only_the_own_dialogue_has_is_counted() -> None:
    pool = [*POOL, Example("only", "own", RatingInput("", "Oh my."), {"mood": 3.0})]
    rater = calibrated(Base(lambda question: (1.0, 1.0)), pool)
    found = rater.score([RatingInput("", "oh my"), ITEMS[0]])
    assert rater.counts["no anchor"] == 1 and rater.counts["asked"] == 3 + 4
    assert found.warnings[-1] == (
        "Rater test: 1 times a level had no anchor outside the item's own dialogue and was left out of "
        "the average; 2 scores."
    )


def test_the_item_s_own_score_is_read_wherever_it_stands() -> None:
    def own(question: Question) -> tuple[float, float]:
        return (4.0, 0.0) if question.first in ITEMS else (0.0, 4.0)

    for order, answers in (("random", 12), ("both", 24)):
        base = Base(own)
        found = calibrated(base, per_level=4, order=order).score(ITEMS[:1])
        assert found.scores.tolist() == [[4.0]] and found.n_valid.tolist() == [answers]
        first = sum(question.first == ITEMS[0] for question in base.asked)
        assert 0 < first < answers and (order == "random" or first == 12)


def test_levels_count_alike_or_as_often_as_they_occur() -> None:
    pool = POOL + [
        Example(f"x{i}", f"x{i}", RatingInput("", f"more {i}"), {"mood": 4.0}) for i in range(4)
    ]
    labels = {example.input: example.labels["mood"] for example in pool}

    def as_the_anchor(question: Question) -> tuple[float, float]:
        value = labels.get(question.first, labels.get(question.second))
        return value, value

    uniform = calibrated(Base(as_the_anchor), pool).score(ITEMS[:1]).scores[0, 0]
    prior = calibrated(Base(as_the_anchor), pool, weights="prior").score(ITEMS[:1]).scores[0, 0]
    assert uniform == pytest.approx((0 + 1 + 4) / 3)
    assert prior == pytest.approx((4 * 0 + 4 * 1 + 8 * 4) / 16)


def test_what_is_drawn_depends_on_the_item_alone() -> None:
    def by_anchor(question: Question) -> tuple[float, float]:
        text = (question.second if question.first in ITEMS else question.first).response
        value = int(text.removeprefix("text ")) / 11 * 4
        return value, value

    rater = calibrated(Base(by_anchor))
    together = rater.score(ITEMS).scores[:, 0].tolist()
    assert [rater.score([item]).scores[0, 0] for item in reversed(ITEMS)] == together[::-1]
    other = calibrated(Base(by_anchor), seed=1).score(ITEMS).scores[:, 0].tolist()
    assert len(set(together)) > 1 and other != together


def test_without_a_valid_answer_the_standard_score_stays_and_is_flagged() -> None:
    def unread(question: Question) -> tuple[float, float] | None:
        return None if ITEMS[1] in (question.first, question.second) else (1.0, 1.0)

    rater = calibrated(Base(unread), per_level=2)
    found = rater.score([*ITEMS, RatingInput("", " ")])
    assert found.scores[:3, 0].tolist() == [1.0, 4.0, 1.0] and np.isnan(found.scores[3, 0])
    assert found.parse_failed.tolist() == [False, True, False, False]
    assert found.n_valid.tolist() == [6, 0, 6, 0]
    assert rater.counts == {"asked": 18, "valid": 12, "fallback": 1, "no anchor": 0}
    assert found.warnings == (
        "it is only a test.",
        "Rater test: of 18 comparisons with anchors 12 gave a readable answer; 1 of 3 scores had none "
        "and are those without calibration.",
    )
    assert calibrated(Base(lambda q: (1.0, 1.0))).score(ITEMS).warnings == ("it is only a test.",)


def test_a_dimension_without_anchors_is_refused() -> None:
    other = Dimension("warmth", 0.0, 1.0, "interval", (0.0, 1.0))
    with pytest.raises(UserError, match="test: no anchor has a label of 'warmth'"):
        calibrated(Base(None, dimensions=(MOOD, other)))
