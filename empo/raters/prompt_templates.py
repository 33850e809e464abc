"""What a prompted chat model is asked: wordings, and the dimensions in words; ours or the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from empo.raters.instructions import load_instructions, placeholders_of
from empo.rating import Dimension
from empo.records import UserError, shown
from empo.settings import load_yaml

Item = Literal["response", "stories"]
"""A response in its context, or two alike texts."""
ITEMS: tuple[Item, ...] = get_args(Item)
TEXTS: dict[str, tuple[str, ...]] = {
    "response": ("context", "response"),
    "stories": ("first", "second"),
}
"""The placeholders of the texts of an item."""
ASKED = ("task", "definition", "options", "dimension")
"""The placeholders of what is asked."""
_NEEDED = {"response": ("response", "options"), "stories": ("first", "second", "options")}
DEFAULTS = Path(__file__).with_name("prompt_templates.yaml")
_DIMENSIONS = "dimensions"
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Asked:
    """A dimension in words: what to do, what is meant, and the answer for every level.

    `answers` are pairs of a level in native units and its text, ascending.
    """

    dimension: str
    task: str
    definition: str
    answers: tuple[tuple[float, str], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The levels."""
        return tuple(value for value, _ in self.answers)

    @property
    def options(self) -> tuple[str, ...]:
        """The allowed answers, in the order of the levels."""
        return tuple(text for _, text in self.answers)

    @property
    def name(self) -> str:
        """The dimension as a prompt writes it."""
        return self.dimension.replace("_", " ")


@dataclass(frozen=True)
class Wording:
    """A variant of the prompt: the system message and the user's, with placeholders."""

    system: str
    user: str

    def filled(self, asked: Asked, texts: Mapping[str, str]) -> tuple[str, str]:
        """Both messages; `texts` are those of the item, by placeholder."""
        values = {
            "task": asked.task,
            "definition": asked.definition,
            "options": ", ".join(asked.options),
            "dimension": asked.name,
            **texts,
        }
        return self.system.format(**values), self.user.format(**values)


@dataclass(frozen=True)
class Prompts:
    """The wordings of one kind of item by name, and all dimensions that are known in words."""

    item: Item
    wordings: Mapping[str, Wording]
    dimensions: Mapping[str, Asked]

    def chosen(self, names: Sequence[str] | None) -> dict[str, Wording]:
        """The wordings of these names, all without. Raises UserError for an unknown name."""
        if names is None:
            return dict(self.wordings)
        if unknown := [name for name in names if name not in self.wordings]:
            raise UserError(
                f"variants: {unknown[0]!r} is no wording for {self.item}; there are: "
                f"{', '.join(self.wordings)}."
            )
        return {name: self.wordings[name] for name in names}

    def asked(self, dimension: Dimension) -> Asked:
        """The dimension in words.

        Raises UserError where nothing says how to ask for it, or its answers are not its levels.
        """
        found = self.dimensions.get(dimension.name) or _instructed(dimension)
        if found is None:
            raise UserError(
                f"dimension {dimension.name!r}: nothing says how to ask for it. Add it under "
                f"`{_DIMENSIONS}` in a YAML file given as `prompts`, with task, definition and "
                "answers, or choose others with `dimensions`."
            )
        levels = dimension.levels
        outside = [v for v in found.values if not dimension.low <= v <= dimension.high]
        differ = levels is not None and (
            len(levels) != len(found.values)
            or any(abs(a - b) > TOLERANCE for a, b in zip(levels, found.values, strict=True))
        )
        if outside or differ:
            allowed = (
                f"levels {', '.join(f'{v:g}' for v in levels)}"
                if levels is not None
                else f"range {dimension.low:g} to {dimension.high:g}"
            )
            raise UserError(
                f"dimension {dimension.name!r}: its answers are for "
                f"{', '.join(f'{v:g}' for v in found.values)}, but the data have the {allowed}. Give "
                "an answer for each of them in a YAML file (`prompts`)."
            )
        return found


