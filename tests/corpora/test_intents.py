"""Intents and perceived empathy: two raters per dimension, a schema that a user can change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from empo.corpora.intents import (
    DEFINITIONS,
    intent_annotations,
    load_definitions,
    read_intents,
)
from empo.corpora.labelled import group_of
from empo.dialogues import Turn
from empo.records import UserError

SMALL = """
intents: {asks: The agent asks., sorry: The agent apologises.}
perceived: {warmth: The agent is warm.}
"""
HEADER = ["dialogue_id", "turn", "role", "text"]
HEADER += ["asks_1", "asks_2", "sorry_1", "sorry_2", "warmth_1", "warmth_2"]
NONE = [""] * 6
WriteCsv = Callable[..., Path]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_the_published_schema_has_16_intents_and_4_perceived_dimensions() -> None:
    schema = load_definitions()
    assert (
        list(schema.intents)
        == (
            "ask_contact ask_details ask_confirmation aware_of_problem describe_problem "
            "express_sympathy express_reassurance express_apology answer_question clarify explain "
            "excuse inform_action instruct_action tentative_solution contact_others"
        ).split()
    )
    assert list(schema.perceived) == ["engagement", "helpfulness", "sympathy", "understanding"]
    assert schema.threshold == 4
    assert all(text.endswith(".") for text in (schema.intents | schema.perceived).values())


def test_a_copy_of_the_schema_can_have_further_dimensions(tmp_path: Path) -> None:
    own = yaml.safe_load(DEFINITIONS.read_text())
    own["perceived"]["patience"] = "The agent is patient."
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    schema = load_definitions(tmp_path / "own.yaml")
    assert schema.names == (*load_definitions().names, "patience")
    assert len(schema.names) == 21


def test_agent_turns_are_targets_with_a_window(write_csv: WriteCsv, small: Path) -> None:
    rows = [  # in any order
        ["d1", 3, "customer", "It broke.", *NONE],
        ["d2", 1, "agent", "Hello.", 0, 0, 0, 0, 3, 3],
        ["d1", 4, "agent", "I am sorry.", 1, 0, 1, 1, 4, 5],
        ["d1", 10, "agent", "Which model?", 1, 1, 0, 0, 3, 5],
        ["d1", 2, "agent", "Hi.", 0, 0, 0, 0, 5, 4],
    ]
    corpus = read_intents(write_csv("own.csv", [HEADER, *rows]), small, before=2, after=1)
    assert [example.id for example in corpus.examples] == ["d1:2", "d1:4", "d1:10", "d2:1"]
    first, second = (
        group_of(texts)
        for texts in (["Hi.", "It broke.", "I am sorry.", "Which model?"], ["Hello."])
    )
    assert [example.group for example in corpus.examples] == [first] * 3 + [second]
    assert [dict(example.labels) for example in corpus.examples] == [
        {"asks": 0.0, "sorry": 0.0, "warmth": 1.0},
        {"asks": 0.0, "sorry": 1.0, "warmth": 1.0},
        {"asks": 1.0, "sorry": 0.0, "warmth": 0.0},
        {"asks": 0.0, "sorry": 0.0, "warmth": 0.0},
    ]
    second = corpus.examples[1].input
    assert second.context == (Turn("assistant", "Hi."), Turn("user", "It broke."))
    assert second.response == "I am sorry."
    assert second.following == (Turn("assistant", "Which model?"),)
    assert [(d.name, d.kind, d.levels) for d in corpus.dimensions] == [
        (name, "binary", (0.0, 1.0)) for name in ("asks", "sorry", "warmth")
    ]
    assert corpus.rows == 5
    assert corpus.counts == {"missing labels": 0, "labels of customer turns, not read": 0}


@pytest.mark.parametrize("threshold, expected", [(3, 1.0), (4, 1.0), (5, 0.0)])
def test_the_threshold_is_reached_by_both_raters(
    write_csv: WriteCsv, small: Path, threshold: int, expected: float
) -> None:
    small.write_text(f"{SMALL}threshold: {threshold}\n")
    path = write_csv("own.csv", [HEADER, ["d", 1, "agent", "Hi.", 0, 0, 0, 0, 4, 5]])
    assert read_intents(path, small).examples[0].labels["warmth"] == expected


def test_what_is_not_judged_or_not_read_is_counted(write_csv: WriteCsv, small: Path) -> None:
    rows = [
        ["d1", 1, "customer", "Help!", 1, 1, "", "", 5, 5],
        ["d1", 2, "agent", "Yes?", 1, 1, "", "", "", ""],
        ["d1", 3, "agent", "Well.", *NONE],
        ["d2", 1, "customer", " ", *NONE],
        ["d2", 2, "agent", "Hello.", 1, 1, 1, 1, 5, 5],
    ]
    corpus = read_intents(write_csv("own.csv", [HEADER, *rows]), small)
    assert [(example.id, example.labels) for example in corpus.examples] == [
        ("d1:2", {"asks": 1.0})
    ]
    assert corpus.counts == {"missing labels": 5, "labels of customer turns, not read": 2}
    assert [(r.id, r.reason, r.detail) for r in corpus.rejected] == [
        ("d1:3", "no label", "line 4"),
        ("d2", "empty text", "line 5"),
    ]


def test_annotations_keep_what_each_rater_gave(write_csv: WriteCsv, small: Path) -> None:
    rows = [
        ["d1", 1, "customer", "Help!", 1, 1, 0, 0, 5, 5],
        ["d1", 2, "agent", "Yes?", 1, 0, "", "", 2, 5],
    ]
    found = intent_annotations(write_csv("own.csv", [HEADER, *rows]), small)
    assert [tuple(row.values()) for row in found] == [
        ("d1:2", "Rater_1", "asks", 1.0),
        ("d1:2", "Rater_2", "asks", 0.0),
        ("d1:2", "Rater_1", "warmth", 2.0),
        ("d1:2", "Rater_2", "warmth", 5.0),
    ]
    assert list(found[0]) == ["item", "rater", "aspect", "value"]


@pytest.mark.parametrize(
    "row, message",
    [
        (["d", 1, "bot", "Hi.", *NONE], "'role': 'bot' is neither customer nor agent."),
        (["d", "one", "agent", "Hi.", *NONE], "'turn': 'one' is no number."),
        (["d", "", "agent", "Hi.", *NONE], "'turn': '' is empty, and every row needs it."),
        (["", 1, "agent", "Hi.", *NONE], "'dialogue_id': '' is empty"),
        (["first", "1.0", "agent", "Hi.", *NONE], "'turn': '1.0' stands on line 2 already."),
        (["d", 1, "agent", "Hi.", 2, 1, 0, 0, 3, 3], "'asks_1': '2' is not one of 0, 1."),
        (["d", 1, "agent", "Hi.", 0, 1, 0, 0, 3, 0], "'warmth_2': '0' is not one of 1, 2, 3, 4, 5"),
        (
            ["d", 1, "agent", "Hi.", 0, 1, 0, 0, 3, ""],
            "'warmth_2': '' is empty, but the other rater judged it.",
        ),
        (
            ["d", 1, "agent", "Hi.", "", 1, 0, 0, 3, 3],
            "'asks_1': '' is empty, but the other rater judged it.",
        ),
    ],
)
def test_a_bad_row_is_refused(
    write_csv: WriteCsv, small: Path, row: list[object], message: str
) -> None:
    good = ["first", 1, "agent", "Hi.", 0, 0, 0, 0, 1, 1]
    path = write_csv("own.csv", [HEADER, good, row])
    for read in (read_intents, intent_annotations):
        with pytest.raises(UserError) as error:
            read(path, small)
        assert str(error.value).startswith(f"{path}, line 3, field {message}")


def test_missing_columns_are_named(write_csv: WriteCsv, small: Path) -> None:
    path = write_csv("own.csv", [HEADER[:-1], ["d", 1, "agent", "Hi.", 0, 0, 0, 0, 1]])
    with pytest.raises(UserError, match="the column warmth_2 is missing; found: dialogue_id, turn"):
        read_intents(path, small)


@pytest.mark.parametrize(
    "text, message",
    [
        ("threshold: 4", "give `intents` or `perceived`."),
        ("intents: {a: b}\nperceived: {a: c}", "'a' is an intent and a perceived dimension"),
        ("intents: {a: b}\nthreshold: 1", "threshold: 1 is not above 1 and at most 5."),
        ("intents: {a: b}\nthreshold: 6", "threshold: 6 is not above 1 and at most 5."),
        ("intents: [a]", "intents: ['a'] does not fit"),
        ("intends: {a: b}", "intends: no such setting; did you mean intents?"),
    ],
)
def test_a_bad_schema_is_refused(small: Path, text: str, message: str) -> None:
    small.write_text(text)
    with pytest.raises(UserError) as error:
        load_definitions(small)
    assert message in str(error.value)
