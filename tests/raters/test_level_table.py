"""Level tables: sorted labels as whole numbers, answers of one length, strict reading."""

from __future__ import annotations

import pytest

from empo.raters.level_table import LevelTable
from empo.records import UserError


def test_a_table_is_the_sorted_different_labels() -> None:
    table = LevelTable.of("empathy", [3.5, 0.0, 0.6667, 3.5, 0.66670000001])
    assert table.values == (0.0, 0.6667, 3.5)
    assert table.answers == ("0", "1", "2")
    assert [table.code(value) for value in (0.0, 0.6667, 3.5)] == [0, 1, 2]
    assert table.value(2) == 3.5


def test_answers_have_one_length_so_that_none_begins_another() -> None:
    table = LevelTable.of("empathy", range(12))
    assert table.answers[0] == "00" and table.answers[11] == "11"
    stories = LevelTable.of("event", [1, 1.5, 2, 4], as_values=True)
    assert stories.answers == ("1.0", "1.5", "2.0", "4.0")
    assert LevelTable.of("age", [9, 10], as_values=True).answers == ("09", "10")


def test_a_label_that_training_does_not_have_is_an_error_and_has_a_nearest_level() -> None:
    table = LevelTable.of("empathy", [0, 1, 4])
    with pytest.raises(UserError) as error:
        table.code(2.0)
    assert str(error.value) == (
        "empathy: the label 2 is no level of the table, which has: 0, 1, 4. The table is made from "
        "all training labels; make it anew from these."
    )
    assert [table.nearest(x) for x in (-3, 0.4, 0.5, 2.4, 2.5, 9)] == [0, 0, 1, 1, 2, 2]


def test_only_an_allowed_answer_is_read() -> None:
    table = LevelTable.of("empathy", range(12))
    assert table.read(" 07\n") == 7
    for wrong in ("7", "12", "007", "0 7", "07.", "seven", "", "-1", "٠٧"):
        assert table.read(wrong) is None, wrong
    assert LevelTable.of("event", [1, 1.5], as_values=True).read("1.5") == 1


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(UserError, match="empathy: the training part has 1 different labels"):
        LevelTable.of("empathy", [2, 2])


def test_labels_below_0_are_levels_but_no_answers() -> None:
    assert LevelTable.of("valence", [-1.5, 0, 2]).answers == ("0", "1", "2")
    with pytest.raises(UserError) as error:
        LevelTable.of("valence", [-1.5, 0, 2], as_values=True)
    assert str(error.value) == (
        "valence: the label -1.5 is below 0, and labels that are written as they are have no sign. "
        "Shift them to 0 or more."
    )
