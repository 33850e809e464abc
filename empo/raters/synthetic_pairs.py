"""Story pairs written by a language model in another language: what to ask, and what to accept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from empo.corpora.dimensions import Strict
from empo.json_values import decoded
from empo.records import UserError, listed

_ASKED = """Write {n} pairs of short personal stories in {language}. Both stories of a pair are told in the first person, in {low} to {high} words each, and are similar in the empathy that they call for to the degree that a score says: 1 not at all, 4 very much, in steps of 0.5. Aim at these scores: {scores}.
Answer with a JSON list and nothing else. Every entry has the keys "story_A", "story_B", "score" (a number), "theme_A", "theme_B" (a few words each) and "reason" (one sentence on the score)."""

STEPS = tuple(1 + k / 2 for k in range(7))
"""The scores that a pair may have."""


class _Entry(Strict):
    story_A: str
    story_B: str
    score: float | int
    theme_A: str
    theme_B: str
    reason: str


@dataclass(frozen=True)
class SyntheticPair:
    """Two stories, their score, their themes, and why the score fits."""

    story_a: str
    story_b: str
    score: float
    theme_a: str
    theme_b: str
    reason: str


def pair_messages(
    language: str, scores: Sequence[float], words: tuple[int, int] = (40, 120)
) -> list[dict[str, str]]:
    """The messages that ask for one pair per score.

    Raises UserError for a score that is not one of STEPS.
    """
    if wrong := [score for score in scores if score not in STEPS]:
        raise UserError(f"score {wrong[0]:g}: a pair has a score from 1 to 4 in steps of 0.5.")
    asked = ", ".join(f"{score:g}" for score in scores)
    low, high = words
    text = _ASKED.format(n=len(scores), language=language, low=low, high=high, scores=asked)
    return [{"role": "user", "content": text}]


def parse_pairs(
    reply: str, words: tuple[int, int] = (40, 120)
) -> tuple[list[SyntheticPair], list[tuple[int, str]]]:
    """The pairs of a reply, and (place from 1, reason) of every entry that is rejected.

    Strict: a JSON list, exactly the keys, a score that is one of STEPS, stories of `words` length
    that differ, no blank text, no pair twice. A code fence around the list is taken off. A reply
    that is no list, or no JSON as our files are, is one rejection at place 0.
    """
    try:
        entries = decoded(_without_fence(reply))
    except json.JSONDecodeError as error:
        return [], [(0, f"not JSON: {error.msg} at character {error.pos}")]
    except ValueError as error:
        return [], [(0, f"not JSON: {error}")]
    if not isinstance(entries, list):
        return [], [(0, f"a list is expected, not {type(entries).__name__}")]
    found: list[SyntheticPair] = []
    rejected: list[tuple[int, str]] = []
    for place, entry in enumerate(entries, start=1):
        pair = _pair(entry, words)
        if isinstance(pair, SyntheticPair) and any(
            {pair.story_a, pair.story_b} == {other.story_a, other.story_b} for other in found
        ):
            pair = "the pair stands there already"
        if isinstance(pair, SyntheticPair):
            found.append(pair)
        else:
            rejected.append((place, pair))
    return found, rejected


def _pair(entry: Any, words: tuple[int, int]) -> SyntheticPair | str:
    """The pair of an entry, or why it is none."""
    try:
        read = _Entry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{listed(['.'.join(map(str, first['loc']))]) or 'entry'}: {first['msg']}"
    texts = {name: text.strip() for name, text in read.model_dump().items() if name != "score"}
    if blank := [name for name, text in texts.items() if not text]:
        return f"{blank[0]}: blank"
    if read.score not in STEPS:
        return f"score: {read.score:g} is not one of {', '.join(f'{step:g}' for step in STEPS)}"
    for name in ("story_A", "story_B"):
        count = len(texts[name].split())
        if not words[0] <= count <= words[1]:
            return f"{name}: {count} words, not {words[0]} to {words[1]}"
    if texts["story_A"] == texts["story_B"]:
        return "story_B: the same as story_A"
    return SyntheticPair(
        *(texts["story_A"], texts["story_B"], float(read.score)),
        *(texts["theme_A"], texts["theme_B"], texts["reason"]),
    )


def _without_fence(reply: str) -> str:
    lines = reply.strip().split("\n")
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        lines = lines[1:-1]
    return "\n".join(lines)
