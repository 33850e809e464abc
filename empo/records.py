"""The files EmPO reads and writes: their schemas, atomic writers, readers whose errors can be acted on.

Every file is JSON, JSON lines or text in UTF-8. A writer writes beside the target and renames, so
a file that exists is complete. A reader names file, line and field of what it refuses.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from empo.json_values import decoded

RESULTS_SCHEMA = "empo.results/1"
RUN_SCHEMA = "empo.run/1"
CHECKPOINT_SCHEMA = "empo.checkpoint/1"
PAIRS_SCHEMA = "empo.pairs/1"
RESPONSES_SCHEMA = "empo.responses/1"
NIDF_SCHEMA = "empo.nidf/1"
RATER_RESULTS_SCHEMA = "empo.rater-results/1"
RATINGS_SCHEMA = "empo.ratings/1"
AGREEMENT_SCHEMA = "empo.agreement/1"

_BAD_LINES = 5  # of a file, named in one message


class UserError(Exception):
    """Something the user can mend. Commands print its text without a traceback and exit with 2."""


class Message(BaseModel):
    """One chat message in the format of transformers and trl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Response(BaseModel):
    """One line of a responses file: an exchange and what a system replied to it.

    `context` ends on the speaker's last turn; `reference` is the human reply; further keys
    (token counts, `finished`) are allowed and kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    emotion: str
    context: list[Message]
    reference: str
    response: str
    system: str

    @property
    def prompt(self) -> str:
        """The last speaker turn, to which the response answers."""
        return self.context[-1].content


_RESPONSE_KEYS = (
    f"A line has the keys {', '.join(Response.model_fields)}; context is a list of messages with "
    "role and content."
)


class Pair(BaseModel):
    """One line of a pairs file, in trl's conversational preference format.

    Mined pairs also have the scores of both replies by the rater that mined them (None: no score),
    and the similarity of the two contexts (cosine) where they were drawn on topic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    emotion: str
    opposite: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    rejected_id: str
    score_chosen: float | None = None
    score_rejected: float | None = None
    similarity: float | None = None


@contextmanager
def atomic(path: str | Path) -> Iterator[TextIO]:
    """Open a text file that appears under `path` only when the block has ended without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's 0600 would hide results from the user's group
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, since no JSON reader must take them."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object per line atomically and return the number of lines."""
    count = 0
    with atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_text(path: str | Path) -> str:
    """Read UTF-8 text; a byte-order mark is dropped, line ends stay as they are.

    Raises UserError where the file is missing, empty, no text or not UTF-8 (with the line of the bad
    byte).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: this is a folder. Give a file.")
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in data and not utf16:
            raise UserError(
                f"{path}: this is no text file: it holds zero bytes, as pickles, archives and weights "
                "do. Give the data as text in UTF-8."
            ) from None
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. Convert the file, for "
            f"example with `iconv -f {'utf-16' if utf16 else 'latin1'} -t utf-8`."
        ) from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty.")
    return text


def read_json(path: str | Path) -> Any:
    """Read one JSON document.

    Raises UserError where it is none: bad syntax, NaN or a number that no float can hold, a key
    twice in one object, half of a surrogate pair, more than DEEPEST levels.
    """
    return _document(path, read_text(path))


def read_object(path: str | Path) -> dict[str, Any]:
    """Read one JSON object; UserError as in `read_json`, and where the document is something else."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: a JSON object is expected, not {type(document).__name__}.")
    return document


def _document(path: str | Path, text: str) -> Any:
    try:
        return decoded(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_typed(path: str | Path, schema: str, adapter: TypeAdapter[Any], remedy: str) -> Any:
    """Read a JSON document of one of our schemas.

    Raises UserError where the file is of no or another schema, with `remedy` (a sentence), or names
    the field that does not fit it.
    """
    text = read_text(path)
    document = _document(path, text)
    if not isinstance(document, dict) or "schema" not in document:
        raise UserError(f"{path}: this is no file of the schema {schema!r}. {remedy}")
    if document["schema"] != schema:
        raise UserError(
            f"{path}, field 'schema': {shown(document['schema'])}, but this version reads {schema!r}. "
            f"{remedy}"
        )
    try:
        adapter.validate_json(text, strict=True)  # a number is no text, and a list may be a tuple
    except ValidationError as error:
        raise misfit(str(path), error) from None
    return document


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line that is not blank.

    Raises UserError at the first line that is none, for the reasons of `read_json`; it names up to
    five such lines and counts the others.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = _object(line)
        except ValueError as error:
            raise _bad_lines(f"{path}, line {number}: {error}", lines) from None
        yield number, row


def _object(line: str) -> dict[str, Any]:
    try:
        row = decoded(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}).") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected, not {type(row).__name__}.")
    return row


def _bad_lines(first: str, others: Iterator[tuple[int, str]]) -> UserError:
    """The error for the first bad line of a file, with the bad ones among the lines after it."""
    told = [first]
    more = 0
    for number, line in others:
        try:
            if line.strip():
                _object(line)
        except ValueError as error:
            if len(told) < _BAD_LINES:
                told.append(f"line {number}: {error}")
            else:
                more += 1
    return UserError("\n  ".join([*told, *([f"and {more:,} more lines"] if more else [])]))


def read_rows(
    path: str | Path, adapter: TypeAdapter[Any], remedy: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of JSON lines that fit a schema.

    Raises UserError as `read_jsonl`, and with line, field and `remedy` (a sentence) for a row that
    does not fit.
    """
    for number, row in read_jsonl(path):
        try:
            adapter.validate_python(row)
        except ValidationError as error:
            raise misfit(f"{path}, line {number}", error, remedy) from None
        yield number, row


def misfit(where: str, error: ValidationError, remedy: str = "") -> UserError:
    """The first field that does not fit a schema, as an error of the user's."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    place = f"field {shown(field)}" if field else "the whole file"
    return UserError(f"{where}, {place}: {first['msg']}. {remedy}".rstrip())


def read_responses(path: str | Path) -> list[Response]:
    """Read a responses file from any source that has the keys of `Response`.

    Raises UserError naming line and field; ids may occur once per system.
    """
    responses: list[Response] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in read_jsonl(path):
        try:
            response = Response.model_validate(row)
        except ValidationError as error:
            raise misfit(f"{path}, line {number}", error, _RESPONSE_KEYS) from None
        if not response.context or response.context[-1].role != "user":
            raise UserError(
                f"{path}, line {number}, field 'context': its last message must be the speaker's "
                "(role 'user')."
            )
        key = (response.system, response.id)
        if key in seen:
            raise UserError(
                f"{path}, line {number}, field 'id': {shown(response.id)} stands on line {seen[key]} "
                f"already for system {shown(response.system)}."
            )
        seen[key] = number
        responses.append(response)
    return responses


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_facts(path: str | Path) -> dict[str, Any]:
    """Name, size and digest of an input file, for manifests."""
    path = Path(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def shown(value: Any, most: int = 80) -> str:
    """A value of a file for a message: as Python writes it, cut after `most` characters."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most + 2 else f"{text[:most]}..."


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names of a file for a message, each cut after 40 characters; at most so many are named."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{n[:40]}..." if len(n) > 40 else n for n in names[:most]) + more


def make_readable(folder: str | Path) -> None:
    """Let others read saved weights as they may read the files beside them; safetensors lets nobody."""
    for file in Path(folder).rglob("*.safetensors"):
        file.chmod(0o644)


def finite(value: float | None) -> float | None:
    """The value itself, or None where it is no finite number (files never hold NaN)."""
    return float(value) if value is not None and math.isfinite(value) else None
