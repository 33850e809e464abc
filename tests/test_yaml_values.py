"""YAML of plain values: what is read, and what is refused with its line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from empo.yaml_values import DEEPEST, MOST_VALUES, BoundedLoader, PlainLoader, Refused


def read(text: str, loader: type[BoundedLoader] = PlainLoader) -> Any:
    return loader(text).get_single_data()


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: 1e-5", {"a": 1e-5}),
        ("a: 2024-01-31", {"a": "2024-01-31"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ('a: "\\ud83d\\ude00"', {"a": "😀"}),
        ("? a\n: [~, true, 'x']", {"a": [None, True, "x"]}),
        ("[" * DEEPEST + "]" * DEEPEST, None),
    ],
)
def test_plain_values_are_read(text: str, value: Any) -> None:
    found = read(text)
    assert found == value if value is not None else str(found).count("[") == DEEPEST


def laughs(levels: int) -> str:
    """Lists of ten aliases each to the list before: 10 ** levels values in some hundred characters."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text, line, told",
    [
        ("a: 1\nb: !!python/name:os.system", 2, "the tag '!!python/name:os.system' is not read: a"),
        ("a: !!timestamp 2024-01-01", 1, "the tag '!!timestamp' is not read"),
        ("a: !!int soon", 1, "'soon' is no !!int."),
        ("a: {b: 1}\nc:\n  <<: {d: 1}", 3, "merge keys (<<) are not read. Write the settings out."),
        ("a: .nan", 1, "'.nan' is no number that can be computed with."),
        ("a: 1e999", 1, "'1e999' is no number that can be computed with."),
        (f"a: {'9' * 400}", 1, f"'{'9' * 39}... is no number that can be computed with."),
        (f"a: {'9' * 5000}", 1, f"'{'9' * 39}... is no !!int."),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' stands there twice."),
        ("? [a]\n: 1", 1, "a key is a single value here."),
        ('a: "\\ud800"', 1, "holds half of a surrogate pair, which is no character."),
        ("a: &a [*a]", 1, "an alias stands within what it stands for, without end."),
        ("a: " + "[" * 101 + "]" * 101, 1, f"more than {DEEPEST} lists or mappings stand within"),
        ("[" * 100_000, 1, f"more than {DEEPEST} lists or mappings stand within"),
        (
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)),
            100,
            f"more than {DEEPEST} lists or mappings stand within",
        ),
        (
            laughs(12),
            5,
            f"with its aliases written out this holds more than {MOST_VALUES:,} values.",
        ),
    ],
)
def test_what_would_hurt_is_refused_with_its_line(text: str, line: int, told: str) -> None:
    with pytest.raises(Refused) as error:
        read(text)
    assert told in str(error.value)
    assert error.value.line == line


def test_as_many_values_as_are_allowed_are_read_and_one_more_is_not() -> None:
    inside = ", ".join(["x"] * (MOST_VALUES - 1))  # the list itself is a value, too
    assert len(read(f"[{inside}]")) == MOST_VALUES - 1
    with pytest.raises(Refused, match="more than 100,000 values"):
        read(f"[{inside}, x]")


def test_files_of_others_keep_their_dates_and_merge_keys_within_the_bounds() -> None:
    assert read("a: &x {b: 1}\nc: {<<: *x}", BoundedLoader) == {"a": {"b": 1}, "c": {"b": 1}}
    for text in (laughs(12), "a: &a [*a]", "a: !!int soon", "a: !!bool maybe", "a: !!timestamp x"):
        with pytest.raises(yaml.YAMLError):
            read(text, BoundedLoader)
