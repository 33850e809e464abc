"""Which exchanges are drawn, and which responses cannot be compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from small_survey import write_responses

from empo.records import UserError
from empo.survey.sampling import draw_items, read_systems

LABELS = [f"e{i % 32:02d}" for i in range(320)]


def test_four_of_each_of_32_emotions_and_seven_more() -> None:
    drawn = draw_items(LABELS, 135, None, seed=3)
    counts = Counter(Counter(LABELS[number] for number in drawn).values())
    assert counts == {4: 25, 5: 7} and len(set(drawn)) == 135


def test_the_rest_is_spread_over_emotions_that_have_more() -> None:
    emotions = ["a"] * 2 + ["b"] * 9 + ["c"] * 9
    counts = Counter(emotions[number] for number in draw_items(emotions, 12, 1, seed=0))
    assert counts["a"] == 2 and {counts["b"], counts["c"]} == {5}


def test_the_order_mixes_emotions_and_follows_the_seed() -> None:
    drawn = draw_items(LABELS, 64, None, seed=1)
    assert len({LABELS[number] for number in drawn[:15]}) > 8
    assert drawn == draw_items(LABELS, 64, None, seed=1) != draw_items(LABELS, 64, None, seed=2)


@pytest.mark.parametrize(
    ("emotions", "items", "each", "message"),
    [
        (
            ["a"] * 9 + ["b"] * 2,
            6,
            None,
            "3 exchanges of every emotion are needed, but there are fewer of b 2",
        ),
        (["a"] * 4, 5, None, "--items: 5 are asked for, but the responses are of 4 exchanges"),
        (["a", "b"] * 5, 6, 4, "4 of each of the 2 emotions are 8 exchanges, more than --items 6"),
    ],
)
def test_too_few_exchanges(emotions: list[str], items: int, each: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_items(emotions, items, each, seed=0)


def test_systems_are_put_into_one_order_and_human_last(tmp_path: Path) -> None:
    one, two = (write_responses(tmp_path / name, name, 4) for name in ("one", "two"))
    lines = two.read_text().splitlines()
    two.write_text("\n".join(reversed(lines)))
    systems = read_systems([one, two], human=True)
    assert list(systems) == ["one", "two", "human"]
    assert {tuple(r.id for r in of) for of in systems.values()} == {
        ("conv:0", "conv:1", "conv:2", "conv:3")
    }
    assert systems["human"][2].response == "I hear you, 2."
    assert list(read_systems([one, two], human=False)) == ["one", "two"]


def change(path: Path, line: int, **fields: object) -> None:
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    rows[line] |= fields
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        (1, {"id": "conv:99"}, r"two, field 'id': 1 of the 4 ids of .*one are missing \(conv:1\)"),
        (2, {"reference": "?"}, r"two, conv:2, field 'reference': system 'two' has another one"),
        (
            3,
            {"context": [{"role": "user", "content": "?"}]},
            r"two, conv:3, field 'context': system",
        ),
        (0, {"system": "human"}, r"two, field 'system': 'human' stands for the references"),
        (0, {"system": "one"}, r"two, field 'system': 'one' is in .*one already"),
    ],
)
def test_systems_of_other_exchanges(
    tmp_path: Path, line: int, fields: dict[str, object], message: str
) -> None:
    one, two = (write_responses(tmp_path / name, name, 4) for name in ("one", "two"))
    if "system" in fields:
        for i in range(4):
            change(two, i, **fields)
    change(two, line, **fields)
    with pytest.raises(UserError, match=message):
        read_systems([one, two], human=True)


def test_ids_that_only_a_later_system_has_are_told_of_the_first_file(tmp_path: Path) -> None:
    one = write_responses(tmp_path / "one", "one", 4)
    two = write_responses(tmp_path / "two", "two", 5)
    with pytest.raises(
        UserError, match=r"one, field 'id': 1 of the 5 ids of .*two are missing \(conv:4\)"
    ):
        read_systems([one, two], human=True)
