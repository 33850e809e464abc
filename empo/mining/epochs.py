"""The mined pairs of every epoch, what was left out and why, and how far chosen and rejected lie apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from empo.choosing import Judge
from empo.dialogues import Exchange
from empo.mining.candidates import Candidate, Candidates
from empo.mining.choice import Rule
from empo.preferences import Draws, pair
from empo.rating import RatingInput
from empo.records import UserError, finite

FEWEST = 100
"""Pairs of an epoch that have to be left where nothing else is said, or 1 % of the exchanges."""
_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_SOMEWHERE = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.01)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One rejected reply and its score; NaN where there is none."""

    candidate: Candidate
    score: float


@dataclass(frozen=True)
class Epoch:
    """One epoch: per exchange its rejected replies (none: left out), and the facts of it."""

    rejected: list[list[Rejected]]
    facts: dict[str, Any]
    widest: np.ndarray
    """Per exchange the largest margin at which it would have a pair, shape (n,); NaN: at none."""


def fewest_pairs(asked: int | None, exchanges: int) -> int:
    """How many pairs an epoch has to have: as asked, else 100 or 1 % of the exchanges, at least 1."""
    return asked if asked is not None else min(FEWEST, max(1, math.ceil(exchanges / 100)))


class Mine:
    """Pairs mined from candidates by a rule and, where there is one, a judge."""

    def __init__(
        self,
        draws: Draws,
        exchanges: Sequence[Exchange],
        candidates: Candidates,
        rule: Rule,
        judge: Judge | None = None,
        several: int = 1,
    ) -> None:
        """Rates the exchanges' own replies. `several`: candidates asked for, for the counts.

        Raises UserError where the rater gives no score to any of them.
        """
        self.draws, self.exchanges = draws, exchanges
        self.candidates, self.rule, self.judge = candidates, rule, judge
        self.several = several
        residual = judge is not None and judge.length is not None
        self._at_equal_length = residual and rule.margin is not None
        own = [(exchange, exchange.reply) for exchange in exchanges]
        self.own, self._own_plain = self._scores(own, "rating the human replies")
        if judge is not None and np.isnan(self.own).all():
            raise UserError(
                f"the rater gives no score to any of the {len(exchanges):,} human replies, so "
                "nothing can be chosen by it. See its flags with `empo rate`, or take another one."
            )

    def epoch(self, number: int) -> Epoch:
        """What is rejected in an epoch (0-based)."""
        drawn = [self.candidates.of(number, exchange) for exchange in self.exchanges]
        flat = [
            (exchange, candidate.exchange.reply)
            for exchange, some in zip(self.exchanges, drawn, strict=True)
            for candidate in some
        ]
        scores, plain = self._scores(flat, f"rating candidates of epoch {number}")
        ends = np.cumsum([len(some) for some in drawn])
        rejected, reasons, widest = [], Counter(), []
        for own, own_plain, some, end in zip(self.own, self._own_plain, drawn, ends, strict=True):
            of_these = scores[end - len(some) : end]
            compared = of_these
            if self._at_equal_length:  # and as they are: no pair is kept for its length alone
                nearer = np.minimum(own - of_these, own_plain - plain[end - len(some) : end])
                compared = own - nearer
            places, reason = self.rule.places(own, compared)
            rejected.append([Rejected(some[i], float(of_these[i])) for i in places])
            reasons.update([reason] if reason else [])
            widest.append(self.rule.widest(own, compared))
        facts = {
            "epoch": number,
            "drawn": len(flat),
            "short_of_candidates": sum(len(some) < self.several for some in drawn),
            "unscored": int(np.isnan(scores).sum()) if self.judge else None,
            "mean_candidate_characters": _mean(len(text) for _, text in flat),
            **self._facts(rejected, reasons),
        }
        return Epoch(rejected, facts, np.array(widest))

    def rows(self, epoch: Epoch) -> Iterator[dict[str, Any]]:
        """The pairs of an epoch as `empo.records.Pair` in dict form, in corpus order."""
        for exchange, own, several in zip(self.exchanges, self.own, epoch.rejected, strict=True):
            for one in several:
                row = pair(exchange, self.draws.opposite(exchange), one.candidate.exchange)
                if self.judge is not None:
                    row |= {"score_chosen": finite(own), "score_rejected": finite(one.score)}
                if one.candidate.similarity is not None:
                    row["similarity"] = round(one.candidate.similarity, 6)
                yield row

    def _scores(
        self, replies: Sequence[tuple[Exchange, str]], told: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of every reply as one to the exchange's context, and with its length; NaN without a judge."""
        if self.judge is None:
            nothing = np.full(len(replies), np.nan)
            return nothing, nothing
        inputs = [RatingInput(exchange.context, text) for exchange, text in replies]
        found, values = self.judge.judged(inputs, told)
        return found, self.judge.united(values)

    def _facts(self, rejected: Sequence[list[Rejected]], reasons: Counter[str]) -> dict[str, Any]:
        kept = [
            (exchange, float(own), one)
            for exchange, own, several in zip(self.exchanges, self.own, rejected, strict=True)
            for one in several
        ]
        uses = Counter(one.candidate.exchange.id for _, _, one in kept)
        all_of = Counter(exchange.emotion for exchange in self.exchanges)
        kept_of = Counter(
            e.emotion for e, several in zip(self.exchanges, rejected, strict=True) if several
        )
        differences = [len(e.reply) - len(one.candidate.exchange.reply) for e, _, one in kept]
        similar = [s for _, _, one in kept if (s := one.candidate.similarity) is not None]
        margins = [own - one.score for _, own, one in kept]
        return {
            "pairs": len(kept),
            "exchanges": sum(map(bool, rejected)),
            "dropped": dict(sorted(reasons.items())),
            "distinct_rejected": len(uses),
            "most_uses_of_a_reply": max(uses.values(), default=0),
            "mean_chosen_characters": _mean(len(e.reply) for e, _, _ in kept),
            "mean_rejected_characters": _mean(len(r.candidate.exchange.reply) for *_, r in kept),
            "share_chosen_longer": _mean(float(d > 0) for d in differences),
            "mean_similarity": _mean(similar),
            "margins": _quantiles(margins),
            "exchanges_by_emotion": {
                name: {"kept": kept_of[name], "of": all_of[name]} for name in sorted(all_of)
            },
        }


def require_enough(epochs: Sequence[Epoch], fewest: int, margin: float | None) -> None:
    """Raise UserError where an epoch has fewer exchanges with a pair than `fewest`.

    Where a margin is at fault, it says how many there would be at which margins.
    """
    least = min(epochs, key=lambda epoch: epoch.facts["exchanges"])
    left = least.facts["exchanges"]
    if left >= fewest:
        return
    why = ", ".join(f"{name} {n:,}" for name, n in least.facts["dropped"].items())
    told = (
        f"epoch {least.facts['epoch']}: {left:,} of {len(least.rejected):,} exchanges have a pair, "
        f"and --min-pairs is {fewest:,}. Left out by reason: {why or 'none'}."
    )
    known = least.widest[~np.isnan(least.widest)]
    if margin is not None and len(known):
        at = sorted({_rounded_down(q) for q in np.quantile(known, [1 - s for s in _SOMEWHERE])})
        counts = "; ".join(f"{m:g}: {int((known >= m).sum()):,}" for m in at)
        told += f" At --margin {margin:g} {left:,} are left; there would be, at margin: {counts}."
    raise UserError(f"{told} Lower --margin or --min-pairs, or raise --candidates.")


def _rounded_down(value: float) -> float:
    """To three digits, so that what reaches the value reaches the number shown."""
    if value == 0:
        return 0.0
    digits = 2 - math.floor(math.log10(abs(value)))
    return math.floor(value * 10.0**digits + 1e-9) / 10.0**digits


def _mean(values: Any) -> float | None:
    found = list(values)
    return round(fmean(found), 4) if found else None


def _quantiles(margins: Sequence[float]) -> dict[str, float] | None:
    """Score of the chosen minus that of the rejected reply: quantiles over the pairs; None: no scores."""
    known = np.array([margin for margin in margins if not math.isnan(margin)])
    if not len(known):
        return None
    return {
        f"{share:g}": round(float(q), 6)
        for share, q in zip(_SHARES, np.quantile(known, _SHARES), strict=True)
    }
