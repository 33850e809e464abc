"""The sample corpus: it can be composed again, keeps its splits apart and is well formed."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
SPLITS = ("train", "valid", "test")
CORPORA = (*SPLITS, "base/train", "base/valid")
FILES = [f"{name}.csv" for name in (*CORPORA, "levels")]
PARTS = {
    "reactions": "emotional_reaction",
    "interpretations": "interpretation",
    "explorations": "exploration",
}
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
EMOTIONS = set(
    "afraid angry annoyed anticipating anxious apprehensive ashamed caring confident content "
    "devastated disappointed disgusted embarrassed excited faithful furious grateful guilty "
    "hopeful impressed jealous joyful lonely nostalgic prepared proud sad sentimental surprised "
    "terrified trusting".split()
)


def lines_of(name: str) -> list[str]:
    """The lines of a corpus file without the header; checks header, line ends and encoding."""
    data = (SAMPLE / f"{name}.csv").read_bytes()
    assert b"\r" not in data and data.endswith(b"\n")
    lines = data.decode("utf-8").removesuffix("\n").split("\n")
    assert lines[0] == HEADER
    return lines[1:]


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a corpus file with their commas back in place."""
    return [
        {
            key: value.replace("_comma_", ",")
            for key, value in zip(HEADER.split(","), line.split(","), strict=True)
        }
        for line in lines_of(name)
    ]


def replies_of(name: str) -> set[str]:
    """The distinct listener replies of a corpus file."""
    return {row["utterance"] for row in rows_of(name) if row["speaker_idx"] == "0"}


