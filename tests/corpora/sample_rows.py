"""Two good dialogues as rows, mappings of other columns, and the files that the tests make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from empo.corpora import Corpus, load_corpus
from empo.dialogues import Dialogue, Turn
from empo.records import UserError

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
GOOD = [
    "hit:0_conv:0,1,sad,My cat died.,1,My cat died_comma_ today. ,,",
    "hit:0_conv:0,2,sad,My cat died.,0, I am so sorry.,,",
    "hit:0_conv:0,3,sad,My cat died.,1,Thanks.,,",
    "hit:0_conv:1,1,joyful,I won.,2,I won!,,",
    "hit:0_conv:1,2,joyful,I won.,3,Well done!,,",
]
DIALOGUES = [
    Dialogue(
        "hit:0_conv:0",
        "sad",
        "My cat died.",
        (
            Turn("user", "My cat died, today."),
            Turn("assistant", "I am so sorry."),
            Turn("user", "Thanks."),
        ),
    ),
    Dialogue(
        "hit:0_conv:1",
        "joyful",
        "I won.",
        (Turn("user", "I won!"), Turn("assistant", "Well done!")),
    ),
]


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """The rows as objects, turn numbers as numbers."""
    rows = [dict(zip(HEADER.split(","), line.split(","), strict=True)) for line in lines]
    return [{**row, "utterance_idx": int(row["utterance_idx"])} for row in rows]


def write_csv(path: Path, lines: list[str], header: str = HEADER, end: str = "\n") -> Path:
    path.write_bytes(end.join([header, *lines, ""]).encode())
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(tmp_path: Path, lines: list[str]) -> Corpus:
    """The two good dialogues and these lines after them, which begin on line 7."""
    return load_corpus(write_csv(tmp_path / "train.csv", [*GOOD, *lines]))


def refusal(source: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(source, **options)
    return str(error.value)


ROWS = """\
dialogue_id: dialog
turn: number
emotion: mood
utterance: text
role: who
role_map: {usr: user, sys: assistant}
label_map: {happy: joyful}
"""
NESTED = """\
dialogue_id: id
turns: dialog
emotion: mood
situation: story
utterance: text
role: who
role_map: {usr: user, sys: assistant}
label_map: {happy: joyful}
"""


def write_mapping(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path
