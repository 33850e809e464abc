"""A synthetic corpus of any size in the format of EmpatheticDialogues, for benchmarks/scale.py.

Turns are frames of plain English filled with invented words. The frequencies of these follow Zipf's
law, and the length of a turn follows the replies of `ed_lengths.csv`, so that vocabulary and
repeated n-grams grow with the corpus as in real text. It means nothing.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from empo.emotions import LABELS
from empo.records import atomic

COLUMNS = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
VOCABULARY = 20_000
TURNS = {2: 3, 3: 6, 4: 74, 5: 6, 6: 9, 8: 2}
"""Number of turns of a dialogue -> its weight; an odd one ends on the speaker."""

SPEAKER = (
    "Yesterday the {} came back and I did not know what to say.",
    "I have been waiting for the {} since spring.",
    "My brother told me about the {} and I keep thinking of it.",
    "We found the {} behind the house.",
    "Nobody asked me before they took the {} away.",
    "It is only a {} but it matters to me.",
    "I am not sure how the {} will end.",
    "Last year I would have laughed about the {}.",
    "They finally called me because of the {}!",
    "Do you know what it is like to lose a {}?",
)
LISTENER = (
    "That must have been a hard {} for you.",
    "Oh no, I hope the {} gets better soon.",
    "How wonderful, you earned this {}!",
    "What did you do about the {} then?",
    "I can see why the {} stays on your mind.",
    "Did somebody help you with the {}?",
    "You were brave with that {}.",
    "I would be upset about the {} too.",
    "It sounds as if the {} means a lot to you.",
    "Tell me more about the {}.",
)


def write_corpus(path: Path, dialogues: int, seed: int) -> int:
    """Write a corpus file and return its number of rows; the same arguments give the same bytes."""
    rows = 0
    with atomic(path) as file:
        file.write(COLUMNS + "\n")
        for number, (emotion, turns) in enumerate(compose(dialogues, seed)):
            name = f"hit:{number // 2}_conv:{number}"
            for place, turn in enumerate(turns, start=1):
                fields = [name, str(place), emotion, turns[0], str(place % 2), turn, "", ""]
                file.write(",".join(field.replace(",", "_comma_") for field in fields) + "\n")
            rows += len(turns)
    return rows


def compose(dialogues: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Emotion and turns of each dialogue."""
    rng = random.Random(f"scale/{seed}")
    words = _vocabulary(rng)
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    lengths = _reply_lengths()
    for number in range(dialogues):
        (count,) = rng.choices(list(TURNS), list(TURNS.values()))
        turns = []
        for place in range(count):
            frame = rng.choice(LISTENER if place % 2 else SPEAKER)
            room = rng.choice(lengths) - frame.count(" ")
            filling = rng.choices(words, cum_weights=weights, k=max(1, room))
            turns.append(frame.format(" ".join(filling)))
        yield LABELS[number % len(LABELS)], turns


def _vocabulary(rng: random.Random) -> list[str]:
    """Invented words, the more frequent ones shorter on average; none occurs twice."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        syllables = 1 if len(words) < 200 else 2 if len(words) < 3_000 else 3
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables))
        words[word + rng.choice(("", "n", "r", "s", "t"))] = None
    return list(words)


def _reply_lengths() -> list[int]:
    """Words of the human replies: tokens without the end of text, 1.2 tokens a word."""
    with Path(__file__).with_name("ed_lengths.csv").open(encoding="utf-8") as file:
        return [max(1, round((int(row["chosen"]) - 1) / 1.2)) for row in csv.DictReader(file)]
