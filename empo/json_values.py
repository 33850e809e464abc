"""Plain values out of JSON, stricter than Python's reader: nothing is lost, nothing is infinite.

Of a key that stands twice Python keeps the last value; it reads NaN, takes `1e999` for an infinity, and
half of a surrogate pair for a character that no file can be written with. Here these are refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEEPEST = 100
"""Lists and objects within each other that a JSON or YAML file may hold; no schema comes near it."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_TOO_DEEP = f"more than {DEEPEST} lists or objects stand within each other. Is this the right file?"


def decoded(text: str) -> Any:
    """The value of a JSON text.

    Raises JSONDecodeError where it is none, and a ValueError with a sentence for what no file of ours
    may hold.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST and _is_deeper(value, DEEPEST):
        raise ValueError(_TOO_DEEP)
    if _HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"\\u{ord(error.object[error.start]):04x} is half of a surrogate pair and stands "
                "alone, so it is no character. Remove it, or write the whole pair."
            ) from None
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    while levels and level:
        levels -= 1
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, list | dict)]
    return bool(level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(
            f"the key {twice[:80]!r} stands twice in one object. Remove one of the two."
        )
    return found


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON. Write null where there is no value.")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is larger than any number can be here.")
    return value


def _int(text: str) -> int:
    if len(text) > 300:  # a float holds 308 digits, and Python converts no more than 4,300
        raise ValueError(
            f"{text[:20]}... ({len(text):,} characters) is larger than any number can be here."
        )
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_float, parse_int=_int, parse_constant=_no_number
)
