"""The words of the survey's page, read from a YAML file that can be translated."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from empo.records import Message, UserError, misfit
from empo.settings import load_yaml

DEFAULT = Path(__file__).with_name("texts.yaml")
LARGEST = 100
"""Right end of a slider; the left end is 0."""

FILLED = {
    "contact": {"contact"},
    "consent.paragraphs": {"items", "minutes", "contact"},
    "item.progress": {"number", "items"},
    "done.debrief": {"contact"},
}
"""Texts in which names in braces are filled in; in all others braces are braces."""

_REMEDY = f"Begin with a copy of {DEFAULT.name} in empo/survey, which has every key."
_KEY = r"^[a-z][a-z0-9_]*$"

Text = Annotated[str, Field(min_length=1)]
Key = Annotated[str, Field(pattern=_KEY, max_length=60)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Page(_Part):
    """A page of text with one button."""

    heading: Text
    paragraphs: list[Text] = Field(min_length=1)
    button: Text


class Consent(Page):
    """The page of consent; `needed` is said where the box was not ticked."""

    agree: Text
    needed: Text


class Example(_Part):
    """A solved example: a reply and the ratings that one person gave to it."""

    heading: Text
    before: Text
    emotion: Text
    context: list[Message] = Field(min_length=1)
    response: Text
    ratings: dict[Key, Annotated[int, Field(ge=0, le=LARGEST)]]
    checked: bool
    after: Text
    button: Text


class Item(_Part):
    """The words around a reply."""

    progress: Text
    conversation: Text
    speaker: Text
    listener: Text
    reply: Text
    no_reply: Text
    statements: Text
    low: Text
    high: Text
    unset: Text
    checkbox: Text
    checked: Text
    unchecked: Text
    button: Text
    back: Text
    forward: Text
    kept: Text
    help: Text


class Errors(_Part):
    """What is said where something is missing or refused."""

    heading: Text
    unset: Text
    range: Text
    answered_heading: Text
    answered: Text
    used_heading: Text
    used: Text
    unknown_heading: Text
    unknown: Text
    busy_heading: Text
    busy: Text
    replaced_heading: Text
    replaced: Text
    refused_heading: Text
    refused: Text


class Done(_Part):
    """The last page."""

    heading: Text
    before: Text
    code: Text
    debrief: Text
    after: Text


class Texts(_Part):
    """All of it. `statements` have a slider each, `checkbox` is one; their keys name the aspects."""

    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*$")]
    title: Text
    contact: Text
    consent: Consent
    instructions: Page
    example: Example
    statements: dict[Key, Text] = Field(min_length=1)
    checkbox: dict[Key, Text] = Field(min_length=1, max_length=1)
    item: Item
    errors: Errors
    done: Done

    @model_validator(mode="after")
    def _fits(self) -> Texts:
        if self.example.ratings.keys() != self.statements.keys():
            raise ValueError("example.ratings must have the keys of statements")
        if self.checkbox.keys() & self.statements.keys():
            raise ValueError("the key of checkbox must be none of those of statements")
        return self

    @property
    def sliders(self) -> tuple[str, ...]:
        """The aspects rated from 0 to LARGEST."""
        return tuple(self.statements)

    @property
    def box(self) -> str:
        """The aspect rated by ticking a box: 0 or 1."""
        return next(iter(self.checkbox))


def load_texts(path: str | Path) -> Texts:
    """Read the texts; UserError names the key that is missing, unknown or does not fit."""
    try:
        texts = Texts.model_validate(load_yaml(path))
    except ValidationError as error:
        raise misfit(str(path), error, _REMEDY) from None
    for field, known in FILLED.items():
        value: Any = texts
        for name in field.split("."):
            value = getattr(value, name)
        for text in [value] if isinstance(value, str) else value:
            _check_braces(text, known, f"{path}, field {field!r}")
    return texts


def _check_braces(text: str, known: set[str], where: str) -> None:
    try:
        names = {
            f"{name}{spec and ':'}{spec}{conversion or ''}"
            for _, name, spec, conversion in string.Formatter().parse(text)
            if name is not None
        }
    except ValueError as error:
        raise UserError(f"{where}: {error}. Write {{{{ for a brace.") from None
    if not names <= known:
        raise UserError(
            f"{where}: {{{min(names - known)}}} is nothing that is filled in here; known are "
            f"{', '.join(sorted(known))}."
        )
