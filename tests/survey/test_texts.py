"""The words of the page: complete, and nothing filled in that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from empo.records import UserError
from empo.survey.texts import DEFAULT, load_texts


def test_the_texts_that_come_with_it() -> None:
    texts = load_texts(DEFAULT)
    assert texts.sliders == (
        "emotion_understanding",
        "situational_appropriateness",
        "contextual_naturalness",
        "conversational_engagingness",
    )
    assert texts.box == "consistency_and_fluency"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  button: Begin\n", "", "field 'consent.button': Field required. Begin with a copy"),
        ("language: en", "language: en\nsurplus: 1", "field 'surplus': Extra inputs"),
        ("language: en", "language: '<b>'", "field 'language'"),
        (
            "{contact}",
            "{contact.real}",
            "field 'contact': {contact.real} is nothing that is filled in",
        ),
        ("{number}", "{system}", "field 'item.progress': {system} is nothing that is filled in"),
        (
            "{items} short",
            "{items short",
            "field 'consent.paragraphs': unexpected '{' in field name",
        ),
        ("{items} short", "{items:9999} short", "{items:9999} is nothing that is filled in here"),
        ("consistency_and_fluency:", "emotion_understanding:", "the key of checkbox must be none"),
        ("{emotion_understanding: 88,", "{emotion: 88,", "must have the keys of statements"),
        ("emotion_understanding: 88", "emotion_understanding: 188", "less than or equal to 100"),
    ],
)
def test_texts_that_do_not_fit(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "texts.yaml"
    text = DEFAULT.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        load_texts(path)
    assert message in str(error.value) and str(path) in str(error.value)
