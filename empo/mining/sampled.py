"""Pairs of a policy's own replies: of n samples the best against the worst, as a rater ranks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.records import UserError, read_rows


@with_config(strict=True)
class _Reply(TypedDict):
    response: str
    score: float | None
    finished: bool


@with_config(strict=True)
class _BestOf(TypedDict):
    replies: list[_Reply]


@with_config(strict=True)
class _Row(TypedDict):
    id: str
    emotion: str
    context: list[dict[str, str]]
    best_of: _BestOf


_ROW = TypeAdapter(_Row)


@dataclass(frozen=True)
class Ranked:
    """An exchange's replies that a pair may hold: the best, and what lies below it, worst first.

    A reply is (place among the samples, text, score).
    """

    row: Mapping[str, Any]
    best: tuple[int, str, float]
    below: Sequence[tuple[int, str, float]]


class SampledPairs:
    """The pairs of every epoch out of the responses that `recipes/generate.py --best-of` wrote.

    The chosen reply of an exchange is its best one. In epoch e the rejected are the K from place eK
    on of those below it, from the worst on, beginning again at their end. A reply counts once, also
    where it was sampled twice; one below the best by less than `margin` is in no pair. Nor is a blank
    one, or one that was cut off: a training would put an end behind it that the policy never wrote.
    """

    def __init__(
        self, responses: str | Path, margin: float | None = None, several: int = 1
    ) -> None:
        """Read and rank; `several` rejected replies per exchange and epoch.

        Raises UserError where a row lacks what it was chosen from.
        """
        self.margin, self.several = margin, several
        self.dropped: Counter[str] = Counter()
        self.exchanges = self.unfinished = 0
        self.ranked: list[Ranked] = []
        remedy = "Sample the replies with `recipes/generate.py --best-of N --rater DIR`."
        for _, row in read_rows(responses, _ROW, remedy):
            self.exchanges += 1
            if isinstance(found := self._ranked(row), str):
                self.dropped[found] += 1
            else:
                self.ranked.append(found)

    def _ranked(self, row: dict[str, Any]) -> Ranked | str:
        """The ranking of a row's replies, or why it has no pair."""
        scored = [
            (place, reply["response"], reply["score"], reply["finished"])
            for place, reply in enumerate(row["best_of"]["replies"])
            if reply["score"] is not None and reply["response"].strip()
        ]
        texts: dict[str, tuple[int, str, float]] = {}
        for place, text, score, finished in scored:
            self.unfinished += not finished
            if finished:
                texts.setdefault(text, (place, text, score))
        if len(texts) < 2:
            return "unscored" if not scored else "one_text" if texts else "unfinished"
        order = sorted(texts.values(), key=lambda reply: reply[2])  # stable: ties as sampled
        best = max(texts.values(), key=lambda reply: reply[2])
        least = 0.0 if self.margin is None else self.margin
        lower = [reply for reply in order if reply[2] < best[2]]
        below = [reply for reply in lower if best[2] - reply[2] >= least]
        if len(below) < self.several:
            return "tied" if not lower else "too_few" if len(lower) < self.several else "margin"
        return Ranked(row, best, below)

    def rows(self, epoch: int) -> Iterator[dict[str, Any]]:
        """The pairs of an epoch, rows of a pairs file; the emotion stands for its opposite, too."""
        for ranked in self.ranked:
            row = ranked.row
            for k in range(self.several):
                place, text, score = ranked.below[(epoch * self.several + k) % len(ranked.below)]
                yield {
                    "id": row["id"],
                    "emotion": row["emotion"],
                    "opposite": row["emotion"],
                    "prompt": row["context"],
                    "chosen": [{"role": "assistant", "content": ranked.best[1]}],
                    "rejected": [{"role": "assistant", "content": text}],
                    "rejected_id": f"{row['id']}, sample {place}",
                    "score_chosen": ranked.best[2],
                    "score_rejected": score,
                }

    def facts(self) -> dict[str, Any]:
        """What was kept, what was left out and why, how far best and worst lie apart."""
        worst = [ranked.below[0] for ranked in self.ranked]
        return {
            "exchanges": self.exchanges,
            "kept": len(self.ranked),
            "dropped": dict(sorted(self.dropped.items())),
            "unfinished_replies": self.unfinished,
            "mean_margin": _mean(r.best[2] - w[2] for r, w in zip(self.ranked, worst, strict=True)),
            "mean_chosen_characters": _mean(len(ranked.best[1]) for ranked in self.ranked),
            "mean_rejected_characters": _mean(len(text) for _, text, _ in worst),
        }

    def require(self, fewest: int) -> None:
        """Raise UserError where fewer than `fewest` exchanges have a pair."""
        if len(self.ranked) >= fewest:
            return
        why = ", ".join(f"{name} {n:,}" for name, n in sorted(self.dropped.items()))
        raise UserError(
            f"{len(self.ranked):,} of {self.exchanges:,} exchanges have a pair of sampled replies, and "
            f"min_pairs is {fewest:,}. Left out by reason: {why or 'none'}. Sample more replies, "
            "lower margin or min_pairs, or raise the temperature."
        )


def _mean(values: Iterator[float]) -> float | None:
    found = list(values)
    return round(fmean(found), 4) if found else None
