"""Whether a model that answers with a score has learnt more than how often each score occurs.

The distribution over the answers, by the likelihood of each as a whole, is averaged per gold class.
Where all classes get the same row, the model has learnt the prior (Manzoor et al. 2024 show it for
scores of story pairs).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from empo.corpora.labelled import Example
from empo.raters.answers import answer_log_probs
from empo.records import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from empo.raters.scoring_lm import ScoringLM

SIGNIFICANT = 0.05
APART = 0.05
"""Rows nearer than this (total variation, 0..1) are one row for any use."""
ENOUGH = 5
"""Examples of a gold class from which on its row counts in the distance."""
DIAGNOSED = 500
"""Examples that a rater is asked about, drawn by the seed."""


@dataclass(frozen=True)
class Collapse:
    """Rows P(answer | gold class), shape (classes, A), beside the classes' prior, shape (classes,).

    `distance` is the total variation between two rows, 0..1, averaged over pairs of classes with at
    least `ENOUGH` examples, a pair weighed by the product of its counts; `p` the share of random
    assignments of gold classes whose rows lie as far apart (a permutation test of the weighted
    squared distances from the mean row, over whole groups).
    """

    answers: tuple[str, ...]
    classes: tuple[float | str, ...]
    counts: np.ndarray
    rows: np.ndarray
    distance: float
    p: float

    @property
    def prior(self) -> np.ndarray:
        """P(gold class)."""
        return self.counts / self.counts.sum()

    @property
    def collapsed(self) -> bool:
        """Whether the rows are the same up to chance, or too near to each other to be of use."""
        return self.p > SIGNIFICANT or self.distance < APART

    def facts(self) -> dict[str, Any]:
        """The table as JSON."""
        return {
            "answers": list(self.answers),
            "classes": list(self.classes),
            "n": self.counts.tolist(),
            "prior": self.prior.tolist(),
            "rows": self.rows.tolist(),
            "distance": self.distance,
            "p": self.p,
            "collapsed": self.collapsed,
        }

    def summary(self) -> str:
        """The table and the verdict, for a person."""
        head = "gold        n   P(Y)  " + "  ".join(f"P({answer})" for answer in self.answers)
        lines = [
            f"{c if isinstance(c, str) else format(c, 'g'):<8} {n:>4} {share:>6.3f}  "
            + "  ".join(f"{p:>{len(a) + 3}.3f}" for p, a in zip(row, self.answers, strict=True))
            for c, n, share, row in zip(
                self.classes, self.counts, self.prior, self.rows, strict=True
            )
        ]
        measured = f"mean distance of two rows {self.distance:.3f}, p {self.p:.4f}"
        verdict = (
            f"The rows do not depend on the gold class ({measured}): the model has learnt how often "
            "scores occur, not what they mean. Do not use its scores."
            if self.collapsed
            else f"The rows depend on the gold class ({measured})."
        )
        return "\n".join([head, *lines, verdict])


def collapse(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    gold: Sequence[float],
    answers: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    permutations: int = 2_000,
) -> Collapse:
    """The diagnostic for prompts that end where the answer begins.

    `answers` are all allowed answers, none the beginning of another. Raises UserError as
    `collapse_of`.
    """
    table = softmax(answer_log_probs(model, tokenizer, prompts, answers, batch_size), axis=1)
    return collapse_of(table, gold, answers, groups=groups, seed=seed, permutations=permutations)


def collapse_of_rater(
    rater: ScoringLM, examples: Sequence[Example], *, seed: int = 0
) -> dict[str, Collapse | str]:
    """The diagnostic for every dimension of a rater that answers with the score alone.

    At most `DIAGNOSED` examples are asked about. Levels with fewer than `ENOUGH` of them are joined
    with the levels above them ("00-03"), the last ones with those below. A dimension that this
    leaves with one class has the reason why it was not measured.
    """
    if len(examples) > DIAGNOSED:
        examples = random.Random(seed).sample(list(examples), DIAGNOSED)
    found: dict[str, Collapse | str] = {}
    for table in rater.tables:
        prompts, gold, groups = [], [], []
        for example in examples:
            prompt = rater.prompts.scored(example.input, table)
            if prompt is not None and table.name in example.labels:
                prompts.append(prompt.text)
                gold.append(table.nearest(example.labels[table.name]))
                groups.append(example.group)
        joined, names = _joined(gold, table.answers)
        if len(names) < 2:
            found[table.name] = (
                f"{len(gold)} examples with a label make fewer than two gold classes of {ENOUGH}."
            )
            continue
        measured = collapse(
            rater.model, rater.tokenizer, prompts, joined, table.answers, groups=groups, seed=seed
        )
        found[table.name] = replace(measured, classes=tuple(names))
    return found


def _joined(gold: Sequence[int], answers: Sequence[str]) -> tuple[list[int], list[str]]:
    """Levels joined with their neighbours until each class is large enough: classes and names."""
    counts = np.bincount(gold, minlength=len(answers))
    classes: list[list[int]] = [[]]
    for level in np.flatnonzero(counts):
        if counts[classes[-1]].sum() >= ENOUGH:
            classes.append([])
        classes[-1].append(int(level))
    if len(classes) > 1 and counts[classes[-1]].sum() < ENOUGH:
        last = classes.pop()
        classes[-1] += last
    if counts[classes[0]].sum() < ENOUGH:
        return [0] * len(gold), []
    of = {level: c for c, levels in enumerate(classes) for level in levels}
    names = ["-".join(dict.fromkeys((answers[ls[0]], answers[ls[-1]]))) for ls in classes]
    return [of[level] for level in gold], names


def collapse_of(
    probabilities: np.ndarray,
    gold: Sequence[float],
    answers: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    permutations: int = 2_000,
) -> Collapse:
    """The diagnostic for distributions over the answers, shape (n, A), and gold classes (n,).

    Labels of one group depend on each other, and so do its distributions: the permutation gives every
    group the labels of another, repeated or cut to its size. Without `groups` every example is one.

    Raises UserError with fewer than two gold classes of `ENOUGH` examples.
    """
    classes, codes = np.unique(np.asarray(gold, dtype=float), return_inverse=True)
    counts = np.bincount(codes, minlength=len(classes))
    if (counts >= ENOUGH).sum() < 2:
        raise UserError(
            f"the collapse diagnostic needs two gold classes or more with {ENOUGH} examples each."
        )
    _, of = np.unique(
        np.arange(len(codes)) if groups is None else np.asarray(groups), return_inverse=True
    )
    order = np.argsort(of, kind="stable")
    of, ordered = of[order], codes[order]
    sizes = np.bincount(of)
    begin = np.cumsum(sizes) - sizes
    place = np.arange(len(of)) - begin[of]
    centred = (probabilities - probabilities.mean(axis=0))[order]

    def spread(assigned: np.ndarray) -> float:
        sums = np.eye(len(classes))[assigned].T @ centred
        n = np.bincount(assigned, minlength=len(classes))
        return float(((sums**2).sum(axis=1) / np.maximum(n, 1)).sum())

    rng = np.random.default_rng(seed)
    found = spread(ordered)
    as_far = 0
    for _ in range(permutations):
        given = rng.permutation(len(sizes))[of]
        as_far += spread(ordered[begin[given] + place % sizes[given]]) >= found - 1e-15
    rows = (np.eye(len(classes))[codes].T @ probabilities) / counts[:, None]
    pairs = list(itertools.combinations(np.flatnonzero(counts >= ENOUGH), 2))
    distance = np.average(
        [np.abs(rows[a] - rows[b]).sum() / 2 for a, b in pairs],
        weights=[counts[a] * counts[b] for a, b in pairs],
    )
    p = (1 + as_far) / (1 + permutations)
    return Collapse(tuple(answers), tuple(classes.tolist()), counts, rows, float(distance), p)
