"""Tables of judgements: tidy and wide give the same, and what is refused names line and field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from empo.raters.judgements import read_tidy, read_wide
from empo.records import UserError

HEADER = "item,rater,aspect,value\n"
PATTERN = "P_{rater}_{aspect}"


def written(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_tidy_table_in_any_order_with_missing_ratings(tmp_path: Path) -> None:
    text = "aspect,value,item,rater,remark\nevent,1,i1,ann,x\nevent,2.5,i2,bob,\nevent,,i2,ann,\n"
    text += "moral, 4 ,i1,bob,\n\nevent,NA,i3,bob,\n"
    sheet = read_tidy(written(tmp_path, text))
    event, moral = sheet.cells
    assert (event.aspect, event.items, event.raters) == (
        "event",
        ("i1", "i2", "i3"),
        ("ann", "bob"),
    )
    np.testing.assert_array_equal(event.values, [[1, np.nan], [np.nan, 2.5], [np.nan, np.nan]])
    assert (moral.aspect, moral.items, moral.raters) == ("moral", ("i1",), ("bob",))
    assert moral.values.tolist() == [[4]]
    assert sheet.unused == ("remark",)
    assert sheet.summary() == (
        "table.csv [tidy]: 3 ratings of 3 items by 2 raters in 'event', 'moral'; "
        "cells without a rating: 4; columns not read: 'remark'"
    )


def test_a_wide_table_is_the_same_as_its_tidy_one(tmp_path: Path) -> None:
    wide = "P_1_event,P_1_deep_moral,mean,P_2_event,P_2_deep_moral\n1,2,9,3,4\n5,,9,NaN,2.5\n"
    tidy = HEADER + (
        "1,1,event,1\n1,2,event,3\n2,1,event,5\n2,2,event,\n"
        "1,1,deep_moral,2\n1,2,deep_moral,4\n2,1,deep_moral,na\n2,2,deep_moral,2.5\n"
    )
    first = read_wide(written(tmp_path, wide, "wide.csv"), PATTERN)
    second = read_tidy(written(tmp_path, tidy, "tidy.csv"))
    assert first.unused == ("mean",)
    for a, b in zip(first.cells, second.cells, strict=True):
        assert (a.aspect, a.items, a.raters) == (b.aspect, b.items, b.raters)
        np.testing.assert_array_equal(a.values, b.values)


def test_the_aspect_may_stand_before_the_rater_or_not_at_all(tmp_path: Path) -> None:
    path = written(tmp_path, "event.ann,event.bob\n1,2\n3,4\n")
    (cell,) = read_wide(path, "{aspect}.{rater}").cells
    assert (cell.aspect, cell.raters) == ("event", ("ann", "bob"))
    (cell,) = read_wide(path, "event.{rater}").cells
    assert (cell.aspect, cell.raters) == ("value", ("ann", "bob"))
    with pytest.raises(UserError, match="no column is named like"):
        read_wide(path, "event_{rater}")  # the dot is a dot, not any sign


def test_settings_and_groups_are_apart(tmp_path: Path) -> None:
    text = "item,rater,aspect,value,group,setting\n"
    text += "i,a,event,1,x,s1\ni,a,event,2,x,s2\ni,a,event,3,y,s1\n"
    cells = read_tidy(written(tmp_path, text)).cells
    assert [(c.setting, c.group, c.values.item()) for c in cells] == [
        ("s1", "x", 1),
        ("s2", "x", 2),
        ("s1", "y", 3),
    ]


def test_tabs_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeffitem\trater\taspect\tvalue\r\ni\ta\tevent\t2\r\n"
    (cell,) = read_tidy(written(tmp_path, text, "table.tsv")).cells
    assert cell.values.tolist() == [[2]]


def test_more_raters_than_items_asks_whether_they_are_swapped(tmp_path: Path) -> None:
    rows = [f"r{item},{rater},event,1\n" for item in range(2) for rater in "abc"]
    sheet = read_tidy(written(tmp_path, HEADER + "".join(rows)))
    assert sheet.warnings == ("event: 3 raters and 2 items. Are the items and the raters swapped?",)
    assert "warning: event: 3 raters" in sheet.summary()
    rows.append("r3,a,event,1\n")
    assert read_tidy(written(tmp_path, HEADER + "".join(rows))).warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "there is a header but no row"),
        (
            HEADER + "i1,ann,event,1\ni2,ann,event,2\ni1,ann,event,\n",
            "line 4: item 'i1', rater 'ann', aspect 'event' stands on line 2 already",
        ),
        (HEADER + "i1,ann,event,good\n", "line 2, field 'value': 'good' is no number"),
        (HEADER + "i1,ann,event,none\n", "line 2, field 'value': 'none' is no number"),
        (HEADER + 'i1,ann,event,"2,5"\n', "'2,5' is no number. Write numbers with a decimal point"),
        (HEADER + "i1,ann,event,2_5\n", "'2_5' is no number"),
        (HEADER + "i1,ann,event,-inf\n", "line 2, field 'value': '-inf' is infinite"),
        (HEADER + "i1,ann,event,1e200\n", "'1e200' is infinite or too large"),
        (HEADER + "i1,ann,event,1\ni2,,event,1\n", "line 3, field 'rater': it is empty"),
        (HEADER + '"two\nlines",ann,event,1\ni2,ann,event,x\n', "line 4, field 'value': 'x'"),
        (HEADER + "i1,ann,event,2,5\n", "line 2: 5 fields instead of 4"),
        (HEADER + 'i1,ann,"event,1\n', "line 2: not readable as csv"),
        ("item,rater,rater,value\ni,a,b,1\n", "the column 'rater' stands there twice"),
        (
            "item;rater;aspect;value\ni;a;event;1\n",
            "the columns item, rater, aspect, value are missing; found: 'item;rater;aspect;value'",
        ),
        (
            "P_1_event,P_2_event\n1,2\n",
            "If every rater has columns of their own, give their names: --wide",
        ),
        ("item,aspect,value\ni,event,1\n", "the column rater is missing; found: 'item', 'aspect'"),
        (
            "rater,i1,i2,i3\nann,1,2,3\n",
            "Here the raters seem to be the rows and the items the columns",
        ),
        (
            ",".join(f"c{i}" for i in range(15)) + "\n" + "1," * 14 + "1\n",
            "'c11' and 3 more",
        ),
    ],
)
def test_a_tidy_table_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_tidy(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("P_{rater}{aspect}", "no text between {rater} and {aspect}"),
        ("P_{aspect}", "must hold {rater} once"),
        ("P_{rater}_{rater}", "must hold {rater} once"),
        ("P_{rater}_{item}", "no other name in braces"),
        (
            "Q_{rater}_{aspect}",
            "no column is named like 'Q_{rater}_{aspect}' (--wide); found: 'P_1",
        ),
    ],
)
def test_a_pattern_that_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    path = written(tmp_path, "P_1_event,P_2_event\n1,2\n")
    with pytest.raises(UserError) as error:
        read_wide(path, pattern)
    assert message in str(error.value)


def test_a_wide_value_that_is_no_number_names_its_column(tmp_path: Path) -> None:
    path = written(tmp_path, "P_1_event,P_2_event,free text\n1,2,yes\n3,bad,\n")
    with pytest.raises(UserError) as error:
        read_wide(path, PATTERN)
    assert f"{path}, line 3, field 'P_2_event': 'bad' is no number" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_tidy(tmp_path / "none.csv")
