"""Tables of what several people gave to the same items: tidy (a row per rating) or wide."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from empo.records import UserError, file_facts, read_text, shown

TIDY = ("item", "rater", "aspect", "value")
DIVIDING = ("setting", "group")
"""Optional columns: every setting and every group of annotators is reported apart."""
MISSING = {"", "na", "n/a", "nan", "null"}
"""What a cell without a rating may hold, in any case."""

_EXAMPLE = "--wide 'Person_{rater}_{aspect}_score'"
_LARGEST = 1e100  # squares of the values must stay finite


@dataclass(frozen=True)
class Judgements:
    """The ratings of one aspect: `values` has shape (items, raters), NaN where there is none.

    `setting` and `group` are empty where the table has no such column.
    """

    setting: str
    group: str
    aspect: str
    items: tuple[str, ...]
    raters: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Sheet:
    """A table as read: one `Judgements` per setting, group and aspect, in the table's order.

    `facts` names the file with its digest and layout, `unused` the columns that were not read.
    """

    facts: Mapping[str, Any]
    cells: tuple[Judgements, ...]
    unused: tuple[str, ...]
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """What was read and what was not, for a person; one warning per line below."""
        ratings = sum(int(np.isfinite(cell.values).sum()) for cell in self.cells)
        missing = sum(cell.values.size for cell in self.cells) - ratings
        aspects = list(dict.fromkeys(cell.aspect for cell in self.cells))
        raters = {(cell.group, name) for cell in self.cells for name in cell.raters}
        line = (
            f"{self.facts['file']} [{self.facts['layout']}]: {ratings:,} ratings of "
            f"{len({name for cell in self.cells for name in cell.items}):,} items by "
            f"{len(raters):,} rater{'s' * (len(raters) != 1)} in {_listed(aspects)}; cells without a rating: {missing:,}"
        )
        line += f"; columns not read: {_listed(self.unused)}" if self.unused else ""
        return "\n".join([line, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass
class _Cell:
    """Ratings of one aspect while rows are read; dicts keep the order of first appearance."""

    items: dict[str, int] = field(default_factory=dict)
    raters: dict[str, int] = field(default_factory=dict)
    ratings: dict[tuple[int, int], tuple[float, int]] = field(default_factory=dict)

    def add(self, item: str, rater: str, value: float, line: int) -> int | None:
        """Put a rating; returns the line on which this rater rated this item already."""
        place = (
            self.items.setdefault(item, len(self.items)),
            self.raters.setdefault(rater, len(self.raters)),
        )
        if place in self.ratings:
            return self.ratings[place][1]
        self.ratings[place] = (value, line)
        return None

    def judgements(self, setting: str, group: str, aspect: str) -> Judgements:
        values = np.full((len(self.items), len(self.raters)), np.nan)
        for place, (value, _) in self.ratings.items():
            values[place] = value
        return Judgements(setting, group, aspect, tuple(self.items), tuple(self.raters), values)


def read_tidy(path: str | Path) -> Sheet:
    """Read a csv (or tsv) with one row per rating: item, rater, aspect, value.

    The columns `setting` and `group` divide the ratings where they are there. An empty value, NA
    or NaN is a missing rating.

    Raises UserError naming line, field and value: columns missing, a field empty, a value that is
    no number, a rating that stands there twice.
    """
    header, rows = _rows(path)
    missing = [name for name in TIDY if name not in header]
    if missing:
        raise UserError(_not_tidy(path, header, missing))
    dividing = [name for name in DIVIDING if name in header]
    cells: dict[tuple[str, ...], _Cell] = {}
    for line, fields in rows:
        row = dict(zip(header, fields, strict=True))
        for name in (*dividing, *TIDY[:3]):
            if not row[name]:
                raise UserError(f"{path}, line {line}, field {name!r}: it is empty.")
        key = (row.get("setting", ""), row.get("group", ""), row["aspect"])
        value = _value(row["value"], f"{path}, line {line}, field 'value'")
        first = cells.setdefault(key, _Cell()).add(row["item"], row["rater"], value, line)
        if first is not None:
            raise UserError(
                f"{path}, line {line}: item {shown(row['item'])}, rater {shown(row['rater'])}, "
                f"aspect {shown(row['aspect'])} stands on line {first} already. Remove one of the two rows, or "
                "tell them apart in a column 'setting'."
            )
    unused = [name for name in header if name not in (*TIDY, *DIVIDING)]
    return _sheet(path, {"layout": "tidy"}, cells, unused)


def read_wide(path: str | Path, pattern: str) -> Sheet:
    """Read a csv (or tsv) with one row per item and one column per rater and aspect.

    `pattern` says how these columns are named, as `Person_{rater}_{aspect}_score`; {rater} ends
    where the text after it first occurs, and without {aspect} there is one aspect, `value`. The
    number of the row (from 1) is the item.

    Raises UserError where no column fits, a value is no number (line, field, value), or the
    pattern cannot tell rater and aspect apart.
    """
    expression = _expression(pattern)
    header, rows = _rows(path)
    fits = {name: match for name in header if (match := expression.fullmatch(name))}
    if not fits:
        raise UserError(
            f"{path}: no column is named like {pattern!r} (--wide); found: {_listed(header)}."
        )
    cells: dict[tuple[str, ...], _Cell] = {}
    for item, (line, fields) in enumerate(rows, start=1):
        for name, text in zip(header, fields, strict=True):
            if name not in fits:
                continue
            parts = fits[name].groupdict()
            value = _value(text, f"{path}, line {line}, field {name!r}")
            cell = cells.setdefault(("", "", parts.get("aspect", "value")), _Cell())
            cell.add(str(item), parts["rater"], value, line)
    unused = [name for name in header if name not in fits]
    return _sheet(path, {"layout": "wide", "pattern": pattern}, cells, unused)


def from_corpus(path: str | Path, schema: str, given: Iterable[Mapping[str, Any]]) -> Sheet:
    """The sheet of a judged corpus whose reader gives one dict {item, rater, aspect, value} per
    rating, `intent_annotations` for one.

    Raises UserError where there is none.
    """
    cells: dict[tuple[str, ...], _Cell] = {}
    for row in given:
        cell = cells.setdefault(("", "", row["aspect"]), _Cell())
        cell.add(row["item"], row["rater"], row["value"], 0)
    if not cells:
        raise UserError(f"{path}: nobody judged anything in it.")
    return _sheet(path, {"layout": schema}, cells, [])


def _sheet(
    path: str | Path,
    facts: dict[str, Any],
    cells: Mapping[tuple[str, ...], _Cell],
    unused: Sequence[str],
) -> Sheet:
    warnings = [
        f"{', '.join(filter(None, key))}: {len(cell.raters):,} raters and {len(cell.items):,} "
        "items. Are the items and the raters swapped?"
        for key, cell in cells.items()
        if len(cell.raters) > len(cell.items)
    ]
    judged = tuple(cell.judgements(*key) for key, cell in cells.items())
    return Sheet({**file_facts(path), **facts}, judged, tuple(unused), tuple(warnings))


def _rows(path: str | Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The column names, and an iterator of (line, fields) over the rows that are not blank."""
    text = read_text(path)
    delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        table = list(_numbered(reader))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not readable as csv ({error}).") from None
    header = table[0][1]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: the column {shown(twice[0])} stands there twice.")
    if len(table) == 1:
        raise UserError(f"{path}: there is a header but no row.")

    def rows() -> Iterator[tuple[int, list[str]]]:
        for line, fields in table[1:]:
            if len(fields) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(fields)} fields instead of {len(header)}. Quote a "
                    "field that holds the separator."
                )
            yield line, fields

    return header, rows()


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    line = 1
    for fields in reader:
        if fields:
            yield line, [text.strip() for text in fields]
        line = reader.line_num + 1