@pytest.fixture(scope="module")
def material() -> dict[str, Any]:
    """The hand-written sentences."""
    return yaml.safe_load((SAMPLE / "material.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def levels() -> list[dict[str, str]]:
    """The rows of levels.csv."""
    with (SAMPLE / "levels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def sentences(material: dict[str, Any]) -> dict[str, tuple[str, str, int]]:
    """Emotion, part and level of every emotional listener sentence."""
    found: dict[str, tuple[str, str, int]] = {}
    for emotion, own in material["emotions"].items():
        for part, column in PARTS.items():
            for level, strength in enumerate(("weak", "strong"), start=1):
                for sentence in own[part][strength]:
                    assert sentence not in found, f"{sentence!r}: {emotion}, {found[sentence][0]}"
                    found[sentence] = (emotion, column, level)
    return found


def test_composing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLE / "compose.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    composed = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert composed == set(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_another_seed_gives_other_dialogues(tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLE / "compose.py"), "--output", str(tmp_path)]
    subprocess.run([*command, "--seed", "8"], check=True, capture_output=True)
    assert (tmp_path / "train.csv").read_bytes() != (SAMPLE / "train.csv").read_bytes()


def test_whole_sample_is_small() -> None:
    names = [*FILES, "material.yaml", "compose.py", "README.md"]
    assert sum((SAMPLE / name).stat().st_size for name in names) < 3_000_000


@pytest.mark.parametrize("name", CORPORA)
def test_every_emotion_is_there(name: str) -> None:
    assert {row["context"] for row in rows_of(name)} == EMOTIONS


@pytest.mark.parametrize("name", CORPORA)
def test_rows_are_well_formed_and_roles_alternate(name: str) -> None:
    assert all(len(line.split(",")) == 8 and '"' not in line for line in lines_of(name))
    dialogues: dict[str, list[dict[str, str]]] = {}
    previous = None
    for row in rows_of(name):
        assert re.fullmatch(r"hit:\d+_conv:\d+", row["conv_id"])
        assert row["conv_id"] == previous or row["conv_id"] not in dialogues
        previous = row["conv_id"]
        dialogues.setdefault(previous, []).append(row)
        assert row["utterance"].strip() and row["selfeval"] == row["tags"] == ""
    for rows in dialogues.values():
        assert 2 <= len(rows) <= 5
        assert [row["utterance_idx"] for row in rows] == [str(i + 1) for i in range(len(rows))]
        assert [row["speaker_idx"] for row in rows] == list("10101"[: len(rows)])
        assert len({(row["context"], row["prompt"]) for row in rows}) == 1
        assert rows[0]["prompt"] in rows[0]["utterance"]


def test_conversation_names_are_never_used_twice() -> None:
    names = [{row["conv_id"] for row in rows_of(name)} for name in CORPORA]
    assert len(set().union(*names)) == sum(map(len, names))


def test_number_of_dialogues() -> None:
    counts = {name: len({row["conv_id"] for row in rows_of(name)}) for name in SPLITS}
    assert counts == {"train": 3200, "valid": 256, "test": 320}


@pytest.mark.parametrize("one, other", [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_splits_share_no_situation_and_no_reply(one: str, other: str) -> None:
    def both(split: str) -> list[str]:
        return [name for name in CORPORA if name.split("/")[-1] == split]

    for left in both(one):
        for right in both(other):
            prompts = [{row["prompt"] for row in rows_of(name)} for name in (left, right)]
            assert not prompts[0] & prompts[1], (left, right)
            assert not replies_of(left) & replies_of(right), (left, right)


def test_situations_belong_to_one_emotion_and_split(material: dict[str, Any]) -> None:
    assert set(material["emotions"]) == EMOTIONS
    found = [
        situation
        for own in material["emotions"].values()
        for split in SPLITS
        for situation in own["situations"][split]
    ]
    assert len(found) == len(set(found)) == 32 * 15


def test_listener_sentences_belong_to_one_emotion(
    material: dict[str, Any], sentences: dict[str, tuple[str, str, int]]
) -> None:
    neutral = [*material["neutral"]["openings"], *material["neutral"]["closings"]]
    assert len(set(neutral)) == 32
    assert len(sentences) == 32 * 18
    assert not set(neutral) & set(sentences)
    for sentence in [*neutral, *sentences]:
        assert re.fullmatch(r"[^.!?\"]+[.!?]", sentence), sentence
    for sentence, (_, column, _) in sentences.items():
        assert 4 <= len(sentence.split()) <= 12, sentence
        assert sentence.endswith("?") == (column == "exploration"), sentence


def test_levels_cover_every_reply_once(levels: list[dict[str, str]]) -> None:
    listed = [row["reply"] for row in levels]
    assert listed == sorted(set(listed))
    assert set(listed) == set().union(*(replies_of(name) for name in CORPORA))


def test_levels_agree_with_the_parts(
    levels: list[dict[str, str]],
    material: dict[str, Any],
    sentences: dict[str, tuple[str, str, int]],
) -> None:
    neutral = {*material["neutral"]["openings"], *material["neutral"]["closings"]}
    order = list(PARTS.values())
    for row in levels:
        expected = dict.fromkeys(order, 0)
        parts = re.split(r"(?<=[.!?]) ", row["reply"])
        if row["emotion"] == "neutral":
            assert set(parts) <= neutral and len(parts) <= 2
        else:
            assert {sentences[part][0] for part in parts} == {row["emotion"]}
            columns = [sentences[part][1] for part in parts]
            assert columns == [column for column in order if column in columns]
            expected.update({sentences[part][1]: sentences[part][2] for part in parts})
        assert {column: int(row[column]) for column in order} == expected, row["reply"]


@pytest.mark.parametrize("name", CORPORA)
def test_replies_fit_the_emotion(name: str, levels: list[dict[str, str]]) -> None:
    emotion_of = {row["reply"]: row["emotion"] for row in levels}
    rows = [row for row in rows_of(name) if row["speaker_idx"] == "0"]
    emotional = [row for row in rows if emotion_of[row["utterance"]] != "neutral"]
    share = len(emotional) / len(rows)
    if name.startswith("base/"):
        assert all(emotion_of[row["utterance"]] != row["context"] for row in emotional)
        assert share == 0 if name == "base/valid" else 0.2 < share < 0.3
    else:
        assert all(emotion_of[row["utterance"]] == row["context"] for row in emotional)
        assert 0.8 < share < 0.9
