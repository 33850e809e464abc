"""Raters who set all sliders alike, or answer faster than one can read."""

from __future__ import annotations

from empo.survey.attention import flagged_raters
from empo.survey.ratings import ratings_of

RULES = {"straight_share": 0.8, "fast_seconds": 5.0}


def page(
    rater: str, item: int, values: tuple[float, ...], seconds: float | None, box: int = 1
) -> list[dict]:
    rated = zip(("a", "b", "c", "box"), (*values, box), strict=True)
    return [
        {"exchange": str(item), "system": "s", "rater": rater, "aspect": aspect, "value": value,
         "seconds": seconds, "characters": None}
        for aspect, value in rated
    ]  # fmt: skip


def test_who_is_flagged_and_why() -> None:
    rows = []
    for item in range(5):
        spread = (0, 10 * item, 100)
        rows += page("careful", item, spread, 30)
        rows += page("equal", item, (50, 52, 53) if item else spread, 30, box=item % 2)
        rows += page("often equal", item, (50, 50, 50) if item > 1 else spread, 30)
        rows += page("fast", item, spread, 4.9 if item < 3 else 60)
        rows += page("nearly fast", item, spread, 5.0)
        rows += page("no times", item, spread, None)
        if item < 2:
            rows += page("new", item, (50, 50, 50), 1)
    found = {row["rater"]: row for row in flagged_raters(ratings_of(rows), **RULES)}
    assert list(found) == ["equal", "fast"]
    assert found["equal"] == {
        "rater": "equal", "items": 5, "straight": 0.8, "median_seconds": 30.0,
        "reasons": ["straight-lining"],
    }  # fmt: skip
    assert (found["fast"]["straight"], found["fast"]["median_seconds"]) == (0.0, 4.9)
    assert found["fast"]["reasons"] == ["too fast"]


def test_a_wide_scale_does_not_make_others_equal() -> None:
    rows = []
    for item in range(5):
        for rater, values in {"varied": (1, 5, 3), "equal": (3, 3, 3)}.items():
            rows += page(rater, item, (values[item % 3], values[(item + 1) % 3], 0), 30)
            rows[-2]["value"] = 250 * item  # the third slider goes from 0 to 1000
    found = {row["rater"]: row["straight"] for row in flagged_raters(ratings_of(rows), **RULES)}
    assert found == {"equal": 1.0}


def test_a_single_slider_is_never_straight() -> None:
    rows = [
        row
        for item in range(5)
        for row in page("r", item, (item, 0, 0), 30)
        if row["aspect"] == "a"
    ]
    assert flagged_raters(ratings_of(rows), **RULES) == []
