"""What a model answered, item by item: written so that two systems can be compared on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from empo.records import finite
from empo.untrusted import file_name

ANSWER_CHARACTERS = 1_000
"""Longer answers and targets are cut in the file; they were scored whole."""


def items_file(output: str | Path, task: str) -> Path:
    """Where the items of a task lie; its name comes from a task file, so it may be any text."""
    return Path(output) / "items" / f"{file_name(task)}.jsonl"


def metric_name(metric: str, answer_filter: str) -> str:
    """lm-eval's name of a metric, without the filter of the answers where there is only `none`."""
    return metric if answer_filter == "none" else f"{metric},{answer_filter}"


def rows(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per item from lm-eval's samples (one per item and filter), in the data's order.

    Keys: doc_id, doc_hash, target, metrics, and log_likelihoods (one per option, in nats) or answer
    (`answer,FILTER` where answers are filtered).
    """
    found: dict[int, dict[str, Any]] = {}
    for sample in samples:
        number, answer_filter = sample["doc_id"], sample["filter"]
        row = found.setdefault(
            number,
            {
                "doc_id": number,
                "doc_hash": sample["doc_hash"],
                "target": plain(sample["target"]),
                "metrics": {},
            },
        )
        row["metrics"] |= {
            metric_name(name, answer_filter): plain(sample[name]) for name in sample["metrics"]
        }
        answers = sample["filtered_resps"]
        if isinstance(answers[0], str):
            row[metric_name("answer", answer_filter)] = plain(answers[0])
        else:  # (log-likelihood, whether it is the greedy answer), or a log-likelihood alone
            row["log_likelihoods"] = [
                finite(answer[0] if isinstance(answer, Sequence) else answer) for answer in answers
            ]
    return [found[number] for number in sorted(found)]


def plain(value: Any) -> Any:
    """A value as short JSON: numbers, truth values and lists of them; all else as text."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return finite(value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value)[:ANSWER_CHARACTERS]
