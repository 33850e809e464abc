"""Which candidates are rejected, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo.mining.choice import Rule

NAN = math.nan
OWN = 5.0
SCORES = [4.0, NAN, 1.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        (Rule(), [0]),
        (Rule(rejected=2), [0, 1]),  # scores do not matter
        (Rule("hardest"), [4]),
        (Rule("hardest", 3), [4, 0, 3]),  # the first of two that are equal comes first
        (Rule("easiest"), [2]),
        (Rule("easiest", 2), [2, 0]),
        (Rule(margin=1.0), [0]),  # 5 - 4 >= 1
        (Rule(margin=1.5), [2]),
        (Rule("hardest", margin=0.0), [0]),  # 6 is above the own reply
        (Rule("hardest", 2, margin=1.0), [0, 3]),
        (Rule("easiest", margin=-1.0), [2]),
        (Rule("hardest", margin=-1.0), [4]),
    ],
)
def test_places(rule: Rule, places: list[int]) -> None:
    assert rule.places(OWN, SCORES) == (places, None)


@pytest.mark.parametrize(
    ("rule", "own", "scores", "reason"),
    [
        (Rule(), OWN, [], "no_candidate"),
        (Rule(rejected=3), OWN, [1.0, 2.0], "no_candidate"),
        (Rule(margin=0.0), NAN, [1.0], "chosen_unscored"),
        (Rule("hardest"), OWN, [NAN, NAN], "candidates_unscored"),
        (Rule("hardest", 2), OWN, [NAN, 1.0], "candidates_unscored"),
        (Rule(margin=4.5), OWN, SCORES, "margin"),
        (Rule(rejected=2, margin=2.0), OWN, SCORES, "margin"),
    ],
)
def test_reasons(rule: Rule, own: float, scores: list[float], reason: str) -> None:
    assert rule.places(own, scores) == ([], reason)


def test_a_choice_without_a_margin_needs_no_score_of_the_own_reply() -> None:
    assert Rule("hardest").places(NAN, [1.0, 2.0]) == ([1], None)


def test_the_widest_margin_by_hand() -> None:
    assert Rule().widest(OWN, SCORES) == 4.0  # 5 - 1
    assert Rule(rejected=2).widest(OWN, SCORES) == 1.0  # 5 - 4
    assert math.isnan(Rule(rejected=5).widest(OWN, SCORES))  # one has no score
    assert math.isnan(Rule().widest(NAN, SCORES))


score = st.one_of(st.just(NAN), st.integers(0, 6).map(float))


@given(
    st.sampled_from(["random", "hardest", "easiest"]),
    st.integers(1, 3),
    st.integers(-3, 6).map(float),
    score,
    st.lists(score, max_size=6),
)
def test_the_widest_margin_is_where_pairs_end(
    choose: str, rejected: int, margin: float, own: float, scores: list[float]
) -> None:
    rule = Rule(choose, rejected, margin)
    places, reason = rule.places(own, scores)
    assert bool(places) == (rule.widest(own, scores) >= margin) == (reason is None)
    assert len(set(places)) == len(places) == (rejected if places else 0)
    assert all(own - scores[i] >= margin for i in places)
