"""Reader of dialogues with expressed intents and perceived empathy (Xu and Jiang 2024).

Their customer-service data are private; this reads a user's own csv of the same schema. What is
judged stands in intents.yaml beside this file, or in a copy of it with other dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empo.corpora import Rejection
from empo.corpora.csv_rows import Row, read_csv
from empo.corpora.labelled import Example, LabelledCorpus, group_of
from empo.corpora.windows import window
from empo.dialogues import Role, Turn
from empo.rating import Dimension
from empo.records import file_facts
from empo.settings import option, parse

DEFINITIONS = Path(__file__).with_name("intents.yaml")
"""The 16 intents and 4 perceived dimensions as published, worded by us."""
COLUMNS = ("dialogue_id", "turn", "role", "text")

_ROLES: dict[str, Role] = {"customer": "user", "agent": "assistant"}
_RATERS = (1, 2)
_MARKS = (0.0, 1.0)
_LIKERT = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Definitions:
    """What is judged: name and definition of every intent and of every perceived dimension."""

    intents: dict[str, str] = field(default_factory=dict)
    perceived: dict[str, str] = field(default_factory=dict)
    threshold: float = option(4.0, help="a perceived dimension is true where both raters give this")

    def problems(self) -> list[str]:
        """Combinations that cannot be read."""
        found = [] if self.intents or self.perceived else ["give `intents` or `perceived`."]
        found += [
            f"{name!r} is an intent and a perceived dimension; rename one."
            for name in self.intents
            if name in self.perceived
        ]
        if not _LIKERT[0] < self.threshold <= _LIKERT[-1]:
            found.append(f"threshold: {self.threshold:g} is not above 1 and at most 5.")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All dimensions, intents first."""
        return (*self.intents, *self.perceived)

    def scale(self, name: str) -> tuple[float, ...]:
        """The values that one rater can give."""
        return _MARKS if name in self.intents else _LIKERT

    def label(self, name: str, given: tuple[float, float]) -> float:
        """1 where both raters mark the intent or reach the threshold, else 0."""
        bar = 1.0 if name in self.intents else self.threshold
        return float(min(given) >= bar)


def load_definitions(path: str | Path | None = None) -> Definitions:
    """The dimensions of a YAML file, the published ones by default.

    Raises UserError with every unknown key, wrong type and impossible combination.
    """
    path = DEFINITIONS if path is None else path
    return parse(["--config", str(path)], Definitions, prog=f"intents {path}", description="")[0]


def read_intents(
    path: str | Path,
    definitions: str | Path | None = None,
    before: int = 3,
    after: int = 3,
) -> LabelledCorpus:
    """A csv with the columns dialogue_id, turn, role, text and, per dimension, `<name>_1`, `<name>_2`.

    One row is one turn, in any order; `role` is customer or agent. One example per agent turn, yes
    (1) or no (0) per dimension of `definitions`, with up to `before` turns before it and up to
    `after` after it. Turns are not merged, for each has labels of its own. The group is the
    dialogue, named by its text (`group_of`). A dimension that neither rater judged is left out of the example and counted; what
    stands in the columns of a customer's turn is not read, and counted. Rejected: dialogues with an
    empty text, agent turns without any label.

    Raises UserError for a missing column, an unknown role or value, a turn that is no number or
    stands there twice, and where only one of the two raters judged.
    """
    schema = load_definitions(definitions)
    dialogues, rows = _dialogues(path, schema)
    counts: Counter[str] = Counter({"missing labels": 0, "labels of customer turns, not read": 0})
    examples: list[Example] = []
    rejected: list[Rejection] = []
    for dialogue, turns in dialogues.items():
        empty = [row.line for _, row in turns if not row.text("text")]
        if empty:
            rejected.append(Rejection(dialogue, "empty text", f"line {empty[0]}"))
            continue
        sequence = [Turn(_ROLES[row.text("role")], row.text("text")) for _, row in turns]
        group = group_of(turn.text for turn in sequence)
        for place, (number, row) in enumerate(turns):
            given = dict(_given(row, schema))
            if sequence[place].role == "user":
                counts["labels of customer turns, not read"] += len(given)
                continue
            name = f"{dialogue}:{number:g}"
            counts["missing labels"] += len(schema.names) - len(given)
            if not given:
                rejected.append(Rejection(name, "no label", f"line {row.line}"))
            else:
                labels = {dimension: schema.label(dimension, v) for dimension, v in given.items()}
                target = window(sequence, place, before, after)
                examples.append(Example(name, group, target, labels))
    return LabelledCorpus(
        str(path),
        "intents",
        tuple(Dimension(name, 0.0, 1.0, "binary", (0.0, 1.0)) for name in schema.names),
        examples,
        rejected,
        rows,
        [file_facts(path)],
        dict(counts),
    )


def intent_annotations(
    path: str | Path, definitions: str | Path | None = None
) -> list[dict[str, Any]]:
    """What each rater gave to the agent's turns, tidy: dicts {item, rater, aspect, value}.

    `item` is the id of the example in `read_intents`, `rater` is Rater_1 or Rater_2, `value` is 0
    or 1 for an intent and 1 to 5 for a perceived dimension.

    Raises UserError like `read_intents`.
    """
    schema = load_definitions(definitions)
    return [
        {
            "item": f"{dialogue}:{number:g}",
            "rater": f"Rater_{rater}",
            "aspect": name,
            "value": value,
        }
        for dialogue, turns in _dialogues(path, schema)[0].items()
        for number, row in turns
        if row.text("role") == "agent"
        for name, given in _given(row, schema)
        for rater, value in zip(_RATERS, given, strict=True)
    ]


def _dialogues(
    path: str | Path, schema: Definitions
) -> tuple[dict[str, list[tuple[float, Row]]], int]:
    """The turns of every dialogue in the order of their numbers, and the number of rows."""
    columns = [f"{name}_{rater}" for name in schema.names for rater in _RATERS]
    rows = read_csv(path, (*COLUMNS, *columns))
    dialogues: dict[str, dict[float, Row]] = {}
    for row in rows:
        row.required("turn")
        number = row.number("turn")
        turns = dialogues.setdefault(row.required("dialogue_id"), {})
        if number in turns:
            raise row.refused("turn", f"stands on line {turns[number].line} already.")
        if row.text("role") not in _ROLES:
            raise row.refused("role", f"is neither {' nor '.join(_ROLES)}.")
        turns[number] = row
    return {name: sorted(turns.items()) for name, turns in dialogues.items()}, len(rows)


def _given(row: Row, schema: Definitions) -> Iterator[tuple[str, tuple[float, float]]]:
    """The dimensions that were judged in this row, with the values of both raters."""
    for name in schema.names:
        first, second = (row.level(f"{name}_{rater}", schema.scale(name)) for rater in _RATERS)
        if first is None and second is None:
            continue
        if first is None or second is None:
            blank = _RATERS[0] if first is None else _RATERS[1]
            raise row.refused(f"{name}_{blank}", "is empty, but the other rater judged it.")
        yield name, (first, second)
