"""Files to read that are wrong in one of three ways: odd values, damaged bytes, no such file at all.

An input is a valid sample and a few edits; an edit is three whole numbers, so that hypothesis can
draw it cheaply and shrink it.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hypothesis import strategies as st

Edit = tuple[int, int, int]
"""What is done, where, and with what; each taken modulo the number of choices."""


class Token(str):
    """Characters that stand in JSON or YAML as they are."""


class Pairs(list):
    """An object as (key, value) pairs, which may have a key twice."""


@dataclass(frozen=True)
class Sample:
    """A valid file: `content` is a value (json, yaml), rows (jsonl, csv, tsv), a text, or bytes."""

    kind: Literal["json", "jsonl", "yaml", "csv", "tsv", "text", "binary"]
    content: Any

    @cached_property
    def data(self) -> bytes:
        """The file as it is."""
        return written(self.kind, self.content, 0)


TEXTS = [
    *("", " ", "\0", "a\0b", "\r", "\n", "a\rb", "a\r\nb", "\t", "\u2028", "\u0085", "\ufeff"),
    *("\u202e", "\u200b", "é" * 3, "e\u0301", "😀", "\U0010ffff", "\ufffd", '"', "'", "''", ","),
    *("a,b", "a\tb", ";", "|", "#", "# a", "%", "{}", "[]", "{a}", "-", "--", "---", "...", "\\"),
    *("..", ".", "~", "a/b", "../x", "/dev/null", "*", "&", "!", "=", "null", "true", "no"),
    *(
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "1_0",
        "٣",
        "½",
        "²",
        "0x10",
        "0b1",
        "1:30",
        "2024-01-01",
        "1",
    ),
    *("-1", "0", "2.5", "1e3", "1" * 400, "1" * 5000, "x" * 200_000, "word " * 400, "hub:a/b"),
    *("hit:1_conv:1", "happy", "sad", "joyful", "user", "assistant", "system", "train", "<s>"),
    *("None", "False", "_comma_", "hit: conv:", "{{ x }}", "%s", "\x1b[0m", "\x7f", "a" * 300),
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 10**6, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 10**200, 10**299),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, -1e308, 1e18, 0.1, 100.0, True, False, None),
]
TOKENS = [
    *map(Token, ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 320, "1" * 5000)),
    *map(Token, ('"\\ud800"', '"a\\udfffb"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u2028"')),
    *map(Token, ("nan", "01", "+1", ".5", "1.", "'a'", '"a', "{", "}", "[", "]", "", ",", "\\")),
    *(Token("[" * n + "]" * n) for n in (50, 99, 300, 5_000, 100_000)),
    *(Token('{"a":' * n + "1" + "}" * n) for n in (90, 300, 100_000)),
    Token('{"a": 1, "a": 2}'),
    Token("/* */ 1"),
]
YAML_TOKENS = [
    *map(Token, ("*a", "&a [*a]", "&a {b: *a}", "*x", "&b 1", "{<<: {a: 1}}", "{<<: 1}", "!!x y")),
    *map(Token, ("!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!x {a: b}")),
    *map(Token, ("!!int x", '!!int ""', "!!bool maybe", "!!float x", "!!null 1", "!!timestamp x")),
    *map(Token, ("!!binary '?'", "!!set {a}", "!!omap [a: 1]", "!!str [a]", "!!seq x", "!!map x")),
    *map(Token, (".inf", "-.inf", ".nan", "1e999", "0x" + "f" * 5000, "1:99:99", "2024-13-45")),
    *map(Token, ("2024-01-01", "=", "<<", "~", "yes", "0o7", "010", "1_000", "0b_", "{[a]: b}")),
    *map(Token, ("{? {a: b} : c}", "{? [a, b]}", "{a: 1, a: 2}", '"\\ud800"', '"\\U00110000"')),
    *map(Token, ('"\\x00"', "|", "> a", "%", "@", "`", "--- a", "? ", ": ", "- a", "[a, , b]")),
    Token("[&a1 [x,x,x,x,x,x,x,x,x], " + ", ".join(
        f"&a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(2, 12)) + "]"),
    Token("{" + ", ".join(["a0: &m0 {k0: 1}", *(
        f"a{n}: &m{n} {{<<: [{','.join([f'*m{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 12))]) + "}"),
    Token("[&d0 [x], " + ", ".join(f"&d{n} [*d{n - 1}]" for n in range(1, 400)) + "]"),
]  # fmt: skip
INSERTED = [
    *(b"\0", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b'"'),
    *(b"'", b",", b"\t", b"{", b"}", b"[", b"]", b":", b"- ", b"\\", b"\\u", b"\xe2\x80\xa8", b"#"),
    *(b"\xc2\x85", b"NaN", b"1e999", b"!!python/name:os.system ", b"&a ", b"*a", b"<<: ", b"%"),
    *(b"[" * 2000, b"9" * 5000, b"x" * 140_000, b"\x1a", b"\x0c", b"null", b"-", b"0", b"\xf4\x90"),
]
BLOBS = [
    *(b"", b"\n", b" \n\t", b"\xef\xbb\xbf", b"\0" * 64, "{}".encode("utf-16"), b"\x80\x04K\x01."),
    *(b"[]", b"{}", b"null", b"1", b'"a"', b"NaN", b"a", b"a: 1", b"- a", b"a,b\n1,2\n", b",\n"),
    *(b"PAR1PAR1", b"ARROW1\0\0", b"SQLite format 3\0", b"\x1f\x8b\x08", b"PK\x03\x04", b"%PDF-"),
    *(b"[" * 100_000, b"\n" * 1000, b"{}\n{}\n", b'{"a": 1}\n' * 3, b"\r", b"a\rb\rc", b'"', b'""'),
    *(b"\x7fELF", b"\xff\xfe", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 8 + b"{}", b"(dp0\n."),
    *(b"---\n---\n", b"%YAML 9.9\n---\na: 1\n", b"? a\n", b"a: b: c", b"a\tb\n1\t2\n", b"a;b\n"),
]


@dataclass(frozen=True)
class Draw:
    """One drawn input: which of the reader's files is wrong, in which way, by which edits."""

    way: Literal["values", "bytes", "blob"]
    file: int
    edits: Sequence[Edit] = ()
    text: str = ""
    number: float = 0
    blob: bytes = b""


