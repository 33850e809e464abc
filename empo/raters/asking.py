"""prompts.json, the file that stands for the weights of a prompted rater: all that moves an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.dialogues import Turn
from empo.raters.folder import PROMPTS
from empo.raters.prompt_questions import Shot
from empo.raters.prompt_templates import Asked, Wording, read_wording
from empo.rating import RatingInput
from empo.records import read_typed, write_json

PROMPTS_SCHEMA = "empo.prompts/1"
UNKNOWN = "unknown"
"""The identity of a hub model whose commit could not be found out."""
REMEDY = "Restore the file, or make the rater again with recipes/rater.py."


@with_config(extra="forbid")
class _Asked(TypedDict):
    dimension: str
    task: str
    definition: str
    answers: list[tuple[float, str]]


@with_config(extra="forbid")
class _Shot(TypedDict):
    context: str | list[tuple[Literal["user", "assistant"], str]]
    response: str
    answer: str


@with_config(extra="forbid")
class _Wording(TypedDict):
    system: str
    user: str


@with_config(extra="forbid")
class _Prompts(TypedDict):
    """prompts.json; `model` is what `open_model` reads."""

    schema: str
    wording: _Wording
    asked: list[_Asked]
    shots: dict[str, list[_Shot]]
    model: dict[str, Any]


_FILE = TypeAdapter(_Prompts)


@dataclasses.dataclass(frozen=True)
class Asking:
    """All that moves an answer: the wording, the dimensions in words, examples by dimension, the
    model's facts (see `open_model`)."""

    wording: Wording
    asked: tuple[Asked, ...]
    shots: Mapping[str, Sequence[Shot]]
    model: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write prompts.json."""
        facts = {
            "schema": PROMPTS_SCHEMA,
            "wording": dataclasses.asdict(self.wording),
            "asked": [dataclasses.asdict(asked) for asked in self.asked],
            "shots": {
                name: [
                    {
                        "context": shot.input.context
                        if isinstance(shot.input.context, str)
                        else [[turn.role, turn.text] for turn in shot.input.context],
                        "response": shot.input.response,
                        "answer": shot.answer,
                    }
                    for shot in shots
                ]
                for name, shots in self.shots.items()
            },
            "model": dict(self.model),
        }
        write_json(folder / PROMPTS, facts)

    @classmethod
    def read(cls, folder: Path) -> Asking:
        """Read prompts.json; UserError where it is none."""
        facts = read_typed(folder / PROMPTS, PROMPTS_SCHEMA, _FILE, REMEDY)
        asked = tuple(
            Asked(a["dimension"], a["task"], a["definition"], tuple(map(tuple, a["answers"])))
            for a in facts["asked"]
        )
        shots = {
            name: [
                Shot(RatingInput(_context(s["context"]), s["response"]), s["answer"]) for s in of
            ]
            for name, of in facts["shots"].items()
        }
        of_stories = "{first}" in facts["wording"]["user"]
        wording = read_wording(
            "stories" if of_stories else "response",
            facts["wording"],
            f"{folder / PROMPTS}, wording",
        )
        return cls(wording, asked, shots, facts["model"])


def _context(found: str | list[list[str]]) -> str | tuple[Turn, ...]:
    return found if isinstance(found, str) else tuple(Turn(role, text) for role, text in found)
