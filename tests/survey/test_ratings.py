"""Tidy tables of others: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from empo.records import UserError
from empo.survey.ratings import read_ratings_table

HEADER = "item,rater,aspect,value,system"


def read(tmp_path: Path, *lines: str):
    path = tmp_path / "tidy.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_ratings_table(path)


def test_a_table_with_what_is_needed(tmp_path: Path) -> None:
    ratings, missing = read(tmp_path, HEADER, "i1,r1,warm,3,a", "i1,r1,warm,4.5,b", "i2,r1,warm,,a")
    assert missing == 1
    assert list(ratings.exchange) == ["i1", "i1"] and list(ratings.system) == ["a", "b"]
    assert list(ratings.value) == [3, 4.5] and np.isnan(ratings.seconds).all()


def test_a_table_with_everything(tmp_path: Path) -> None:
    header = f"{HEADER},exchange,seconds,characters,notes"
    ratings, missing = read(
        tmp_path, header, "i1/a,r1,warm,3,a,i1,12.5,40,x", "i1/b,r1,warm,3,b,i1,,,y"
    )
    assert list(ratings.exchange) == ["i1", "i1"]
    assert ratings.seconds[0] == 12.5 and ratings.characters[0] == 40
    assert np.isnan(ratings.seconds[1]) and missing == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["item,rater,aspect,value", "i,r,a,1"],
            "there is no column 'system', so nothing can be compared",
        ),
        (["a,b", "1,2"], "the columns item, rater, aspect, value, system are missing"),
        ([HEADER, "i,r,a,x,s"], "line 2, field 'value': 'x' is no number"),
        (
            [HEADER, "i,r,a,1,s", "j,r,a,-1e200,s"],
            "line 3, field 'value': -1e+200 is no rating; from -1e+09 to 1e+09 can be analysed",
        ),
        ([HEADER, "i,r,a,1,"], "line 2, field 'system': '' is empty"),
        ([HEADER, "i,,a,1,s"], "line 2, field 'rater': '' is empty"),
        (
            [HEADER, "i,r,a,1,s", "i,r,a,2,s"],
            "line 3: rater 'r' rated item 'i' of system 's' in 'a' on line 2",
        ),
        ([HEADER, "i,r,a,,s"], "field 'value': no row has one"),
        ([HEADER + ",seconds", "i,r,a,1,s,fast"], "line 2, field 'seconds': 'fast' is no number"),
        ([HEADER + ",exchange", "i,r,a,1,s,"], "line 2, field 'exchange': '' is empty"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, *lines)
    assert message in str(error.value) and str(tmp_path / "tidy.csv") in str(error.value)
