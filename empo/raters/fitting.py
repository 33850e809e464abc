"""Two texts for one encoder: what is cut when they are too long together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class FittedPair:
    """Two texts that fit an encoder together, and which of them was cut for it."""

    context: str
    response: str
    context_cut: bool = False
    response_cut: bool = False


def token_counts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = True
) -> list[int]:
    """Tokens of every text, uncut; with `special`, those that stand around a single text too."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
    return list(map(len, encoded["input_ids"]))


def fit_pair(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    response: str,
    max_length: int,
    *,
    symmetric: bool,
    response_max_length: int | None = None,
) -> FittedPair | None:
    """Shorten two texts, by whole tokens, to `max_length` tokens with special tokens.

    What does not fit is cut from the left of the context, from the response only where it has more
    than `response_max_length` tokens. Of two alike texts (`symmetric`) both are cut on the right,
    the longer one first.

    None where a text is blank, or where the response leaves no room for the context.
    """
    if not context.strip() or not response.strip():
        return None
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    first, second = token_counts(tokenizer, [context, response], special=False)
    if cut := response_max_length is not None and second > response_max_length:
        response = start_of(tokenizer, response, response_max_length)
        second = response_max_length
    if first + second <= room:
        return FittedPair(context, response, response_cut=cut)
    if not symmetric:
        kept = end_of(tokenizer, context, room - second)
        return FittedPair(kept, response, True, cut) if kept else None
    shares = (max(room - second, room // 2), max(room - first, room // 2))
    texts = [
        start_of(tokenizer, text, share)
        for text, share in ((context, shares[0]), (response, shares[1]))
    ]
    return FittedPair(*texts, first > shares[0], second > shares[1]) if all(texts) else None


def start_of(tokenizer: PreTrainedTokenizerBase, text: str, room: int) -> str:
    """The longest beginning of a text, ending on a token, that is at most `room` tokens."""
    ends = [end for _, end in _offsets(tokenizer, text)][: max(0, room)]
    for end in reversed(ends):  # cut text may have more tokens than the piece it was cut from
        if token_counts(tokenizer, [text[:end]], special=False)[0] <= room:
            return text[:end]
    return ""


def end_of(tokenizer: PreTrainedTokenizerBase, text: str, room: int) -> str:
    """The longest end of a text, beginning on a token, that is at most `room` tokens."""
    starts = [start for start, _ in _offsets(tokenizer, text)]
    for start in starts[len(starts) - room :] if room > 0 else []:
        if token_counts(tokenizer, [text[start:]], special=False)[0] <= room:
            return text[start:]
    return ""


def _offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["offset_mapping"]
