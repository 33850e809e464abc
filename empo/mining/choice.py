"""Which candidates are rejected: by score, by margin, or in the order of drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from empo.choosing import ranked

Choose = Literal["random", "hardest", "easiest"]
"""random: in the order of drawing; hardest: the candidate with the highest score as a reply to this
context; easiest: with the lowest."""
Reason = Literal["no_candidate", "chosen_unscored", "candidates_unscored", "margin"]
"""Why an exchange has no pair in an epoch: the pool has too few replies; the rater gave no score to
its own reply, or to too few candidates; too few candidates keep the margin."""


@dataclass(frozen=True)
class Rule:
    """`rejected` replies per exchange, chosen among its candidates.

    With a `margin` (in the units of the scores) a candidate counts only if
    score(own reply) - score(candidate) >= margin: the choice is among those that are left.
    """

    choose: Choose = "random"
    rejected: int = 1
    margin: float | None = None

    @property
    def selects(self) -> bool:
        """Whether scores decide which pairs there are."""
        return self.choose != "random" or self.margin is not None

    def facts(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"choose": self.choose, "rejected": self.rejected, "margin": self.margin}

    def places(self, own: float, scores: Sequence[float]) -> tuple[list[int], Reason | None]:
        """Places of the rejected candidates, and why there are none.

        `scores` of the candidates, in the order of drawing; NaN: no score. Ties go to the one that
        was drawn first.
        """
        left = list(range(len(scores)))
        if len(left) < self.rejected:
            return [], "no_candidate"
        if self.selects:
            if self.margin is not None and np.isnan(own):
                return [], "chosen_unscored"
            left = [i for i in left if not np.isnan(scores[i])]
            if len(left) < self.rejected:
                return [], "candidates_unscored"
        if self.margin is not None:
            left = [i for i in left if own - scores[i] >= self.margin]
            if len(left) < self.rejected:
                return [], "margin"
        if self.choose != "random":
            sign = 1.0 if self.choose == "hardest" else -1.0
            left = [left[i] for i in ranked([sign * scores[i] for i in left])]
        return left[: self.rejected], None

    def widest(self, own: float, scores: Sequence[float]) -> float:
        """The largest margin at which there would be a pair; NaN where there is none at any."""
        margins = sorted((own - score for score in scores if not np.isnan(score)), reverse=True)
        return margins[self.rejected - 1] if len(margins) >= self.rejected else float("nan")
