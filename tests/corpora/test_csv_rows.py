"""Rows of a csv: where they begin, and the words with which bad ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from empo.corpora.csv_rows import header_of, read_csv
from empo.records import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def test_a_row_knows_the_line_on_which_it_begins(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n"one\ntwo",1\r\n\r\n"say ""x"", y", 2 \r\n')
    rows = read_csv(path, ("b", "a"))
    assert [(row.line, row.fields["a"], row.text("b")) for row in rows] == [
        (2, "one\ntwo", "1"),
        (5, 'say "x", y', "2"),
    ]
    assert header_of(path) == ["a", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,c\n1,2\n", "{path}: the column b is missing; found: a, c."),
        ("c\n1\n", "{path}: the columns a, b are missing; found: c."),
        ("a,b,b\n1,2,3\n", "{path}: the column 'b' stands there twice. Rename one."),
        ("a,b\n1,2\n1,2,3\n", "{path}, line 3: 3 fields instead of 2. A field with a comma"),
        ('a,b\n"x\ny",2\n1\n', "{path}, line 4: 1 fields instead of 2."),
        ('a,b\n1,"2"x\n', "{path}, line 2: not a well-quoted csv ("),
        ('"a"b\n', "{path}, line 1: not a well-quoted csv ("),
        ("a,b\n\n", "{path}: there is a header but no row."),
        ("", "{path}: the file is empty."),
    ],
)
def test_a_bad_file_is_refused(path: Path, content: str, message: str) -> None:
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_csv(path, ("a", "b"))
    assert str(error.value).startswith(message.format(path=path))


def test_fields_are_read_or_refused(path: Path) -> None:
    path.write_text("a,b\n 1.0 ,x\n,nan\n1.2,\n")
    first, second, third = read_csv(path, ("a", "b"))
    assert first.level("a", (0.0, 1.0)) == 1.0
    assert second.level("a", (0.0, 1.0)) is None
    assert third.number("a") == 1.2
    refusals = [
        (lambda: first.number("b"), f"{path}, line 2, field 'b': 'x' is no number."),
        (lambda: second.number("b"), f"{path}, line 3, field 'b': 'nan' is no number."),
        (
            lambda: third.level("a", (0.0, 1.0)),
            f"{path}, line 4, field 'a': '1.2' is not one of 0, 1.",
        ),
        (
            lambda: third.required("b"),
            f"{path}, line 4, field 'b': '' is empty, and every row needs it.",
        ),
    ]
    for read, message in refusals:
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == message
