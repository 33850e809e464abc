"""The data of the task `empo_emotions`, found beside this file from any working directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import DatasetDict

FILES = {"test": "empo_emotions.jsonl", "examples": "empo_emotions_examples.jsonl"}


def load(**_: Any) -> DatasetDict:
    """Both splits; lm-eval hands the task's metadata in, which are not needed."""
    from datasets import Dataset, DatasetDict

    splits = {}
    for split, name in FILES.items():
        lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
        splits[split] = Dataset.from_list([json.loads(line) for line in lines])
    return DatasetDict(splits)
