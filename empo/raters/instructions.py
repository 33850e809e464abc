"""What a language model is told about a dimension: task, definition, domain, and the answers allowed.

Shipped for EPITOME, ESConv and customer service in the YAML files of `instructions/`; a file of a
user's own adds dimensions or replaces them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from empo.corpora.dimensions import Strict, validated
from empo.rating import Dimension
from empo.records import UserError, listed, shown
from empo.settings import load_yaml

SHIPPED = Path(__file__).with_name("instructions")
PLACEHOLDERS = ("task", "definition", "domain", "options")
"""What may stand in braces in a template."""
TEMPLATE = "{task} {definition} {domain} Answers: {options}."


@dataclass(frozen=True)
class Instruction:
    """How a dimension is asked for; `options` are the answers, one per level, in their order."""

    task: str
    definition: str
    domain: str
    options: tuple[str, ...]
    template: str = TEMPLATE

    @property
    def text(self) -> str:
        """The instruction as a model reads it."""
        return self.template.format(
            task=self.task,
            definition=self.definition,
            domain=self.domain,
            options=", ".join(self.options),
        )

    def facts(self) -> dict[str, Any]:
        """The instruction as JSON."""
        return {**asdict(self), "options": list(self.options)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], where: str) -> Instruction:
        """The inverse of `facts()`. Raises UserError naming `where` and what is wrong."""
        read = validated(_Saved, dict(facts), where)
        placeholders_of(read.template, PLACEHOLDERS, where)
        return cls(**{**read.model_dump(), "options": tuple(read.options)})


class _Saved(Strict):
    task: str
    definition: str
    domain: str
    options: list[str]
    template: str


class _Entry(Strict):
    task: str | None = None
    definition: str = ""
    domain: str | None = None
    options: dict[FiniteFloat | int, str] | None = None


class _File(Strict):
    template: str = TEMPLATE
    task: str = ""
    domain: str = ""
    options: dict[FiniteFloat | int, str] | None = None
    dimensions: dict[str, _Entry]


def load_instructions(
    dimensions: Sequence[Dimension], path: str | Path | None = None, missing_ok: bool = False
) -> dict[str, Instruction]:
    """The instruction of every dimension; those of the YAML file `path` come before ours.

    With `missing_ok` a dimension that has none is left out. Raises UserError naming file and dimension: none for it, no task, an unknown placeholder, an
    answer that is blank or stands for two levels, a level without an answer, an answer for what is
    no level.
    """
    files = [*([path] if path is not None else []), *sorted(SHIPPED.glob("*.yaml"))]
    read = {str(file): validated(_File, load_yaml(file), str(file)) for file in files}
    found = {}
    for dimension in dimensions:
        holder = next(
            (name for name, file in read.items() if dimension.name in file.dimensions), None
        )
        if holder is None and missing_ok:
            continue
        if holder is None:
            known = sorted({name for file in read.values() for name in file.dimensions})
            raise UserError(
                f"{path or 'instructions'}: there is no instruction for the dimension "
                f"{shown(dimension.name)}. Write one into a YAML file and give it as `instructions` "
                f"(empo/raters/instructions/epitome.yaml shows the shape); known are: {listed(known)}."
            )
        found[dimension.name] = _instruction(dimension, read[holder], f"{holder}, {dimension.name}")
    return found


def _instruction(dimension: Dimension, file: _File, where: str) -> Instruction:
    entry = file.dimensions[dimension.name]
    task, domain = entry.task or file.task, entry.domain or file.domain
    options = entry.options or file.options or {}
    placeholders_of(file.template, PLACEHOLDERS, where)
    if not task.strip():
        raise UserError(f"{where}: the task is missing.")
    levels = dimension.levels or ()
    answers = {float(level): text.strip() for level, text in options.items()}
    if set(answers) != set(levels):
        raise UserError(
            f"{where}, options: answers are expected for the levels "
            f"{listed(f'{level:g}' for level in levels) or '(none: this dimension is an interval)'}"
            f", not for {listed(f'{level:g}' for level in answers) or 'none'}."
        )
    texts = tuple(answers[level] for level in levels)
    if len(set(texts)) < len(texts) or not all(texts):
        raise UserError(f"{where}, options: the answers {listed(texts)} must differ, none blank.")
    return Instruction(task.strip(), entry.definition.strip(), domain.strip(), texts, file.template)


def placeholders_of(text: str, known: Sequence[str], where: str) -> set[str]:
    """The placeholders of a template.

    Raises UserError naming `where`: braces that do not fit, a placeholder that is not `known`, more
    than a name in braces.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UserError(
            f"{where}: the braces do not fit ({error}). A brace is written as {{{{."
        ) from None
    used = {name for _, name, _, _ in parts if name is not None}
    if unknown := sorted(used - set(known)):
        raise UserError(
            f"{where}: the placeholder {{{listed(unknown[:1])}}} is unknown; known are "
            f"{', '.join(f'{{{name}}}' for name in known)}."
        )
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise UserError(f"{where}: a placeholder is a name in braces and nothing else.")
    return used
