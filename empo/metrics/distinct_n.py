"""Distinct-n: how many of the n-grams that a system produces are different ones.

Distinct n-grams over all n-grams of the set (Li et al., NAACL 2016). The more text, the smaller it
gets, so that it cannot compare systems that write more or less; the rarefied value beside it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.records import Response

ORDERS = (1, 2, 3)
DRAWN = 2_000
"""N-grams in the random draws behind the rarefied values."""


def distinct_n(responses: Sequence[Response]) -> MetricResult:
    """Distinct-1, 2, 3 over all responses; no value per response, for it is one of the whole set.

    distinct_n: number of distinct n-grams over the number of all (0..1); no n-gram goes across two
    responses. None where no response has n tokens.
    rarefied_n: expected number of distinct n-grams in a random draw of 2,000 n-grams of the set,
    over 2,000 (0..1). None where the set has fewer.
    ngrams_n: number of all n-grams.
    """
    texts = [word.word_tokens(response.response) for response in responses]
    distinct: dict[str, float | None] = {}
    rarefied: dict[str, float | None] = {}
    totals: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for n, counts in zip(ORDERS, ngram_counts(texts), strict=True):
        total = totals[f"ngrams_{n}"] = int(counts.sum())
        distinct[f"distinct_{n}"] = len(counts) / total if total else None
        rarefied[f"rarefied_{n}"] = None
        if total >= DRAWN:
            rarefied[f"rarefied_{n}"] = expected_distinct(counts, DRAWN) / DRAWN
        else:
            reasons[f"rarefied_{n}"] = f"needs {DRAWN:,} n-grams, there are {total:,}"
        if not total:
            reasons[f"distinct_{n}"] = f"no response has {n} token{'s' * (n > 1)}"
    return MetricResult(
        name="distinct_n",
        n=len(responses),
        values=distinct | rarefied | totals | ({"reasons": reasons} if reasons else {}),
        of_the_set=(*distinct, *rarefied),
        signature=(
            f"n-grams within a response; rarefied to {DRAWN:,} n-grams (exact expectation); "
            f"{word.SIGNATURE}"
        ),
    )


def ngram_counts(texts: Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
    """How often each different n-gram occurs, shape (types,), for the n of `ORDERS` (1, 2, ...).

    No n-gram goes across two texts.
    """
    numbers: dict[str, int] = {}
    tokens = np.fromiter(
        (numbers.setdefault(token, len(numbers)) for text in texts for token in text), np.int64
    )
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    left = np.repeat(lengths.cumsum(), lengths) - np.arange(len(tokens))  # to the text's end
    grams = np.zeros_like(tokens)  # of the n-gram that begins at a place the rank among its kind
    for n in ORDERS:
        places = np.flatnonzero(left >= n)
        longer = grams[places] * len(numbers) + tokens[places + n - 1]
        _, grams[places], counts = np.unique(longer, return_inverse=True, return_counts=True)
        yield counts


def expected_distinct(counts: np.ndarray, drawn: int) -> float:
    """Expected number of types among `drawn` items drawn without replacement.

    `counts` has shape (types,): how often each type is there (1 or more), together N >= `drawn`.
    A type of count c is missed with the hypergeometric probability C(N - c, drawn) / C(N, drawn),
    the product of (N - drawn - j) / (N - j) over j < c (Hurlbert, Ecology 1971).
    """
    total = int(counts.sum())
    count, types = np.unique(counts, return_counts=True)
    longest = min(int(count[-1]), total - drawn)  # a type of a larger count cannot be missed
    missed = np.cumsum(np.log1p(-drawn / (total - np.arange(longest))))
    rare = count <= longest
    return float(types[~rare].sum() - types[rare] @ np.expm1(missed[count[rare] - 1]))
