"""How dialogues become tokens: system messages, chat template, listener mask, truncation.

Properties that training and generation rely on, each tested: exactly one beginning-of-text token
where the tokenizer has one; the ids of a prompt are a prefix of the ids of prompt plus reply; the
listener mask covers the content and the end-of-text token of every listener turn and nothing else;
no text inside an utterance becomes a control token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from empo.records import UserError, read_text
from empo.templates import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]

SYSTEM_MESSAGE = (
    "You are a warm and attentive listener. Reply to what the other person tells you so that they "
    "feel understood."
)
"""Given to every system except the length-controlled one."""

LENGTH_CONTROLLED_MESSAGE = (
    "You are a warm and attentive listener. Reply to what the other person tells you so that they "
    "feel understood. Keep it short: one or two brief sentences."
)
"""Given to the length-controlled baseline."""

ZEPHYR_TEMPLATE = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
"""Renders byte for byte what Zephyr's own template renders, and marks the listener's tokens."""

_NAMED_TEMPLATES = {"zephyr": ZEPHYR_TEMPLATE}
_MARKERS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}\n?")  # trim_blocks eats the newline
_ROLE_MARKERS = re.compile(r"<\|[^|<>]+\|>|\[/?[A-Z_]+\]|<(?:start|end)_of_turn>")
_PROBE = [
    {"role": "system", "content": "a"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a dialogue and a 0/1 mask of the same length, 1 on the listener's tokens."""

    ids: list[int]
    mask: list[int]


