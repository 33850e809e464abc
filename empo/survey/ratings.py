"""Ratings as a tidy table: out of the answers of a survey, or from a csv that others collected."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from empo.corpora.csv_rows import Row, header_of, read_csv
from empo.records import UserError, shown, write_text
from empo.survey.store import Store

COLUMNS = (
    "item", "rater", "aspect", "value", "system", "exchange", "emotion", "batch", "kind", "place",
    "seconds", "characters",
)  # fmt: skip
"""Of an exported table. An item is an exchange under a system; a place counts from 1."""
_NEEDED = ("item", "rater", "aspect", "value", "system")
_OPTIONAL = ("seconds", "characters")
_LARGEST = 1e9
"""Of a value: squares of larger ones lose what they are to say, or have no room in a number."""


@dataclass(frozen=True)
class Ratings:
    """One rating per entry of every array, shape (n,); NaN where seconds or characters are not known.

    `exchange` is what systems are paired by, `seconds` what the rater took for the whole item.
    """

    exchange: np.ndarray
    system: np.ndarray
    rater: np.ndarray
    aspect: np.ndarray
    value: np.ndarray
    seconds: np.ndarray
    characters: np.ndarray

    def where(self, mask: np.ndarray) -> Ratings:
        """The ratings for which `mask`, shape (n,), is true."""
        return Ratings(*(getattr(self, field.name)[mask] for field in fields(self)))


def rating_rows(plan: Mapping[str, Any], store: Store) -> Iterator[dict[str, Any]]:
    """The rows of the tidy table, in the order of participants, places and aspects.

    Those of links that were replaced are left out: the same person may have begun again by the new one.
    """
    batches = {batch["number"]: batch for batch in plan["batches"]}
    for participant, number, _, count, replaced in store.progress():
        batch = batches[number]
        for answer in store.answers(participant) if count and not replaced else ():
            if not 0 <= answer.place < len(batch["places"]):
                raise store.damaged(f"place {answer.place} of batch {number}")
            item, system = batch["places"][answer.place]
            exchange = plan["items"][item]
            for aspect, value in answer.ratings.items():
                yield {
                    "item": f"{exchange['id']}/{system}",
                    "rater": f"r{participant:04d}",
                    "aspect": aspect,
                    "value": value,
                    "system": system,
                    "exchange": exchange["id"],
                    "emotion": exchange["emotion"],
                    "batch": number,
                    "kind": batch["kind"],
                    "place": answer.place + 1,
                    "seconds": f"{answer.seconds:.1f}",
                    "characters": len(exchange["responses"][system]),
                }


def replaced_answers(store: Store) -> int:
    """How many rated replies `rating_rows` leaves out, as their links were replaced."""
    return sum(count for *_, count, replaced in store.progress() if replaced)


def write_tidy(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table atomically."""
    write_text(path, _tidy(rows))


def tidy_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Size and digest of the table that `write_tidy` makes of these rows, for manifests."""
    data = _tidy(rows).encode()
    digest = hashlib.sha256(data).hexdigest()
    return {"file": "exported ratings", "bytes": len(data), "sha256": digest, "ratings": len(rows)}


def _tidy(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def ratings_of(rows: Iterable[Mapping[str, Any]]) -> Ratings:
    """The ratings in rows of a tidy table."""
    rows = list(rows)
    texts = [np.array([row[name] for row in rows], dtype=object) for name in _KEYS]
    numbers = [np.array([_number(row[name]) for row in rows]) for name in ("value", *_OPTIONAL)]
    return Ratings(*texts, *numbers)


_KEYS = ("exchange", "system", "rater", "aspect")


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def read_ratings_table(path: str | Path) -> tuple[Ratings, int]:
    """Read a tidy csv from any source; returns the ratings and how many rows have no value.

    Needed are item, rater, aspect, value, system; `exchange` says what systems are paired by (else
    item does); `seconds` (of the whole item) and `characters` (of the response) may be there.

    Raises UserError naming line, field and value: a column is missing, a field empty or no number,
    a value beyond 1e9, a rating there twice.
    """
    header = header_of(path)
    if "system" not in header and {"item", "rater"} <= set(header):
        raise UserError(
            f"{path}: there is no column 'system', so nothing can be compared. Add a column with the "
            "name of the system whose reply was rated; `empo agreement` needs none."
        )
    pairing = "exchange" if "exchange" in header else "item"
    known = [name for name in _OPTIONAL if name in header]
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    missing = 0
    for row in read_csv(path, _NEEDED):
        texts = {name: row.required(name) for name in ("rater", "aspect", "system", "item")}
        texts["exchange"] = row.required(pairing)
        key = tuple(texts[name] for name in (*_KEYS, "item"))
        if key in seen:
            raise UserError(
                f"{path}, line {row.line}: rater {shown(texts['rater'])} rated item "
                f"{shown(texts['item'])} of system {shown(texts['system'])} in "
                f"{shown(texts['aspect'])} on line {seen[key]} already. Remove one of the two rows."
            )
        seen[key] = row.line
        value = row.number("value")
        if value is None:
            missing += 1
            continue
        if abs(value) > _LARGEST:
            raise UserError(
                f"{path}, line {row.line}, field 'value': {value:g} is no rating; from {-_LARGEST:g} to "
                f"{_LARGEST:g} can be analysed. Correct it, or leave it empty where there is none."
            )
        rows.append({**texts, "value": value, **dict.fromkeys(_OPTIONAL), **_numbers(row, known)})
    if not rows:
        raise UserError(f"{path}, field 'value': no row has one.")
    return ratings_of(rows), missing


def _numbers(row: Row, names: Iterable[str]) -> dict[str, float | None]:
    return {name: row.number(name) for name in names}