def _value(text: str, where: str) -> float:
    if text.lower() in MISSING:
        return math.nan
    try:
        value = math.nan if "_" in text else float(text)  # float() reads 2_5 as 25
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(
            f"{where}: {shown(text)} is no number. Write numbers with a decimal point; a missing rating "
            "is an empty field or NA."
        )
    if abs(value) > _LARGEST:
        raise UserError(f"{where}: {shown(text)} is infinite or too large for a rating.")
    return value


def _expression(pattern: str) -> re.Pattern[str]:
    names = re.findall(r"\{(\w*)\}", pattern)
    if sorted(names) not in (["rater"], ["aspect", "rater"]):
        raise UserError(
            f"--wide {pattern!r}: the pattern must hold {{rater}} once and {{aspect}} at most once, "
            f"and no other name in braces. Example: {_EXAMPLE}"
        )
    if "}{" in pattern:
        raise UserError(
            f"--wide {pattern!r}: with no text between {{rater}} and {{aspect}} they cannot be told "
            "apart."
        )
    parts = re.split(r"\{(rater|aspect)\}", pattern)
    return re.compile(
        "".join(f"(?P<{part}>.+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )


def _not_tidy(path: str | Path, header: Sequence[str], missing: Sequence[str]) -> str:
    text = (
        f"{path}: the column{'s' * (len(missing) > 1)} {', '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} missing; found: {_listed(header)}. A tidy table has "
        "one row per rating and the columns item, rater, aspect, value."
    )
    if "rater" in header and "item" not in header:
        return text + (
            " Here the raters seem to be the rows and the items the columns: turn the table into "
            f"rows of single ratings, or into one row per item and give {_EXAMPLE}."
        )
    return text + f" If every rater has columns of their own, give their names: {_EXAMPLE}."


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
