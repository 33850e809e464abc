"""Seconds of every metric that needs no model, and of the comparisons, in one process.

    python benchmarks/metrics.py --dialogues ED --nidf-table nidf.json --lexicons LEXICONS

Replies are the corpus' human replies, given to other exchanges. Reported per metric: median and
quartiles over the rounds; the trie also on replies of 33 tokens on average, one in a hundred of 180
and one of 1,000; all comparisons of four systems and the references; the ratio of a trie that
recounts all n-grams for every fold to ours, on a few replies; peak memory of the process so far.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from empo.corpora import load_corpus
from empo.metrics import MetricResult
from empo.metrics.comparisons import compare_all
from empo.metrics.distinct_n import distinct_n
from empo.metrics.emotion_shares import emotion_shares
from empo.metrics.iva import iva, load_lexicons
from empo.metrics.length import length
from empo.metrics.nidf import build_table, load_table, nidf
from empo.metrics.self_bleu import self_bleu
from empo.metrics.tokens import word_tokens
from empo.metrics.trie import fold, trie
from empo.process import run
from empo.records import Response, write_json
from empo.runs import now, versions
from empo.settings import option, parse

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Settings:
    """What to measure."""

    output: str | None = option(None, help="JSON file for the figures")
    dialogues: str = option(
        str(ROOT / "data" / "sample"), help="corpus whose test replies are used"
    )
    responses: int = option(2_540, help="replies of a system")
    nidf_table: str | None = option(None, help="NIDF table (default: made of the test dialogues)")
    lexicons: str | None = option(None, help="folder with the NRC lexicons, for iva")
    rounds: int = option(3, help="rounds; every metric runs once in each")
    naive: int = option(60, help="replies for the ratio to the trie that recounts")
    seed: int = option(0, help="seed of the replies")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the replies, run the rounds, print and save the figures."""
    (settings,) = parse(argv, Settings, prog="benchmarks/metrics.py", description=__doc__ or "")
    corpus = load_corpus(settings.dialogues, "test")
    table = (
        load_table(settings.nidf_table) if settings.nidf_table else build_table(corpus.dialogues)
    )
    systems = {
        f"system {i}": replies(corpus, settings.responses, settings.seed + i) for i in range(4)
    }
    first = systems["system 0"]
    long = long_replies(first, settings.seed)
    metrics: dict[str, Callable[[Sequence[Response]], MetricResult]] = {
        "trie": trie,
        "distinct_n": distinct_n,
        "nidf": partial(nidf, table=table),
        "emotion_shares": emotion_shares,
        "length": length,
        "self_bleu": self_bleu,
    }
    if settings.lexicons:
        metrics["iva"] = partial(iva, lexicons=load_lexicons(settings.lexicons))
    timed = {name: partial(metric, first) for name, metric in metrics.items()}
    timed["trie, long replies"] = partial(trie, long)

    seconds: dict[str, list[float]] = {name: [] for name in [*timed, "trie that recounts"]}
    ratios, memory = [], {}
    few = [list(word_tokens(response.response)) for response in first[: settings.naive]]
    for _ in range(settings.rounds):
        for name, job in timed.items():
            word_tokens.cache_clear()
            seconds[name].append(stopwatch(job))
            memory.setdefault(name, peak())
        naive = stopwatch(partial(recounting_fold, few))
        seconds["trie that recounts"].append(naive)
        ratios.append(naive / stopwatch(partial(fold, few)))
    measured = {
        name: {key: metric(of) for key, metric in metrics.items() if key != "self_bleu"}
        for name, of in systems.items()
    }
    begin = time.perf_counter()
    rows = compare_all(systems, measured, settings.seed, 9_999)
    comparing = time.perf_counter() - begin

    result = {
        "created": now(),
        "versions": versions(),
        "responses": settings.responses,
        "mean_tokens": mean_tokens(first),
        "mean_tokens_long": mean_tokens(long),
        "rounds": settings.rounds,
        "seconds": {name: quartiles(values) for name, values in seconds.items()},
        "ratio_recounting_to_ours": quartiles(ratios) | {"replies": settings.naive},
        "comparisons": {"tests": sum(row["p"] is not None for row in rows), "seconds": comparing},
        "peak_memory_mb": memory | {"all": peak()},
    }
    show(result)
    if settings.output:
        write_json(settings.output, result)
        print(settings.output)
    return 0


def replies(corpus: Any, number: int, seed: int) -> list[Response]:
    """Responses to the exchanges of a corpus: its replies in another order, repeated as needed."""
    exchanges = corpus.exchanges()
    texts = [exchange.reply for exchange in exchanges]
    random.Random(seed).shuffle(texts)
    found = []
    for i in range(number):
        exchange = exchanges[i % len(exchanges)]
        found.append(
            Response(
                id=f"{exchange.id}/{i}",
                emotion=exchange.emotion,
                context=exchange.messages(),
                reference=exchange.reply,
                response=texts[i % len(texts)],
                system="system",
            )
        )
    return found


def long_replies(responses: Sequence[Response], seed: int) -> list[Response]:
    """Replies of about 33 tokens, one in a hundred of 180, one of 1,000."""
    words = [token for response in responses for token in response.response.split()]
    draw = random.Random(seed)
    found = []
    for i, response in enumerate(responses):
        size = 1_000 if i == 7 else 180 if i % 100 == 3 else draw.randint(10, 48)
        start = draw.randrange(len(words) - size)
        found.append(
            response.model_copy(update={"response": " ".join(words[start : start + size])})
        )
    return found


def recounting_fold(sequences: Sequence[Sequence[str]]) -> None:
    """The definition of the fold, word for word: all n-grams counted again for every fold."""
    current: list[list[object]] = [list(sequence) for sequence in sequences]
    while True:
        counts: Counter[tuple[object, ...]] = Counter(
            tuple(sequence[start:end])
            for sequence in current
            for start in range(len(sequence))
            for end in range(start + 2, len(sequence) + 1)
        )
        best = max(
            counts, key=lambda gram: (counts[gram] > 1, len(gram) * counts[gram]), default=()
        )
        if not best or counts[best] < 2:
            return
        for row, sequence in enumerate(current):
            folded: list[object] = []
            i = 0
            while i < len(sequence):
                hit = tuple(sequence[i : i + len(best)]) == best
                folded.append(best if hit else sequence[i])
                i += len(best) if hit else 1
            current[row] = folded


def stopwatch(job: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (1e6 if sys.platform == "darwin" else 1e3), 1)


def mean_tokens(responses: Sequence[Response]) -> float:
    """Mean word tokens of the replies."""
    return float(np.mean([len(word_tokens(response.response)) for response in responses]))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high}


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{result['responses']:,} replies of {result['mean_tokens']:.1f} tokens on average")
    print(f"{'':<22}{'seconds':>9}{'quartiles':>20}{'peak MB':>10}")
    for name, of in result["seconds"].items():
        bounds = f"{of['low']:.2f} to {of['high']:.2f}"
        memory = result["peak_memory_mb"].get(name, "")
        print(f"{name:<22}{of['median']:>9.2f}{bounds:>20}{memory:>10}")
    print(f"long replies: {result['mean_tokens_long']:.1f} tokens on average")
    tests = result["comparisons"]
    print(f"{tests['tests']} comparisons of four systems in pairs: {tests['seconds']:.1f} s")
    ratio = result["ratio_recounting_to_ours"]
    print(
        f"recounting / ours on {ratio['replies']} replies: {ratio['median']:.0f} "
        f"({ratio['low']:.0f} to {ratio['high']:.0f})"
    )


if __name__ == "__main__":
    run(main)
