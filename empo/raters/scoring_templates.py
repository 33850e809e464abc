"""Templates of a scoring language model: standard, role-play, contrastive, explanation first.

The published systems' wordings are not used; these are ours, in scoring_templates.yaml beside this
file, and a YAML file of a user's own may replace any of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from empo.raters.instructions import placeholders_of
from empo.raters.level_table import LevelTable
from empo.records import UserError, listed, shown
from empo.settings import load_yaml

Item = Literal["turn", "dialogue", "essay", "response", "stories"]
Family = Literal["standard", "role_play", "contrastive", "explained"]
ITEMS: tuple[str, ...] = get_args(Item)
DEFAULTS = Path(__file__).with_name("scoring_templates.yaml")

_ASKED = ("label", "lowest", "highest")
PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "standard": ("context", "text", "first", "second", *_ASKED),
    "explained": ("context", "text", "first", "second", *_ASKED),
    "role_play": ("context", "scores"),
    "contrastive": ("first", "second", *_ASKED),
}
"""What may stand in braces in the templates of a family."""
_NEEDED = {"standard": ("label",), "explained": ("label",), "role_play": ("scores",)}
_NEEDED["contrastive"] = ("first", "second", "label")

COMPARISONS = ("lower than", "equal to", "higher than")
"""What the first of two items can be beside the second."""
_COMPARED = re.compile(rf"({'|'.join(COMPARISONS)}): ([\d.]+) and ([\d.]+)")
_SCORE = "Score:"


@dataclass(frozen=True)
class Templates:
    """The templates of one kind of item, by family; a family that is missing is not offered."""

    item: str
    texts: Mapping[str, str]

    def of(self, family: str) -> str:
        """The template of a family. Raises UserError where the item has none."""
        if family not in self.texts:
            raise UserError(
                f"families: {family} has no template for the item {self.item!r}; it has: "
                f"{', '.join(self.texts)}."
            )
        return self.texts[family]


def load_templates(item: str, path: str | Path | None = None) -> Templates:
    """The templates of an item; those in the YAML file `path` replace ours.

    Raises UserError naming file, item and family of an unknown item, family or placeholder, a text
    that is none, a placeholder that is needed and missing.
    """
    texts: dict[str, str] = {}
    for file in (DEFAULTS, path):
        if file is None:
            continue
        for name, families in load_yaml(file).items():
            if name not in ITEMS or not isinstance(families, dict):
                raise UserError(
                    f"{file}: {shown(name)} is no kind of item with templates; known are "
                    f"{', '.join(ITEMS)}."
                )
            check_texts(families, f"{file}, {name}")
            if name == item:
                texts |= families
    return Templates(item, texts)


def check_texts(texts: Mapping[Any, Any], where: str) -> None:
    """Raise UserError naming `where` and the family of a template that cannot be filled.

    That is one of an unknown family, or no text, or with an unknown placeholder, or without one
    that is needed.
    """
    for family, text in texts.items():
        place = f"{where}, {listed([str(family)])}"
        if family not in PLACEHOLDERS:
            raise UserError(f"{place}: no such family; known are {', '.join(PLACEHOLDERS)}.")
        if not isinstance(text, str):
            raise UserError(f"{place}: a text is expected, not {shown(text)}.")
        used = placeholders_of(text, PLACEHOLDERS[family], place)
        if missing := [name for name in _NEEDED[family] if name not in used]:
            raise UserError(f"{place}: the placeholder {{{missing[0]}}} is missing.")


def comparison(first: int, second: int, table: LevelTable) -> str:
    """The answer to a contrastive prompt: the phrase first, then both levels."""
    phrase = COMPARISONS[1 + (first > second) - (first < second)]
    return f"{phrase}: {table.answers[first]} and {table.answers[second]}"


def read_comparison(text: str, table: LevelTable) -> tuple[int, int] | None:
    """Both levels of an answer to a contrastive prompt.

    None where it is not of the form of `comparison`, a number is not allowed, or the phrase
    contradicts the numbers.
    """
    found = _COMPARED.fullmatch(text.strip())
    levels = [table.read(number) for number in found.groups()[1:]] if found else [None]
    if None in levels or comparison(*levels, table) != text.strip():
        return None
    return levels[0], levels[1]


def explained(explanation: str, code: int, table: LevelTable) -> str:
    """The answer of the family that explains first."""
    return f"{explanation.strip()}\n{_SCORE} {table.answers[code]}"


def read_explained(text: str, table: LevelTable) -> int | None:
    """The level in the last line of an explanation; None where that is no line `Score: NUMBER` with
    an allowed number."""
    last = text.strip().rpartition("\n")[2]
    return table.read(last.removeprefix(_SCORE)) if last.startswith(_SCORE) else None
