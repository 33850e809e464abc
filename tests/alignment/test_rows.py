"""Rows as arrow: the same rows in the same order, four bytes a token, whatever their number."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import List, Value

from empo.alignment import rows as module
from empo.alignment.rows import TOKENS, Rows

FEATURES = {"id": Value("string"), "ids": TOKENS, "pool": List(TOKENS)}


def row(number: int) -> dict[str, Any]:
    """Row 3 is c, [300, 301, -100], [[3], []]."""
    ids = [100 * number + i for i in range(number - 1)] + [-100]
    return {"id": "abcdefgh"[number], "ids": ids, "pool": [[number], []]}


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_rows_are_those_that_were_added(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(module, "_PIECE", 3)
    expected = [row(i) for i in range(number)]
    rows = Rows(FEATURES)
    for one in expected:
        rows.append(one)
    found = rows.dataset()
    assert list(found) == expected
    assert found[number - 1] == expected[-1]
    assert list(found["id"]) == [one["id"] for one in expected]


def test_a_token_takes_four_bytes() -> None:
    rows = Rows({"ids": TOKENS, "labels": TOKENS})
    for _ in range(2_500):
        rows.append({"ids": list(range(200)), "labels": [-100] * 200})
    found = rows.dataset()
    tokens = 2 * 200 * 2_500
    assert 4 * tokens <= found.data.nbytes < 4.1 * tokens
    assert found[2_499]["labels"] == [-100] * 200
