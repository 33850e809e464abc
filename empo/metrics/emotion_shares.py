"""Which emotions the words of prompts and responses stand for, by the NRC emotion lexicon (EmoLex).

EmoLex (Mohammad and Turney, Computational Intelligence 2013) says of a word which of eight emotions
and two polarities it is associated with, without intensities. It comes with the package NRCLex, so
that no file of the user is needed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.length import characters
from empo.metrics.statistics import describe
from empo.records import Response, UserError

EMOTIONS = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")
POLARITIES = ("positive", "negative")


def emotion_shares(responses: Sequence[Response], seed: int = 0) -> MetricResult:
    """Emotions in the words of all prompts and responses, and how far a response shares its prompt's.

    The prompt is the last speaker turn. Every token is looked up in lower case and counts once for
    each emotion it is associated with; an emotion word is one with any of the eight emotions.

    mean: overlap of the distributions over the eight emotions of a prompt and its response: 1 minus
    their total variation distance (0 nothing in common, 1 equal); sd, interval, length_correlation
    and n are its; a response has none where it or its prompt is without an emotion word.
    response, prompt: emotion -> share in the associations of all responses or prompts (sum 1);
    response_polarity, prompt_polarity: the same of positive and negative.
    associations: how many associations each of the four distributions is of.
    share_without_words, share_prompts_without_words: responses and prompts without emotion word.

    Raises UserError where the package with the lexicon is not installed.
    """
    texts = {
        "response": [response.response for response in responses],
        "prompt": [response.prompt for response in responses],
    }
    of_word = associations(
        {token for of_side in texts.values() for text in of_side for token in _lower_tokens(text)}
    )
    counts = {side: _counts(of_side, of_word, EMOTIONS) for side, of_side in texts.items()}
    polarity = {
        f"{side}_polarity": _counts(of_side, of_word, POLARITIES) for side, of_side in texts.items()
    }
    overlaps = _overlap(counts["prompt"], counts["response"])
    values: dict[str, Any] = describe(overlaps, characters(responses), seed)
    reasons = values.pop("reasons", {})
    for names, of_side in ((EMOTIONS, counts), (POLARITIES, polarity)):
        for side, array in of_side.items():
            values[side] = _shares(array, names)
            if values[side] is None:
                reasons[side] = f"no word is associated with {' or '.join(names)}"
    values |= {
        "associations": {side: int(a.sum()) for side, a in (counts | polarity).items()},
        "share_without_words": float((counts["response"].sum(axis=1) == 0).mean()),
        "share_prompts_without_words": float((counts["prompt"].sum(axis=1) == 0).mean()),
    }
    return MetricResult(
        name="emotion_shares",
        n=len(responses),
        values=values | ({"reasons": reasons} if reasons else {}),
        per_response={"emotion_shares.overlap": overlaps},
        signature=(
            f"EmoLex of NRCLex {importlib.metadata.version('NRCLex')}, exact look-up of lower-cased "
            f"tokens; {word.SIGNATURE}"
        ),
    )


def associations(words: Iterable[str]) -> dict[str, list[str]]:
    """Word -> emotions and polarities, of those words that the lexicon has.

    Raises UserError where NRCLex is not installed.
    """
    try:
        from nrclex import NRCLex
    except ImportError:
        raise UserError(
            "emotion_shares: the package NRCLex, which holds the lexicon, is not installed. "
            "Install it with `pip install empo[eval]`, or leave emotion_shares out."
        ) from None
    lexicon = NRCLex(None)  # its default takes a file nrc_en.json of the current folder instead
    lexicon.load_token_list(words)
    return lexicon.affect_dict


def _lower_tokens(text: str) -> Iterator[str]:
    return (token.lower() for token in word.word_tokens(text))


def _counts(
    texts: Sequence[str], of_word: dict[str, list[str]], names: Sequence[str]
) -> np.ndarray:
    """How often each text's tokens are associated with each name, shape (n, names)."""
    column = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(texts), len(names)))
    for row, text in zip(counts, texts, strict=True):
        for token in _lower_tokens(text):
            for name in of_word.get(token, ()):
                if name in column:
                    row[column[name]] += 1
    return counts


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - total variation distance of the rows' distributions, shape (n,); NaN for a row of zeros."""
    totals = a.sum(axis=1), b.sum(axis=1)
    known = (totals[0] > 0) & (totals[1] > 0)
    overlaps = np.full(len(a), np.nan)
    p, q = (x[known] / total[known, None] for x, total in zip((a, b), totals, strict=True))
    # rounding can bring the distance of two distributions without a common emotion above 1
    overlaps[known] = np.maximum(1 - np.abs(p - q).sum(axis=1) / 2, 0)
    return overlaps


def _shares(counts: np.ndarray, names: Sequence[str]) -> dict[str, float] | None:
    totals = counts.sum(axis=0)
    if not totals.any():
        return None
    return dict(zip(names, (totals / totals.sum()).tolist(), strict=True))
