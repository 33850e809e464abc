"""Compose the sample corpus from the hand-written sentences in ``material.yaml``.

The corpus has the columns of EmpatheticDialogues: unquoted fields, ``_comma_`` for a comma
inside a field, utterance numbers from 1, odd for the speaker and even for the listener. The
same material and seed always give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
LEVEL_HEADER = ["reply", "emotion", "emotional_reaction", "interpretation", "exploration"]
PARTS = ("reactions", "interpretations", "explorations")
LEVELS = ("weak", "strong")
# How often a reply has one, two and three (emotional) or one and two (neutral) sentences;
# one-sentence replies occur in train only.
EMOTIONAL_LENGTHS = (0.3, 0.5, 0.2)
NEUTRAL_LENGTHS = (0.4, 0.6)
# Dialogues per emotion in each file.
COUNTS = {"train": 100, "valid": 8, "test": 10}
BASE_COUNTS = {"train": 60, "valid": 8}
NEUTRAL_SHARE = 0.15  # listener replies without empathy in train, valid and test
BASE_NEUTRAL_SHARE = 0.75  # the same in base/train.csv; base/valid.csv is all neutral
CONTINUE_SHARE = 0.6  # dialogues with a second exchange
BASE_CONTINUE_SHARE = 0.4
THANKS_SHARE = 0.1  # dialogues that end on a turn of the speaker


@dataclass(frozen=True)
class Reply:
    """A listener reply: its sentences, its emotion (or ``neutral``) and its three levels."""

    sentences: tuple[str, ...]
    emotion: str
    levels: tuple[int, int, int]

    @property
    def text(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)


def split_of(sentences: Sequence[str]) -> str:
    """Say which split a reply is reserved for; a reply of one sentence belongs to train."""
    if len(sentences) == 1:
        return "train"
    digest = hashlib.sha256(" ".join(sentences).encode("utf-8")).digest()
    share = int.from_bytes(digest[:4], "big") % 100
    return "train" if share < 70 else "valid" if share < 84 else "test"


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Draw one item; built on ``random()`` alone, whose values no Python release changes."""
    return items[int(rng.random() * len(items))]


def draw_length(rng: random.Random, shares: Sequence[float], least: int) -> int:
    """Draw a number of sentences, at least ``least``; ``shares[0]`` is the share of one."""
    rest = rng.random() * sum(shares[least - 1 :])
    for length in range(least, len(shares)):
        rest -= shares[length - 1]
        if rest < 0:
            return length
    return len(shares)


