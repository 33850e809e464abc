"""Perceived empathy where an intent is expressed and where it is not (Xu and Jiang 2024).

One row per intent and perceived dimension: mean and standard error of the raters' mean in turns with
and without the intent, Welch's test, and its p corrected for the number of tests. Turns of one
dialogue are not independent; so the means are over dialogues where `by_dialogue` says so.
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


def intent_table(
    turns: Turns, correction: Correction = "holm", by_dialogue: bool = False
) -> list[dict[str, Any]]:
    """A row per intent and perceived dimension.

    Keys: intent, perceived, and for `present` and `absent` n, mean, se; difference, p, p_corrected,
    mark; `reason` where there is no test (fewer than two turns on a side, or no variance), which
    then does not count among the tests. `by_dialogue` takes one mean per dialogue and side.
    """
    from scipy.stats import ttest_ind
    from statsmodels.stats.multitest import multipletests

    rows: list[dict[str, Any]] = []
    for i, intent in enumerate(turns.intents):
        for k, dimension in enumerate(turns.perceived):
            judged = np.isfinite(turns.marks[:, i]) & np.isfinite(turns.scores[:, k])
            sides = [
                _values(turns, judged & (turns.marks[:, i] == mark), k, by_dialogue)
                for mark in (1, 0)
            ]
            row: dict[str, Any] = {"intent": intent, "perceived": dimension}
            row |= {
                name: _described(v) for name, v in zip(("present", "absent"), sides, strict=True)
            }
            means = [row[side]["mean"] for side in ("present", "absent")]
            row["difference"] = None if None in means else means[0] - means[1]
            row |= {"p": None, "p_corrected": None, "mark": ""}
            if min(map(len, sides)) < 2:
                row["reason"] = "fewer than two values with or without the intent"
            elif max(map(np.ptp, sides)) == 0:
                row["reason"] = "the values do not vary"
            else:
                row["p"] = float(ttest_ind(*sides, equal_var=False).pvalue)
            rows.append(row)
    tested = [row for row in rows if row["p"] is not None]
    if tested:
        corrected = multipletests([row["p"] for row in tested], method=correction)[1]
        for row, p in zip(tested, corrected, strict=True):
            row["p_corrected"] = float(p)
            row["mark"] = next((mark for bound, mark in MARKS if p < bound), "")
    return rows


def table_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table, for a person."""

    def mean(side: dict[str, Any]) -> str:
        if side["mean"] is None:
            return "—"
        return f"{side['mean']:.2f}" + ("" if side["se"] is None else f" ± {side['se']:.2f}")

    headers = ["intent", "perceived", "present", "n", "absent", "n", "difference", "p corrected"]
    cells = [
        [
            *(row["intent"], row["perceived"]),
            *(mean(row["present"]), str(row["present"]["n"])),
            *(mean(row["absent"]), str(row["absent"]["n"])),
            "—" if row["difference"] is None else f"{row['difference']:+.2f}{row['mark']}",
            row.get("reason") or f"{row['p_corrected']:.4f}",
        ]
        for row in rows
    ]
    return headers, cells


def _values(turns: Turns, kept: np.ndarray, k: int, by_dialogue: bool) -> np.ndarray:
    values = turns.scores[kept, k]
    if not by_dialogue:
        return values
    dialogues = turns.dialogues[kept]
    return np.array([values[dialogues == name].mean() for name in np.unique(dialogues)])


def _described(values: np.ndarray) -> dict[str, Any]:
    n = len(values)
    se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return {"n": n, "mean": finite(values.mean()) if n else None, "se": se}
