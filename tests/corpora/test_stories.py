"""Pairs of stories: labels on a half-point scale, groups of pairs that share stories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo.corpora.labelled import group_of
from empo.corpora.stories import (
    URDU_SCORES,
    URDU_STORIES,
    check_apart,
    read_stories,
    read_urdu,
    story_groups,
)
from empo.rating import RatingInput
from empo.records import UserError

TEXTS = ["story_A", "story_B", "story_A_summary", "story_B_summary"]
LABELS = [f"similarity_{aspect}_human_AGG" for aspect in ("event", "emotion", "moral", "empathy")]
WriteCsv = Callable[..., Path]


def pair(a: str, b: str, *labels: object) -> list[object]:
    return [a, b, f"{a} short", f"{b} short", *(labels or (1, 2, 3, 4))]


def test_a_pair_becomes_an_example_with_four_labels(write_csv: WriteCsv) -> None:
    path = write_csv("own.csv", [TEXTS + LABELS, pair("a", "b", 1, "1.5", "4.0", 2.5)])
    corpus = read_stories(path)
    (example,) = corpus.examples
    assert example.input == RatingInput("a", "b")
    assert example.labels == {"event": 1.0, "emotion": 1.5, "moral": 4.0, "empathy": 2.5}
    assert corpus.symmetric is True
    assert [(d.name, d.low, d.high, d.kind) for d in corpus.dimensions] == [
        (name, 1.0, 4.0, "interval") for name in ("event", "emotion", "moral", "empathy")
    ]
    assert {d.levels for d in corpus.dimensions} == {(1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)}
    summaries = read_stories(path, text="summary")
    assert summaries.examples[0].input == RatingInput("a short", "b short")


def test_pairs_that_a_chain_of_stories_joins_are_one_group(write_csv: WriteCsv) -> None:
    rows = [pair("a", "b"), pair("c", "d"), pair("e", "c"), pair("f", "g"), pair("b", " e ")]
    path = write_csv("own.csv", [TEXTS + LABELS, *rows])
    for text in ("story", "summary"):
        corpus = read_stories(path, text)
        groups = [example.group for example in corpus.examples]
        assert groups == [group_of(["a"])] * 3 + [group_of(["f"]), group_of(["a"])]
        assert corpus.counts == {
            "missing labels": 0,
            "stories": 7,
            "groups of pairs that share stories": 2,
            "pairs in the largest group": 4,
        }


def test_a_rejected_pair_joins_nothing_and_names_no_group(write_csv: WriteCsv) -> None:
    rows = [pair("a", "c", "", "", "", " "), pair("a", "b"), pair("c", "d"), pair("b", "e")]
    corpus = read_stories(write_csv("own.csv", [TEXTS + LABELS, *rows]))
    found = [(example.id, example.group) for example in corpus.examples]
    a, c = group_of(["a"]), group_of(["c"])
    assert found == [("own:2", a), ("own:3", c), ("own:4", a)]


def test_a_group_has_one_name_in_every_file(write_csv: WriteCsv) -> None:
    rows = [pair("b", "a"), pair("c", "b")]
    one = read_stories(write_csv("one.csv", [TEXTS + LABELS, pair("x", "y"), *rows]))
    two = read_stories(write_csv("two.csv", [TEXTS + LABELS, *reversed(rows)]))
    groups = [{example.group for example in corpus.examples} for corpus in (one, two)]
    assert len(groups[0]) == 2 and groups[1] < groups[0]


def test_a_story_in_two_corpora_is_named(write_csv: WriteCsv) -> None:
    one = read_stories(write_csv("one.csv", [TEXTS + LABELS, pair("a", "b"), pair("c", "d")]))
    two = read_stories(write_csv("two.csv", [TEXTS + LABELS, pair("e", "d"), pair("f", "d")]))
    message = f"{one.source}, {two.source}: texts of stories in both: 1, the first 'd'."
    with pytest.raises(UserError) as error:
        check_apart(one, two)
    assert str(error.value).startswith(message)
    check_apart(one, read_stories(write_csv("three.csv", [TEXTS + LABELS, pair("e", "f")])))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), min_size=1))
def test_groups_are_the_finest_that_share_no_story(pairs: list[tuple[str, str]]) -> None:
    groups = story_groups(pairs)
    # the same by merging sets until nothing overlaps
    parts: list[set[str]] = []
    for story_pair in pairs:
        joined = set(story_pair).union(*(part for part in parts if part & set(story_pair)))
        parts = [part for part in parts if not part & joined] + [joined]
    expected = [next(i for i, part in enumerate(parts) if a in part) for a, _ in pairs]
    assert [groups.index(g) for g in groups] == [expected.index(e) for e in expected]
    assert all(groups[g] == g for g in groups)


def test_missing_labels_are_left_out_and_empty_pairs_rejected(write_csv: WriteCsv) -> None:
    rows = [
        pair("a", "b", 1, "", 2, " "),
        pair("a", "x\ny", "", "", "", ""),  # story and summary: three lines
        pair("c", "", 1, 1, 1, 1),
    ]
    corpus = read_stories(write_csv("own.csv", [TEXTS + LABELS, *rows]))
    assert [example.labels for example in corpus.examples] == [{"event": 1.0, "moral": 2.0}]
    assert corpus.counts["missing labels"] == 6
    assert [(r.id, r.reason, r.detail) for r in corpus.rejected] == [
        ("own:2", "no label", "line 3"),
        ("own:3", "empty text", "line 6"),
    ]
    assert corpus.rows == 3


@pytest.mark.parametrize("value", ["4.5", "0", "2.25"])
def test_a_label_off_the_scale_is_refused(write_csv: WriteCsv, value: str) -> None:
    path = write_csv("own.csv", [TEXTS + LABELS, pair("a", "b"), pair("a", "c", 1, value, 1, 1)])
    with pytest.raises(UserError) as error:
        read_stories(path)
    assert str(error.value) == (
        f"{path}, line 3, field 'similarity_emotion_human_AGG': {value!r} is not one of "
        "1, 1.5, 2, 2.5, 3, 3.5, 4."
    )


def test_an_unknown_text_or_a_missing_column_is_refused(write_csv: WriteCsv) -> None:
    path = write_csv("own.csv", [TEXTS[:2] + LABELS, [*pair("a", "b")[:2], 1, 1, 1, 1]])
    with pytest.raises(UserError, match="text='title': the stories can be read as story or summ"):
        read_stories(path, "title")
    with pytest.raises(UserError, match="the columns story_A_summary, story_B_summary are missing"):
        read_stories(path, "summary")
    assert len(read_stories(path).examples) == 1


# --- Roman Urdu ---

SCORES = [
    f"Person_{person}_{aspect}_score"
    for person in range(1, 5)
    for aspect in ("event", "emotion", "empathy")
]


def write_urdu(write_csv: WriteCsv, stories: list[list[str]], scores: list[list[object]]) -> Path:
    write_csv(URDU_STORIES, [["story_A", "story_B"], *stories])
    return write_csv(URDU_SCORES, [SCORES, *scores]).parent


def test_urdu_labels_are_the_means_of_four_people(write_csv: WriteCsv) -> None:
    scores = [1, 4, 2.5, 2, 4, 2.5, 2, 4, 3, 3.5, 4, 4]
    folder = write_urdu(write_csv, [["a", "b"], ["", "c"]], [scores, [1] * 12])
    corpus = read_urdu(folder)
    (example,) = corpus.examples
    assert example.labels == {"event": 2.125, "emotion": 4.0, "empathy": 3.0}
    assert example.input == RatingInput("a", "b")
    assert corpus.symmetric is True
    assert {(d.kind, d.low, d.high, d.levels) for d in corpus.dimensions} == {
        ("interval", 1.0, 4.0, None)
    }
    assert [(r.id, r.reason) for r in corpus.rejected] == [("cleaned_urdu_stories:2", "empty text")]


def test_urdu_files_that_do_not_belong_together_are_refused(write_csv: WriteCsv) -> None:
    folder = write_urdu(write_csv, [["a", "b"]], [[1] * 12, [1] * 12])
    message = (
        "cleaned_urdu_stories.csv has 1 rows and Urdu_Dataset_Annotation.csv 2; they belong "
        "together row by row, so one of them is not whole."
    )
    with pytest.raises(UserError, match=message):
        read_urdu(folder)


@pytest.mark.parametrize(
    "value, message",
    [
        ("", "line 2, field 'Person_2_event_score': '' is empty, and every row needs it."),
        ("5", "line 2, field 'Person_2_event_score': '5' is not one of 1, 1.5, 2"),
        ("high", "line 2, field 'Person_2_event_score': 'high' is no number."),
    ],
)
def test_a_bad_urdu_score_is_refused(write_csv: WriteCsv, value: str, message: str) -> None:
    folder = write_urdu(write_csv, [["a", "b"]], [[1, 1, 1, value, *[1] * 8]])
    with pytest.raises(UserError) as error:
        read_urdu(folder)
    assert str(error.value).startswith(f"{folder / URDU_SCORES}, {message}")


@pytest.mark.parametrize(
    "split, pairs, stories, largest, event",
    [
        ("dev", 100, 79, 97, {"1": 21, "1.5": 24, "2": 26, "2.5": 12, "3": 11, "3.5": 4, "4": 2}),
        (
            "test",
            400,
            314,
            398,
            {"1": 44, "1.5": 89, "2": 104, "2.5": 70, "3": 63, "3.5": 26, "4": 4},
        ),
    ],
)
def test_the_real_stories(
    real: Path, split: str, pairs: int, stories: int, largest: int, event: dict[str, int]
) -> None:
    for text in ("story", "summary"):
        corpus = read_stories(real / "empathic_stories" / f"pairs_{split}.csv", text)
        assert (corpus.rows, len(corpus.examples)) == (pairs, pairs)
        assert corpus.counts == {
            "missing labels": 0,
            "stories": stories,
            "groups of pairs that share stories": 3,
            "pairs in the largest group": largest,
        }
        assert corpus.facts()["labels"]["event"] == event


def test_the_real_parts_share_no_story(real: Path) -> None:
    folder = real / "empathic_stories"
    check_apart(read_stories(folder / "pairs_dev.csv"), read_stories(folder / "pairs_test.csv"))


def test_the_real_urdu_pairs(real: Path) -> None:
    corpus = read_urdu(real / "urdu_pairs")
    assert (corpus.rows, len(corpus.examples)) == (291, 291)
    assert corpus.counts["stories"] == 2 * 291
    # the file's own averages, to see that rows and columns are joined as they were meant
    from empo.corpora.csv_rows import read_csv

    columns = {"event": "Event_AVG", "emotion": "Emo_AVG", "empathy": "Emp_AVG"}
    rows = read_csv(real / "urdu_pairs" / URDU_SCORES, tuple(columns.values()))
    for example, row in zip(corpus.examples, rows, strict=True):
        assert example.labels == {name: row.number(column) for name, column in columns.items()}
