"""Prompts of a scoring language model: templates filled, and cut where they are too long.

What does not fit is cut from the left: of the background, then of the turns before, then of what is
scored itself. The question and the answer are never cut, and every cut is flagged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from empo.dialogues import Turn
from empo.raters.fitting import end_of, token_counts
from empo.raters.level_table import LevelTable
from empo.raters.scoring_templates import Family, Templates
from empo.rating import RatingInput

if TYPE_CHECKING:
    from empo.prompts import ChatFormat

ANSWER_TOKENS = 32
"""Room for an answer beside the prompt, where it is no text."""


@dataclass(frozen=True)
class Prompt:
    """A prompt up to where the answer begins; whether context, or what is scored, was cut for it."""

    text: str
    context_cut: bool = False
    item_cut: bool = False


class PromptWriter:
    """Fills the templates of one kind of item, in a chat format, for a model of so many tokens.

    `max_length` are the tokens of prompt and answer together, `turns` the turns before that a turn
    is read with (of a dialogue all are).
    """

    def __init__(self, chat: ChatFormat, templates: Templates, max_length: int, turns: int) -> None:
        self.chat, self.templates = chat, templates
        self.max_length, self.turns = max_length, turns

    def scored(
        self,
        pair: RatingInput,
        table: LevelTable,
        family: Family = "standard",
        answer_tokens: int = ANSWER_TOKENS,
    ) -> Prompt | None:
        """The prompt that asks for one score; None where it does not fit even without its texts."""
        fixed = _asked(table)
        if self.templates.item == "stories":
            texts = {"first": pair.prompt, "second": pair.response}
            return self._fitted(
                family, fixed | {"context": "", "text": ""}, {}, texts, answer_tokens
            )
        context, text = self._parts(pair)
        fixed |= {"first": "", "second": ""}
        return self._fitted(family, fixed, context, {"text": text}, answer_tokens)

    def contrasted(
        self, first: RatingInput, second: RatingInput, table: LevelTable
    ) -> Prompt | None:
        """The prompt that compares two items, without their background."""
        texts = {"first": self._alone(first), "second": self._alone(second)}
        return self._fitted("contrastive", _asked(table), {}, texts, ANSWER_TOKENS)

    def played(self, pair: RatingInput, answers: Mapping[str, str]) -> tuple[Prompt | None, str]:
        """The prompt to write an item that has these scores ({label: answer}), and that item."""
        scores = ", ".join(f"{_shown(name)} {answer}" for name, answer in answers.items())
        context, text = self._parts(pair)
        if self.templates.item == "dialogue":
            turns = _dialogue(pair)
            last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
            context["turns"], text = _block(turns[:last]), turns[last].text
        tokens = token_counts(self.chat.tokenizer, [text], special=False)[0] + 1
        return self._fitted("role_play", {"scores": scores}, context, {}, tokens), text

    def _parts(self, pair: RatingInput) -> tuple[dict[str, str], str]:
        """What stands before an item, in the order in which it is cut, and the item."""
        background = f"A news story:\n{pair.background}\n\n" if pair.background else ""
        if self.templates.item == "dialogue":
            return {"background": background, "turns": _block(_dialogue(pair))}, ""
        turns = pair.turns[max(0, len(pair.turns) - self.turns) :] if self.turns else ()
        return {"background": background, "turns": _block(turns)}, pair.response

    def _alone(self, pair: RatingInput) -> str:
        """An item as one text, without the background."""
        context, text = self._parts(pair)
        return f"{context['turns']}{text}".strip()

    def _fitted(
        self,
        family: Family,
        fixed: Mapping[str, str],
        context: Mapping[str, str],
        texts: Mapping[str, str],
        answer_tokens: int,
    ) -> Prompt | None:
        """The filled template, the parts of `context` cut one after another, then all of `texts`."""
        template = self.templates.of(family)
        context, texts = dict(context), dict(texts)
        room = self.max_length - answer_tokens

        def filled() -> tuple[str, int]:
            values = {"context": "".join(context.values())} | dict(fixed) | texts
            content = template.format(**values)
            text = self.chat.render([{"role": "user", "content": content}], generation_prompt=True)
            text = text.removeprefix(self.chat.tokenizer.bos_token or "")
            return text, token_counts(self.chat.tokenizer, [text])[0]

        text, length = filled()
        cut = {"context": False, "item": False}
        steps: list[tuple[str, dict[str, str], Sequence[str]]]
        steps = [("context", context, [name]) for name in context]
        steps.append(("item", texts, list(texts)))
        for kind, parts, names in steps:
            while length > room and any(parts[name] for name in names):
                cut[kind] = True
                counts = token_counts(self.chat.tokenizer, [parts[n] for n in names], special=False)
                size, name = max(zip(counts, names, strict=True))  # two alike texts lose alike
                step = max(1, (length - room) // len(names))
                parts[name] = end_of(self.chat.tokenizer, parts[name], size - step)
                text, length = filled()
        lost = cut["item"] and not any(texts.values())
        lost |= self.templates.item == "dialogue" and cut["context"] and not context.get("turns")
        if length > room or lost:
            return None
        return Prompt(text, cut["context"], cut["item"])


def _asked(table: LevelTable) -> dict[str, str]:
    lowest, highest = table.answers[0], table.answers[-1]
    return {"label": _shown(table.name), "lowest": lowest, "highest": highest}


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _dialogue(pair: RatingInput) -> tuple[Turn, ...]:
    """All turns of a judged dialogue: the context, and the response after it.

    A response that is all that the assistant said in the context stands there already: so are the
    dialogues of WASSA 2024 read, which judge a person and not a reply.
    """
    said = "\n".join(turn.text for turn in pair.turns if turn.role == "assistant")
    if said and pair.response == said:
        return pair.turns
    return (*pair.turns, Turn("assistant", pair.response))


def _block(turns: Sequence[Turn]) -> str:
    """Turns as lines, the user as person A; empty without any."""
    lines = [f"{'A' if turn.role == 'user' else 'B'}: {turn.text}" for turn in turns if turn.text]
    return "\n".join(lines) + "\n\n" if lines else ""
