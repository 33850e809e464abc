"""The SQLite file in which ratings are kept: one row per rated input, floats to the last bit.

Safe under several processes and under a kill: every write is one transaction in a write-ahead log.
The log needs a local disk; on some network file systems SQLite refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from empo.json_values import decoded
from empo.rating import Dimension, Ratings
from empo.sqlite_file import Kind, SqliteFile, default_cache

_KIND = Kind(
    holds="ratings",
    application=0x456D504F,  # "EmPO"
    schema=1,
    table="ratings",
    columns=(
        "key",
        "scores",
        "widths",
        "probabilities",
        "truncated",
        "response_truncated",
        "parse_failed",
        "n_valid",
        "warnings",
    ),
    create="""CREATE TABLE ratings (
    key BLOB PRIMARY KEY,
    scores BLOB NOT NULL,
    widths TEXT NOT NULL,
    probabilities BLOB NOT NULL,
    truncated INTEGER NOT NULL,
    response_truncated INTEGER NOT NULL,
    parse_failed INTEGER NOT NULL,
    n_valid INTEGER NOT NULL,
    warnings TEXT NOT NULL
) WITHOUT ROWID""",
    write_ahead=True,
)


def default_store() -> Path:
    """The file that commands use where no other is named, in the user's cache folder."""
    return default_cache("ratings.sqlite")


@dataclass(frozen=True, slots=True)
class Row:
    """The rating of one input: arrays of float64, None for a dimension without probabilities."""

    scores: np.ndarray
    probabilities: tuple[np.ndarray | None, ...]
    truncated: bool
    response_truncated: bool
    parse_failed: bool
    n_valid: int
    warnings: tuple[str, ...]


class RatingStore:
    """Ratings by key in one file.

    All methods raise UserError where the file is no such store, is damaged, cannot be written, or
    is locked for long.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the file and check it."""
        self._file = SqliteFile(Path(path), _KIND)
        self._file.prepare()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that are there."""
        found: dict[bytes, Row] = {}
        for key, columns in self._file.read(keys).items():
            try:
                found[key] = _row(*columns)
            except (ValueError, TypeError) as error:
                raise self._file.damaged(f"a row is no rating: {error}") from None
        return found

    def write(self, keys: Sequence[bytes], ratings: Ratings, warnings: Sequence[str]) -> None:
        """Keep the ratings of the inputs with these keys; a row that is there already stays."""
        widths = json.dumps([None if p is None else p.shape[1] for p in ratings.probabilities])
        tables = [np.asarray(p, "<f8") for p in ratings.probabilities if p is not None]
        rows = [
            (
                key,
                ratings.scores[i].astype("<f8").tobytes(),
                widths,
                b"".join(table[i].tobytes() for table in tables),
                bool(ratings.truncated[i]),
                bool(ratings.response_truncated[i]),
                bool(ratings.parse_failed[i]),
                int(ratings.n_valid[i]),
                json.dumps(list(warnings)),
            )
            for i, key in enumerate(keys)
        ]
        self._file.write(rows)


def _row(
    scores: bytes, widths_as_json: str, probabilities: bytes, *flags_count_and_warnings: Any
) -> Row:
    """Raises ValueError or TypeError for what `RatingStore.write` cannot have written."""
    *numbers, warnings_as_json = flags_count_and_warnings
    of_dimensions, values = np.frombuffer(scores, "<f8"), np.frombuffer(probabilities, "<f8")
    widths, warnings = decoded(widths_as_json), decoded(warnings_as_json)
    if len(widths) != len(of_dimensions) or sum(width or 0 for width in widths) != len(values):
        raise ValueError(
            f"{len(of_dimensions)} scores and {len(values)} probabilities for the widths {widths}"
        )
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{numbers} are not three flags and a count")
    *flags, n_valid = numbers
    start, tables = 0, []
    for width in widths:
        tables.append(None if width is None else values[start : start + width])
        start += width or 0
    return Row(of_dimensions, tuple(tables), *map(bool, flags), n_valid, tuple(warnings))


def ratings_of(
    rows: Sequence[Row], dimensions: Sequence[Dimension], signature: str, warnings: Sequence[str]
) -> Ratings:
    """The rows as ratings; `warnings` come before those of the rows."""
    probabilities: list[np.ndarray | None] = []
    for d in range(len(dimensions)):
        tables = [row.probabilities[d] for row in rows]
        width = next((len(table) for table in tables if table is not None), None)
        if width is None:
            probabilities.append(None)
        else:
            unknown = np.full(width, np.nan)
            probabilities.append(np.stack([unknown if t is None else t for t in tables]))
    further = (text for row in rows for text in row.warnings)
    return Ratings.of(
        dimensions,
        np.array([row.scores for row in rows]),
        signature,
        probabilities=probabilities,
        warnings=tuple(dict.fromkeys([*warnings, *further])),
        truncated=np.array([row.truncated for row in rows], dtype=bool),
        response_truncated=np.array([row.response_truncated for row in rows], dtype=bool),
        parse_failed=np.array([row.parse_failed for row in rows], dtype=bool),
        n_valid=np.array([row.n_valid for row in rows], dtype=int),
    )
