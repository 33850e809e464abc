"""per_response.jsonl read and checked: the values that every system has on every exchange."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empo.records import UserError, listed, read_jsonl, sha256, shown


def read_per_response(
    path: Path, results: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """System -> id -> name of a value -> number or None, in the order of the file.

    UserError where the file is not of the same measurement as `results`, the content of the
    results.json beside it.
    """
    told = results.get("per_response_sha256", "")
    if told and (found := sha256(path)) != told:
        raise UserError(
            f"{path}: SHA-256 {found[:12]}, but results.json beside it was written with {str(told)[:12]}: "
            "the folder was measured again and not to the end, or the file was changed. Run "
            "eval/responses.py again."
        )
    systems: dict[str, dict[str, dict[str, float | None]]] = {}
    for number, row in read_jsonl(path):
        missing = [key for key in ("id", "system", "values") if key not in row]
        if missing:
            raise UserError(f"{path}, line {number}, field {missing[0]!r}: missing.")
        if odd := [key for key in ("id", "system") if not isinstance(row[key], str)]:
            raise UserError(
                f"{path}, line {number}, field {odd[0]!r}: a text is expected, not "
                f"{shown(row[odd[0]])}."
            )
        values = row["values"]
        if not isinstance(values, dict) or not all(
            value is None or type(value) in (int, float) for value in values.values()
        ):
            raise UserError(
                f"{path}, line {number}, field 'values': numbers or null by name are expected, "
                f"not {shown(values)}."
            )
        if row["id"] in systems.setdefault(row["system"], {}):
            raise UserError(
                f"{path}, line {number}, field 'id': {shown(row['id'])} was there already for "
                f"{shown(row['system'])}."
            )
        systems[row["system"]][row["id"]] = values
    found = {name: len(values) for name, values in systems.items()}
    expected = {name: system["n"] for name, system in results["systems"].items()}
    if found != expected:
        raise UserError(
            f"{path}: it has {_counts(found)}, but results.json beside it {_counts(expected)}. The "
            "two are not of the same measurement; run eval/responses.py again."
        )
    first, *others = systems.values()
    if any(of.keys() != first.keys() for of in others):
        raise UserError(
            f"{path}: its systems do not have the same exchanges. Run eval/responses.py again."
        )
    return systems


def _counts(found: Mapping[str, int]) -> str:
    return (
        listed(f"{count} rows of {shown(name, 20)}" for name, count in found.items()) or "no rows"
    )
