"""Corpora with other columns, read by a mapping file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from sample_rows import (
    GOOD,
    NESTED,
    ROWS,
    refusal,
    write_csv,
    write_jsonl,
    write_mapping,
    write_parquet,
)

from empo.corpora import Rejection, load_corpus
from empo.dialogues import Dialogue, Turn


def test_a_mapping_of_rows_reads_a_quoted_csv_with_other_names(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(
        [
            ["who", "text", "mood", "dialog", "number"],
            ["usr", 'I won, "really"!\nYes.', "happy", "d1", 10],
            ["sys", "Well done!", "happy", "d1", 20],
        ]
    )
    (tmp_path / "own.csv").write_text(text.getvalue())
    corpus = load_corpus(tmp_path / "own.csv", mapping=write_mapping(tmp_path, ROWS))
    turns = (Turn("user", 'I won, "really"!\nYes.'), Turn("assistant", "Well done!"))
    assert corpus.dialogues == [Dialogue("d1", "joyful", "", turns)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_mapping_of_nested_turns_reads_one_dialogue_per_row(tmp_path: Path, ending: str) -> None:
    rows = [
        {
            "id": number,
            "mood": "happy",
            "story": "I won.",
            "dialog": [{"who": "usr", "text": "I won!"}, {"who": "sys", "text": "Well done!"}],
        }
        for number in (1, 2)
    ]
    write = {"jsonl": write_jsonl, "parquet": write_parquet}[ending]
    corpus = load_corpus(
        write(tmp_path / f"own.{ending}", rows), mapping=write_mapping(tmp_path, NESTED)
    )
    turns = (Turn("user", "I won!"), Turn("assistant", "Well done!"))
    assert corpus.dialogues == [Dialogue(id, "joyful", "I won.", turns) for id in ("1", "2")]
    assert corpus.rows == 2


def test_without_a_role_column_the_place_of_a_nested_turn_gives_the_role(tmp_path: Path) -> None:
    row = {"id": "a", "mood": "sad", "dialog": [{"text": "x"}, {"text": "y"}]}
    mapping = write_mapping(
        tmp_path, "dialogue_id: id\nturns: dialog\nemotion: mood\nutterance: text\n"
    )
    corpus = load_corpus(write_jsonl(tmp_path / "own.jsonl", [row]), mapping=mapping)
    assert [turn.role for turn in corpus.dialogues[0].turns] == ["user", "assistant"]


def nested(**changes: Any) -> list[dict[str, Any]]:
    turns = [{"who": "usr", "text": "I won!"}, {"who": "sys", "text": "Well done!"}]
    row = {"id": "good", "mood": "happy", "story": "s", "dialog": turns}
    return [row, {**row, "id": "bad", **changes}]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"dialog": "text"}, "column 'dialog' is no list of turns"),
        ({"dialog": ["text", "text"]}, "column 'dialog' is no list of turns"),
        ({"dialog": [{"who": "usr", "text": "x"}]}, "fewer than 2 turns"),
        ({"dialog": [{"who": "usr"}, {"who": "sys", "text": "y"}]}, "empty utterance"),
        ({"dialog": [{"who": "bot", "text": "x"}]}, "unknown role 'bot' (see role_map)"),
        ({"mood": "glad"}, "unknown emotion 'glad'"),
        pytest.param(
            {"dialog": []},
            "fewer than 2 turns",
        ),
    ],
)
def test_a_bad_nested_dialogue_is_left_out(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", nested(**changes))
    corpus = load_corpus(path, mapping=write_mapping(tmp_path, NESTED))
    assert [dialogue.id for dialogue in corpus.dialogues] == ["good"]
    assert corpus.rejected == [Rejection("bad", reason, "line 2")]


def test_a_nested_dialogue_id_that_occurs_twice_is_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [*nested(), *nested()[1:]])
    corpus = load_corpus(path, mapping=write_mapping(tmp_path, NESTED))
    assert corpus.rejected == [Rejection("bad", "dialogue id occurs twice", "lines 2-3")]


@pytest.mark.parametrize(
    "text, told",
    [
        (ROWS + "turns: dialog\n", "give either `turn` (one row per turn) or `turns`"),
        (ROWS.replace("turn: number\n", ""), "give either `turn` (one row per turn) or `turns`"),
        (ROWS + "quoting: some\n", "quoting: 'some' does not fit: input should be 'none' or"),
        (ROWS.replace("emotion:", "emotions:"), "emotions: no such setting; did you mean emotion?"),
    ],
)
def test_a_mapping_file_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    path = write_csv(tmp_path / "train.csv", GOOD)
    assert told in refusal(path, mapping=write_mapping(tmp_path, text))
