"""A folder of preference pairs: a file per epoch, and last the manifest that makes them whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from empo.records import (
    PAIRS_SCHEMA,
    Pair,
    UserError,
    file_facts,
    misfit,
    read_jsonl,
    read_object,
    sha256,
    shown,
    write_json,
    write_jsonl,
)

_ROW_GROUP = 20_000
"""Pairs of a parquet file that are in memory at once."""
UNFINISHED = ".unfinished"
"""File in a folder of pairs while it is written; where it is left, the rest is not whole."""
_FILE = r"epoch-[0-9]{1,9}\.(jsonl|parquet)"


def write_pair_files(
    output: str | Path,
    epochs: Iterable[Iterable[dict[str, Any]]],
    asked: Mapping[str, Any],
    told: Mapping[str, Any],
    file_format: Literal["jsonl", "parquet"] = "jsonl",
) -> None:
    """Write `epoch-0`, `epoch-1`, ... and `manifest.json` into `output`.

    `asked` is what the pairs are made from: a folder of pairs that were made from the same is
    written anew, from another one it is refused. Its `system_message` begins every prompt, if there
    is one. `told` stands in the manifest beside it. What a command that was killed has left is
    written again. Raises UserError where the folder holds something else.
    """
    output = Path(output)
    unfinished = _begin(output, asked)
    system = asked["system_message"]
    before = [{"role": "system", "content": system}] if system else []
    files = []
    for epoch, pairs in enumerate(epochs):
        rows = ({**row, "prompt": [*before, *row["prompt"]]} for row in pairs)
        path = output / f"epoch-{epoch}.{file_format}"
        if file_format == "jsonl":
            write_jsonl(path, rows)
        else:
            _write_parquet(path, rows)
        files.append(file_facts(path))
    manifest = {"schema": PAIRS_SCHEMA, **asked, **told, "files": files}
    write_json(output / "manifest.json", manifest)
    unfinished.unlink()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of pairs; its `files` have the digests of the pairs.

    Raises UserError where the folder is none, or not whole.
    """
    path = Path(folder) / "manifest.json"
    if (Path(folder) / UNFINISHED).is_file() or not path.is_file():
        raise UserError(
            f"{folder}: this is no folder of pairs, or its command has not ended. Write it with "
            "`empo pairs`."
        )
    manifest = read_object(path)
    if manifest.get("schema") != PAIRS_SCHEMA:
        raise UserError(f"{path}: this is the manifest of another command, not of `empo pairs`.")
    return manifest


def read_pair_files(folder: str | Path) -> tuple[dict[str, Any], list[list[Pair]]]:
    """The manifest of a folder of pairs, and the pairs of every epoch in the order of their file.

    Raises UserError as `read_manifest`, and where a file is not what the manifest says.
    """
    manifest, path = read_manifest(folder), Path(folder) / "manifest.json"
    names = _files_of(manifest, path)
    behind = manifest.get("selected_by")
    if behind is not None and not (isinstance(behind, list) and all(map(_is_rater, behind))):
        raise UserError(
            f"{path}, field 'selected_by': a list of objects with name and weights is expected, not "
            f"{shown(behind)}. Write the pairs again."
        )
    epochs = []
    for name, entry in zip(names, manifest["files"], strict=True):
        file = Path(folder) / name
        if not file.is_file():
            raise UserError(f"{file}: the file is missing. Write the pairs again.")
        if not isinstance(entry, dict) or sha256(file) != entry.get("sha256"):
            raise UserError(f"{file}: it has changed since it was written. Write the pairs again.")
        epochs.append(list(_read(file)))
    if not epochs:
        raise UserError(f"{path}: it lists no file of pairs. Write them again.")
    return manifest, epochs


def _is_rater(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("name", "weights")
    )


def _read(file: Path) -> Iterator[Pair]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        batches = pyarrow.parquet.ParquetFile(file).iter_batches()
        rows = enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    else:
        rows = read_jsonl(file)
    for number, row in rows:
        try:
            yield Pair.model_validate(row)
        except ValidationError as error:
            raise misfit(f"{file}, line {number}", error, "Write the pairs again.") from None


def _begin(output: Path, asked: Mapping[str, Any]) -> Path:
    """Make the folder ready to be written; the file that marks it as unfinished."""
    unfinished = output / UNFINISHED
    killed = unfinished.is_file()
    if (output / "manifest.json").is_file():
        before = read_object(output / "manifest.json")
        if before.get("schema") != PAIRS_SCHEMA:
            raise UserError(f"{output}: holds the output of another command; choose a new folder.")
        differing = [name for name, value in asked.items() if before.get(name) != value]
        if differing:
            raise UserError(
                f"{output}: holds pairs of another draw (it differs in {', '.join(differing)}); "
                "choose a new folder."
            )
        named = _files_of(before, output / "manifest.json")
        unfinished.touch()
        for name in named:
            (output / name).unlink(missing_ok=True)
        (output / "manifest.json").unlink()  # it names the files that are to go
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output}: this is a file; --output is a folder.")
    elif output.is_dir() and not killed and any(output.iterdir()):
        raise UserError(f"{output}: the folder is not empty; choose a new folder for the pairs.")
    else:
        output.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    for pattern in ("epoch-*", ".epoch-*", ".manifest.*") if killed else ():
        for left in output.glob(pattern):
            left.unlink()
    return unfinished


def _files_of(manifest: Mapping[str, Any], path: Path) -> list[str]:
    """Names of the files of pairs that a manifest lists; UserError where it lists others."""
    entries = manifest.get("files")
    given = entries if isinstance(entries, list) else [entries]
    names = [entry.get("file") if isinstance(entry, dict) else entry for entry in given]
    odd = [n for n in names if not isinstance(n, str) or not re.fullmatch(_FILE, n)]
    if odd:
        raise UserError(
            f"{path}, field 'files': {shown(odd[0])} is no file of pairs. Choose a new folder."
        )
    return names


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    group = pyarrow.Table.from_pylist(list(islice(rows, _ROW_GROUP)))
    with pyarrow.parquet.ParquetWriter(beside, group.schema) as writer:
        while len(group):
            writer.write_table(group)
            group = pyarrow.Table.from_pylist(list(islice(rows, _ROW_GROUP)), group.schema)
    beside.replace(path)