def _edit(number: int) -> Edit:
    # most that hypothesis draws from a wide range have few digits; multiplied, they reach every bit
    number = number * 0x9E3779B97F4B & 2**48 - 1
    return number >> 32, number >> 16 & 0xFFFF, number & 0xFFFF


# one number per edit, and nothing that is not used: drawing costs more than most readers do
_EDITS = st.lists(st.integers(0, 2**48 - 1).map(_edit), min_size=1, max_size=4)
_NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_WITH_VALUES = st.builds(
    Draw, st.just("values"), st.integers(0, 11), _EDITS, st.text(max_size=8), _NUMBERS
)
_WITH_BYTES = st.builds(Draw, st.just("bytes"), st.integers(0, 11), _EDITS)
_BLOB = st.one_of(st.integers(0, len(BLOBS) - 1).map(BLOBS.__getitem__), st.binary(max_size=64))
_WITH_BLOB = st.builds(Draw, st.just("blob"), st.integers(0, 11), blob=_BLOB)
draws = st.one_of(_WITH_VALUES, _WITH_VALUES, _WITH_VALUES, _WITH_BYTES, _WITH_BYTES, _WITH_BLOB)


def distorted(files: Mapping[str, Sample], draw: Draw) -> tuple[str, bytes]:
    """Name and content of the one file among `files` that the draw makes wrong."""
    name = list(files)[draw.file % len(files)]
    sample = files[name]
    if draw.way == "blob":
        return name, draw.blob
    if draw.way == "values" and sample.kind not in ("text", "binary"):
        content = copy.deepcopy(sample.content)
        for edit in draw.edits:
            content = _edited(sample.kind, content, edit, draw)
        return name, written(sample.kind, content, draw.edits[0][2])
    data = sample.data
    for edit in draw.edits:
        data = _damaged(data, edit)
    return name, data


def written(kind: str, content: Any, choice: int) -> bytes:
    """A value as the bytes of a file; `choice` takes line ends, quoting, a byte-order mark."""
    if kind == "binary":
        return content
    if kind == "text":
        return content.encode()
    if kind in ("csv", "tsv"):
        return _table(kind, content, choice)
    if kind == "jsonl":
        rows = content if isinstance(content, list) else [content]
        text = "".join(dumped(row) + "\n" for row in rows)
    else:
        text = dumped(content) + "\n"
    return text.encode("utf-8", "surrogatepass")


