"""Templates: ours are whole, a user's own are checked, answers are written and read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from empo.raters.level_table import LevelTable
from empo.raters.scoring_templates import (
    ITEMS,
    comparison,
    explained,
    load_templates,
    read_comparison,
    read_explained,
)
from empo.records import UserError

TABLE = LevelTable.of("empathy", range(12))


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_has_its_families(item: str) -> None:
    families = (
        {"standard", "explained"} if item == "stories" else {"standard", "role_play", "contrastive"}
    )
    assert set(load_templates(item).texts) == families


def test_a_file_replaces_single_templates(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("turn:\n  standard: '{text} {label}?'\n")
    own = load_templates("turn", path)
    assert own.of("standard") == "{text} {label}?"
    assert own.of("contrastive") == load_templates("turn").of("contrastive")
    with pytest.raises(UserError, match="explained has no template for the item 'turn'; it has: "):
        own.of("explained")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("turn:\n  standard: '{artcle} {label}'\n", ", turn, standard: the placeholder {artcle} is unknown; known are {context}, {text}, {first}, {second}, {label}, {lowest}, {highest}."),
        ("turn:\n  role_play: '{label}'\n", ", turn, role_play: the placeholder {label} is unknown; known are {context}, {scores}."),
        ("turn:\n  standard: '{text}'\n", ", turn, standard: the placeholder {label} is missing."),
        ("turn:\n  contrastive: '{first} {label}'\n", ", turn, contrastive: the placeholder {second} is missing."),
        ("turn:\n  standard: '{label'\n", ", turn, standard: the braces do not fit (expected '}' before end of string). A brace is written as {{."),
        ("turn:\n  standard: '{label:>5}'\n", ", turn, standard: a placeholder is a name in braces and nothing else."),
        ("turn:\n  usual: '{label}'\n", ", turn, usual: no such family; known are standard, explained, role_play, contrastive."),
        ("turn:\n  standard: 5\n", ", turn, standard: a text is expected, not 5."),
        ("tern:\n  standard: '{label}'\n", ": 'tern' is no kind of item with templates; known are turn, dialogue, essay, response, stories."),
    ],
)  # fmt: skip
def test_a_wrong_template_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_templates("essay", path)
    assert str(error.value) == f"{path}{message}"


def test_a_comparison_says_the_phrase_first_then_both_levels() -> None:
    assert comparison(7, 3, TABLE) == "higher than: 07 and 03"
    assert comparison(3, 11, TABLE) == "lower than: 03 and 11"
    assert comparison(0, 0, TABLE) == "equal to: 00 and 00"


@pytest.mark.parametrize("first", [0, 5, 11])
@pytest.mark.parametrize("second", [0, 5, 11])
def test_a_comparison_is_read_back(first: int, second: int) -> None:
    assert read_comparison(f" {comparison(first, second, TABLE)}\n", TABLE) == (first, second)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "07 and 03",
        "higher than: 7 and 3",
        "higher than: 07 and 12",
        "higher than: 07 and 03.",
        "higher than: 03 and 07",  # contradicts itself
        "higher than: 07 and 07",
        "equal to: 07 and 03",
        "Higher than: 07 and 03",
        "higher than: 07 and 03 and 04",
        "higher than: 07 or 03",
    ],
)
def test_an_answer_outside_the_allowed_ones_is_none(answer: str) -> None:
    assert read_comparison(answer, TABLE) is None


def test_an_explanation_ends_in_its_score() -> None:
    table = LevelTable.of("event", [1, 1.5, 4], as_values=True)
    answer = explained("Both lost a friend. ", 1, table)
    assert answer == "Both lost a friend.\nScore: 1.5"
    assert read_explained(answer, table) == 1
    for wrong in ("Score: 2.0", "Both. Score: 1.5", "a\nscore: 1.5", "a\nScore: 1.5\nb", "1.5", ""):
        assert read_explained(wrong, table) is None, wrong
