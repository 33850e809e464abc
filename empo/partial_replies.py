"""Replies that are finished while others are not: a line per batch, each with its digest."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empo.json_values import decoded
from empo.process import MAKE_ROOM
from empo.records import UserError, write_text

logger = logging.getLogger(__name__)

_LINE = b'{"key": "'
"""How every line of a partial file begins."""


def read_partial(partial: Path, key: str) -> dict[int, list[dict[str, Any]]]:
    """Finished batches of this very run; lines that are cut off or damaged are taken out.

    Raises UserError where the file is another run's, or somebody's.
    """
    data = partial.read_bytes() if partial.exists() else b""
    if not data.startswith(_LINE) and not _LINE.startswith(data):
        raise UserError(
            f"{partial}: this is no file of unfinished replies, or its beginning is damaged. Delete "
            "it, or choose another --output."
        )
    *lines, torn = data.split(b"\n")  # torn: what a kill cut off
    rows = [_whole(line) for line in lines]
    if any(row is not None and row["key"] != key for row in rows):
        raise UserError(
            f"{partial}: these are the unfinished replies of another model, corpus or setting. "
            "Choose another --output, or delete the file."
        )
    damaged = [str(number) for number, row in enumerate(rows, start=1) if row is None]
    if damaged:
        logger.warning(
            "%s, line %s: damaged; these replies are made again", partial, ", ".join(damaged)
        )
    if damaged or torn:
        kept = [line.decode() for line, row in zip(lines, rows, strict=True) if row is not None]
        with explained(partial):
            write_text(partial, "".join(f"{line}\n" for line in kept))
    return {row["batch"]: row["replies"] for row in rows if row is not None}


def keep(partial: Path, key: str, number: int, replies: Sequence[Mapping[str, Any]]) -> None:
    """Write a finished batch into the partial file, from which `read_partial` reads it."""
    row = {"key": key, "batch": number, "replies": replies}
    line = json.dumps({**row, "sha256": _digest(row)}) + "\n"
    with explained(partial), partial.open("a", encoding="utf-8") as file:
        file.write(line)


def _whole(line: bytes) -> dict[str, Any] | None:
    """The row of a partial file that a line holds; None where it does not agree with its digest."""
    try:
        row = decoded(line.decode())
        return row if row.pop("sha256") == _digest(row) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what to do where a file cannot be written."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free
        raise UserError(
            f"{path}: it could not be written ({error.strerror}); {free / 1e6:,.1f} MB are free on "
            f"its disk. Make the folder writable where it is not. {MAKE_ROOM}, and give the same command "
            "again: it goes on with the replies that are missing."
        ) from error
