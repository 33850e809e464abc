"""Explanations of judged story pairs, written by a language model that is told the human scores.

A line of the file is one explanation with what it was made from. Writing it goes on where it was
stopped; a line that a kill has cut is written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.corpora.labelled import Example
from empo.json_values import decoded
from empo.records import UserError, listed, read_jsonl, shown
from empo.runs import now

Chat = Callable[[Sequence[Sequence[dict[str, str]]]], Sequence[str]]
"""A chat model: lists of messages with role and content in, its replies out."""

POINTS = ("themes", "emotional content", "characters", "narrative structure", "overall")
"""What an explanation goes through."""

_ASKED = """Story A: {first}

Story B: {second}

People judged how similar these two stories are in {label}, from {low:g} (not at all) to {high:g} (very much): {gold:g}.
Explain in one short paragraph why this score fits. Go through {points}. Do not name the score."""

_BEGIN = b'{"id": '
_FIELDS: dict[str, tuple[type, ...]] = {"id": (str,), "label": (str,), "gold": (int, float)}
_FIELDS |= {"explanation": (str,), "model": (dict,), "prompt": (str,), "messages": (str,)}
"""Types of what every line has."""

PROMPT_DIGEST = hashlib.sha256(f"{_ASKED}{POINTS}".encode()).hexdigest()[:12]


def explanation_messages(
    example: Example, label: str, low: float, high: float
) -> list[dict[str, str]]:
    """The messages that ask for an explanation of an example's gold score."""
    text = _ASKED.format(
        first=example.input.prompt,
        second=example.input.response,
        label=label,
        low=low,
        high=high,
        gold=example.labels[label],
        points=", ".join(POINTS),
    )
    return [{"role": "user", "content": text}]


def write_explanations(
    examples: Sequence[Example],
    labels: Mapping[str, tuple[float, float]],
    chat: Chat,
    model: Mapping[str, Any],
    path: str | Path,
    batch_size: int = 8,
) -> dict[str, int]:
    """Ask for an explanation of every label of every example that `path` does not have yet.

    `labels` maps a label to its range, `model` says which model answers and how it decodes. Every
    line has id, label, gold, explanation, model, the digests of the wording and of the `messages` that
    were sent, and the time. A blank reply is not written, so that the same call asks again. Returns counts: asked, written, blank,
    and those that were `there` before.

    Raises UserError where the file's lines are of another model, wording, gold score or stories, or
    none.
    """
    path = Path(path)
    provenance = {"model": dict(model), "prompt": PROMPT_DIGEST}
    done = _done(path, provenance)
    wanted = [(e, label) for e in examples for label in labels if label in e.labels]
    for example, label in wanted:
        line = done.get((example.id, label))
        if line is not None and line["gold"] != example.labels[label]:
            raise UserError(
                f"{path}: the explanation of {label} for {shown(example.id)} is of the score "
                f"{line['gold']:g}, but the data say {example.labels[label]:g}. Choose another file."
            )
        if line is not None and line["messages"] != messages_digest(example, label, *labels[label]):
            raise UserError(
                f"{path}: the explanation of {label} for {shown(example.id)} is of other stories, or "
                "another range of the score. Give the data and the text (--text) that it was made from, "
                "or choose another file."
            )
    todo = [(e, label) for e, label in wanted if (e.id, label) not in done]
    counts = {"there": len(wanted) - len(todo), "asked": 0, "written": 0, "blank": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), batch_size):
            some = todo[start : start + batch_size]
            replies = chat([explanation_messages(e, label, *labels[label]) for e, label in some])
            for (example, label), reply in zip(some, replies, strict=True):
                counts["asked"] += 1
                if not reply.strip():
                    counts["blank"] += 1
                    continue
                line = {"id": example.id, "label": label, "gold": example.labels[label]}
                line |= {"explanation": " ".join(reply.split()), **provenance}
                line |= {
                    "messages": messages_digest(example, label, *labels[label]),
                    "created": now(),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts["written"] += 1
            file.flush()
            os.fsync(file.fileno())
    return counts


def read_explanations(path: str | Path) -> dict[tuple[str, str], str]:
    """Explanations by example and label. Raises UserError where a line is none."""
    return {key: line["explanation"] for key, line in _lines(path)}


def messages_digest(example: Example, label: str, low: float, high: float) -> str:
    """sha256 of the messages that ask for an explanation: of all that is in them."""
    messages = json.dumps(explanation_messages(example, label, low, high))
    return hashlib.sha256(messages.encode()).hexdigest()


def _done(path: Path, provenance: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The whole lines of a file; a last line that a kill has cut is removed from it."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    last = data[data.rfind(b"\n") + 1 :]
    if _is_cut(last):
        data = data.removesuffix(last)
        os.truncate(path, len(data))
    if not data:
        return {}
    done = dict(_lines(path))
    for key, line in done.items():
        for name, value in provenance.items():
            if line[name] != value:
                raise UserError(
                    f"{path}: the explanation of {listed(key[1:])} for {shown(key[0])} has {name} "
                    f"{shown(line[name])}, now it would be {shown(value)}. Choose another file."
                )
    if not data.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
    return done


def _is_cut(line: bytes) -> bool:
    """Whether a line without an end begins as ours do, and breaks off."""
    if not line or line[: len(_BEGIN)] != _BEGIN[: len(line)]:
        return False
    try:
        decoded(line.decode())
    except ValueError as error:  # of another kind: it is whole, and refused where it is read
        return isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return False


def _lines(path: str | Path) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    found: dict[tuple[str, str], int] = {}
    for number, line in read_jsonl(path):
        for name, types in _FIELDS.items():
            where = f"{path}, line {number}, field {name!r}"
            if name not in line:
                raise UserError(f"{where}: missing.")
            if type(line[name]) not in types:
                expected = " or ".join(of.__name__ for of in types)
                raise UserError(f"{where}: {expected} is expected, not {shown(line[name])}.")
        key = (line["id"], line["label"])
        if key in found:
            raise UserError(
                f"{path}, line {number}: the explanation of {listed(key[1:])} for {shown(key[0])} stands "
                f"on line {found[key]} already. Remove one of the two."
            )
        found[key] = number
        yield key, line
