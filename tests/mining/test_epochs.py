"""Mined epochs: hand-computed choices, counts by reason, and what a margin that is too wide says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from function_raters import FunctionRater, interval
from small_corpus import corpus, draws_of

from empo.choosing import Judge
from empo.dialogues import Exchange
from empo.length_effect import LengthEffect
from empo.mining.candidates import Drawn
from empo.mining.choice import Rule
from empo.mining.epochs import Mine, fewest_pairs, require_enough
from empo.rating import RatingInput
from empo.records import Pair, UserError

WORTH = interval("worth")


def worth() -> Judge:
    """The number that a reply is."""
    return Judge(FunctionRater(lambda pair: [float(pair.response)], WORTH))


def mined(exchanges: list[Exchange], rule: Rule, several: int, judge: Judge | None = None) -> Mine:
    draws = draws_of(exchanges)
    return Mine(draws, exchanges, Drawn(draws, several), rule, judge, several)


def test_the_hardest_of_all_is_the_highest_number() -> None:
    mine = mined(corpus(2, 6), Rule("hardest"), 6, worth())
    epoch = mine.epoch(0)
    rows = list(mine.rows(epoch))
    assert [(r["id"], r["rejected_id"]) for r in rows[:2]] == [("u0", "d5"), ("u1", "d5")]
    assert [(r["score_chosen"], r["score_rejected"]) for r in rows[:2]] == [(50, 5), (50.01, 5)]
    assert [r["rejected_id"] for r in rows[2:]] == ["u1"] * 6  # 50.01 above 50
    for row in rows:
        Pair.model_validate(row)
    facts = epoch.facts
    assert (facts["drawn"], facts["pairs"], facts["exchanges"], facts["dropped"]) == (24, 8, 8, {})
    assert (
        facts["short_of_candidates"] == 6
    )  # the pool of the downs has two replies, six were asked
    assert (facts["distinct_rejected"], facts["most_uses_of_a_reply"]) == (2, 6)
    assert facts["exchanges_by_emotion"] == {
        "down": {"kept": 6, "of": 6},
        "up": {"kept": 2, "of": 2},
    }
    # margins: 45, 45.01 and 0..5 minus 50.01
    assert facts["margins"]["1"] == 45.01 and facts["margins"]["0"] == -50.01
    assert facts["mean_chosen_characters"] == (2 + 5 + 6) / 8
    assert facts["mean_rejected_characters"] == (1 + 1 + 6 * 5) / 8
    assert facts["share_chosen_longer"] == 2 / 8


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    rule = Rule("hardest")
    several = [mined(corpus(3, 9), rule, 2, worth()) for _ in range(2)]
    inorder = [list(several[0].rows(several[0].epoch(e))) for e in range(3)]
    assert list(several[1].rows(several[1].epoch(2))) == inorder[2]
    assert inorder[0] != inorder[1]


def test_a_margin_drops_and_counts() -> None:
    mine = mined(corpus(2, 6), Rule(margin=10.0), 1, worth())
    epoch = mine.epoch(0)
    assert epoch.facts["dropped"] == {"margin": 6}
    assert [row["id"] for row in mine.rows(epoch)] == ["u0", "u1"]
    assert all(row["score_chosen"] - row["score_rejected"] >= 10 for row in mine.rows(epoch))
    assert epoch.facts["exchanges_by_emotion"]["down"] == {"kept": 0, "of": 6}


def test_at_equal_length_no_pair_is_kept_for_its_length_alone() -> None:
    # the humans of the ups are 2 and 5 characters long, those of the downs 1: at 100 a character the
    # downs lead by far at equal length, and their worth is below that of any up
    judge = replace(worth(), length=LengthEffect(100.0, 1.0, 0.9, 9))
    leads, lies = judge.judged([RatingInput("?", "5"), RatingInput("?", "50")], "t")[0]
    assert leads > lies
    for rule, kept in ((Rule("hardest"), 8), (Rule("hardest", margin=1.0), 0)):
        mine = mined(corpus(2, 6), rule, 6, judge)
        facts = mine.epoch(0).facts
        assert facts["exchanges"] == kept
    assert facts["dropped"] == {"margin": 8}


def test_several_rejected_replies_are_a_pair_each() -> None:
    mine = mined(corpus(1, 5), Rule("easiest", 3), 5, worth())
    epoch = mine.epoch(0)
    of_up = [row["rejected_id"] for row in mine.rows(epoch) if row["id"] == "u0"]
    assert of_up == ["d0", "d1", "d2"]
    assert epoch.facts["dropped"] == {"no_candidate": 5}  # their pool has one reply
    assert (epoch.facts["pairs"], epoch.facts["exchanges"]) == (3, 1)


def test_replies_without_a_score_are_counted_and_never_chosen() -> None:
    odd = Judge(
        FunctionRater(
            lambda pair: [math.nan if pair.response in ("5", "50") else float(pair.response)],
            WORTH,
        )
    )
    mine = mined(corpus(2, 6), Rule("hardest", margin=0.0), 6, odd)
    epoch = mine.epoch(0)
    rows = list(mine.rows(epoch))
    assert [(row["id"], row["rejected_id"]) for row in rows] == [("u1", "d4")]
    # u0 and d5 have no score themselves; the others stay below both replies of the ups
    assert epoch.facts["dropped"] == {"chosen_unscored": 2, "margin": 5}
    assert epoch.facts["unscored"] == 2 + 6  # d5 for both ups, u0 for the six downs


def test_without_a_judge_there_are_no_scores() -> None:
    mine = mined(corpus(2, 6), Rule(rejected=2), 2)
    epoch = mine.epoch(0)
    assert epoch.facts["margins"] is None and epoch.facts["unscored"] is None
    assert all("score_chosen" not in row for row in mine.rows(epoch))
    assert epoch.facts["pairs"] == 16


def test_scores_beside_a_plain_draw_may_be_missing() -> None:
    odd = Judge(FunctionRater(lambda pair: [1.0 if pair.response == "50" else math.nan], WORTH))
    mine = mined(corpus(1, 2), Rule(), 1, odd)
    rows = list(mine.rows(mine.epoch(0)))
    assert (rows[0]["score_chosen"], rows[0]["score_rejected"]) == (1.0, None)
    assert len(rows) == 3


def test_a_rater_that_scores_nothing_is_refused() -> None:
    blind = Judge(FunctionRater(lambda pair: [math.nan], WORTH))
    with pytest.raises(UserError) as error:
        mined(corpus(2, 6), Rule("hardest"), 2, blind)
    assert str(error.value) == (
        "the rater gives no score to any of the 8 human replies, so nothing can be chosen by it. See "
        "its flags with `empo rate`, or take another one."
    )


@pytest.mark.parametrize(
    ("asked", "exchanges", "fewest"),
    [(None, 50, 1), (None, 8, 1), (None, 2_000, 20), (None, 19_531, 100), (7, 19_531, 7)],
)
def test_the_fewest_pairs(asked: int | None, exchanges: int, fewest: int) -> None:
    assert fewest_pairs(asked, exchanges) == fewest


def test_a_margin_that_leaves_too_few_says_how_many_there_would_be() -> None:
    mine = mined(corpus(2, 6), Rule(margin=60.0), 6, worth())
    epoch = mine.epoch(0)
    with pytest.raises(UserError) as error:
        require_enough([epoch], 1, 60.0)
    # at the lowest of all candidates: the ups 50 - 0 and 50.01 - 0, the downs 0 - 50, ..., 5 - 50
    assert str(error.value) == (
        "epoch 0: 0 of 8 exchanges have a pair, and --min-pairs is 1. Left out by reason: margin 8. "
        "At --margin 60 0 are left; there would be, at margin: -50: 8; -49.3: 7; -48.3: 6; "
        "-46.5: 4; -21.3: 2; 50: 2. Lower --margin or --min-pairs, or raise --candidates."
    )
    require_enough([epoch], 0, 60.0)


def test_a_margin_that_is_named_is_reached() -> None:
    thirds = Judge(FunctionRater(lambda pair: [float(pair.response) / 3], WORTH))
    draws = draws_of(corpus(2, 2))
    mine = Mine(draws, corpus(2, 2), Drawn(draws, 1), Rule(margin=90.0), thirds)
    with pytest.raises(UserError) as error:
        require_enough([mine.epoch(0)], 1, 90.0)
    # 50.01 / 3 - 0 = 16.67, rounded 16.7, is not reached
    assert "; 16.6: " in str(error.value)
    counts = str(error.value).split("at margin: ")[1].split(". Lower")[0].split("; ")
    assert all(int(part.split(": ")[1]) >= 1 for part in counts)


def test_the_epoch_with_the_fewest_counts() -> None:
    exchanges = corpus(1, 3)
    mine = mined(exchanges, Rule(margin=49.5), 1, worth())
    kept = [mine.epoch(e).facts["exchanges"] for e in range(3)]
    assert sorted(kept) == [0, 0, 1]  # only reply 0 is 49.5 below 50
    with pytest.raises(UserError, match=rf"epoch {kept.index(0)}: 0 of 4 exchanges have a pair"):
        require_enough([mine.epoch(e) for e in range(3)], 1, 49.5)
