"""Chat models as raters ask them: messages in, one of the allowed answers out.

The protocol, what is asked and what comes back, and the model that runs here: of the allowed
answers it gives the one that it finds most likely, so there always is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from tqdm import tqdm

from empo.records import Message, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from empo.prompts import ChatFormat

ANSWER_TOKENS = 16
"""Room for an answer behind the prompt."""
_CHUNK = 16
"""Batches between two steps of the bar."""


@dataclass(frozen=True)
class ChatQuestion:
    """Messages that end on the user's, and what may be answered."""

    messages: tuple[Message, ...]
    allowed: tuple[str, ...]


@dataclass(frozen=True)
class ChatAnswer:
    """The index of the allowed answer that was given, None where none could be read.

    `log_probs` are the log-likelihoods of the allowed answers, where the model gives them. `unread`
    is what was said, one text per try, that is no allowed answer.
    """

    choice: int | None
    log_probs: tuple[float, ...] | None = None
    unread: tuple[str, ...] = ()


class ChatModel(Protocol):
    """Anything that answers questions."""

    limit: int | None
    """What a prompt and its answer may measure together; None where nobody knows."""

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, with room for the answer."""
        ...

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        """Answers in the order of the questions."""
        ...


class LocalChatModel:
    """A causal chat model of transformers, in this process.

    Raises UserError where `chat_template` (zephyr, a .jinja file, or None for the tokenizer's own)
    cannot be used. A template without a system role gets the system message at the head of the
    first user message.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        device: str | None = None,
    ) -> None:
        import torch

        from empo.prompts import ChatFormat

        self.model, self.tokenizer = model, tokenizer
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.chat = ChatFormat(tokenizer, chat_template, None, training=False)
        self.limit: int | None = getattr(model.config, "max_position_embeddings", None)
        self.template: str | None = self.chat.plain_template
        self._takes_system = _takes_system(self.chat)

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as the model reads it, without the beginning-of-text token."""
        rows = [message.model_dump() for message in messages]
        if not self._takes_system and rows[0]["role"] == "system":
            system, first, *rest = rows
            rows = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        text = self.chat.render(rows, generation_prompt=True)
        return text.removeprefix(self.tokenizer.bos_token or "")

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, with room for the answer."""
        from empo.raters.fitting import token_counts

        return token_counts(self.tokenizer, [self.text(messages)])[0] + ANSWER_TOKENS

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        """The most likely of each question's allowed answers, the first of equals.

        The batch size changes nothing but the speed, up to rounding.
        """
        from empo.raters.answers import answer_log_probs

        self.model.to(self.device).eval()
        found: list[ChatAnswer] = [ChatAnswer(None)] * len(questions)
        places: dict[tuple[str, ...], list[int]] = {}
        for i, question in enumerate(questions):
            places.setdefault(question.allowed, []).append(i)
        bar = tqdm(total=len(questions), desc="answers", unit="prompt", delay=5, leave=False)
        for allowed, of in places.items():
            for start in range(0, len(of), _CHUNK * batch_size):
                some = of[start : start + _CHUNK * batch_size]
                texts = [self.text(questions[i].messages) for i in some]
                likely = answer_log_probs(self.model, self.tokenizer, texts, allowed, batch_size)
                for i, row in zip(some, likely, strict=True):
                    found[i] = ChatAnswer(int(row.argmax()), tuple(row.tolist()))
                bar.update(len(some))
        bar.close()
        return found


class LocalSeq2SeqModel:
    """An encoder-decoder of transformers (Flan-T5), in this process.

    It has no chat template: it reads the messages one after another, a blank line between them.
    """

    template: str | None = None

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: str | None = None
    ) -> None:
        import torch

        from empo.raters.encoders import positions

        self.model, self.tokenizer = model, tokenizer
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.limit = positions(model.config, tokenizer)

    def text(self, messages: Sequence[Message]) -> str:
        """The messages as the model reads them."""
        return "\n\n".join(message.content for message in messages)

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt; the answer has no part in it."""
        from empo.raters.fitting import token_counts

        return token_counts(self.tokenizer, [self.text(messages)])[0]

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        """The most likely of each question's allowed answers, the first of equals."""
        import torch

        from empo.raters.answers import option_log_likelihoods

        self.model.to(self.device).eval()
        texts = [self.text(question.messages) for question in questions]
        found: list[ChatAnswer] = [ChatAnswer(None)] * len(questions)
        order = sorted(range(len(texts)), key=lambda i: (questions[i].allowed, len(texts[i])))
        bar = tqdm(total=len(order), desc="answers", unit="prompt", delay=5, leave=False)
        for allowed, same in groupby(order, key=lambda i: questions[i].allowed):
            ids = self.tokenizer(list(allowed), add_special_tokens=False).input_ids
            options = [[*answer, self.tokenizer.eos_token_id] for answer in ids]
            of = list(same)
            for start in range(0, len(of), batch_size):
                some = of[start : start + batch_size]
                batch = self.tokenizer([texts[i] for i in some], padding=True, return_tensors="pt")
                batch = batch.to(self.device)
                with torch.inference_mode():
                    likely = option_log_likelihoods(
                        self.model, batch.input_ids, batch.attention_mask, options
                    )
                for i, row in zip(some, likely.cpu().numpy(), strict=True):
                    found[i] = ChatAnswer(int(row.argmax()), tuple(row.tolist()))
                bar.update(len(some))
        bar.close()
        return found


def load_local(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    chat_template: str | None = None,
    template: str | None = None,
    device: str | None = None,
) -> LocalChatModel | LocalSeq2SeqModel:
    """The chat model of a folder or hub id: a causal one, or an encoder-decoder.

    `chat_template` names a template (see `LocalChatModel`); `template` is the text of one; an
    encoder-decoder has none. Raises UserError where it cannot be loaded, or lacks a chat template.
    """
    from empo.models import ModelSource, load_config, load_model, load_tokenizer
    from empo.templates import check_template

    source = ModelSource(path, revision=revision)
    if load_config(source).is_encoder_decoder:
        from empo.raters.encoders import load_seq2seq

        if chat_template is not None or template is not None:
            raise UserError(
                f"{path}: an encoder-decoder has no chat template; leave chat_template out."
            )
        return LocalSeq2SeqModel(*load_seq2seq(path, dtype, revision), device)
    tokenizer = load_tokenizer(source)
    if template is not None:
        check_template(template, path)
        tokenizer.chat_template = template
    return LocalChatModel(load_model(source, dtype), tokenizer, chat_template, device)


def _takes_system(chat: ChatFormat) -> bool:
    """Whether the template has a place for a system message; some refuse it, some leave it out."""
    probe = [{"role": "system", "content": "systemic"}, {"role": "user", "content": "a"}]
    try:
        return "systemic" in chat.render(probe, generation_prompt=True)
    except Exception:  # a template raises what it likes
        return False
