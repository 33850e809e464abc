"""The files behind tasks of one's own: their YAML, their functions, their data.

They are no part of a command, so an evaluation has to know them by digest: data that were cut or
edited make another evaluation. What comes from a hub or with lm-eval is not among them; its version
stands in harness.json. lm-eval is not needed here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from empo.records import sha256
from empo.yaml_values import BoundedLoader

_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Names of `dataset_path` that are formats, also where a folder is called so."""


class _Function(str):
    """`!function module.name` in a task file."""


class _Loader(BoundedLoader):
    """Reads task files without running their functions."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> _Function | None:
    return _Function(node.value) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _tagged)


def digests(names: Iterable[str], folders: Sequence[str | Path]) -> dict[str, dict[str, str]]:
    """Task or group to name of a file to sha256, of those of `names` that lie in `folders`.

    Files of the same name in several places have their digests joined by "+".
    """
    found: dict[str, dict[str, str]] = {}
    for name, paths in local_files(names, folders).items():
        entry = found.setdefault(name, {})
        for path in paths:
            entry[path.name] = "+".join(filter(None, [entry.get(path.name), sha256(path)]))
    return found


def local_files(names: Iterable[str], folders: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Task or group to its files; groups and tags are followed down to their tasks.

    A later folder wins over an earlier one, as in lm-eval.
    """
    defined: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    tags: dict[str, list[str]] = {}
    for folder in folders:
        here: dict[str, tuple[Path, Mapping[str, Any]]] = {}
        for path in sorted(Path(folder).rglob("*.yaml")):
            content = _read(path)
            name = content.get("group") or content.get("task")
            if isinstance(name, str):
                here.setdefault(name, (path, content))
        defined |= here
    for name, (_, content) in defined.items():
        for tag in _strings(content.get("tag")):
            tags.setdefault(tag, []).append(name)
    found: dict[str, list[Path]] = {}
    for name in names:
        _follow(name, (), defined, tags, found)
    return {name: sorted(set(paths)) for name, paths in found.items() if paths}


def _follow(
    name: str,
    above: tuple[Path, ...],
    defined: Mapping[str, tuple[Path, Mapping[str, Any]]],
    tags: Mapping[str, Sequence[str]],
    found: dict[str, list[Path]],
) -> None:
    """Put the files of a name, and of the groups above it, into `found`."""
    if name not in defined and name in tags:
        for task in tags[name]:
            _follow(task, above, defined, tags, found)
        return
    files = list(above)
    children: list[str] = []
    if name in defined:
        path, content = defined[name]
        files += [path, *_named(content, path)]
        children = list(_children(content)) if "group" in content else []
    found.setdefault(name, []).extend(files)
    for child in children:
        if child not in found:  # also where a group names itself
            _follow(child, tuple(files), defined, tags, found)


def _children(group: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tasks of a group, also of the groups that it spells out."""
    listed = group.get("task")
    for child in listed if isinstance(listed, list) else [listed]:
        if isinstance(child, str):
            yield child
        elif isinstance(child, Mapping):
            yield from _children(child)


def _read(path: Path) -> Mapping[str, Any]:
    """A task file over those that it includes; {} where it is none, which lm-eval passes over too."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _named(content: Mapping[str, Any], path: Path) -> Iterator[Path]:
    """Files that a task file names: includes with theirs, modules, data."""
    for include in _strings(content.get("include")):
        file = path.parent / include
        if os.path.isfile(file) and file != path:
            yield file
            yield from _named(_read(file), file)
    for key, value in content.items():
        for function in _functions(value):
            module = path.parent / f"{function.rpartition('.')[0]}.py"
            if os.path.isfile(module):
                yield module
            if key in ("custom_dataset", "class"):  # its code may read any file beside it
                yield from (file for file in path.parent.iterdir() if file.suffix in _DATA)
        if isinstance(value, list):
            for entry in value:
                if isinstance(entry, Mapping):
                    yield from _named(entry, path)
    yield from _data(content)


def _data(content: Mapping[str, Any]) -> Iterator[Path]:
    """Local data of a task: files, or the folder that stands for the data set."""
    given = content.get("dataset_kwargs")
    given = given if isinstance(given, Mapping) else {}
    place = str(content.get("dataset_path") or "")
    folders = [
        folder
        for folder in (given.get("data_dir"), place if place not in _FORMATS else None)
        if folder and os.path.isdir(str(folder))  # False also for a name that no file can have
    ]
    patterns = list(_strings(given.get("data_files")))
    for pattern in patterns:
        for root in ("", *map(str, folders)):
            yield from map(Path, glob.glob(os.path.join(root, pattern), recursive=True))
    for folder in folders if not patterns else ():
        yield from (file for file in Path(str(folder)).rglob("*") if file.suffix in _DATA)


def _strings(value: Any) -> Iterator[str]:
    """Every text in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(entry)


def _functions(value: Any) -> Iterator[_Function]:
    return (text for text in _strings(value) if isinstance(text, _Function))
