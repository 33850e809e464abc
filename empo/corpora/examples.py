"""Judged examples of a user's own (jsonl), and `load_labelled`, the door to all judged corpora.

One line of the jsonl:

    {"id": "a1", "context": "I lost my job.", "response": "That is hard.", "labels": {"warmth": 4}}

`context` is a text or a list of messages {"role": "user" | "assistant", "content": ...}; `group`
(the id by default) keeps lines together in every split; `following` are messages after the
response. What the labels mean can stand in a YAML file, see `empo.corpora.dimensions`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, FiniteFloat, Tag

from empo.corpora import Rejection
from empo.corpora.csv_rows import header_of
from empo.corpora.dimensions import Strict, load_dimensions, validated
from empo.corpora.epitome import FILES as EPITOME_FILES
from empo.corpora.epitome import read_epitome
from empo.corpora.esconv import SPLITS, read_esconv
from empo.corpora.intents import COLUMNS as INTENT_COLUMNS
from empo.corpora.intents import read_intents
from empo.corpora.labelled import Example, LabelledCorpus
from empo.corpora.levels import COLUMNS as LEVEL_COLUMNS
from empo.corpora.levels import read_levels
from empo.corpora.stories import URDU_STORIES, read_stories, read_urdu
from empo.corpora.wassa import READERS as WASSA
from empo.corpora.wassa import wassa_schema
from empo.dialogues import Turn
from empo.rating import Dimension, RatingInput
from empo.records import UserError, file_facts, listed, read_jsonl, shown

MOST_LEVELS = 20
"""Labels with more distinct values than this are taken for an interval scale."""


class _Message(Strict):
    role: Literal["user", "assistant"]
    content: str


def _kind_of_context(value: Any) -> str:
    return "text" if isinstance(value, str) else "messages"


class _Line(Strict):
    id: str
    group: str | None = None
    context: Annotated[
        Annotated[str, Tag("text")] | Annotated[list[_Message], Tag("messages")],
        Discriminator(_kind_of_context),
    ]
    response: str
    following: list[_Message] = []
    labels: dict[str, FiniteFloat]


def read_examples(path: str | Path, definitions: str | Path | None = None) -> LabelledCorpus:
    """Judged examples of one's own, one JSON object per line, see the head of this module.

    `definitions` is a YAML file that says what the labels mean (`load_dimensions`). Without it they
    are inferred: ordinal with the values that occur as levels if there are at most MOST_LEVELS of
    them, else interval over the range that occurs; `counts` says how many were inferred. A level
    that nobody used is then unknown, so give the file where you can. Rejected: an empty response, no
    label.

    Raises UserError naming line and field for a missing, unknown or mistyped key, an id that stands
    there twice, a label that its dimension does not allow, a dimension with one value only.
    """
    known = None if definitions is None else load_dimensions(definitions)
    examples: list[Example] = []
    rejected: list[Rejection] = []
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        line = validated(_Line, row, f"{path}, line {number}")
        if line.id in lines:
            raise UserError(
                f"{path}, line {number}, field 'id': {shown(line.id)} stands on line {lines[line.id]} "
                "already."
            )
        lines[line.id] = number
        if not line.response.strip():
            rejected.append(Rejection(line.id, "empty response", f"line {number}"))
        elif not line.labels:
            rejected.append(Rejection(line.id, "no label", f"line {number}"))
        else:
            examples.append(_example(line))
    dims = known or _inferred(path, examples)
    for example in examples:
        _check_labels(example, dims, f"{path}, line {lines[example.id]}")
    return LabelledCorpus(
        str(path),
        "examples",
        dims,
        examples,
        rejected,
        len(lines),
        [file_facts(file) for file in (path, definitions) if file is not None],
        {} if known else {"dimensions inferred from the labels": len(dims)},
    )


SCHEMAS: dict[str, tuple[Callable[..., LabelledCorpus], str]] = {
    "epitome": (read_epitome, f"a folder with {', '.join(EPITOME_FILES.values())}"),
    "esconv": (read_esconv, "a jsonl file whose lines have `dialog`, or a folder of its splits"),
    "stories": (read_stories, "a csv with similarity_empathy_human_AGG and its three sisters"),
    "urdu": (read_urdu, f"a folder with {URDU_STORIES}"),
    "intents": (read_intents, f"a csv with {', '.join(INTENT_COLUMNS)} and two columns per label"),
    "levels": (read_levels, f"a csv with reply, emotion, {', '.join(LEVEL_COLUMNS.values())}"),
    **WASSA,
    "examples": (read_examples, "a jsonl file whose lines have id, context, response, labels"),
}
"""Reader and looks of every schema."""


def load_labelled(source: str | Path, schema: str | None = None, **options: Any) -> LabelledCorpus:
    """Read a judged corpus; without `schema` it is told by what the file or folder looks like.

    `schema` is a key of SCHEMAS; `options` are those of its reader (`derived`, `split`, `before`,
    `after`, `stages`, `text`, `definitions`, `articles`, `incomplete`, `dialogues`), see `options_of`.

    Raises UserError where nothing is there, the schema is unknown or cannot be told, an option is
    not the reader's, no example is usable, and what the reader raises.
    """
    schema = _schema_of(source, schema)
    allowed = options_of(source, schema)
    for name in options:
        if name not in allowed:
            raise UserError(
                f"{source}: the schema {schema!r} has no option {name!r}; "
                f"it has: {', '.join(allowed) or 'none'}."
            )
    corpus = SCHEMAS[schema][0](source, **options)
    if not corpus.examples:
        raise UserError(f"{source}: no usable example.\n{corpus.summary()}")
    return corpus


def options_of(source: str | Path, schema: str | None = None) -> list[str]:
    """Names of the options of the reader that `load_labelled` takes for this source.

    Raises UserError where nothing is there, or the schema is unknown or cannot be told.
    """
    return list(inspect.signature(SCHEMAS[_schema_of(source, schema)][0]).parameters)[1:]


def _schema_of(source: str | Path, schema: str | None) -> str:
    """The schema that was given, or the one that file or folder looks like."""
    if schema is not None:
        if schema not in SCHEMAS:
            raise UserError(f"schema {schema!r} is unknown. {_known()}")
        return schema
    source = Path(source)
    if source.is_dir():
        looks = [path.name for path in sorted(source.iterdir()) if path.is_file()]
        if any(name in EPITOME_FILES.values() for name in looks):
            return "epitome"
        if URDU_STORIES in looks:
            return "urdu"
        splits = [source / f"{name}.jsonl" for name in SPLITS if f"{name}.jsonl" in looks]
        if splits and "dialog" in next(read_jsonl(splits[0]))[1]:
            return "esconv"
        seen = f"the folder holds: {listed(looks) or 'no file'}"
    elif source.suffix == ".jsonl":
        keys = set(next(read_jsonl(source))[1])
        if "dialog" in keys:
            return "esconv"
        if {"id", "context", "response", "labels"} <= keys:
            return "examples"
        seen = f"the first line has the keys: {listed(sorted(keys))}"
    elif source.suffix == ".csv":
        header = set(header_of(source))
        if "similarity_empathy_human_AGG" in header:
            return "stories"
        if {"reply", *LEVEL_COLUMNS.values()} <= header:
            return "levels"
        if set(INTENT_COLUMNS) <= header:
            return "intents"
        if track := wassa_schema(sorted(header)):
            return track
        seen = f"the columns are: {listed(sorted(header))}"
    elif source.exists():
        seen = f"the ending is {source.suffix!r}"
    else:
        raise UserError(f"{source}: no such file or folder. Check the path.")
    raise UserError(f"{source}: cannot tell the schema; {seen}. {_known()}")


def _known() -> str:
    listed = "; ".join(f"{name} ({looks})" for name, (_, looks) in SCHEMAS.items())
    return f"Known schemas: {listed}."


def _example(line: _Line) -> Example:
    context = line.context if isinstance(line.context, str) else _turns(line.context)
    return Example(
        line.id,
        line.group if line.group is not None else line.id,
        RatingInput(context, line.response, _turns(line.following)),
        line.labels,
    )


def _turns(messages: list[_Message]) -> tuple[Turn, ...]:
    return tuple(Turn(message.role, message.content) for message in messages)


def _inferred(path: str | Path, examples: list[Example]) -> tuple[Dimension, ...]:
    values: dict[str, set[float]] = {}
    for example in examples:
        for name, value in example.labels.items():
            values.setdefault(name, set()).add(value)
    for name, found in values.items():
        if len(found) < 2:
            raise UserError(
                f"{path}: every label in {shown(name)} is {min(found):g}, so its range cannot be "
                "inferred. Give a file with the dimensions (`definitions`)."
            )
    return tuple(
        Dimension(name, min(found), max(found), "ordinal", tuple(sorted(found)))
        if len(found) <= MOST_LEVELS
        else Dimension(name, min(found), max(found), "interval")
        for name, found in values.items()
    )


def _check_labels(example: Example, dimensions: tuple[Dimension, ...], where: str) -> None:
    named = {dimension.name: dimension for dimension in dimensions}
    for name, value in example.labels.items():
        place = f"{where}, field {shown(f'labels.{name}')}"
        if name not in named:
            raise UserError(f"{place}: no such dimension; there are: {listed(named)}.")
        dimension = named[name]
        if not dimension.low <= value <= dimension.high:
            raise UserError(
                f"{place}: {value:g} lies outside {dimension.low:g} to {dimension.high:g}."
            )
        if dimension.levels is not None and value not in dimension.levels:
            raise UserError(
                f"{place}: {value:g} is not one of "
                f"{', '.join(f'{level:g}' for level in dimension.levels)}."
            )
