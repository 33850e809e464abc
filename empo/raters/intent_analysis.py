"""Perceived empathy where an intent is expressed and where it is not (Xu and Jiang 2024).

One row per intent and perceived dimension. Turns of one dialogue depend on each other, and the two
sides of a dialogue belong together: so every dialogue that has both is compared with itself, and the
test is the paired t test over dialogues, corrected for the number of tests. Means over single turns
stand beside it as description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from empo.records import UserError, finite

Correction = Literal["holm", "fdr_bh", "bonferroni"]
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""Marks of a corrected p below a bound."""
SIDES = {"present": 1, "absent": 0}
"""Where the intent is marked, and where it is not."""
SAME = 1e-9
"""Differences nearer to each other than this are one number, rounded."""


@dataclass(frozen=True)
class Turns:
    """Judged turns: marks (n, I) of the intents, 0 or 1; scores (n, P) of the perceived dimensions,
    raters' means; NaN = not judged; the dialogue of each turn, (n,)."""

    intents: tuple[str, ...]
    perceived: tuple[str, ...]
    marks: np.ndarray
    scores: np.ndarray
    dialogues: np.ndarray


def turns_of(
    annotations: Sequence[dict[str, Any]], intents: Sequence[str], perceived: Sequence[str]
) -> Turns:
    """Turns from tidy annotations {item, rater, aspect, value} (`intent_annotations`).

    An intent is there where all raters mark it; a score is the mean of the raters. The dialogue is
    what stands before the last colon of an item. Raises UserError without intents or dimensions.
    """
    if not intents or not perceived:
        raise UserError("an intent and a perceived dimension are needed to compare.")
    items = {name: i for i, name in enumerate(dict.fromkeys(a["item"] for a in annotations))}
    aspects = {name: k for k, name in enumerate((*intents, *perceived))}
    given: dict[tuple[int, int], list[float]] = {}
    for a in annotations:
        given.setdefault((items[a["item"]], aspects[a["aspect"]]), []).append(a["value"])
    table = np.full((len(items), len(aspects)), np.nan)
    for (i, k), values in given.items():
        table[i, k] = min(values) if k < len(intents) else np.mean(values)
    dialogues = np.array([name.rpartition(":")[0] for name in items])
    split = len(intents)
    return Turns(tuple(intents), tuple(perceived), table[:, :split], table[:, split:], dialogues)


def intent_table(turns: Turns, correction: Correction = "holm") -> list[dict[str, Any]]:
    """A row per intent and perceived dimension.

    Keys: intent, perceived; `turns` with n, mean, se of the turns that are `present` and `absent`;
    `dialogues` with n, `left_out` (those with one side only), and mean and se over dialogues of their
    means `present`, `absent` and the `difference` of the two; p of the paired t test over dialogues,
    two-sided, p_corrected and mark; `reason` where there is no test (fewer than two dialogues with
    both sides, or no variance), which then does not count among the tests.
    """
    from scipy.stats import ttest_1samp
    from statsmodels.stats.multitest import multipletests

    rows: list[dict[str, Any]] = []
    for i, intent in enumerate(turns.intents):
        for k, dimension in enumerate(turns.perceived):
            marks, scores = turns.marks[:, i], turns.scores[:, k]
            judged = np.isfinite(marks) & np.isfinite(scores)
            sides = {name: judged & (marks == mark) for name, mark in SIDES.items()}
            means, left_out = _dialogue_means(scores, turns.dialogues, *sides.values())
            gaps = means[0] - means[1]
            compared = {"present": means[0], "absent": means[1], "difference": gaps}
            row: dict[str, Any] = {
                "intent": intent,
                "perceived": dimension,
                "turns": {name: _described(scores[kept]) for name, kept in sides.items()},
                "dialogues": {"n": len(gaps), "left_out": left_out}
                | {name: _mean_and_error(values) for name, values in compared.items()},
                **{"p": None, "p_corrected": None, "mark": ""},
            }
            if len(gaps) < 2:
                row["reason"] = "fewer than two dialogues with and without the intent"
            elif np.ptp(gaps) < SAME:
                row["reason"] = "the differences do not vary"
            else:
                row["p"] = float(ttest_1samp(gaps, 0.0).pvalue)
            rows.append(row)
    tested = [row for row in rows if row["p"] is not None]
    if tested:
        corrected = multipletests([row["p"] for row in tested], method=correction)[1]
        for row, p in zip(tested, corrected, strict=True):
            row["p_corrected"] = float(p)
            row["mark"] = next((mark for bound, mark in MARKS if p < bound), "")
    return rows


def dialogue_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the comparison within dialogues, for a person."""
    headers = ["intent", "perceived", "dialogues", "left out", *SIDES, "difference", "p corrected"]
    cells = []
    for row in rows:
        of = row["dialogues"]
        cells.append(
            [
                *(row["intent"], row["perceived"], str(of["n"]), str(of["left_out"])),
                *(_plus_minus(of[side]) for side in SIDES),
                _plus_minus(of["difference"], "+.2f") + row["mark"],
                row.get("reason") or f"{row['p_corrected']:.4f}",
            ]
        )
    return headers, cells


def turn_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the means over single turns, which describe and test nothing."""
    headers = ["intent", "perceived", "present", "n", "absent", "n"]
    cells = []
    for row in rows:
        sides = [(_plus_minus(row["turns"][side]), str(row["turns"][side]["n"])) for side in SIDES]
        cells.append([row["intent"], row["perceived"], *sides[0], *sides[1]])
    return headers, cells


def _dialogue_means(
    scores: np.ndarray, dialogues: np.ndarray, present: np.ndarray, absent: np.ndarray
) -> tuple[np.ndarray, int]:
    """Means of both sides in the dialogues that have both, shape (2, n), and how many have one."""
    both = np.intersect1d(dialogues[present], dialogues[absent])
    either = np.union1d(dialogues[present], dialogues[absent])
    means = [
        [scores[side & (dialogues == name)].mean() for name in both] for side in (present, absent)
    ]
    return np.array(means), len(either) - len(both)


def _plus_minus(found: dict[str, Any], style: str = ".2f") -> str:
    if found["mean"] is None:
        return "—"
    return f"{found['mean']:{style}}" + ("" if found["se"] is None else f" ± {found['se']:.2f}")


def _described(values: np.ndarray) -> dict[str, Any]:
    return {"n": len(values), **_mean_and_error(values)}


def _mean_and_error(values: np.ndarray) -> dict[str, float | None]:
    n = len(values)
    se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return {"mean": finite(values.mean()) if n else None, "se": se}
