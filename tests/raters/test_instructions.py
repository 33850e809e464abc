"""Instructions: what is shipped, what a user adds, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from empo.corpora.epitome import DIMENSIONS
from empo.corpora.esconv import STRATEGIES
from empo.corpora.intents import load_definitions
from empo.raters.instructions import Instruction, load_instructions
from empo.rating import Dimension
from empo.records import UserError

WARMTH = Dimension("warmth", 1.0, 3.0, "ordinal", (1.0, 2.0, 3.0))
OWN = """
template: "{task} ({domain}) {options}"
domain: A chat.
options: {1: cold, 2: mild, 3: warm}
dimensions:
  warmth: {task: "How warm is it?"}
  emotional_reactions: {task: "Any feeling?", options: {0: "no", 1: some, 2: much}, domain: A forum.}
"""


def own(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_every_shipped_corpus_with_tasks_has_its_instructions() -> None:
    names = [*STRATEGIES.values(), *load_definitions().names]
    assert len(names) == 7 + 16 + 4
    yes_no = [Dimension(name, 0.0, 1.0, "binary", (0.0, 1.0)) for name in names]
    found = load_instructions([*DIMENSIONS, *yes_no])
    assert len(found) == 30 and len({asked.text for asked in found.values()}) == 30
    for dimension in (*DIMENSIONS, *yes_no):
        asked = found[dimension.name]
        assert len(asked.options) == len(dimension.levels)
        assert asked.task.endswith("?") and asked.definition.endswith(".")
        assert f"Answers: {', '.join(asked.options)}." in asked.text
    assert found["explorations"].options == ("none", "weak", "strong")
    assert found["question"].options == ("No", "Yes")


def test_a_file_of_ones_own_comes_before_ours(tmp_path: Path) -> None:
    found = load_instructions([WARMTH, *DIMENSIONS], own(tmp_path, OWN))
    assert found["warmth"].text == "How warm is it? (A chat.) cold, mild, warm"
    assert found["emotional_reactions"].text == "Any feeling? (A forum.) no, some, much"
    assert found["explorations"] == load_instructions(DIMENSIONS)["explorations"]
    asked = found["warmth"]
    assert Instruction.from_facts(asked.facts(), "there") == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            OWN.replace("({domain})", "({where})"),
            "the placeholder {where} is unknown; known are {task}",
        ),
        (
            OWN.replace("({domain})", "{domain!r}"),
            "a placeholder is a name in braces and nothing else",
        ),
        (OWN.replace("({domain})", "({domain"), "the braces do not fit"),
        (
            OWN.replace('task: "How warm is it?"', "definition: x"),
            "own.yaml, warmth: the task is missing",
        ),
        (
            OWN.replace(", 3: warm", ""),
            "own.yaml, warmth, options: answers are expected for the levels 1, 2, 3, not for 1, 2.",
        ),
        (OWN.replace("mild", "cold"), "the answers cold, cold, warm must differ, none blank"),
        (OWN.replace('"no"', "no"), "options.0"),
        (OWN.replace("domain: A chat.", "tone: soft"), "tone"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_instructions([WARMTH, *DIMENSIONS], own(tmp_path, text))
    assert said in str(error.value) and "own.yaml" in str(error.value)


def test_a_dimension_without_an_instruction_or_without_levels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no instruction for the dimension 'warmth'.*known are"):
        load_instructions([WARMTH])
    with pytest.raises(
        UserError, match=r"levels \(none: this dimension is an interval\), not for 1"
    ):
        load_instructions([replace(WARMTH, kind="interval", levels=None)], own(tmp_path, OWN))
