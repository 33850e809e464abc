"""Dimensions written by a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from empo.corpora.dimensions import load_dimensions
from empo.rating import Dimension
from empo.records import UserError


def test_three_kinds(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "dimensions:\n"
        "  - {name: warmth, low: 1, high: 3, kind: ordinal, levels: [1, 2.5, 3]}\n"
        "  - {name: asks, low: 0, high: 1, kind: binary}\n"
        "  - {name: near, low: 0, high: 100, kind: interval}\n"
    )
    assert load_dimensions(path) == (
        Dimension("warmth", 1.0, 3.0, "ordinal", (1.0, 2.5, 3.0)),
        Dimension("asks", 0.0, 1.0, "binary", (0.0, 1.0)),
        Dimension("near", 0.0, 100.0, "interval"),
    )


GOOD = "{name: a, low: 0, high: 2, kind: interval}"


EXPECTED = (
    ": one key `dimensions` with a list of dimensions is expected, each like "
    "{name: warmth, kind: ordinal, low: 0, high: 2, levels: [0, 1, 2]}."
)


@pytest.mark.parametrize(
    "text, message",
    [
        (f"scales: [{GOOD}]", EXPECTED),
        ("dimensions: a", EXPECTED),
        ("dimensions: []", ": the list of dimensions is empty."),
        (
            f"dimensions: [{GOOD}, {{name: b, low: 0, high: 2}}]",
            ", dimension 2, field 'kind': Field required.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: nominal}]",
            ", dimension 1, field 'kind': Input should be 'ordinal', 'interval' or 'binary'.",
        ),
        (
            "dimensions: [{name: a, low: '0', high: 2, kind: interval}]",
            ", dimension 1, field 'low': Input should be a valid number.",
        ),
        (
            "dimensions: [{name: a, low: 0, hihg: 2, high: 2, kind: interval}]",
            ", dimension 1, field 'hihg': Extra inputs are not permitted.",
        ),
        (f"dimensions: [{GOOD}, {GOOD}]", ", dimension 2 (a): it stands there twice."),
        (
            "dimensions: [{name: a, low: 2, high: 2, kind: interval}]",
            ", dimension 1 (a): low 2 is not below high 2.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: ordinal}]",
            ", dimension 1 (a): an ordinal dimension needs levels.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: ordinal, levels: [0, 2, 1]}]",
            ", dimension 1 (a): levels must be two or more numbers in ascending order.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: ordinal, levels: [0, 1, 1]}]",
            ", dimension 1 (a): levels must be two or more numbers in ascending order.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: ordinal, levels: [1]}]",
            ", dimension 1 (a): levels must be two or more numbers in ascending order.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: ordinal, levels: [1, 3]}]",
            ", dimension 1 (a): a level lies outside 0 to 2.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 2, kind: binary}]",
            ", dimension 1 (a): a binary dimension has the levels 0 and 1.",
        ),
        (
            "dimensions: [{name: a, low: 0, high: 1, kind: binary, levels: [0, 0.5, 1]}]",
            ", dimension 1 (a): a binary dimension has the levels 0 and 1.",
        ),
    ],
)
def test_bad_dimensions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_dimensions(path)
    assert str(error.value) == f"{path}{message}"
