"""Questions of a prompted rater: a wording filled with an input, cut where it is too long.

A context loses its beginning; the response, the instruction and the examples are never cut. Of two
alike texts both lose their end, to the same number of words. Every cut is flagged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from empo.dialogues import Turn
from empo.raters.chat_models import ChatModel, ChatQuestion
from empo.raters.prompt_templates import Asked, Item, Wording
from empo.rating import RatingInput
from empo.records import Message

NOTHING = "(nothing)"
"""Stands for an empty context."""
_NAMES = {"user": "Speaker", "assistant": "Listener"}
_NAMED_WORD = re.compile(rf"(?:^(?:{'|'.join(_NAMES.values())}): )?\S+", re.MULTILINE)
"""A name goes with the first word of its turn, so that a cut is always one of a text."""


@dataclass(frozen=True)
class Shot:
    """An example that is shown before the question: an input and the answer to it."""

    input: RatingInput
    answer: str


@dataclass(frozen=True)
class Fitted:
    """A question that fits, and what was cut for it."""

    question: ChatQuestion
    context_cut: bool = False
    response_cut: bool = False


class QuestionWriter:
    """Writes questions of one wording for a model, at most `max_length` tokens with the answer.

    `turns` are the turns of the context that are read.
    """

    def __init__(
        self, model: ChatModel, item: Item, wording: Wording, turns: int, max_length: int
    ) -> None:
        self.model, self.item, self.wording = model, item, wording
        self.turns, self.max_length = turns, max_length

    def question(
        self, pair: RatingInput, asked: Asked, shots: Sequence[Shot] = (), reverse: bool = False
    ) -> Fitted | None:
        """The question about an input, its two texts in the other order with `reverse`.

        None where a text is blank, or it does not fit even without its context.
        """
        if not pair.response.strip():
            return None
        if self.item == "stories":
            return self._of_two(pair, asked, shots, reverse)
        context = self.context(pair)
        starts = [found.start() for found in _NAMED_WORD.finditer(context)]

        def written(words: int) -> ChatQuestion:
            kept = context[starts[len(starts) - words] :] if words else NOTHING
            return self._written({"context": kept, "response": pair.response}, asked, shots)

        words = self._most(len(starts), written)
        return None if words is None else Fitted(written(words), words < len(starts))

    def context(self, pair: RatingInput) -> str:
        """The turns that are read, a line each, named where there are several."""
        last = pair.turns[max(0, len(pair.turns) - self.turns) :]
        turns = [turn for turn in last if turn.text.strip()] if self.turns else []
        return turns[0].text if len(turns) == 1 else "\n".join(map(_line, turns))

    def _of_two(
        self, pair: RatingInput, asked: Asked, shots: Sequence[Shot], reverse: bool
    ) -> Fitted | None:
        if not pair.prompt.strip():
            return None
        texts = (pair.prompt, pair.response)
        ends = [[found.end() for found in re.finditer(r"\S+", text)] for text in texts]
        longest = max(map(len, ends))

        def written(words: int) -> ChatQuestion:
            kept = [
                text if words >= len(end) else text[: end[words - 1]]
                for text, end in zip(texts, ends, strict=True)
            ]
            first, second = reversed(kept) if reverse else kept
            return self._written({"first": first, "second": second}, asked, shots)

        words = self._most(longest, written, least=1)
        if words is None:
            return None
        return Fitted(written(words), words < len(ends[0]), words < len(ends[1]))

    def _most(
        self, words: int, written: Callable[[int], ChatQuestion], least: int = 0
    ) -> int | None:
        """The most words, found by halving, with which a question fits; None where none does."""

        def fits(number: int) -> bool:
            return self.model.length(written(number).messages) <= self.max_length

        if fits(words):
            return words
        if words <= least or not fits(least):
            return None
        low, high = least, words
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _written(self, texts: dict[str, str], asked: Asked, shots: Sequence[Shot]) -> ChatQuestion:
        system, user = self.wording.filled(asked, texts)
        messages = [Message(role="system", content=system)]
        for shot in shots:
            of = self._texts(shot.input)
            messages.append(Message(role="user", content=self.wording.filled(asked, of)[1]))
            messages.append(Message(role="assistant", content=shot.answer))
        messages.append(Message(role="user", content=user))
        return ChatQuestion(tuple(messages), asked.options)

    def _texts(self, pair: RatingInput) -> dict[str, str]:
        if self.item == "stories":
            return {"first": pair.prompt, "second": pair.response}
        return {"context": self.context(pair) or NOTHING, "response": pair.response}


def _line(turn: Turn) -> str:
    return f"{_NAMES[turn.role]}: {turn.text}"
