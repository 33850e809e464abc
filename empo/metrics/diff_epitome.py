"""DIFF-EPITOME: how far the levels of empathy in a response are from those of the human reference.

EPITOME (Sharma et al., EMNLP 2020) has three mechanisms, each 0 none, 1 weak, 2 strong. The metric
is the mean squared difference of the two levels (Table 2 of the EmPO paper; its wording suggests a
plain difference, its numbers are squared). Small means like the human, not empathetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats.contingency import crosstab
from tqdm import tqdm

from empo.metrics import MetricResult
from empo.metrics.length import characters
from empo.metrics.statistics import describe
from empo.rating import MECHANISMS, Dimension, Rater, RatingInput, Ratings, checked
from empo.records import Response, UserError

LEVELS = (0, 1, 2)
BATCHES = 16
"""Batches that a rater gets in one call: what it sorts by length, and what a cache keeps at once."""


def diff_epitome(
    responses: Sequence[Response], rater: Rater, seed: int = 0, batch_size: int = 64
) -> MetricResult:
    """Mean squared difference (0..4) of the levels of response and reference, by mechanism.

    Both are rated with the last speaker turn as their only context; a level is the rater's score
    (the most probable level). A blank text expresses nothing: level 0 in every mechanism, whatever
    the rater says. Values:

    - mean, its sd, interval and length_correlation: of the mean over the three mechanisms;
      emotional_reactions, interpretations, explorations: the metric of each; n: responses in it.
    - mechanisms: the same per mechanism, with `signed` (response minus reference, -2..2), the
      counts of `levels` and `reference_levels` 0, 1, 2, and their `confusion` (rows: reference).
    - controls, on the references of the same n responses: `always_level_0` is the mean squared
      reference level; `drawn_from_reference` is what levels get that are drawn at random as often
      as the references have them. No draw is made: the expectation E(X - Y)^2 of two independent
      levels of one distribution is exactly twice its variance, here per mechanism.
    - against_level_0, against_drawn: {difference, interval} of the metric minus that control, paired
      by response; a system is shown to be below the control where the interval is below 0.
    - levels_sum and reference_levels_sum: the sum of the three levels (0..6).
    - blank: responses without any text, counted as level 0.
    - unscored: responses left out because they (unscored_responses) or their reference
      (unscored_references) got a NaN in one of the mechanisms; parse_failed: responses whose own
      rating could not be read.
    - truncated: shares of the responses for which the rater cut the context (of response or
      reference), the response, the reference.
    - warnings: the rater's, which every report repeats.

    Per response: `diff_epitome`, `diff_epitome.<mechanism>`, and `epitome_levels`, the sum of its
    own levels, which says nothing about the reference.

    Raises UserError where the rater does not have the three mechanisms in levels 0, 1, 2.
    """
    require_mechanisms(rater)
    n = len(responses)
    ratings, levels, blank = _rated(responses, rater, batch_size)
    own, human = levels[:n], levels[n:]
    own_known, human_known = (np.isfinite(side).all(axis=1) for side in (own, human))
    both = own_known & human_known

    lengths = characters(responses)
    reference_lengths = np.array([len(r.reference) for r in responses], dtype=float)
    squared = (own - human) ** 2
    references = human[both]
    expected = _expected_of_draws(references)
    values = _described(squared[both], lengths[both], seed)
    values |= {
        "mechanisms": _by_mechanism(own[both], references, lengths[both], seed),
        "controls": {
            "always_level_0": _described(references**2, reference_lengths[both], seed),
            "drawn_from_reference": _drawn(expected, reference_lengths[both], seed),
        },
        "against_level_0": _against(squared[both], references**2, seed),
        "against_drawn": _against(squared[both], expected, seed),
        "levels_sum": describe(own.sum(axis=1), lengths, seed),
        "reference_levels_sum": describe(human.sum(axis=1), reference_lengths, seed),
        "blank": int(blank[:n].sum()),
        "unscored": int((~both).sum()),
        "unscored_responses": int((~own_known).sum()),
        "unscored_references": int((~human_known).sum()),
        "parse_failed": int(ratings.parse_failed[:n].sum()),
        "truncated": {
            "context": _share(ratings.truncated[:n] | ratings.truncated[n:]),
            "response": _share(ratings.response_truncated[:n]),
            "reference": _share(ratings.response_truncated[n:]),
        },
        "warnings": list(ratings.warnings),
    }
    in_metric = np.where(both[:, None], squared, np.nan)
    return MetricResult(
        name="diff_epitome",
        n=n,
        values=values,
        per_response={
            "diff_epitome": in_metric.mean(axis=1),
            **{f"diff_epitome.{name}": in_metric[:, i] for i, name in enumerate(MECHANISMS)},
            "epitome_levels": own.sum(axis=1),
        },
        signature=f"squared difference of levels, context: last speaker turn; {ratings.signature}",
    )


def require_mechanisms(rater: Rater) -> None:
    """Raise UserError where the rater lacks a mechanism or has one that is not levels 0, 1, 2."""
    of_name = {dimension.name: dimension for dimension in rater.dimensions}
    if missing := [name for name in MECHANISMS if name not in of_name]:
        raise UserError(
            f"DIFF-EPITOME needs a rater of {', '.join(MECHANISMS)}. Missing: "
            f"{', '.join(missing)}; the rater has: {', '.join(of_name) or 'no dimension'}. Several "
            "raters can share the work: give all their folders to --rater."
        )
    for name in MECHANISMS:
        dimension = of_name[name]
        if dimension.kind != "ordinal" or tuple(dimension.levels or ()) != LEVELS:
            levels = ", ".join(f"{level:g}" for level in dimension.levels or ()) or "none"
            raise UserError(
                f"DIFF-EPITOME counts the levels 0, 1, 2, but {name!r} of the rater is of kind "
                f"{dimension.kind!r} with the levels {levels}. Give a rater whose {name} is "
                "ordinal with the levels 0, 1, 2."
            )


class RatedOnce:
    """A rater behind which each distinct pair is scored once; what it has seen it looks up.

    So references are scored once and not once per system, and equal texts have equal scores.
    Probabilities are not kept.
    """

    def __init__(self, rater: Rater):
        self.dimensions: tuple[Dimension, ...] = tuple(rater.dimensions)
        self._rater = rater
        self._row: dict[RatingInput, int] = {}
        self._flags = ("truncated", "response_truncated", "parse_failed", "n_valid")
        self._columns: dict[str, list[Any]] = {name: [] for name in ("scores", *self._flags)}
        self._signature: str | None = None
        self._warnings: dict[str, None] = {}

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order; the warnings are those of all calls so far.

        Raises UserError where the rater's signature changes (its scores could not be compared), or
        where it returns other dimensions than it has.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._row]
        size = BATCHES * batch_size
        with tqdm(
            total=len(new), delay=2, disable=None, desc="rating", unit="text", leave=False
        ) as bar:
            for start in range(0, len(new), size):
                some = new[start : start + size]
                self._keep(some, checked(self._rater.score(some, batch_size=batch_size), len(some)))
                bar.update(len(some))
        rows = np.array([self._row[pair] for pair in pairs], dtype=int)
        return Ratings.of(
            self.dimensions,
            np.reshape(self._columns["scores"], (-1, len(self.dimensions)))[rows],
            self._signature or "",
            warnings=tuple(self._warnings),
            **{name: np.array(self._columns[name])[rows] for name in self._flags},
        )

    def _keep(self, pairs: Sequence[RatingInput], ratings: Ratings) -> None:
        if ratings.dimensions != self.dimensions:
            here, there = (", ".join(d.name for d in r.dimensions) for r in (self, ratings))
            raise UserError(
                f"the rater has the dimensions {here}, but returned {there}, or the same with "
                f"other ranges. ({ratings.signature})"
            )
        if self._signature not in (None, ratings.signature):
            raise UserError(
                f"the rater's signature changed from {self._signature!r} to {ratings.signature!r} "
                "while it was rating, so its scores cannot be compared. Rate everything again."
            )
        self._signature = ratings.signature
        self._warnings |= dict.fromkeys(ratings.warnings)
        for name, column in self._columns.items():
            column.extend(getattr(ratings, name))
        self._row |= {pair: len(self._row) + k for k, pair in enumerate(pairs)}


def _rated(
    responses: Sequence[Response], rater: Rater, batch_size: int
) -> tuple[Ratings, np.ndarray, np.ndarray]:
    """Of the n responses, then of the n references: ratings, levels (2n, 3), and which are blank."""
    texts = [r.response for r in responses] + [r.reference for r in responses]
    prompts = [r.prompt for r in responses] * 2
    pairs = [RatingInput(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    ratings = checked(rater.score(pairs, batch_size=batch_size), len(pairs))
    blank = np.array([not text.strip() for text in texts], dtype=bool)
    return ratings, np.where(blank[:, None], 0.0, _levels(ratings, responses)), blank


def _levels(ratings: Ratings, responses: Sequence[Response]) -> np.ndarray:
    """The scores of the mechanisms, shape (2n, 3): responses, then references; NaN: not scored."""
    levels = ratings.scores[:, [ratings.column(name) for name in MECHANISMS]]
    odd = np.isfinite(levels) & ~np.isin(levels, LEVELS)
    if odd.any():
        row, i = np.argwhere(odd)[0]
        what = "response" if row < len(responses) else "reference"
        raise UserError(
            f"{responses[row % len(responses)].id}, field {what!r}: the rater's score "
            f"{levels[row, i]:g} in {MECHANISMS[i]!r} is none of the levels 0, 1, 2 that "
            f"DIFF-EPITOME counts. ({ratings.signature})"
        )
    return levels


def _by_mechanism(
    own: np.ndarray, human: np.ndarray, lengths: np.ndarray, seed: int
) -> dict[str, dict[str, Any]]:
    """The metric of each mechanism, its signed difference and counts; levels of shape (n, 3)."""
    difference = own - human
    details: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(MECHANISMS):
        confusion = crosstab(human[:, i], own[:, i], levels=(LEVELS, LEVELS)).count
        details[name] = describe(difference[:, i] ** 2, lengths, seed) | {
            "signed": describe(difference[:, i], lengths, seed),
            "levels": confusion.sum(axis=0).tolist(),
            "reference_levels": confusion.sum(axis=1).tolist(),
            "confusion": confusion.tolist(),
        }
    return details


def _expected_of_draws(references: np.ndarray) -> np.ndarray:
    """What each reference adds to twice the variance of its mechanism, (n, 3)."""
    centre = references.mean(axis=0) if len(references) else 0.0
    return 2 * (references - centre) ** 2


def _drawn(expected: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """The control of levels drawn as often as the references have them."""
    drawn = _described(expected, lengths, seed)
    for key in ("sd", "length_correlation"):
        drawn[key] = None
        drawn.setdefault("reasons", {})[key] = "an expectation: no draw is made that could spread"
    return drawn


def _described(squared: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """`describe` of the mean over mechanisms, and the mean of each; `squared` has shape (n, 3)."""
    described = describe(squared.mean(axis=1), lengths, seed)
    for i, name in enumerate(MECHANISMS):
        described[name] = float(squared[:, i].mean()) if len(squared) else None
        if not len(squared):
            described["reasons"][name] = "no response has this value"
    return described


def _against(squared: np.ndarray, control: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean over responses of the metric minus a control's, both of shape (n, 3), and its interval."""
    described = describe((squared - control).mean(axis=1), np.zeros(len(squared)), seed)
    found = {"difference": described["mean"], "interval": described["interval"]}
    reasons = described.get("reasons", {})
    names = {"mean": "difference", "interval": "interval"}
    if why := {names[key]: text for key, text in reasons.items() if key in names}:
        found["reasons"] = why
    return found


def _share(flags: np.ndarray) -> float:
    return float(np.mean(flags))