def dumped(value: Any) -> str:
    """JSON in which tokens stand as they are; it is YAML, too."""
    if isinstance(value, Token):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumped(v)}" for k, v in value) + "}"
    if isinstance(value, dict):
        return dumped(Pairs(value.items()))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _table(kind: str, rows: Sequence[Sequence[Any]], choice: int) -> bytes:
    out = io.StringIO(newline="")
    quoting = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]
    writer = csv.writer(
        out,
        delimiter="\t" if kind == "tsv" else ",",
        quoting=quoting[choice % 4],
        lineterminator=["\n", "\r\n", "\r", "\n\n"][choice // 4 % 4] if choice else "\n",
    )
    rows = rows if isinstance(rows, list) else [rows]
    writer.writerows(row if isinstance(row, list) else [row] for row in rows)
    return (b"\xef\xbb\xbf" if choice % 5 == 1 else b"") + out.getvalue().encode()


def _edited(kind: str, content: Any, edit: Edit, draw: Draw) -> Any:
    """The value with one change at one of its places."""
    what, where, how = edit
    places = list(_places(content))
    parent, key = places[where % len(places)]
    actions = ("odd", "odd", "odd", "text", "number", "copy", "delete", "extra", "twice", "swap")
    action = actions[what % len(actions)]
    if action == "delete" and key is not None:
        del parent[key]
    elif action == "extra" and isinstance(parent, dict):
        parent[["extra", draw.text, "\0line", "schema", "id", ""][how % 6]] = draw.number
    elif action == "twice" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif action == "twice" and isinstance(parent, dict) and kind not in ("csv", "tsv"):
        pairs = Pairs([*parent.items(), (key, parent[key])])
        return _replaced(content, parent, pairs)
    elif action in ("copy", "swap"):
        other, there = places[how % len(places)]
        if key is not None and there is not None:
            value = copy.deepcopy(other[there])
            if action == "swap":
                other[there] = copy.deepcopy(parent[key])
            parent[key] = value
    elif key is None:
        return _odd(kind, how, draw)
    else:
        parent[key] = {"text": draw.text, "number": draw.number}.get(action, _odd(kind, how, draw))
    return content


def _odd(kind: str, how: int, draw: Draw) -> Any:
    values: list[Any] = [draw.text, draw.number, *TEXTS, *NUMBERS]
    if kind in ("csv", "tsv"):
        return values[how % len(values)]
    values += [*TOKENS, [], {}, [[]], [{}], {"a": 1}, [1, 2], ["a"], [None], {"": None}]
    values += YAML_TOKENS if kind == "yaml" else []
    return values[how % len(values)]


def _places(content: Any) -> Any:
    """(container, key) of every value in a nested one; the whole has neither."""
    yield None, None
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, Pairs):
            continue
        if isinstance(value, dict | list):
            for key in list(value) if isinstance(value, dict) else range(len(value)):
                yield value, key
                stack.append(value[key])


def _replaced(content: Any, old: Any, new: Any) -> Any:
    if content is old:
        return new
    for parent, key in list(_places(content)):
        if key is not None and parent[key] is old:
            parent[key] = new
            break
    return content


def _damaged(data: bytes, edit: Edit) -> bytes:
    """The bytes after one damage."""
    what, where, how = edit
    at = math.floor(where / 2**16 * len(data)) if data else 0
    at = min(at, len(data))
    match what % 8:
        case 0:
            return data[:at]
        case 1:
            return (
                data[:at]
                + bytes([(data[at] if at < len(data) else 0) ^ (1 << how % 8)])
                + data[at + 1 :]
            )
        case 2 | 3:
            return data[:at] + INSERTED[how % len(INSERTED)] + data[at:]
        case 4:
            return data[:at] + data[at + 1 + how % 40 :]
        case 5:
            return data[:at] + bytes([how % 256]) + data[at + 1 :]
    lines = data.splitlines(keepends=True) or [b""]
    one, two = where % len(lines), how % len(lines)
    if what % 8 == 6:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines.insert(one, lines[two])
    return b"".join(lines)
