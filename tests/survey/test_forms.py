"""What a browser sends: stamps that cannot be made elsewhere, values that can be an answer."""

from __future__ import annotations

import pytest

from empo.survey import forms

KEY = b"k" * 32


def test_a_stamp_is_good_for_its_own_page_only() -> None:
    made = forms.stamp(KEY, "item", "cookie", 3)
    assert 0 <= forms.seconds_since(KEY, made, "item", "cookie", 3) < 30
    for parts in (("item", "cookie", 4), ("item", "other", 3), ("consent", "cookie", 3)):
        assert forms.seconds_since(KEY, made, *parts) is None
    assert forms.seconds_since(b"x" * 32, made, "item", "cookie", 3) is None
    earlier = f"{int(made.split('.')[0]) - 100}.{made.partition('.')[2]}"
    assert forms.seconds_since(KEY, earlier, "item", "cookie", 3) is None, "the time is sealed too"
    assert forms.seconds_since(KEY, "", "item", "cookie", 3) is None
    assert len({forms.stamp(KEY, "consent", "link") for _ in range(20)}) == 20


def test_seconds_are_those_since_the_page_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms.time, "time", lambda: 1_000.0)
    made = forms.stamp(KEY, 1)
    monkeypatch.setattr(forms.time, "time", lambda: 1_012.34)
    assert forms.seconds_since(KEY, made, 1) == 12.3
    monkeypatch.setattr(forms.time, "time", lambda: 990.0)
    assert forms.seconds_since(KEY, made, 1) == 0, "a clock that is set back"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "h:1", "origin": "http://h:1", "sec-fetch-site": "same-origin"}, True),
        ({"host": "inside:1", "origin": "https://survey.example.org"}, True),
        ({"host": "h:1"}, True),
        ({"host": "h:1", "origin": "http://evil.example"}, False),
        ({"host": "h:1", "origin": "null"}, False),
        ({"host": "h:1", "sec-fetch-site": "cross-site"}, False),
        ({"host": "h:1", "sec-fetch-site": "same-site"}, False),
        ({"origin": "null"}, False),
    ],
)
def test_same_site(headers: dict[str, str], expected: bool) -> None:
    assert forms.same_site(headers, "https://survey.example.org/x") is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"", {}),
        (b"a=1&a=2", None),
        (b"\xff", None),
        (b"a=%ff", None),
        (b"no equals", None),
        (b"&".join(b"f%d=1" % i for i in range(101)), None),
    ],
)
def test_fields(body: bytes, expected: dict[str, str] | None) -> None:
    assert forms.fields(body) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("0", None), ("100", None), (" 7 ", None), ("", "unset"), ("101", "range"), ("-1", "range"),
     ("50.5", "range"), ("1e2", "range"), ("٣", "range"), ("9" * 5000, "range"), ("x", "range")],
)  # fmt: skip
def test_a_slider_takes_whole_numbers_of_its_range(text: str, wrong: str | None) -> None:
    ratings, found = forms.read_ratings({"a": text}, ["a"], "box")
    assert found == ({"a": wrong} if wrong else {})
    assert ratings == ({"box": 0} if wrong else {"a": int(text), "box": 0})


def test_a_missing_slider_is_not_answered_and_a_box_is_ticked_or_not() -> None:
    assert forms.read_ratings({"box": "1"}, ["a"], "box") == ({"box": 1}, {"a": "unset"})
    assert forms.read_ratings({"a": "1", "box": "yes"}, ["a"], "box")[1] == {"box": "range"}
