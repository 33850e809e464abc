"""What labels mean, said in a YAML file for judged data of one's own.

dimensions:
  - {name: warmth, low: 1, high: 5, kind: ordinal, levels: [1, 2, 3, 4, 5]}
  - {name: asks, low: 0, high: 1, kind: binary}
  - {name: similarity, low: 0, high: 100, kind: interval}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from empo.rating import Dimension
from empo.records import UserError, misfit
from empo.settings import load_yaml
from empo.untrusted import file_name


class Strict(BaseModel):
    """An entry that a user writes: unknown keys and text for numbers are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


Entry = TypeVar("Entry", bound=Strict)


def validated(model: type[Entry], value: Any, where: str) -> Entry:
    """The entry that `value` describes; UserError naming `where` and the field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise misfit(where, error) from None


_BINARY = ([0.0, 1.0], [0.0, 1.0, 0.0, 1.0])
"""Low, high and the levels, if given, of a yes/no dimension."""


class _Scale(Strict):
    name: str
    low: FiniteFloat
    high: FiniteFloat
    kind: Literal["ordinal", "interval", "binary"]
    levels: list[FiniteFloat] | None = None

    def problem(self) -> str | None:
        """Why no label can be read on this scale."""
        levels = self.levels or []
        if file_name(self.name) != self.name:
            return "name: a plain file name is expected, letters, digits, _ and -"
        if not self.low < self.high:
            return f"low {self.low:g} is not below high {self.high:g}"
        if self.levels is not None and (len(levels) < 2 or sorted(set(levels)) != levels):
            return "levels must be two or more numbers in ascending order"
        if any(not self.low <= level <= self.high for level in levels):
            return f"a level lies outside {self.low:g} to {self.high:g}"
        if self.kind == "ordinal" and self.levels is None:
            return "an ordinal dimension needs levels"
        if self.kind == "binary" and [self.low, self.high, *levels] not in _BINARY:
            return "a binary dimension has the levels 0 and 1"
        return None

    def dimension(self) -> Dimension:
        """The dimension; a binary one has the levels 0 and 1."""
        levels = [0.0, 1.0] if self.kind == "binary" else self.levels
        return Dimension(
            self.name, self.low, self.high, self.kind, None if levels is None else tuple(levels)
        )


def load_dimensions(path: str | Path) -> tuple[Dimension, ...]:
    """The dimensions of a YAML file, see the head of this module.

    Raises UserError naming entry and field of what is unknown, missing or impossible.
    """
    entries = load_yaml(path)
    if list(entries) != ["dimensions"] or not isinstance(entries["dimensions"], list):
        raise UserError(
            f"{path}: one key `dimensions` with a list of dimensions is expected, each like "
            "{name: warmth, kind: ordinal, low: 0, high: 2, levels: [0, 1, 2]}."
        )
    found: dict[str, Dimension] = {}
    for number, entry in enumerate(entries["dimensions"], start=1):
        where = f"{path}, dimension {number}"
        scale = validated(_Scale, entry, where)
        problem = scale.problem()
        if scale.name in found:
            problem = "it stands there twice"
        if problem:
            raise UserError(f"{where} ({scale.name}): {problem}.")
        found[scale.name] = scale.dimension()
    if not found:
        raise UserError(f"{path}: the list of dimensions is empty.")
    return tuple(found.values())
