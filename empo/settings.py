"""One settings mechanism for every command: dataclasses, `--config file.yaml`, `--key value`.

Values come from the dataclass defaults, then the YAML file, then the command line. Unknown keys,
wrong types, duplicate keys and impossible combinations are reported all at once, before anything
heavy is imported. YAML is loaded safely and reads `1e-5` as the number it looks like.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from empo.records import UserError, read_text, shown
from empo.yaml_values import PlainLoader, Refused


def option(default: Any = dataclasses.MISSING, *, help: str, **field: Any) -> Any:
    """A documented settings field; `default_factory=` for lists."""
    if default is not dataclasses.MISSING:
        field["default"] = default
    return dataclasses.field(metadata={"help": help}, **field)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values (see `PlainLoader`); errors name file and line."""
    try:
        loader = PlainLoader(read_text(path))
        loader.name = str(path)
        value = loader.get_single_data()
    except Refused as error:
        raise UserError(f"{path}, line {error.line}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a YAML mapping of settings is expected.")
    return value


def parse(
    argv: Sequence[str] | None, *classes: type, prog: str, description: str
) -> tuple[Any, ...]:
    """Build one instance of each dataclass from YAML and command line; see `resolve`."""
    return resolve(argv, *classes, prog=prog, description=description)[0]


def resolve(
    argv: Sequence[str] | None,
    *classes: type,
    prog: str,
    description: str,
    defaults: dict[str, Any] | None = None,
    defaults_from: str = "default",
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One instance of each dataclass, and the values that were given, from YAML and command line.

    Fields made with `option` appear in `--help`; fields of other dataclasses (trl's configs) are
    accepted without being listed. `defaults` are values below the YAML's, and `defaults_from` is
    what a message calls the place they come from. A dataclass may define
    `problems() -> list[str]` for combinations that cannot work.

    Raises UserError with every problem found.
    """
    hints = {cls: typing.get_type_hints(cls) for cls in classes}
    owners = {field.name: cls for cls in classes for field in dataclasses.fields(cls) if field.init}
    namespace, unknown = _parser(classes, prog, description).parse_known_args(argv)
    config = namespace.__dict__.pop("config")
    problems = [
        f"{word}: no such option{_did_you_mean(word.lstrip('-').replace('-', '_'), owners, '--')}"
        for word in unknown
        if word.startswith("--")
    ]
    problems += [f"{word}: unexpected on the command line." for word in unknown[:1] if not problems]

    values: dict[str, Any] = {}
    sources: list[tuple[str, dict[str, Any], bool]] = [(defaults_from, dict(defaults or {}), False)]
    if config is not None:
        sources.append((str(config), load_yaml(config), False))
    given = {key: value for key, value in vars(namespace).items() if value is not None}
    sources.append(("command line", given, True))
    for source, entries, is_text in sources:
        for key, value in entries.items():
            where = f"--{key.replace('_', '-')}" if is_text else f"{source}: {key}"
            if key not in owners:
                problems.append(f"{where}: no such setting{_did_you_mean(str(key), owners)}")
                continue
            hint = hints[owners[key]][key]
            try:
                values[key] = _from_text(value, hint) if is_text else _checked(value, hint)
            except ValueError as error:
                problems.append(f"{where}: {error}")
    built: dict[type, Any] = {}
    for cls in classes:
        missing = [
            f"--{field.name.replace('_', '-')}: missing ({field.metadata['help']})"
            for field in dataclasses.fields(cls)
            if field.init
            and field.name not in values
            and "help" in field.metadata
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        problems += missing
        if not missing and hasattr(cls, "problems"):
            built[cls] = _build(cls, values, owners, problems)
            problems += built[cls].problems() if built[cls] is not None else []
    if not problems:
        for cls in classes:
            if cls not in built:
                built[cls] = _build(cls, values, owners, problems)
    if problems:
        raise UserError(
            f"{prog}: {len(problems)} problem{'s' * (len(problems) > 1)} in the settings:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return tuple(built[cls] for cls in classes), values


def _build(cls: type, values: dict[str, Any], owners: dict[str, type], problems: list[str]) -> Any:
    try:
        return cls(**{key: value for key, value in values.items() if owners[key] is cls})
    except (
        ValueError,
        NotImplementedError,
    ) as error:  # trl and transformers check in __post_init__
        problems.append(f"{cls.__name__}: {' '.join(str(error).split())}")
        return None


def _parser(classes: Sequence[type], prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=inspect.cleandoc(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=None,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of these settings", metavar="FILE")
    foreign = []
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in sorted(dataclasses.fields(cls), key=_optional):  # what has to be given first
            if not field.init:
                continue
            documented = "help" in field.metadata and cls.__module__.split(".")[0] not in (
                "trl",
                "transformers",
            )
            if not documented and cls.__name__ not in foreign:
                foreign.append(cls.__name__)
            flags = [f"--{field.name.replace('_', '-')}"]
            if "_" in field.name:
                flags.append(f"--{field.name}")
            parser.add_argument(
                *flags,
                dest=field.name,
                **_arity(hints[field.name]),
                metavar=_metavar(field.name, hints[field.name]),
                help=_help(field) if documented else argparse.SUPPRESS,
            )
    if foreign:
        parser.epilog = (
            f"Every field of {' and '.join(foreign)} is a setting too, in YAML or as --key value "
            "(learning_rate, num_train_epochs, per_device_train_batch_size, report_to, ...)."
        )
    return parser


def _optional(field: dataclasses.Field[Any]) -> bool:
    return field.default is not field.default_factory  # both are MISSING where it is required


def _help(field: dataclasses.Field[Any]) -> str:
    text = field.metadata["help"].replace("%", "%%")
    if field.default not in (dataclasses.MISSING, None, ""):
        text += f" (default: {str(field.default).replace('%', '%%')})"
    return text


def _arity(hint: Any) -> dict[str, Any]:
    """How many words argparse takes: a flag may stand alone, a list takes several."""
    members = _members(hint)
    if bool in members:
        return {"nargs": "?", "const": "true"}
    return {"nargs": "+"} if any(typing.get_origin(m) is list for m in members) else {}


def _metavar(name: str, hint: Any) -> str:
    return "true|false" if bool in _members(hint) else name.split("_")[-1].upper()


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return typing.get_args(hint)
    return (hint,)


def _checked(value: Any, hint: Any) -> Any:
    """`value` if it has the hinted type; ValueError says in plain words what is wrong."""
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        numeric = {int, float} & set(_members(hint))
        if isinstance(value, str) and numeric and _number(value) is not None:
            raise ValueError(
                f"{shown(value)} is text where a number is expected; write it without quotes."
            ) from None
        first = error.errors()[0]["msg"]
        raise ValueError(f"{shown(value)} does not fit: {first[0].lower()}{first[1:]}.") from None


def _from_text(text: str | list[str], hint: Any) -> Any:
    """Read a command-line word as the hinted type: as YAML where that fits, else as text."""
    if isinstance(text, list):
        items = next(m for m in _members(hint) if typing.get_origin(m) is list)
        return [_from_text(word, typing.get_args(items)[0]) for word in text]
    if hint is str:
        return text
    try:
        value = PlainLoader(text).get_single_data()
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        value = text  # as it was typed: quotes and # mean nothing to YAML here
    try:
        return _checked(value, hint)
    except ValueError:
        if str not in _members(hint):
            raise
        return text  # a word such as `no` or `1.0` where text is wanted


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _did_you_mean(key: str, known: typing.Iterable[str], dash: str = "") -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {dash}{close[0]}?" if close else "."
