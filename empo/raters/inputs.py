"""Pairs of texts as tokens: what is cut, what is never cut, and where the response lies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from empo.dialogues import Turn
from empo.rating import RatingInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from empo.raters.settings import RaterSettings

Architecture = Literal["bi_encoder", "seeker_attention", "cross_encoder", "window", "seq2seq"]

_NAMES = {"user": "speaker", "assistant": "listener"}
_MARK = "reply"
"""What stands before the response where a model is told in words which turn is meant."""


@dataclass(frozen=True)
class InputSettings:
    """How an input becomes tokens; saved with the model.

    `max_length` are the tokens of a text, without special tokens: of the context for a pair, of the
    whole window for `window` and, beside the instruction, for `seq2seq`. What is over is cut from the left of the context (or its right, see
    `context_side`), in a window also from the right of the following turns, which share the room
    evenly; the response is cut, from the right, only where `response_max_length` says so, and an
    input whose response does not fit into the encoder gets no score. `turns` is the number of
    context turns that are read; one is the published form of EPITOME, with none the response is read
    alone. `following` are the turns after the response that a window reads.
    """

    max_length: int = 256
    response_max_length: int | None = None
    lowercase: bool = False
    turns: int = 1
    following: int = 0
    context_side: Literal["left", "right"] = "left"

    @classmethod
    def of(cls, settings: RaterSettings) -> InputSettings:
        """What the settings of a recipe say about inputs."""
        return cls(
            max_length=settings.max_length,
            response_max_length=settings.response_max_length,
            lowercase=settings.lowercase,
            turns=settings.turns,
            following=settings.following,
        )


@dataclass(frozen=True)
class Row:
    """One input as tokens.

    `ids` and `type_ids` are the sequence that holds the response at `target` (start, stop);
    `offsets` are the characters of the response per target token. `context_ids` is the context
    where it is a sequence of its own, else empty.
    """

    ids: list[int]
    type_ids: list[int]
    target: tuple[int, int]
    offsets: list[tuple[int, int]]
    context_ids: list[int]
    truncated: bool
    response_truncated: bool

    @property
    def length(self) -> int:
        """Tokens of both sequences."""
        return len(self.ids) + len(self.context_ids)


@dataclass(frozen=True)
class _Frame:
    """The special tokens before, between and after texts, and the segments of all, as the tokenizer
    puts them."""

    ids: tuple[list[int], ...]
    types: tuple[list[int], ...]
    segments: tuple[int, ...]

    @classmethod
    def of(cls, backend: Tokenizer, texts: Sequence[Encoding]) -> _Frame:
        """The frame of as many texts, one or two, as are shown; none may be empty."""
        whole = backend.post_process(*texts)
        plain = [i for i, special in enumerate(whole.special_tokens_mask) if not special]
        starts = [plain[0], *(plain[len(text)] for text in texts[:-1])]
        stops = [start + len(text) for start, text in zip(starts, texts, strict=True)]
        gaps = [slice(*ends) for ends in zip([0, *stops], [*starts, len(whole)], strict=True)]
        return cls(
            tuple(whole.ids[gap] for gap in gaps),
            tuple(whole.type_ids[gap] for gap in gaps),
            tuple(whole.type_ids[start] for start in starts),
        )

    @property
    def special(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.ids))

    def around(self, *texts: Sequence[int]) -> tuple[list[int], list[int], int]:
        """Ids and type ids of the whole, and where the last text begins."""
        ids, types, start = list(self.ids[0]), list(self.types[0]), 0
        for k, text in enumerate(texts):
            start = len(ids)
            ids += [*text, *self.ids[k + 1]]
            types += [*[self.segments[k]] * len(text), *self.types[k + 1]]
        return ids, types, start


class PairTokenizer:
    """Turns inputs into rows for one architecture.

    Special tokens and segment ids are those with which the encoder was trained: they are taken from
    what its tokenizer puts around texts.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        architecture: Architecture,
        settings: InputSettings,
        positions: int | None,
        instruction: str = "",
    ) -> None:
        """`instruction` is read before a window, and never cut."""
        self.architecture = architecture
        self.settings = settings
        self.positions = positions
        """Tokens that the encoder can read, or None without a bound."""
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()  # a saved limit would cut the response
        self._backend.no_padding()
        in_words = architecture == "seq2seq"
        separator = "|" if in_words else tokenizer.sep_token or tokenizer.eos_token
        self._separator = self._backend.encode(separator, add_special_tokens=False).ids
        self._backend.encode_special_tokens = True  # "[SEP]" in an utterance is plain text
        self._control = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        names = self._encode([f"{_NAMES[role]}:" for role in ("assistant", "user")])
        marked = self._encode([f"{_MARK}, {_NAMES['assistant']}:"])
        self._name = marked[0].ids if in_words else names[0].ids
        self._instruction = self._encode([f"{instruction} |"])[0].ids if instruction else []
        texts = 2 if architecture == "cross_encoder" else 1
        self._frame = _Frame.of(self._backend, names[:texts])
        fixed = self._frame.special + len(self._instruction)
        self._readable = sys.maxsize if positions is None else positions - fixed

    def rows(self, inputs: Sequence[RatingInput]) -> list[Row | None]:
        """One row per input, in order; None where the response is blank or fits no encoder."""
        before, after = self.settings.turns, self.settings.following
        responses = self._encode([pair.response for pair in inputs])
        contexts = self._turns([pair.turns[max(0, len(pair.turns) - before) :] for pair in inputs])
        following = self._turns([pair.following[:after] for pair in inputs])
        return [
            self._row(context, response, turns)
            if pair.response.strip() and len(response)  # byte-level tokens stand for blanks too
            else None
            for pair, context, response, turns in zip(
                inputs, contexts, responses, following, strict=True
            )
        ]

    @property
    def _is_window(self) -> bool:
        return self.architecture in ("window", "seq2seq")

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        if self.settings.lowercase:
            texts = [text.lower() for text in texts]
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [self._plain(text, found) for text, found in zip(texts, encoded, strict=True)]

    def _plain(self, text: str, encoding: Encoding) -> Encoding:
        """The encoding without control tokens, of which a unigram model reads "</s>" as one.

        The text is broken there by a blank in place of a character, so that offsets stay right.
        """
        if self._control.isdisjoint(encoding.ids):
            return encoding
        for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._control:
                text = f"{text[:start]} {text[start + 1 :]}"
        return self._backend.encode(text, add_special_tokens=False)

    def _turns(self, sequences: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """The tokens of each sequence of turns, separators between them.

        Speakers are named where several turns can stand; a single one stands as it is.
        """
        named = self.settings.turns > 1 or self._is_window
        texts = [_named(turn) if named else turn.text for turns in sequences for turn in turns]
        flat = iter(self._encode(texts))
        merged = []
        for turns in sequences:
            parts = [ids for _ in turns for ids in (self._separator, next(flat).ids)]
            merged.append([token for ids in parts[1:] for token in ids])
        return merged

    def _row(self, context: list[int], response: Encoding, following: list[int]) -> Row | None:
        target = response.ids[: self.settings.response_max_length]
        window = self._is_window
        lead = [*self._separator, *self._name] if window else []
        room = self._readable - len(lead) - len(target)
        if room < 0:
            return None
        context_ids: list[int] = []
        if window:
            room = max(0, min(room, self.settings.max_length - len(lead) - len(target)))
            beside = room - min(
                len(context), (room + 1) // 2
            )  # half is the context's if it needs it
            after = following[: max(0, beside - len(self._separator))]
            tail = [*self._separator, *after] if after else []
            kept = self._kept(context, room - len(tail))
            cut = len(kept) < len(context) or len(after) < len(following)
            before = [*self._instruction, *kept, *lead]
            ids, types, start = self._frame.around([*before, *target, *tail])
            start += len(before)
        elif self.architecture == "cross_encoder":
            kept = self._kept(context, min(room, self.settings.max_length))
            cut = len(kept) < len(context)
            ids, types, start = self._frame.around(kept, target)
        else:
            kept = self._kept(context, min(self._readable, self.settings.max_length))
            cut = len(kept) < len(context)
            context_ids = self._frame.around(kept)[0]
            ids, types, start = self._frame.around(target)
        return Row(
            ids,
            types,
            (start, start + len(target)),
            response.offsets[: len(target)],
            context_ids,
            cut,
            len(target) < len(response),
        )

    def _kept(self, context: list[int], length: int) -> list[int]:
        """At most `length` tokens of the context, cut on the side that the settings name."""
        right = self.settings.context_side == "right"
        return context[:length] if right else context[max(0, len(context) - length) :]

    def batch(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Right-padded tensors: `input_ids`, `attention_mask`, `target_mask` of shape (n, L), with
        `token_type_ids` where the encoder has them, and `context_*` of shape (n, M) for two texts.
        """
        main = _padded([row.ids for row in rows], self.pad_id)
        tensors = {"input_ids": main, "attention_mask": _mask([len(row.ids) for row in rows])}
        tensors["target_mask"] = torch.zeros_like(main)
        for i, row in enumerate(rows):
            tensors["target_mask"][i, slice(*row.target)] = 1
        if self.has_types:
            tensors["token_type_ids"] = _padded([row.type_ids for row in rows], 0)
        if self.architecture in ("bi_encoder", "seeker_attention"):
            contexts = [row.context_ids for row in rows]
            tensors["context_input_ids"] = _padded(contexts, self.pad_id)
            tensors["context_attention_mask"] = _mask([len(ids) for ids in contexts])
        return tensors

    def single(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, (n, L), of texts that stand alone."""
        return _padded(texts, self.pad_id), _mask(list(map(len, texts)))


def rationale_marks(row: Row, response: str, parts: Sequence[str], lowercase: bool) -> np.ndarray:
    """1 for every target token that lies in one of the `parts` of the response, shape (tokens,)."""
    text = response.lower() if lowercase else response
    marks = np.zeros(len(row.offsets), dtype=np.int64)
    for part in parts:
        begin = text.find(part.lower() if lowercase else part)
        if begin < 0:
            continue
        end = begin + len(part)
        for i, (first, last) in enumerate(row.offsets):
            marks[i] |= first < end and last > begin
    return marks


def _named(turn: Turn) -> str:
    return f"{_NAMES[turn.role]}: {turn.text}"


def _padded(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (longest - len(s))] for s in sequences])


def _mask(lengths: Sequence[int]) -> torch.Tensor:
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