class Composer:
    """Draws dialogues from the material and keeps every listener reply it used."""

    def __init__(self, material: dict[str, Any], seed: int) -> None:
        """Take the parsed material and the seed of all draws."""
        self.neutral = material["neutral"]
        self.thanks = material["thanks"]
        self.emotions = material["emotions"]
        self.seed = seed
        self.replies: dict[str, Reply] = {}
        self.next_conversation = 0

    def neutral_reply(self, rng: random.Random, length: int) -> Reply:
        """Draw an opening and a closing, or only one of them."""
        chosen = [pick(rng, self.neutral["openings"]), pick(rng, self.neutral["closings"])]
        if length == 1:
            chosen = [pick(rng, chosen)]
        return Reply(tuple(chosen), "neutral", (0, 0, 0))

    def emotional_reply(self, rng: random.Random, emotion: str, length: int) -> Reply:
        """Draw as many of reaction, interpretation and exploration, in this order, as asked."""
        present = [0, 1, 2]
        while len(present) > length:
            present.remove(pick(rng, present))
        sentences, levels = [], [0, 0, 0]
        for number in present:
            levels[number] = pick(rng, (1, 2))
            choices = self.emotions[emotion][PARTS[number]][LEVELS[levels[number] - 1]]
            sentences.append(pick(rng, choices))
        return Reply(tuple(sentences), emotion, (levels[0], levels[1], levels[2]))

    def reply(
        self, rng: random.Random, emotion: str | None, split: str, used: Sequence[str]
    ) -> Reply:
        """Draw a reply (neutral without an emotion) reserved for the split, repeating nothing."""
        shares = EMOTIONAL_LENGTHS if emotion else NEUTRAL_LENGTHS
        length = draw_length(rng, shares, least=1 if split == "train" else 2)
        while True:
            if emotion:
                reply = self.emotional_reply(rng, emotion, length)
            else:
                reply = self.neutral_reply(rng, length)
            if split_of(reply.sentences) == split and not set(reply.sentences) & set(used):
                self.replies[reply.text] = reply
                return reply

    def target(self, rng: random.Random, emotion: str, split: str, base: bool) -> str | None:
        """Choose the emotion a listener answers to, or None for a neutral reply."""
        if not base:
            return None if rng.random() < NEUTRAL_SHARE else emotion
        if split == "valid" or rng.random() < BASE_NEUTRAL_SHARE:
            return None
        return pick(rng, [name for name in self.emotions if name != emotion])

    def dialogue(
        self, rng: random.Random, emotion: str, situation: str, split: str, base: bool
    ) -> list[str]:
        """Compose the turns of one dialogue, the speaker first."""
        own = self.emotions[emotion]
        feeling = pick(rng, own["feelings"])
        first = [situation, feeling] if rng.random() < 0.7 else [feeling, situation]
        answer = self.reply(rng, self.target(rng, emotion, split, base), split, ())
        turns = [" ".join(first), answer.text]
        if rng.random() < (BASE_CONTINUE_SHARE if base else CONTINUE_SHARE):
            more = [pick(rng, own["follow_ups"])]
            if rng.random() < 0.6:
                more.append(pick(rng, [f for f in own["feelings"] if f != feeling]))
            target = self.target(rng, emotion, split, base)
            answer = self.reply(rng, target, split, answer.sentences)
            turns += [" ".join(more), answer.text]
        if rng.random() < THANKS_SHARE:
            turns.append(pick(rng, self.thanks))
        return turns

    def corpus(self, split: str, base: bool = False) -> str:
        """Compose one file of the corpus; base makes it material for the base model."""
        rng = random.Random(f"{self.seed}/{'base/' if base else ''}{split}")
        dialogues = []
        for emotion, own in self.emotions.items():
            situations = own["situations"][split]
            for number in range((BASE_COUNTS if base else COUNTS)[split]):
                situation = situations[number % len(situations)]
                turns = self.dialogue(rng, emotion, situation, split, base)
                dialogues.append((rng.random(), emotion, situation, turns))
        lines = [HEADER]
        for _, emotion, situation, turns in sorted(dialogues):
            name = f"hit:{self.next_conversation // 2}_conv:{self.next_conversation}"
            self.next_conversation += 1
            for index, turn in enumerate(turns, start=1):
                fields = [name, str(index), emotion, situation, str(index % 2), turn, "", ""]
                lines.append(",".join(field.replace(",", "_comma_") for field in fields))
        return "\n".join(lines) + "\n"

    def levels(self) -> str:
        """List every listener reply used so far with its emotion and levels."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(LEVEL_HEADER)
        for text, reply in sorted(self.replies.items()):
            writer.writerow([text, reply.emotion, *reply.levels])
        return stream.getvalue()


def write(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it, so that no half file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Compose all files of the sample corpus."""
    parser = argparse.ArgumentParser(description="Compose the sample corpus.")
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder for the files (default: beside this)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of all draws (default: 7)")
    options = parser.parse_args(argv)
    material = yaml.safe_load((HERE / "material.yaml").read_text(encoding="utf-8"))
    composer = Composer(material, options.seed)
    files = {f"{split}.csv": composer.corpus(split) for split in COUNTS}
    for split in BASE_COUNTS:
        files[f"base/{split}.csv"] = composer.corpus(split, base=True)
    files["levels.csv"] = composer.levels()
    for name, text in files.items():
        write(options.output / name, text)
        print(f"{name}: {text.count(chr(10)) - 1} rows, {len(text.encode('utf-8'))} bytes")


if __name__ == "__main__":
    main()
