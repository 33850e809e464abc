"""Prompts of a scoring language model: templates filled, and cut where they are too long.

What does not fit is cut from the left: of the background, then of the turns before, and, only where
that is allowed, of what is scored itself. Two stories are cut at their ends, the longer one first. The
question and the answer are never cut, and every cut of a text is flagged; that of a name before it is
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from empo.dialogues import Turn
from empo.raters.fitting import end_of, start_of, token_counts
from empo.raters.level_table import LevelTable
from empo.raters.scoring_templates import Family, Templates
from empo.rating import RatingInput

if TYPE_CHECKING:
    from empo.prompts import ChatFormat

SCORE_TOKENS = 32
"""Room for an answer beside the prompt, where it is no text."""
_NEWS = "A news story:"
_PERSONS = {"user": "A:", "assistant": "B:"}
_NAMES = (_NEWS, *_PERSONS.values())


@dataclass(frozen=True)
class Prompt:
    """A prompt up to where the answer begins; whether context, or what is scored, was cut for it.

    Of two stories the first counts as the context.
    """

    text: str
    context_cut: bool = False
    item_cut: bool = False


class PromptWriter:
    """Fills the templates of one kind of item, in a chat format, for a model of so many tokens.

    `max_length` are the tokens of prompt and answer together, `turns` the turns before that a turn
    is read with (of a dialogue all are). With `cut_item`, what is scored loses its beginning where
    it is too long; without, there is no prompt for it. The turns of a dialogue that is judged as a
    whole, and stories, are always cut.
    """

    def __init__(
        self,
        chat: ChatFormat,
        templates: Templates,
        max_length: int,
        turns: int,
        cut_item: bool = False,
    ) -> None:
        self.chat, self.templates = chat, templates
        self.max_length, self.turns, self.cut_item = max_length, turns, cut_item

    def scored(
        self,
        pair: RatingInput,
        table: LevelTable,
        family: Family = "standard",
        answer_tokens: int = SCORE_TOKENS,
    ) -> Prompt | None:
        """The prompt that asks for one score; None where it does not fit."""
        if self.templates.item == "stories":
            texts = {"first": pair.prompt, "second": pair.response}
            return self._fitted(family, _asked(table), {}, texts, answer_tokens)
        context, text = self._parts(pair)
        return self._fitted(family, _asked(table), {"text": context}, {"text": text}, answer_tokens)

    def contrasted(
        self, first: RatingInput, second: RatingInput, table: LevelTable
    ) -> Prompt | None:
        """The prompt that compares two items, without their background; None where it does not fit."""
        context, texts = {}, {}
        for name, pair in (("first", first), ("second", second)):
            before, texts[name] = self._parts(pair)
            context[name] = {"turns": before["turns"]}
        return self._fitted("contrastive", _asked(table), context, texts, SCORE_TOKENS)

    def played(self, pair: RatingInput, answers: Mapping[str, str]) -> tuple[Prompt | None, str]:
        """The prompt to write an item that has these scores ({label: answer}), and that item."""
        scores = ", ".join(f"{_shown(name)} {answer}" for name, answer in answers.items())
        context, text = self._parts(pair)
        if self.templates.item == "dialogue":
            turns = _dialogue(pair)
            last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
            context["turns"], text = _block(turns[:last]), turns[last].text
        tokens = token_counts(self.chat.tokenizer, [text], special=False)[0] + 1
        fixed = {"scores": scores}
        return self._fitted("role_play", fixed, {"text": context}, {}, tokens), text

    def _parts(self, pair: RatingInput) -> tuple[dict[str, str], str]:
        """What stands before an item, in the order in which it is cut, and the item.

        A dialogue that is judged as a whole is all context: its beginning may be cut.
        """
        background = f"{_NEWS}\n{pair.background}\n\n" if pair.background.strip() else ""
        if self.templates.item == "dialogue":
            if _whole(pair):
                return {"background": background, "turns": _block(pair.turns)}, ""
            before = _block(pair.turns).removesuffix("\n")
            reply = _block([Turn("assistant", pair.response)])
            return {"background": background, "turns": before}, reply
        turns = pair.turns[max(0, len(pair.turns) - self.turns) :] if self.turns else ()
        return {"background": background, "turns": _block(turns)}, pair.response

    def _fitted(
        self,
        family: Family,
        fixed: Mapping[str, str],
        context: Mapping[str, Mapping[str, str]],
        texts: Mapping[str, str],
        answer_tokens: int,
    ) -> Prompt | None:
        """The filled template, its parts cut one after another where they are too long.

        `context` are the parts before every one of `texts`. Those of two items lose alike.
        """
        stories = self.templates.item == "stories"
        parts = {(name, of): text for of, ps in context.items() for name, text in ps.items()}
        parts |= {("text", of): text for of, text in texts.items()}
        uncut = dict(parts)
        room = self.max_length - answer_tokens

        def filled() -> tuple[str, int]:
            values = self._values(family, fixed, parts)
            content = self.templates.of(family).format(**values)
            text = self.chat.render([{"role": "user", "content": content}], generation_prompt=True)
            text = text.removeprefix(self.chat.tokenizer.bos_token or "")
            return text, token_counts(self.chat.tokenizer, [text])[0]

        text, length = filled()
        shortened = start_of if stories else end_of
        for kind in ("background", "turns", "text"):
            if kind == "text" and not (stories or self.cut_item):
                break
            keys = [key for key in parts if key[0] == kind]
            while length > room and any(parts[key] for key in keys):
                counts = token_counts(self.chat.tokenizer, [parts[k] for k in keys], special=False)
                (size, longest), *others = sorted(zip(counts, keys, strict=True), reverse=True)
                gap = size - others[0][0] if others else length
                step = max(1, min(length - room, gap + (max(0, length - room - gap) + 1) // 2))
                parts[longest] = shortened(self.chat.tokenizer, parts[longest], size - step)
                text, length = filled()
        cut = {key for key in parts if self._loses_text(key, uncut[key], parts[key])}
        lost = any(_joined(uncut, of) and not _joined(parts, of) for of in texts) or any(
            key in cut and not parts[key] for key in parts if key[0] == "text"
        )
        if length > room or lost:
            return None
        if stories:
            return Prompt(text, ("text", "first") in cut, ("text", "second") in cut)
        return Prompt(text, any(k != "text" for k, _ in cut), any(k == "text" for k, _ in cut))

    def _loses_text(self, key: tuple[str, str], whole: str, kept: str) -> bool:
        """Whether words of a part were cut, and not the name before them alone."""
        if self.templates.item == "stories":
            return bool(whole[len(kept) :].strip())
        lost = whole[: len(whole) - len(kept)].strip()
        named = key[0] != "text" or self.templates.item == "dialogue"
        return bool(lost) and not (named and any(name.startswith(lost) for name in _NAMES))

    def _values(
        self, family: Family, fixed: Mapping[str, str], parts: Mapping[tuple[str, str], str]
    ) -> dict[str, str]:
        """What stands in the placeholders of a template."""
        both = family == "contrastive" or self.templates.item == "stories"
        if both:
            items = {of: _joined(parts, of).strip() for of in ("first", "second")}
            return {"context": "", "text": "", **items, **fixed}
        text = parts.get(("text", "text"), "")
        context = "".join(parts[key] for key in parts if key[0] != "text")
        if self.templates.item == "dialogue":  # its reply is a line of it
            context, text = context + text, ""
        return {"context": context, "text": text, "first": "", "second": "", **fixed}


def _asked(table: LevelTable) -> dict[str, str]:
    lowest, highest = table.answers[0], table.answers[-1]
    return {"label": _shown(table.name), "lowest": lowest, "highest": highest}


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _whole(pair: RatingInput) -> bool:
    """Whether the context of a judged dialogue is all of it, and its response what one person said.

    So are the dialogues of WASSA 2024 read, which judge a person and not a reply.
    """
    said = "\n".join(turn.text for turn in pair.turns if turn.role == "assistant")
    return bool(said) and pair.response == said


def _dialogue(pair: RatingInput) -> tuple[Turn, ...]:
    """All turns of a judged dialogue."""
    return pair.turns if _whole(pair) else (*pair.turns, Turn("assistant", pair.response))


def _joined(parts: Mapping[tuple[str, str], str], of: str) -> str:
    """What stands before an item, and the item."""
    return "".join(text for (_, item), text in parts.items() if item == of)


def _block(turns: Sequence[Turn]) -> str:
    """Turns as lines, the user as person A; empty without any."""
    lines = [f"{_PERSONS[turn.role]} {turn.text}" for turn in turns if turn.text.strip()]
    return "\n".join(lines) + "\n\n" if lines else ""
