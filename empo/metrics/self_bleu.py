"""Self-BLEU: how much of a reply can be found in the other replies of the same system.

The mean BLEU-4 of replies with other replies as their references (Zhu et al., SIGIR 2018): the
higher, the more alike, the less diverse. On a sample, as all replies against all others take hours.
"""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.statistics import describe
from empo.records import Response

REPLIES = 500
REFERENCES = 100


def self_bleu(responses: Sequence[Response], seed: int = 0) -> MetricResult:
    """Mean BLEU-4 (0..1) of up to 500 replies, each against up to 100 others, drawn with the seed.

    No value per response, for it is one of the whole set; the order of the responses does not
    matter. An n-gram order without a match counts as 0.1 matches (Chen and Cherry, WMT 2014, method
    1, as in Texygen); a reply of fewer than four tokens is scored on the orders that it has, so that
    equal short replies have 1, too.

    mean, sd, interval: over the drawn replies. replies, references: how many were drawn, and against
    how many each was scored. blank: responses without any token, left out on both sides. With fewer
    than two others the first three are None.
    """
    ordered = sorted(responses, key=lambda r: (r.id, r.response))  # file order must not matter
    texts = [word.word_tokens(response.response) for response in ordered]
    spoken = [text for text in texts if text]
    values: dict[str, Any] = {"mean": None, "sd": None, "interval": None}
    replies = references = 0
    reasons: dict[str, str] = {}
    if len(spoken) < 2:
        reasons = dict.fromkeys(values, "needs two replies that are not blank")
    else:
        replies, references = min(REPLIES, len(spoken)), min(REFERENCES, len(spoken) - 1)
        scores = _bleu(spoken, replies, references, seed)
        described = describe(scores, np.zeros(len(scores)), seed)
        values = {key: described[key] for key in values}
    values |= {"replies": replies, "references": references, "blank": len(texts) - len(spoken)}
    return MetricResult(
        name="self_bleu",
        n=len(responses),
        values=values | ({"reasons": reasons} if reasons else {}),
        of_the_set=("mean",),
        basis=f"{references} references a reply",
        signature=(
            f"BLEU-4 of up to {REPLIES} replies against up to {REFERENCES} others each, drawn with "
            f"the seed from the replies in the order of their ids; nltk "
            f"{importlib.metadata.version('nltk')} sentence_bleu, smoothing method1 (0.1), "
            f"auto_reweigh; {word.SIGNATURE}"
        ),
    )


def _bleu(texts: Sequence[Sequence[str]], replies: int, references: int, seed: int) -> np.ndarray:
    """BLEU of drawn texts, each against drawn other texts, shape (replies,)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # seconds to import

    smoothing = SmoothingFunction().method1
    draw = random.Random(seed)
    drawn = draw.sample(range(len(texts)), replies)
    scores = []
    for i in tqdm(drawn, delay=2, disable=None, desc="self-BLEU", unit="reply", leave=False):
        others = draw.sample(range(len(texts) - 1), references)
        against = [texts[j + (j >= i)] for j in others]  # every text but i
        scores.append(
            sentence_bleu(against, texts[i], smoothing_function=smoothing, auto_reweigh=True)
        )
    return np.array(scores, dtype=float)
