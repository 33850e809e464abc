"""The files that move the output of a step: when one of them changes, the step is done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from empo.models import MERGED
from empo.raters.folder import weight_files
from empo.records import read_object, sha256

RUN = "run.json"
_CORPUS = (".csv", ".tsv", ".jsonl", ".parquet")
_MODEL = (".safetensors", ".json", ".jinja", ".txt", ".model")
_UNITS = "units"
"""Sub-folder of a rater with its single trainings, which no score comes from."""
_WRITTEN = ("output", "output_dir", "rater_cache", "embedding_cache", "bertscore_cache")


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Path to sha256 of those that are there; a file that did not change is read once a process."""
    found = {}
    for path in paths:
        if path.is_file():
            facts = path.stat()
            found[str(path)] = _digest(path.absolute(), facts.st_size, facts.st_mtime_ns)
    return found


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def files_of(settings: Mapping[str, Any]) -> list[Path]:
    """Every file that the settings of a command name, and those of corpora, models, raters, lexicons.

    Keys are those of the commands; a path that is not there counts nothing.
    """
    return _named(settings, _FOLDERS)


def start_files(settings: Mapping[str, Any]) -> list[Path]:
    """Those of `files_of` that are in the weights of a training: its model, its pairs, its raters.

    Of a rater only what moves a score: its other files may be written again, by its evaluation.
    """
    given = {name: value for name, value in settings.items() if name in _LEARNT_FROM}
    return _named(given, _LEARNT_FROM)


def _named(
    settings: Mapping[str, Any], folders: Mapping[str, Callable[[Path], list[Path]]]
) -> list[Path]:
    found: dict[Path, None] = {}
    for name, value in settings.items():
        key = name.replace("-", "_")
        for word in value if isinstance(value, list) else [value]:
            if not isinstance(word, str) or not word or key in _WRITTEN:
                continue
            path = Path(word)
            if path.is_file():
                found[path] = None
            elif key in folders and path.is_dir():
                found |= dict.fromkeys(folders[key](path))
    return list(found)


def model_files(folder: Path) -> list[Path]:
    """Facts of the run, weights and tokenizer of a model, of its merged form and of a local base."""
    found = [
        path
        for place in (folder, folder / MERGED)
        for path in sorted(place.glob("*"))
        if path.suffix in _MODEL and path.is_file()
    ]
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = Path(str(read_object(adapter).get("base_model_name_or_path")))
        is_folder = os.path.isdir(base)  # False also for a name that no file can have
        found += model_files(base) if is_folder and base != folder else []
    return found


def environment_lexicons() -> str | None:
    """The lexicons that eval/responses.py takes where none are given."""
    folder = Path(os.environ.get("EMPO_DATA", os.devnull)) / "lexicons"
    return str(folder) if folder.is_dir() else None


def _corpus(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if path.suffix.lower() in _CORPUS]


def _pairs(folder: Path) -> list[Path]:
    return [*_corpus(folder), *folder.glob("manifest.json")]


def _rater(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _MODEL and _UNITS not in path.relative_to(folder).parts
    ]


def _lexicons(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))


_FOLDERS: dict[str, Callable[[Path], list[Path]]] = {
    **dict.fromkeys(("dialogues", "valid"), _corpus),
    "pairs": _pairs,
    **dict.fromkeys(("model", "adapter", "bertscore_model", "select_bertscore"), model_files),
    **dict.fromkeys(("rater", "select_rater", "ratings"), _rater),
    **dict.fromkeys(("lexicons", "select_lexicons"), _lexicons),
}
"""Setting of a command to what it reads of the folder that is named there."""

_LEARNT_FROM: dict[str, Callable[[Path], list[Path]]] = {
    "model": model_files,
    "pairs": _pairs,
    **dict.fromkeys(("rater", "select_rater"), weight_files),
}
"""The same for what `start_files` counts."""