def _instructed(dimension: Dimension) -> Asked | None:
    """The dimension as encoder-decoders are told of it, where that is shipped."""
    shipped = load_instructions([dimension], missing_ok=True).get(dimension.name)
    if shipped is None:
        return None
    answers = tuple(zip(dimension.levels or (), shipped.options, strict=True))
    return Asked(dimension.name, shipped.task, f"{shipped.definition} {shipped.domain}", answers)


def load_prompts(item: Item, path: str | Path | None = None) -> Prompts:
    """Our prompts for a kind of item; those in the YAML file `path` replace and add.

    Raises UserError naming file and place of an unknown kind of item or placeholder, a text that is
    none, a placeholder that is needed and missing, answers that cannot be told apart.
    """
    wordings: dict[str, Wording] = {}
    dimensions: dict[str, Asked] = {}
    for file in (DEFAULTS, path):
        if file is None:
            continue
        for name, entries in load_yaml(file).items():
            if name not in (*TEXTS, _DIMENSIONS) or not isinstance(entries, dict):
                raise UserError(
                    f"{file}: {name!r} is no kind of item with prompts; known are "
                    f"{', '.join(TEXTS)}, and {_DIMENSIONS}."
                )
            for key, entry in entries.items():
                where = f"{file}, {name}, {key}"
                if name == _DIMENSIONS:
                    dimensions[key] = _asked(key, entry, where)
                else:
                    wording = read_wording(name, entry, where)
                    if name == item:
                        wordings[key] = wording
    return Prompts(item, wordings, dimensions)


def _texts(entry: Any, names: Sequence[str], more: Sequence[str], where: str) -> dict[str, str]:
    """The texts of an entry with exactly these names."""
    if not isinstance(entry, dict) or set(entry) != {*names, *more}:
        raise UserError(f"{where}: {', '.join((*names, *more))} are expected, and nothing else.")
    for name in names:
        if not isinstance(entry[name], str) or not entry[name].strip():
            raise UserError(f"{where}, {name}: a text is expected, not {shown(entry[name])}.")
    return {name: entry[name] for name in names}


def read_wording(item: str, entry: Any, where: str) -> Wording:
    """The wording that an entry describes. Raises UserError naming `where`, as `load_prompts`."""
    texts = _texts(entry, ("system", "user"), (), where)
    known = (*ASKED, *TEXTS[item])
    used: set[str] = set()
    for part, text in texts.items():
        used |= placeholders_of(text, known, f"{where}, {part}")
    if missing := [name for name in _NEEDED[item] if name not in used]:
        raise UserError(f"{where}: the placeholder {{{missing[0]}}} is missing.")
    return Wording(**texts)


def _asked(name: str, entry: Any, where: str) -> Asked:
    texts = _texts(entry, ("task", "definition"), ("answers",), where)
    answers = entry["answers"]
    if not isinstance(answers, dict) or len(answers) < 2:
        raise UserError(f"{where}, answers: two or more levels with their texts are expected.")
    for value, text in answers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}, answers: a level is a number, not {shown(value)}.")
        if not isinstance(text, str) or not text.strip() or text != text.strip():
            raise UserError(
                f"{where}, answers, {value:g}: a text is expected, not {shown(text)}. Write words "
                "such as yes, and numbers, in quotes."
            )
    plain = [text.casefold() for text in answers.values()]
    for i, text in enumerate(plain):
        if longer := next((t for k, t in enumerate(plain) if k != i and t.startswith(text)), None):
            raise UserError(
                f"{where}, answers: {text!r} is how {longer!r} begins, so their likelihoods do not "
                "compare. Give answers of which none is the beginning of another."
            )
    pairs = sorted((float(value), text) for value, text in answers.items())
    return Asked(name, texts["task"], texts["definition"], tuple(pairs))