class ChatFormat:
    """A tokenizer, a chat template with listener markers and a system message.

    Raises UserError where the tokenizer has no chat template or no end-of-text token, or where, for
    `training`, the template does not mark the listener's tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        system_message: str | None = SYSTEM_MESSAGE,
        training: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        # lengths are checked here, after oldest turns are dropped: the warning would only mislead
        tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = (
            True
        )
        self.system_message = system_message
        name = tokenizer.name_or_path or "the model"
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {name} has no end-of-text token (eos_token).")
        self.template = self._choose(template, name, training)
        self.eos = tokenizer.eos_token_id
        self._check_renders(template or name)
        default = tokenizer("")["input_ids"]
        self._bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id in default[:1] else []
        added = tokenizer.added_tokens_decoder.values()
        controls = {token.content for token in added if token.special}
        controls |= {*tokenizer.all_special_tokens, *_ROLE_MARKERS.findall(self.template)}
        controls = {text for text in controls if len(text.strip()) > 1}  # must break at a blank
        self._controls = sorted(controls, key=len, reverse=True)
        self.completion = lru_cache(maxsize=None)(self._completion)

    @property
    def plain_template(self) -> str:
        """The template without listener markers, as it is saved with a model."""
        return _MARKERS.sub("", self.template)

    @property
    def sha256(self) -> str:
        """Digest of template and system message: what a prompt looks like."""
        return hashlib.sha256(f"{self.plain_template}\0{self.system_message}".encode()).hexdigest()

    def render(self, messages: Messages, generation_prompt: bool = False) -> str:
        """The text of a dialogue, without the beginning-of-text token."""
        return self.tokenizer.apply_chat_template(
            self._with_system(messages),
            chat_template=self.template,
            add_generation_prompt=generation_prompt,
            tokenize=False,
        )

    def dialogue(self, messages: Messages) -> Encoded:
        """Ids of a whole dialogue, up to the last end-of-text token, with the listener mask."""
        return self._encode(self._with_system(messages))

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a context that ends on the speaker, up to where the listener's reply begins."""
        ids = self.tokenizer.apply_chat_template(
            self._with_system(messages),
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return self._begin(ids)

    def _completion(self, reply: str) -> tuple[int, ...]:
        """Ids of a listener reply: its content and one end-of-text token."""
        messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": reply}]
        encoded = self._encode([self._message(message) for message in messages])
        return tuple(t for t, inside in zip(encoded.ids, encoded.mask, strict=True) if inside)

    def fitting_dialogue(self, messages: Messages, length: int) -> tuple[Encoded | None, int]:
        """The dialogue within `length` tokens and how many of its oldest turns were dropped for it.

        Turns go in twos, so that the speaker still begins; None where not even the last speaker
        turn and its reply fit.
        """
        for dropped in range(0, len(messages) - 1, 2):
            encoded = self.dialogue(messages[dropped:])
            if len(encoded.ids) <= length:
                return encoded, dropped
        return None, 0

    def fitting_prompt(self, messages: Messages, length: int) -> tuple[list[int] | None, int]:
        """The prompt within `length` tokens and the number of oldest turns dropped for it."""
        for dropped in range(0, len(messages), 2):
            ids = self.prompt(messages[dropped:])
            if len(ids) <= length:
                return ids, dropped
        return None, 0

    def contains_control_text(self, text: str) -> bool:
        """Whether a text holds something that the tokenizer or template reads as a control token."""
        return any(control in text for control in self._controls)

    def _choose(self, template: str | None, name: str, training: bool) -> str:
        own = self.tokenizer.chat_template
        if template is not None:
            if template in _NAMED_TEMPLATES:
                chosen = _NAMED_TEMPLATES[template]
            elif Path(template).suffix == ".jinja":
                chosen = read_text(template)
                check_template(chosen, template)
            else:
                raise UserError(
                    f"chat_template: {template!r} is neither one of {', '.join(_NAMED_TEMPLATES)} "
                    "nor a .jinja file."
                )
        elif not own:
            raise UserError(
                f"the tokenizer of {name} has no chat template. "
                "Set `chat_template: zephyr`, or the path of a .jinja file."
            )
        else:
            chosen = next(
                (t for t in _NAMED_TEMPLATES.values() if self._renders_alike(t, str(own))), str(own)
            )
        if training and not _MARKERS.search(chosen):
            raise UserError(
                f"the chat template of {name} does not mark the listener's tokens with "
                "{% generation %} ... {% endgeneration %}. Set `chat_template: zephyr`, or a copy of "
                "the template with these markers as a .jinja file."
            )
        return chosen

    def _check_renders(self, name: str) -> None:
        """Raise UserError where the template makes no text of a speaker's turn."""
        try:
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": "a"}], chat_template=self.template, tokenize=False
            )
        except Exception as error:  # a template can do whatever an expression can
            raise UserError(
                f"{name}: the chat template cannot be used ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]})."
            ) from None

    def _renders_alike(self, ours: str, theirs: str) -> bool:
        def render(template: str) -> str:
            return self.tokenizer.apply_chat_template(
                _PROBE, chat_template=template, add_generation_prompt=True, tokenize=False
            )

        try:
            return render(ours) == render(theirs)
        except (
            Exception
        ):  # a template may refuse the probe (no system role) with an error of its own
            return False

    def _with_system(self, messages: Messages) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system_message}] if self.system_message else []
        return [self._message(message) for message in [*system, *messages]]

    def _message(self, message: dict[str, str]) -> dict[str, str]:
        """The message with a space inside every piece of text that would become a control token."""
        text = message["content"]
        while self.contains_control_text(text):
            for control in self._controls:
                text = text.replace(control, f"{control[0]} {control[1:]}")
        return {"role": message["role"], "content": text}

    def _encode(self, messages: list[dict[str, str]]) -> Encoded:
        encoded = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = list(encoded["input_ids"]), list(encoded["assistant_masks"])
        while ids and ids[-1] != self.eos:  # the newline that the template puts after the last turn
            ids.pop()
            mask.pop()
        begun = self._begin(ids)
        return Encoded(begun, [0] * (len(begun) - len(mask)) + mask)

    def _begin(self, ids: Sequence[int]) -> list[int]:
        ids = list(ids)
        return ids if not self._bos or ids[:1] == self._bos else self._bos + ids
