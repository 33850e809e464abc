"""Plain values out of YAML: what a file of settings may hold, and what would hurt to read.

YAML can hide a billion values behind a few aliases, make objects by tags, and turn a word into a date.
Here aliases are counted as what they stand for, and only values that JSON knows are made.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from empo.json_values import DEEPEST
from empo.records import shown

MOST_VALUES = 100_000
"""Values that a file may hold, each alias counted as all that it stands for."""

_TAGS = {f"tag:yaml.org,2002:{name}" for name in "str int float bool null seq map".split()}
_MERGE = "tag:yaml.org,2002:merge"
_DATE = "tag:yaml.org,2002:timestamp"


class Refused(yaml.YAMLError):
    """YAML that is not taken; `line` is 1-based, the text says why in a sentence."""

    def __init__(self, why: str, mark: yaml.Mark) -> None:
        super().__init__(why)
        self.line = mark.line + 1


class BoundedLoader(yaml.SafeLoader):
    """Safe YAML of at most DEEPEST levels and MOST_VALUES values, aliases counted in full.

    Whatever cannot be made of a scalar raises `Refused`, a YAMLError, and no other kind of error.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._open = 0
        self._measured: dict[yaml.Node, tuple[int, int]] = {}

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        """The parts of a quoted text; refused where an escape such as \\UFFFFFFFF is no character."""
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError):  # of chr; YAML's own errors are none of these
            raise Refused(
                "an escape (\\x, \\u or \\U) is the number of no character.", self.get_mark()
            ) from None

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """The next node; refused where it is too deep, too large or stands within itself."""
        alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        self._open += 1
        if self._open > DEEPEST:
            raise Refused(_too_deep(), mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        if alias and node not in self._measured:
            raise Refused("an alias stands within what it stands for, without end.", mark)
        if node not in self._measured:
            self._measured[node] = self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """Values in a node and its levels; refused where they are too many."""
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [n for of in inner for n in (of if isinstance(of, tuple) else (of,))]
        values = 1 + sum(self._measured[n][0] for n in nodes)
        levels = 1 + max((self._measured[n][1] for n in nodes), default=0)
        if levels > DEEPEST:
            raise Refused(_too_deep(), node.start_mark)
        if values > MOST_VALUES:
            raise Refused(
                f"with its aliases written out this holds more than {MOST_VALUES:,} values. Write "
                "out what is needed, without aliases.",
                node.start_mark,
            )
        return values, levels

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; refused where its tag does not fit what it holds."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
            raise Refused(f"{_shown(node)} is no {_name(node.tag)}.", node.start_mark) from None


class PlainLoader(BoundedLoader):
    """YAML of values that JSON knows: no tags, dates, merge keys, NaN; every key once.

    Numbers are read as YAML 1.2 does (`1e-5`); a date is text.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node, refused where it is none of JSON's."""
        if node.tag == _MERGE:
            raise Refused("merge keys (<<) are not read. Write the settings out.", node.start_mark)
        if node.tag not in _TAGS:
            raise Refused(
                f"the tag {shown(_name(node.tag))} is not read: a file of settings holds texts, numbers, "
                "true, false, null, lists and mappings. Remove the tag.",
                node.start_mark,
            )
        value = super().construct_object(node, deep)
        if isinstance(value, int | float) and not _is_finite(value):
            raise Refused(
                f"{_shown(node)} is no number that can be computed with.", node.start_mark
            )
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            try:  # "\ud83d\ude00", which JSON writes for one character, is two for PyYAML
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise Refused(
                    f"{_shown(node)} holds half of a surrogate pair, which is no character.",
                    node.start_mark,
                ) from None
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; refused where a key is a list or a mapping, or stands there twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise Refused("a key is a single value here.", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise Refused(f"the key {shown(key)} stands there twice.", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _too_deep() -> str:
    return f"more than {DEEPEST} lists or mappings stand within each other."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _name(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _shown(node: yaml.Node) -> str:
    return shown(node.value, 40) if isinstance(node.value, str) else "this"
