"""Rows of token ids as arrow, made piece by piece: 4 bytes a token where Python lists take 40."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, List, Value, concatenate_datasets

TOKENS = List(Value("int32"))
"""Token ids or labels of a row."""

_PIECE = 1_000


class Rows:
    """Collects rows for a dataset in memory; of the newest 1,000 alone there are Python objects."""

    def __init__(self, features: dict[str, Any]) -> None:
        self._features = Features(features)
        self._pieces: list[Dataset] = []
        self._newest: list[dict[str, Any]] = []

    def append(self, row: dict[str, Any]) -> None:
        """Add a row that has all features."""
        self._newest.append(row)
        if len(self._newest) == _PIECE:
            self._convert()

    def dataset(self) -> Dataset:
        """All rows, at least one, in the order in which they came."""
        if self._newest:
            self._convert()
        return concatenate_datasets(self._pieces)

    def _convert(self) -> None:
        self._pieces.append(Dataset.from_list(self._newest, features=self._features))
        self._newest = []
