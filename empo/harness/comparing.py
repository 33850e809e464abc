"""Two systems compared on the items that both answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from empo.harness.items import items_file
from empo.records import UserError, finite, read_jsonl

PairedTest = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]
"""Two boolean arrays of shape (n,) to difference, only_a, only_b, n, p and test (McNemar's)."""


def comparable(asked: Mapping[str, Any], theirs: Mapping[str, Any], folder: str) -> None:
    """Raise UserError where another system has the same name or was asked in another way."""
    if theirs["system"] == asked["system"]:
        raise UserError(
            f"--compare {folder}: that system is called {theirs['system']!r} too. Give --system."
        )
    for key in ("apply_chat_template", "seed"):
        here, there = asked["settings"][key], theirs["settings"].get(key)
        if here != there:
            raise UserError(
                f"--compare {folder}: {key} is {there!r} there and {here!r} here. Only systems that "
                "were asked in the same way can be compared."
            )


def compare(
    a: Mapping[str, Any],
    folder_a: str | Path,
    b: Mapping[str, Any],
    folder_b: str,
    test: PairedTest,
) -> list[dict[str, Any]]:
    """A row for every task and group of `a`: the difference to `b` in the main metric, and the test.

    `a` and `b` are contents of harness.json in the folders. A group is tested on the items of all
    its tasks. Where there is no test the row says why. Raises UserError where the two share a task
    but none of its items, or were given different numbers of examples in it.
    """
    values, reasons = {}, {}
    for task, figures in a["tasks"].items():
        theirs = b["tasks"].get(task)
        if theirs is None:
            reasons[task] = f"{b['system']} has no {task}."
        elif theirs["shots"] != figures["shots"]:
            raise UserError(
                f"--compare {folder_b}: {task} has {theirs['shots']} examples there and "
                f"{figures['shots']} here. Evaluate one of the systems again."
            )
        else:
            values[task] = matched(folder_a, folder_b, task, figures["metric"])
    rows = [_row(a, b, task, values.get(task), reasons.get(task), test) for task in a["tasks"]]
    for name, group in a["groups"].items():
        leaves = group["tasks"]
        missing = [leaf for leaf in leaves if leaf not in values]
        other = [
            leaf for leaf in leaves if a["tasks"].get(leaf, group)["metric"] != group["metric"]
        ]
        reason = None
        if missing:
            reason = f"not in both systems: {', '.join(missing)}."
        elif other:
            reason = f"the main metric is another one in {', '.join(other)}."
        pooled = None
        if reason is None:
            pairs = zip(*(values[leaf] for leaf in leaves), strict=True)
            pooled = tuple(np.concatenate(arrays) for arrays in pairs)
        rows.append(_row(a, b, name, pooled, reason, test))
    return rows


def matched(
    folder_a: str | Path, folder_b: str | Path, task: str, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a metric on the items that two evaluations share, two arrays of shape (n,).

    Items are the same where number and digest of the document are; a value that is no single number
    is NaN. Raises UserError where the two share no item.
    """
    found = []
    for folder in (folder_a, folder_b):
        lines = [row for _, row in read_jsonl(items_file(folder, task))]
        found.append(
            {(row["doc_id"], row["doc_hash"]): row["metrics"].get(metric) for row in lines}
        )
    shared = [key for key in found[0] if key in found[1]]
    if not shared:
        raise UserError(
            f"{items_file(folder_b, task)}: no item stands in {items_file(folder_a, task)} too (by "
            "doc_id and doc_hash). The data set has changed; evaluate one of the systems again."
        )
    first, second = (np.array([_number(of[key]) for key in shared]) for of in found)
    return first, second


def _row(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    task: str,
    values: tuple[np.ndarray, ...] | None,
    reason: str | None,
    test: PairedTest,
) -> dict[str, Any]:
    names = {"a": a["system"], "b": b["system"], "task": task}
    if values is None:
        nothing = dict.fromkeys(("difference", "only_a", "only_b", "p"))
        return {
            **names,
            **nothing,
            "n": 0,
            "test": "none",
            "reasons": dict.fromkeys(nothing, reason),
        }
    if all(np.isin(side, (0, 1)).all() for side in values):
        tested = test(*(side.astype(bool) for side in values))
        return {**names, **tested, "reasons": {}}
    no_test = dict.fromkeys(("only_a", "only_b", "p"))
    reasons = dict.fromkeys(no_test, "an item is not simply right or wrong in this metric.")
    difference = finite(np.mean(values[0] - values[1]))
    if difference is None:
        reasons["difference"] = "an item has no number in this metric."
    row = {**names, **no_test, "difference": difference, "n": len(values[0]), "test": "none"}
    return {**row, "reasons": reasons}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float) else math.nan
