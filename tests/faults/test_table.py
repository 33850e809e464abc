"""The table of docs/reliability.md is that of these tests."""

from __future__ import annotations

import pytest
from fault_table import (
    BEGIN,
    COLLECTED,
    DOCUMENT,
    END,
    WHOLE,
    Row,
    Survived,
    documented,
)
from forked import Ended


def test_the_table_has_every_fault_and_no_other(request: pytest.FixtureRequest) -> None:
    config = request.config
    if not config.stash[WHOLE]:
        pytest.skip("only a part of the faults was collected")
    if config.getoption("--write-table", default=False):
        pytest.skip("the table is being written")
    faults, rows = config.stash[COLLECTED], documented()
    assert {number: row.name for number, row in rows.items()} == faults
    assert sorted(faults) == list(range(1, len(faults) + 1))
    text = DOCUMENT.read_text()
    assert text.count(BEGIN) == text.count(END) == 1


def test_a_row_survives_its_document() -> None:
    row = Row(3, "a | b", "said …", "1 step")
    assert row.line() == "| 3 | a \\| b | said … | 1 step |"


def test_a_sentence_that_was_not_said_is_no_row() -> None:
    ended = Ended(2, "", "error: a: first\nsecond. Third.", 0.1)
    record = Survived(1, "a fault")
    record(ended, "a: first second. …", "nothing")
    assert record.row == Row(1, "a fault", "a: first second. …", "nothing")
    with pytest.raises(AssertionError, match="is not in"):
        record(ended, "second. …first", "nothing")
