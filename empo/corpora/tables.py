"""Rows of a corpus grouped by dialogue, from csv, tsv, jsonl, parquet, a folder of splits, or a hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empo.corpora.mapping import LINE, POSITION, Mapping
from empo.hub import not_in_cache, offline
from empo.records import UserError, file_facts, listed, read_jsonl, read_text, shown

_ENDINGS = ("csv", "tsv", "parquet", "jsonl")
_SPLIT_NAMES = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev"),
    "test": ("test",),
}


@dataclass
class Table:
    """Rows by dialogue id in order of first appearance, and dialogues that have unreadable rows."""

    files: list[dict[str, Any]]
    rows: int = 0
    dialogues: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, row: dict[str, Any], schema: Mapping) -> None:
        """Put a row to its dialogue; a row that holds a whole dialogue is spread into turns."""
        self.rows += 1
        dialogue_id = _id_of(row, schema)
        if not dialogue_id:  # rows without one belong to nothing, least of all together
            dialogue_id = f"line {row[LINE]}"
            self.broken[dialogue_id] = "no dialogue id"
        if schema.turns is None:
            self.dialogues.setdefault(dialogue_id, []).append(row)
            return
        turns = row[schema.turns]
        if dialogue_id in self.dialogues:
            self.broken[dialogue_id] = "dialogue id occurs twice"
            self.dialogues[dialogue_id].append(row)
            return
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            self.broken[dialogue_id] = f"column {schema.turns!r} is no list of turns"
        elif not turns:
            self.broken[dialogue_id] = "fewer than 2 turns"
        self.dialogues[dialogue_id] = [row]
        if dialogue_id not in self.broken:
            self.dialogues[dialogue_id] = [
                {**row, **turn, POSITION: place} for place, turn in enumerate(turns, start=1)
            ]

    @staticmethod
    def where(rows: list[dict[str, Any]]) -> str:
        """Lines of the source on which these rows stand."""
        first, last = rows[0][LINE], rows[-1][LINE]
        return f"line {first}" if first == last else f"lines {first}-{last}"


def read_rows(source: str | Path, split: str, schema: Mapping) -> Table:
    """Read the rows of one split; see `empo.corpora.load_corpus` for what a source may be."""
    if str(source).startswith("hub:"):
        return _read_hub(str(source)[4:], split, schema)
    path = _file_of(Path(source), split)
    table = Table([file_facts(path)])
    ending = path.suffix.lstrip(".").lower()
    if ending == "jsonl":
        rows = ({**row, LINE: line} for line, row in read_jsonl(path))
        _add_objects(table, rows, path, schema)
    elif ending == "parquet":
        _add_objects(table, _parquet_rows(path), path, schema)
    elif schema.quoting == "none":
        _add_unquoted(table, path, schema, schema.delimiter or _delimiter(ending))
    else:
        _add_quoted(table, path, schema, schema.delimiter or _delimiter(ending))
    if table.rows == 0:
        raise UserError(f"{path}: there is a header but no row.")
    return table


def _file_of(path: Path, split: str) -> Path:
    if path.is_file():
        if path.suffix.lstrip(".").lower() not in _ENDINGS:
            raise UserError(
                f"{path}: cannot tell the format by this ending; "
                f"known are {', '.join(f'.{ending}' for ending in _ENDINGS)}."
            )
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder. Check the path.")
    names = [f"{name}.{end}" for name in _SPLIT_NAMES.get(split, (split,)) for end in _ENDINGS]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: the folder holds no split {split!r}; looked for {', '.join(names)}.")


def _id_of(row: dict[str, Any], schema: Mapping) -> str:
    value = row[schema.dialogue_id]
    return "" if value is None else str(value).strip()


def _delimiter(ending: str) -> str:
    return "\t" if ending == "tsv" else ","


def _check_columns(columns: list[str], path: str | Path, schema: Mapping) -> None:
    missing = [name for name in schema.columns if name not in columns]
    if missing:
        raise UserError(
            f"{path}: the column{'s' * (len(missing) > 1)} {listed(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; found: {listed(columns)}. "
            "For a corpus with other column names give a mapping file (--mapping)."
        )


def _add_unquoted(table: Table, path: Path, schema: Mapping, delimiter: str) -> None:
    # split("\n") and not splitlines(): utterances may hold U+0085 or U+2028
    lines = read_text(path).split("\n")
    header = lines[0].rstrip("\r").split(delimiter)
    if any(name.startswith('"') for name in header):
        raise _quoted(path, 1)
    _check_columns(header, path, schema)
    id_column = header.index(schema.dialogue_id)
    for number, line in enumerate(lines[1:], start=2):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        fields = line.split(delimiter)
        if len(fields) != len(header):
            if any(field.startswith('"') for field in fields):
                raise _quoted(path, number)
            there = fields[id_column].strip() if len(fields) > id_column else ""
            dialogue_id = there or f"line {number}"
            table.broken.setdefault(
                dialogue_id, f"row with {len(fields)} fields instead of {len(header)}"
            )
            fields = [dialogue_id if i == id_column else "" for i in range(len(header))]
        elif any(f.startswith('"') and f.endswith('"') and '""' in f[1:-1] for f in fields):
            raise _quoted(path, number)
        table.add({**dict(zip(header, fields, strict=True)), LINE: number}, schema)


def _quoted(path: Path, line: int) -> UserError:
    return UserError(
        f"{path}, line {line}: this looks like a quoted csv, but the schema is unquoted with "
        "`_comma_` for a comma. Give a mapping file with `quoting: minimal`, or the original file."
    )


def _add_quoted(table: Table, path: Path, schema: Mapping, delimiter: str) -> None:
    reader = csv.DictReader(
        io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True
    )
    try:
        _check_columns(list(reader.fieldnames or []), path, schema)
        for row in reader:
            if None in row or None in row.values():
                dialogue_id = _id_of(row, schema) or f"line {reader.line_num}"
                row[schema.dialogue_id] = dialogue_id
                surplus = len(row.pop(None, []))
                found = sum(value is not None for value in row.values()) + surplus
                table.broken.setdefault(
                    dialogue_id,
                    f"row with {found} fields instead of {len(reader.fieldnames or [])}",
                )
            table.add({**row, LINE: reader.line_num}, schema)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.reader.line_num}: not a well-quoted csv ({error}). If the file is "
            "unquoted, say `quoting: none` in the mapping file."
        ) from None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({error}).") from None
    if table.num_rows == 0:
        raise UserError(f"{path}: the table has no row.")
    try:
        rows = table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: a value of the table cannot be read ({shown(error, 200)}). Texts have to be "
            "UTF-8; write the table anew."
        ) from None
    return ({**row, LINE: number} for number, row in enumerate(rows, start=1))


def _add_objects(
    table: Table, rows: Iterator[dict[str, Any]], path: str | Path, schema: Mapping
) -> None:
    for row in rows:
        _check_columns([key for key in row if key != LINE], f"{path}, row {row[LINE]}", schema)
        table.add(row, schema)


def _read_hub(name: str, split: str, schema: Mapping) -> Table:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            "hub: sources need the package datasets (`pip install empo[train]`)."
        ) from None
    wanted = "validation" if split == "valid" else split
    unreachable = not Path(name).is_dir() and offline()
    try:
        data = load_dataset(name, split=wanted)
    except Exception as error:  # datasets raises a dozen types: connection, missing split, no files
        if unreachable:
            raise not_in_cache("data set", name, "dataset") from None
        reason = " ".join(str(error).split())
        raise UserError(
            f"hub:{name} [{wanted}] cannot be loaded: {reason}. Check the name, the split and the "
            "network (HF_HUB_OFFLINE is for what is in the cache), or give a local file."
        ) from None
    identity = {"hub": name, "split": wanted, "fingerprint": data._fingerprint}
    table = Table([json.loads(json.dumps(identity))])
    rows = ({**row, LINE: number} for number, row in enumerate(data, start=1))
    _add_objects(table, rows, f"hub:{name}", schema)
    return table
