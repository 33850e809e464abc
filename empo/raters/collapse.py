"""Whether a model that answers with a score has learnt more than how often each score occurs.

The distribution over the answers, at the first position of the answer, is averaged per gold class.
Where all classes get the same row, the model has learnt the prior (Manzoor et al. 2024 show it for
scores of story pairs).
"""

from __future__ import annotations

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
"""Two rows nearer than this (total variation, 0..1) are one row for any use."""


@dataclass(frozen=True)
class Collapse:
    """Rows P(answer | gold class), shape (classes, A), beside the classes' prior, shape (classes,).

    `distance` is the largest total variation between two rows, 0..1; `p` the share of random
    assignments of gold classes whose rows lie as far apart (a permutation test of the weighted
    squared distances from the mean row).
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
        measured = f"largest distance of two rows {self.distance:.3f}, p {self.p:.4f}"
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
    batch_size: int = 16,
    seed: int = 0,
    permutations: int = 2_000,
) -> Collapse:
    """The diagnostic for prompts that end where the answer begins.

    `answers` are the first tokens of the allowed answers, say 1, 2, 3, 4. Raises UserError with one
    gold class only, or where two answers begin with one token.
    """
    firsts = [tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in answers]
    if len(set(firsts)) < len(firsts):
        raise UserError(
            f"answers {', '.join(answers)}: two begin with one token. Give what tells them apart."
        )
    table = answer_log_probs(
        model, tokenizer, prompts, tokenizer.batch_decode([[t] for t in firsts]), batch_size
    )
    return collapse_of(softmax(table, axis=1), gold, answers, seed=seed, permutations=permutations)


def collapse_of_rater(
    rater: ScoringLM, examples: Sequence[Example], *, seed: int = 0
) -> dict[str, Collapse]:
    """The diagnostic for every dimension of a rater that answers with the score alone.

    Answers that begin with one token are one class (2.0 and 2.5). A dimension whose answers all
    begin alike, or whose gold has one class, is left out.
    """
    found = {}
    for table in rater.tables:
        firsts = rater.tokenizer(list(table.answers), add_special_tokens=False).input_ids
        tokens = [ids[0] for ids in firsts]
        names = [rater.tokenizer.decode([token]) for token in dict.fromkeys(tokens)]
        prompts, gold = [], []
        for example in examples:
            prompt = rater.prompts.scored(example.input, table)
            if prompt is not None and table.name in example.labels:
                code = table.nearest(example.labels[table.name])
                prompts.append(prompt.text)
                gold.append(list(dict.fromkeys(tokens)).index(tokens[code]))
        if len(set(gold)) < 2:
            continue
        values = [names[code] for code in sorted(set(gold))]
        measured = collapse(rater.model, rater.tokenizer, prompts, gold, names, seed=seed)
        found[table.name] = replace(measured, classes=tuple(values))
    return found


def collapse_of(
    probabilities: np.ndarray,
    gold: Sequence[float],
    answers: Sequence[str],
    *,
    seed: int = 0,
    permutations: int = 2_000,
) -> Collapse:
    """The diagnostic for distributions over the answers, shape (n, A), and gold classes (n,)."""
    classes, codes = np.unique(np.asarray(gold, dtype=float), return_inverse=True)
    if len(classes) < 2:
        raise UserError("the collapse diagnostic needs two gold classes or more.")
    counts = np.bincount(codes)

    def rows_of(assigned: np.ndarray) -> np.ndarray:
        return (np.eye(len(classes))[assigned].T @ probabilities) / counts[:, None]

    def spread(rows: np.ndarray) -> float:
        return float(counts @ ((rows - probabilities.mean(axis=0)) ** 2).sum(axis=1))

    rows = rows_of(codes)
    rng = np.random.default_rng(seed)
    found = spread(rows)
    as_far = sum(
        spread(rows_of(rng.permutation(codes))) >= found - 1e-15 for _ in range(permutations)
    )
    distance = max(np.abs(a - b).sum() / 2 for a in rows for b in rows)
    p = (1 + as_far) / (1 + permutations)
    return Collapse(tuple(answers), tuple(classes.tolist()), counts, rows, float(distance), p)
