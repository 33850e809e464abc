"""Synthetic story pairs: what is asked for, and every reason to reject an entry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from empo.raters.synthetic_pairs import SyntheticPair, pair_messages, parse_pairs
from empo.records import UserError

WORDS = (3, 6)
GOOD: dict[str, Any] = {
    "story_A": "My dog ran away.",
    "story_B": "I lost my cat.",
    "score": 3.5,
    "theme_A": "loss",
    "theme_B": "loss",
    "reason": "Both lost an animal.",
}


def entry(**changed: Any) -> dict[str, Any]:
    return {key: value for key, value in (GOOD | changed).items() if value != "GONE"}


def test_the_prompt_names_language_scores_and_keys() -> None:
    ((message),) = pair_messages("Roman Urdu", [1, 2.5], WORDS)
    for part in ("2 pairs", "in Roman Urdu", "scores: 1, 2.5.", "in 3 to 6 words", '"story_A"'):
        assert part in message["content"]
    with pytest.raises(UserError, match="score 2.2: a pair has a score from 1 to 4"):
        pair_messages("Roman Urdu", [2.2])


def test_a_good_reply_is_read_with_or_without_a_fence() -> None:
    text = json.dumps([GOOD, entry(score=1)])
    text = text.replace("I lost my cat.", "I won a race.", 1)
    expected = SyntheticPair(
        "My dog ran away.", "I won a race.", 3.5, "loss", "loss", GOOD["reason"]
    )
    for reply in (text, f"```json\n{text}\n```"):
        found, rejected = parse_pairs(reply, WORDS)
        assert found[0] == expected and found[1].score == 1.0 and rejected == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(story_B="GONE"), "story_B: Field required"),
        (entry(extra="x"), "extra: Extra inputs are not permitted"),
        (entry(score="3"), "score.float: Input should be a valid number"),
        (entry(score=3.2), "score: 3.2 is not one of 1, 1.5, 2, 2.5, 3, 3.5, 4"),
        (entry(score=5), "score: 5 is not one of 1, 1.5, 2, 2.5, 3, 3.5, 4"),
        (entry(reason=" "), "reason: blank"),
        (entry(story_A="Too short."), "story_A: 2 words, not 3 to 6"),
        (entry(story_B="one two three four five six seven"), "story_B: 7 words, not 3 to 6"),
        (entry(story_B=GOOD["story_A"]), "story_B: the same as story_A"),
        (entry(story_A=GOOD["story_B"], story_B=GOOD["story_A"]), "the pair stands there already"),
        ("a text", "entry: Input should be a valid dictionary or instance of _Entry"),
    ],
)
def test_a_malformed_entry_is_rejected_with_the_reason(bad: Any, reason: str) -> None:
    found, rejected = parse_pairs(json.dumps([GOOD, bad]), WORDS)
    assert len(found) == 1 and rejected == [(2, reason)]


def test_a_reply_that_is_no_list_is_one_rejection() -> None:
    assert parse_pairs("Here you are: []") == (
        [],
        [(0, "not JSON: Expecting value at character 0")],
    )
    assert parse_pairs(json.dumps(GOOD)) == ([], [(0, "a list is expected, not dict")])
    assert parse_pairs("") == ([], [(0, "not JSON: Expecting value at character 0")])
