"""A rater as a reward for trl's trainers: prompts and completions in, a number or None per pair out.

    reward = as_reward(load_raters(["runs/raters/levels"]), "explorations", "expected")
    GRPOTrainer(model=..., reward_funcs=reward, ...)

GRPO, RLOO and online DPO call it alike. What a rater rewards, a policy will exploit: look at an
independent rater and at the length of the replies beside it, and never report the rewarded rater as
a measure (`identity.refuse_same_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from empo.dialogues import Turn
from empo.length_effect import LengthEffect
from empo.rating import Rater, RatingInput, Ratings, checked
from empo.records import UserError, finite

Transform = Literal["score", "expected", "probability", "logit"]
"""The score; the mean of the levels by their probabilities; the probability of at least `level`; its
log-odds."""
TRANSFORMS: tuple[str, ...] = get_args(Transform)
MOST_LOGIT = 20.0
"""Log-odds are kept within plus and minus this: a probability of 0 or 1 has none."""
_SILENT = 256
"""Replies after which a rater that scored none of them ends the training."""

Messages = Sequence[Mapping[str, Any]]


class RaterReward:
    """Calls a rater on what trl generates; see `as_reward`.

    A reply that the rater cannot score is None; a blank one gets the least that is possible, or that
    another reply of the call gets, as it has the lowest level in DIFF-EPITOME. Raises UserError where the rater scored none of the first replies.
    """

    def __init__(
        self,
        rater: Rater,
        weights: Mapping[str, float],
        transform: Transform,
        level: float | None,
        length: LengthEffect | None,
        batch_size: int,
    ) -> None:
        self.rater, self.weights, self.transform = rater, dict(weights), transform
        self.level, self.length, self.batch_size = level, length, batch_size
        self.__name__ = "+".join(self.weights)
        self.asked = self.scored = 0

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of the completions, plain or conversational.

        A column `context` of the data (messages or texts) is what the rater reads in place of the
        prompt: a plain prompt holds the marks of a chat template.
        """
        contexts = columns.get("context", prompts)
        replies = [_text(completion) for completion in completions]
        pairs = [
            RatingInput(_context(context), reply)
            for context, reply in zip(contexts, replies, strict=True)
        ]
        found = self.of(pairs)
        texts = [bool(reply.strip()) for reply in replies]  # a blank one gets its reward unread
        self.asked += sum(texts)
        self.scored += sum(r is not None and text for r, text in zip(found, texts, strict=True))
        if not self.scored and self.asked >= _SILENT:
            raise UserError(
                f"reward {self.__name__}: the rater scored none of the first {self.asked:,} replies, "
                "so there is nothing to learn. Try it with `empo rate` on some of them."
            )
        if (log := columns.get("log_metric")) is not None and replies:
            log("reply_characters", float(np.mean([len(reply.strip()) for reply in replies])))
        return found

    def of(self, pairs: Sequence[RatingInput]) -> list[float | None]:
        """Rewards of pairs; None where a reply is not blank and a dimension has no score."""
        ratings = checked(self.rater.score(pairs, batch_size=self.batch_size), len(pairs))
        blank = np.array([not pair.response.strip() for pair in pairs], dtype=bool)
        total = np.zeros(len(pairs))
        for name, weight in self.weights.items():
            total += weight * transformed(ratings, name, self.transform, self.level)
        if self.length is not None:
            total -= self.length.of([pair.response for pair in pairs])
            total[blank] = np.nan
        # None would leave a blank reply without blame, and taking the length out would reward it
        lowest = min([self._lowest(), *total[np.isfinite(total)]])
        return [lowest if no_text else finite(v) for v, no_text in zip(total, blank, strict=True)]

    def _lowest(self) -> float:
        """The least that a reply can get, before the effect of its length."""
        ends = {each.name: (each.low, each.high) for each in self.rater.dimensions}
        if self.transform in ("probability", "logit"):
            low, high = (0.0, 1.0) if self.transform == "probability" else (-MOST_LOGIT, MOST_LOGIT)
            ends = dict.fromkeys(ends, (low, high))
        return sum(weight * ends[name][weight < 0] for name, weight in self.weights.items())

    def facts(self) -> dict[str, Any]:
        """What the reward is, for a run's manifest."""
        return {
            "dimensions": self.weights,
            "transform": self.transform,
            "level": self.level,
            "length_residual": self.length is not None,
        }


def as_reward(
    rater: Rater,
    dimension: str | Mapping[str, float],
    transform: Transform = "expected",
    *,
    level: float | None = None,
    length: LengthEffect | None = None,
    batch_size: int = 32,
) -> RaterReward:
    """A rater as a reward function of trl, named after its dimension.

    `dimension` is one name, or names with their weights. `transform` is one of TRANSFORMS; those but
    `score` need the probabilities of levels, `probability` and `logit` are those of `level` or more
    (default: the highest). `length` takes the effect of length out (`LengthEffect.fit`).

    Raises UserError for a dimension that the rater does not have, a weight that is not finite, a
    transform or level that does not fit.
    """
    weights = {dimension: 1.0} if isinstance(dimension, str) else dict(dimension)
    known = {each.name: each for each in rater.dimensions}
    if transform not in TRANSFORMS:
        raise UserError(f"transform: {transform!r} is unknown; known: {', '.join(TRANSFORMS)}.")
    if not weights or not all(math.isfinite(w) for w in weights.values()):
        raise UserError("reward: at least one dimension with a finite weight is needed.")
    for name in weights:
        if name not in known:
            raise UserError(
                f"reward: the rater has no dimension {name!r}; it has: {', '.join(known)}."
            )
        levels = known[name].levels
        if transform != "score" and not levels:
            raise UserError(
                f"transform: {name} has no levels, so no probabilities of them; use score."
            )
        if level is not None and (
            transform in ("score", "expected") or level not in (levels or ())
        ):
            raise UserError(
                f"level: {level:g} fits transform probability and logit alone, as one of the levels "
                f"{', '.join(f'{value:g}' for value in levels or ())} of {name}."
            )
    return RaterReward(rater, weights, transform, level, length, batch_size)


def transformed(
    ratings: Ratings, name: str, transform: Transform, level: float | None = None
) -> np.ndarray:
    """The ratings of a dimension as `transform` says, shape (n,), NaN where there is no score.

    Raises UserError where the transform needs probabilities that the rater does not give.
    """
    column = ratings.column(name)
    scores = ratings.scores[:, column]
    if transform == "score":
        return scores
    probabilities, levels = ratings.probabilities[column], ratings.dimensions[column].levels
    if probabilities is None or levels is None:
        raise UserError(
            f"transform: {transform} needs the probabilities of levels, which this rater does not "
            f"give for {name}; use score. ({ratings.signature})"
        )
    if transform == "expected":
        values = probabilities @ np.array(levels)
    else:
        reached = np.array(levels) >= (levels[-1] if level is None else level)
        values = probabilities[:, reached].sum(axis=1)
        if transform == "logit":
            with np.errstate(divide="ignore"):
                odds = np.log(values) - np.log1p(-np.minimum(values, 1.0))
            values = np.clip(odds, -MOST_LOGIT, MOST_LOGIT)
    return np.where(np.isfinite(scores), values, np.nan)


def _text(completion: str | Messages) -> str:
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message["content"]) for message in completion if message.get("content"))


def _context(prompt: str | Messages) -> str | tuple[Turn, ...]:
    """The turns of a conversation, without a system message; a text stays one."""
    if isinstance(prompt, str):
        return prompt
    return tuple(
        Turn(message["role"], str(message["content"]))
        for message in prompt
        if message["role"] in ("user", "assistant")
    )
