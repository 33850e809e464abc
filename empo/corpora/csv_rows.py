"""Rows of an ordinary quoted csv that know where they stand, for readers of judged corpora."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from empo.records import UserError, listed, read_text, shown


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its file, the line on which it begins (fields may hold line breaks), its fields."""

    path: Path
    line: int
    fields: Mapping[str, str]

    def text(self, column: str) -> str:
        """The field without blanks around it; empty where there is nothing."""
        return self.fields[column].strip()

    def required(self, column: str) -> str:
        """The field as in `text`; UserError where it is empty."""
        if not self.text(column):
            raise self.refused(column, "is empty, and every row needs it.")
        return self.text(column)

    def number(self, column: str) -> float | None:
        """The field as a finite number, None where it is empty; UserError where it is no number."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = math.nan if "_" in text else float(text)  # float() reads 2_5 as 25
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.refused(column, "is no number.")
        return value

    def level(self, column: str, levels: Collection[float]) -> float | None:
        """The field as one of `levels`, None where it is empty; UserError for any other value."""
        value = self.number(column)
        if value is not None and value not in levels:
            raise self.refused(column, f"is not one of {', '.join(f'{v:g}' for v in levels)}.")
        return value

    def refused(self, column: str, why: str) -> UserError:
        """The error that names file, line, field and value of what cannot be read."""
        return UserError(
            f"{self.path}, line {self.line}, field {column!r}: {shown(self.fields[column])} {why}"
        )


def header_of(path: str | Path) -> list[str]:
    """The column names of a csv.

    Raises UserError where the file is missing, empty or not UTF-8.
    """
    return _header(_reader(path), path)


def read_csv(path: str | Path, columns: Sequence[str], escape: str | None = None) -> list[Row]:
    """All rows of a csv that has at least these columns; blank lines are skipped.

    `escape` is the character before a quote inside a quoted field, where quotes are not doubled.

    Raises UserError where the file cannot be read, a column is missing or stands there twice, a row
    has another number of fields than the header, the quoting is wrong, or there is no row.
    """
    path = Path(path)
    reader = _reader(path, escape)
    header = _header(reader, path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f"{path}: the column{'s' * (len(missing) > 1)} {listed(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; found: {listed(header)}."
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the column {shown(twice[0])} stands there twice. Rename one.")
    rows: list[Row] = []
    line = reader.line_num + 1
    try:
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(fields)} fields instead of {len(header)}. "
                    "A field with a comma, a quote or a line break must be quoted."
                )
            if fields:
                rows.append(Row(path, line, dict(zip(header, fields, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a well-quoted csv ({error}).") from None
    if not rows:
        raise UserError(f"{path}: there is a header but no row.")
    return rows


def _reader(path: str | Path, escape: str | None = None):
    return csv.reader(io.StringIO(read_text(path), newline=""), strict=True, escapechar=escape)


def _header(reader, path: str | Path) -> list[str]:
    try:
        return [name.strip() for name in next(fields for fields in reader if fields)]
    except csv.Error as error:
        raise UserError(f"{path}, line 1: not a well-quoted csv ({error}).") from None
