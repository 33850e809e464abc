"""Labels as whole numbers from 0: the table that a language model's answers are read by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from empo.raters.predictions import nearest_level
from empo.records import UserError

TOLERANCE = 1e-6
"""Two labels nearer than this are one level."""


@dataclass(frozen=True)
class LevelTable:
    """The sorted different labels of a dimension; level k of them is the whole number k.

    With `as_values` an answer is the label itself, and none may be below 0 (UserError). All answers have the same number of digits
    (07 and 12, 1.0 and 2.5): none is the beginning of another, so that their likelihoods compare.
    """

    name: str
    values: tuple[float, ...]
    as_values: bool = False

    def __post_init__(self) -> None:
        if self.as_values and self.values and min(self.values) < 0:
            raise UserError(
                f"{self.name}: the label {min(self.values):g} is below 0, and labels that are written "
                "as they are have no sign. Shift them to 0 or more."
            )

    @classmethod
    def of(cls, name: str, labels: Iterable[float], as_values: bool = False) -> LevelTable:
        """The table of training labels.

        Raises UserError where they have one value only, or one below 0 with `as_values`.
        """
        values: list[float] = []
        for label in sorted(set(labels)):
            if not values or label - values[-1] > TOLERANCE:
                values.append(float(label))
        if len(values) < 2:
            raise UserError(
                f"{name}: the training part has {len(values)} different labels, so there is nothing "
                "to learn. At least 2 are needed."
            )
        return cls(name, tuple(values), as_values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def answers(self) -> tuple[str, ...]:
        """What a model may answer, one per level."""
        if not self.as_values:
            return tuple(f"{k:0{len(str(len(self) - 1))}d}" for k in range(len(self)))
        decimals = next(
            d
            for d in range(7)
            if all(abs(v - round(v, d)) < TOLERANCE for v in self.values) or d == 6
        )
        texts = [f"{value:.{decimals}f}" for value in self.values]
        width = max(map(len, texts))
        return tuple(text.rjust(width, "0") for text in texts)

    def code(self, label: float) -> int:
        """The level of a training label.

        Raises UserError where the table does not have it.
        """
        code = self.nearest(label)
        if abs(self.values[code] - label) > TOLERANCE:
            raise UserError(
                f"{self.name}: the label {label:g} is no level of the table, which has: "
                f"{', '.join(f'{value:g}' for value in self.values)}. The table is made from all "
                "training labels; make it anew from these."
            )
        return code

    def nearest(self, label: float) -> int:
        """The level nearest to any number, of two equally near ones the higher: for labels that the
        training part does not have."""
        return int(nearest_level(np.array([label]), self.values)[0])

    def value(self, code: int) -> float:
        """The label of a level, in native units."""
        return self.values[code]

    def read(self, text: str) -> int | None:
        """The level that a text names as an answer; None where it is not exactly an allowed one."""
        found = re.fullmatch(r"\s*([\d.]+)\s*", text)
        return self.answers.index(found[1]) if found and found[1] in self.answers else None
