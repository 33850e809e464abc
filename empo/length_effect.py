"""How a score goes with the length of replies, so that it can be taken out of a reward or a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from empo.records import UserError

LONG = 0.5
"""A reward that correlates with the length of replies by this much or more is called one of length."""
ALL_LENGTH = 0.999
"""From this correlation on, what a straight line of length leaves over is rounding."""
FITTED_ON = 512
"""Human replies that show how a score goes with length."""


def spread_out(items: Sequence[Any], most: int = FITTED_ON) -> list[Any]:
    """At most so many of the items, evenly spaced: a corpus is often sorted."""
    return list(items[:: max(1, -(-len(items) // most))])


@dataclass(frozen=True)
class LengthEffect:
    """How a reward goes with the length of replies, in characters, on replies it was fitted on.

    `slope` per character, `mean` the mean length; `correlation` is Pearson's, None where one of the
    two is constant; `n` replies.
    """

    slope: float
    mean: float
    correlation: float | None
    n: int

    @classmethod
    def fit(cls, rewards: Sequence[float | None], replies: Sequence[str]) -> LengthEffect:
        """The least-squares line over the replies that have a reward.

        Raises UserError with fewer than three of them.
        """
        known = [
            (len(reply.strip()), reward)
            for reply, reward in zip(replies, rewards, strict=True)
            if reward is not None
        ]
        if len(known) < 3:
            raise UserError(
                f"reward: {len(known)} of {len(rewards)} replies have one; the effect of their "
                "length cannot be measured. Choose another rater."
            )
        lengths, values = np.array(known, dtype=float).T
        # equal scores may differ in their last bits, which go with anything
        if np.ptp(lengths) == 0 or np.ptp(values) <= 1e-9 * np.abs(values).max():
            return cls(0.0, float(lengths.mean()), None, len(known))
        correlation = float(np.corrcoef(lengths, values)[0, 1])
        slope = correlation * float(values.std() / lengths.std())
        return cls(slope, float(lengths.mean()), correlation, len(known))

    def of(self, replies: Sequence[str]) -> np.ndarray:
        """What the length adds to the reward of each reply, shape (n,); 0 at the mean length."""
        return self.slope * (np.array([len(reply.strip()) for reply in replies]) - self.mean)

    def require_rest(self) -> None:
        """Raise UserError where length explains all of the score: nothing is left at equal length."""
        if self.correlation is not None and abs(self.correlation) > ALL_LENGTH:
            raise UserError(
                f"length_residual: the score is the length of the reply and nothing else (correlation "
                f"{self.correlation:.4f} on {self.n} replies); without it nothing is left to go by. "
                "Choose another rater, or other dimensions."
            )

    def facts(self) -> dict[str, Any]:
        """The effect as JSON."""
        return asdict(self)

    @property
    def warning(self) -> str | None:
        """What to say where the reward goes with length; None where it hardly does."""
        if self.correlation is None or abs(self.correlation) < LONG:
            return None
        way = "longer" if self.correlation > 0 else "shorter"
        return (
            f"the score goes with the length of replies (correlation {self.correlation:.2f} on {self.n} "
            f"replies): {way} replies get more for their length alone, and what is chosen or rewarded "
            "by it changes in length. Set length_residual, and compare at equal length."
        )
