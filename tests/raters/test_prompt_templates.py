from __future__ import annotations

from pathlib import Path

import pytest

from empo.corpora.epitome import DIMENSIONS
from empo.raters.instructions import load_instructions
from empo.raters.prompt_templates import Wording, load_prompts
from empo.rating import Dimension
from empo.records import UserError


def test_every_shipped_dimension_can_be_asked_in_three_wordings() -> None:
    for item in ("response", "stories"):
        prompts = load_prompts(item)
        assert len(prompts.wordings) >= 3
        for asked in prompts.dimensions.values():
            for wording in prompts.wordings.values():
                texts = {"context": "C", "response": "R", "first": "F", "second": "S"}
                system, user = wording.filled(asked, texts)
                assert asked.definition in system
                assert ", ".join(asked.options) in system + user


def test_a_file_of_ones_own_replaces_adds_and_leaves_the_rest(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "response:\n  plain: {system: s, user: '{response} {options}'}\n"
        "  mine: {system: '{options}', user: '{response}'}\n"
        "dimensions:\n  warmth: {task: t, definition: d, answers: {0: 'no', 1: 'yes'}}\n",
    )
    prompts = load_prompts("response", own)
    assert prompts.wordings["plain"] == Wording("s", "{response} {options}")
    assert list(prompts.wordings) == ["plain", "annotator", "steps", "mine"]
    assert prompts.dimensions["warmth"].options == ("no", "yes")
    assert prompts.asked(DIMENSIONS[2]) == load_prompts("response").asked(DIMENSIONS[2])
    shipped = load_instructions(DIMENSIONS)["explorations"]
    assert prompts.asked(DIMENSIONS[2]).task == shipped.task
    assert prompts.asked(DIMENSIONS[2]).answers == ((0.0, "none"), (1.0, "weak"), (2.0, "strong"))
    assert load_prompts("stories", own).wordings == load_prompts("stories").wordings
    assert list(prompts.chosen(["mine"])) == ["mine"]
    with pytest.raises(UserError, match="variants: 'his' is no wording for response; there are: "):
        prompts.chosen(["his"])


ANSWERS = "dimensions: {d: {task: t, definition: d, answers: %s}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "response: {v: {system: '{mood}', user: '{response} {options}'}}",
            r"own.yaml, response, v, system: the placeholder \{mood\} is unknown; known are \{task\}, ",
        ),
        (
            "stories: {v: {system: '{response}', user: '{first} {second} {options}'}}",
            r"stories, v, system: the placeholder \{response\} is unknown",
        ),
        (
            "response: {v: {system: s, user: '{response}'}}",
            r"v: the placeholder \{options\} is missing",
        ),
        (
            "response: {v: {system: s, user: '{response!r} {options}'}}",
            "a placeholder is a name in braces and nothing else",
        ),
        ("response: {v: {system: '{', user: u}}", "the braces do not fit"),
        ("response: {v: {system: s}}", "v: system, user are expected, and nothing else"),
        ("response: {v: {system: s, user: 1}}", "v, user: a text is expected, not 1"),
        ("essay: {v: {system: s, user: u}}", "'essay' is no kind of item with prompts"),
        (ANSWERS % "{0: 'no'}", "d, answers: two or more levels with their texts"),
        (
            ANSWERS % "{0: no, 1: yes}",
            "answers, 0: a text is expected, not False. Write words such",
        ),
        (ANSWERS % "{zero: 'no', 1: 'yes'}", "answers: a level is a number, not 'zero'"),
        (ANSWERS % "{1: '1', 1.5: '1.5'}", "answers: '1' is how '1.5' begins"),
        (ANSWERS % "{0: 'no', 1: 'No'}", "answers: 'no' is how 'no' begins"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_prompts("response", own)


def test_a_dimension_without_words_or_with_other_levels_is_refused() -> None:
    prompts = load_prompts("response")
    with pytest.raises(UserError, match="'warmth': nothing says how to ask for it. Add it under"):
        prompts.asked(Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0)))
    with pytest.raises(
        UserError, match="answers are expected for the levels 0, 1, not for 0, 1, 2"
    ):
        prompts.asked(Dimension("explorations", 0, 1, "binary", (0.0, 1.0)))
    with pytest.raises(UserError, match="but the data have the range 0 to 1"):
        prompts.asked(Dimension("empathy", 0, 1, "interval"))
    assert prompts.asked(Dimension("empathy", 1, 4, "interval")).values[1] == 1.5
