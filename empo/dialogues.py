"""Turns, dialogues and exchanges: what a corpus becomes before anything is trained or measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance: role `user` is the speaker with the emotion, `assistant` the listener."""

    role: Role
    text: str

    def message(self) -> dict[str, str]:
        """The turn as a chat message."""
        return {"role": self.role, "content": self.text}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A context that ends on a speaker turn, and the listener's reply to it.

    The unit of preference, generation and evaluation: the target is the last listener turn of a
    dialogue; a speaker turn after it is dropped.
    """

    id: str
    emotion: str
    context: tuple[Turn, ...]
    reply: str

    def messages(self) -> list[dict[str, str]]:
        """The context as chat messages."""
        return [turn.message() for turn in self.context]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole dialogue with its emotion label; turns alternate and begin with the speaker."""

    id: str
    emotion: str
    situation: str
    turns: tuple[Turn, ...]

    def messages(self) -> list[dict[str, str]]:
        """All turns as chat messages."""
        return [turn.message() for turn in self.turns]

    def exchange(self) -> Exchange:
        """The last listener turn with everything before it as context."""
        last = len(self.turns) - 1
        if self.turns[last].role == "user":
            last -= 1
        return Exchange(self.id, self.emotion, self.turns[:last], self.turns[last].text)


def exchanges(dialogues: Iterable[Dialogue]) -> list[Exchange]:
    """One exchange per dialogue, in order."""
    return [dialogue.exchange() for dialogue in dialogues]
