"""Which emotion a reply was composed for: defined only on corpora composed of known sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from empo.corpora.csv_rows import read_csv
from empo.metrics import MetricResult
from empo.metrics.length import characters
from empo.metrics.statistics import describe
from empo.metrics.tokens import sentences
from empo.records import Response

NEUTRAL = "neutral"


def load_sentences(path: str | Path) -> dict[str, str]:
    """Sentence to emotion, from a table of composed replies with the columns reply and emotion.

    Raises UserError as `read_csv`, and where an emotion is empty.
    """
    table: dict[str, str] = {}
    for row in read_csv(path, ("reply", "emotion")):
        for sentence in sentences(row.text("reply")):
            table[sentence] = row.required("emotion")
    return table


def composed_emotion(
    responses: Sequence[Response], emotion_of: Mapping[str, str], seed: int = 0
) -> MetricResult:
    """Share of replies whose sentences were composed for the speaker's emotion.

    The emotion of a reply is that of most of its known sentences that are not neutral. `unknown` is
    the share of replies without such a sentence. n responses, values 0 or 1 per response.
    """
    found = []
    for response in responses:
        counts = Counter(
            emotion_of[sentence]
            for sentence in sentences(response.response)
            if emotion_of.get(sentence, NEUTRAL) != NEUTRAL
        )
        found.append(counts.most_common(1)[0][0] if counts else None)
    matches = np.array(
        [label == response.emotion for label, response in zip(found, responses, strict=True)], float
    )
    described = describe(matches, characters(responses), seed)
    return MetricResult(
        name="composed_emotion",
        n=len(responses),
        values={**described, "unknown": found.count(None) / len(found)},
        per_response={"composed_emotion": matches},
        signature=f"{len(emotion_of)} known sentences, majority",
    )
