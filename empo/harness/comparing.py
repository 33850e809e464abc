"""Two systems compared on the items that both answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from empo.harness.items import items_file
from empo.records import UserError, finite, read_jsonl, shown

PairedTest = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]
"""Two boolean arrays of shape (n,) to difference, only_a, only_b, n, p and test (McNemar's)."""


@dataclass(frozen=True)
class Matched:
    """Values on the items that two evaluations share, arrays of shape (n,), and how many each has."""

    a: np.ndarray
    b: np.ndarray
    of_a: int
    of_b: int

    @classmethod
    def pooled(cls, parts: Sequence[Matched]) -> Matched:
        """The items of several tasks as one."""
        first, second = (np.concatenate([getattr(p, of) for p in parts]) for of in ("a", "b"))
        return cls(first, second, sum(p.of_a for p in parts), sum(p.of_b for p in parts))


def comparable(asked: Mapping[str, Any], theirs: Mapping[str, Any], folder: str) -> None:
    """Raise UserError where another system has the same name or was asked in another way.

    `asked` and `theirs` have system, settings, versions and, where they were measured, tasks.
    """
    if theirs["system"] == asked["system"]:
        raise UserError(
            f"--compare {folder}: that system is called {shown(theirs['system'])} too. Give --system."
        )
    pairs = {
        key: (asked["settings"][key], theirs["settings"].get(key))
        for key in ("apply_chat_template", "seed", "max_length")
    }
    pairs["lm_eval"] = (asked["versions"].get("lm_eval"), theirs["versions"].get("lm_eval"))
    for task, figures in asked.get("tasks", {}).items():
        if task in theirs["tasks"]:
            versions = (figures["version"], theirs["tasks"][task]["version"])
            pairs[f"the version of {task}"] = versions
    for key, (here, there) in pairs.items():
        if here != there:
            raise UserError(
                f"--compare {folder}: {key} is {shown(there)} there and {shown(here)} here. Only systems that "
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
    its tasks. Where there is no test, or one of the two has items that the other lacks, `reasons`
    says so. Raises UserError where the two share a task but none of its items, or were asked it in
    different ways.
    """
    comparable(a, b, folder_b)
    values: dict[str, Matched] = {}
    reasons: dict[str, str] = {}
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
            pooled = Matched.pooled([values[leaf] for leaf in leaves])
        rows.append(_row(a, b, name, pooled, reason, test))
    return rows


def matched(folder_a: str | Path, folder_b: str | Path, task: str, metric: str) -> Matched:
    """Values of a metric on the items that two evaluations share.

    Items are the same where number and digest of the document are; a value that is no single number
    is NaN. Raises UserError where the two share no item, or a line is none.
    """
    found = []
    for folder in (folder_a, folder_b):
        found.append(_values(items_file(folder, task), metric))
    shared = [key for key in found[0] if key in found[1]]
    if not shared:
        raise UserError(
            f"{items_file(folder_b, task)}: no item stands in {items_file(folder_a, task)} too (by "
            "doc_id and doc_hash). The data set has changed; evaluate one of the systems again."
        )
    first, second = (np.array([_number(of[key]) for key in shared]) for of in found)
    return Matched(first, second, *map(len, found))


def _values(path: Path, metric: str) -> dict[tuple[int, str], Any]:
    """Number and digest of a document to the metric's value; UserError where a line is no item."""
    values: dict[tuple[int, str], Any] = {}
    for number, row in read_jsonl(path):
        for key, kind in (("doc_id", int), ("doc_hash", str), ("metrics", dict)):
            if not isinstance(row.get(key), kind):
                raise UserError(
                    f"{path}, line {number}, field {key!r}: {shown(row.get(key))} is none. "
                    "Evaluate the system again with eval/harness.py."
                )
        item = (row["doc_id"], row["doc_hash"])
        if item in values:
            raise UserError(f"{path}, line {number}: the item {item[0]} was there already.")
        values[item] = row["metrics"].get(metric)
    return values


def _row(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    task: str,
    values: Matched | None,
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
    n, notes = len(values.a), {}
    if (values.of_a, values.of_b) != (n, n):
        notes["n"] = (
            f"{n:,} items are in both: of {values.of_a:,} of {a['system']} and of "
            f"{values.of_b:,} of {b['system']}."
        )
    if np.isin(values.a, (0, 1)).all() and np.isin(values.b, (0, 1)).all():
        return {**names, **test(values.a.astype(bool), values.b.astype(bool)), "reasons": notes}
    no_test = dict.fromkeys(("only_a", "only_b", "p"))
    why = "an item is not simply right or wrong in this metric."
    reasons = notes | dict.fromkeys(no_test, why)
    difference = finite(np.mean(values.a - values.b))
    if difference is None:
        reasons["difference"] = "an item has no number in this metric."
    row = {**names, **no_test, "difference": difference, "n": n, "test": "none"}
    return {**row, "reasons": reasons}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float) else math.nan
