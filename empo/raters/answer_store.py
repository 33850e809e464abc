"""The SQLite file in which the answers of endpoints are kept: each the moment it arrives.

Answers cost money and time, so a run that was stopped, or another one with the same questions, must
not ask again. Several processes can share the file; the log needs a local disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.records import Message
from empo.sqlite_file import Kind, SqliteFile, default_cache

_KIND = Kind(
    holds="answers",
    application=0x456D5141,  # "EmQA"
    schema=1,
    table="answers",
    columns=("key", "said", "well_formed", "input_tokens", "output_tokens", "served"),
    create="""CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    said TEXT NOT NULL,
    well_formed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    served TEXT NOT NULL
) WITHOUT ROWID""",
    write_ahead=True,
)


def default_answers() -> Path:
    """Where answers are kept: answers.sqlite in the user's cache folder."""
    return default_cache("answers.sqlite")


@dataclass(frozen=True, slots=True)
class Said:
    """What an endpoint answered.

    `well_formed` is false where the body was no chat completion with a text (`text` is then its
    beginning), and where the text was cut off (`finish_reason` length). `served` names the model as the endpoint itself does; token counts are 0 where it
    gives none.
    """

    text: str
    well_formed: bool
    input_tokens: int = 0
    output_tokens: int = 0
    served: str = ""


def key_of(
    model: str, base_url: str, messages: Sequence[Message], request: Mapping[str, Any]
) -> bytes:
    """Digest of all that an answer depends on: model, address, messages, sampling settings."""
    asked = [model, base_url, [m.model_dump() for m in messages], dict(request)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


class AnswerStore:
    """Answers by key in one file; for what is refused, see `SqliteFile`."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file and check it."""
        self._file = SqliteFile(Path(path), _KIND)
        self._file.prepare()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Said]:
        """The answers that are there. Raises UserError where a row is none."""
        found: dict[bytes, Said] = {}
        for key, (text, well_formed, read, written, served) in self._file.read(keys).items():
            typed = isinstance(text, str) and isinstance(served, str)
            if not typed or not all(isinstance(n, int) for n in (well_formed, read, written)):
                raise self._file.damaged("a row is no answer")
            found[key] = Said(text, bool(well_formed), read, written, served)
        return found

    def write(self, key: bytes, said: Said) -> None:
        """Keep an answer; one that is there already stays."""
        row = (key, said.text, said.well_formed, said.input_tokens, said.output_tokens, said.served)
        self._file.write([row])
