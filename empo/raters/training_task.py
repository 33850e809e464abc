"""What one training of a rater is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.corpora.labelled import Example
from empo.raters.settings import RaterSettings
from empo.rating import Dimension
from empo.runs import Run


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One seed on one split: the rater learns from `train`, its epoch is chosen on `validation`.

    `arguments` are fields of transformers' TrainingArguments. Checkpoints of `run` lie in `folder`,
    and a training that was stopped goes on from the last one. `name` is the rater's. `symmetric`: the
    inputs are pairs of alike texts.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    dimensions: Sequence[Dimension]
    settings: RaterSettings
    arguments: Mapping[str, Any]
    folder: Path
    run: Run
    seed: int
    name: str
    symmetric: bool = False


def training_texts(train: Sequence[Example]) -> list[str]:
    """Every turn and response of the examples: what a tokenizer from scratch is made from."""
    return [
        text
        for example in train
        for text in (*(turn.text for turn in example.input.turns), example.input.response)
    ]
