"""ESConv: neighbours merged before windows are cut, strategies as yes and no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from empo.corpora.esconv import STAGES, STRATEGIES, read_esconv
from empo.dialogues import Turn
from empo.records import UserError


def usr(text: str) -> dict[str, str]:
    return {"text": text, "speaker": "usr"}


def sys_(text: str, strategy: str) -> dict[str, str]:
    return {"text": text, "speaker": "sys", "strategy": strategy}


DIALOG = [
    sys_("Hello.", "Others"),
    usr("Hi."),
    usr("I failed. "),
    sys_("That hurts.", "Reflection of feelings"),
    sys_("What happened?", "Question"),
    sys_("Well.", "Others"),
    usr("I was late."),
    sys_("Set two alarms.", "Providing Suggestions"),
    sys_("Bye.", "Others"),
    usr("Thanks."),
]


def write(path: Path, *dialogs: Any) -> Path:
    path.write_text("".join(json.dumps({"dialog": dialog}) + "\n" for dialog in dialogs))
    return path


def test_neighbours_are_merged_before_the_window_is_cut(tmp_path: Path) -> None:
    corpus = read_esconv(write(tmp_path / "own.jsonl", DIALOG), before=1, after=2)
    first, second, third = corpus.examples
    assert [example.id for example in corpus.examples] == ["own:1:1", "own:1:3", "own:1:5"]
    (group,) = {example.group for example in corpus.examples}
    moved = read_esconv(write(tmp_path / "test.jsonl", [usr("Hi."), sys_("So.", "Others")], DIALOG))
    assert [example.group == group for example in moved.examples] == [False, True, True, True]
    assert first.input.context == ()
    assert second.input.context == (Turn("user", "Hi. I failed."),)
    assert second.input.response == "That hurts. What happened? Well."
    assert second.input.following == (
        Turn("user", "I was late."),
        Turn("assistant", "Set two alarms. Bye."),
    )
    assert third.input.following == (Turn("user", "Thanks."),)
    assert corpus.rows == 1
    assert corpus.counts == {
        "turns before merging": 10,
        "turns merged into the one before": 4,
        "supporter turns with several strategies": 1,
        "supporter turns with Others alone, no to all": 1,
    }


def test_strategies_are_seven_yes_or_no_dimensions(tmp_path: Path) -> None:
    corpus = read_esconv(write(tmp_path / "own.jsonl", DIALOG))
    assert [d.name for d in corpus.dimensions] == [
        "question",
        "restatement_or_paraphrasing",
        "reflection_of_feelings",
        "self_disclosure",
        "affirmation_and_reassurance",
        "providing_suggestions",
        "information",
    ]
    assert {(d.low, d.high, d.kind, d.levels) for d in corpus.dimensions} == {
        (0.0, 1.0, "binary", (0.0, 1.0))
    }
    yes = [{name for name, v in example.labels.items() if v} for example in corpus.examples]
    assert yes == [set(), {"question", "reflection_of_feelings"}, {"providing_suggestions"}]
    assert all(len(example.labels) == 7 for example in corpus.examples)


def test_stages_are_derived_on_request(tmp_path: Path) -> None:
    assert sorted(name for members in STAGES.values() for name in members) == sorted(
        STRATEGIES.values()
    )
    corpus = read_esconv(write(tmp_path / "own.jsonl", DIALOG), stages=True)
    assert corpus.derived == ("stage_exploration", "stage_comforting", "stage_action")
    found = [[example.labels[stage] for stage in STAGES] for example in corpus.examples]
    assert found == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_a_folder_gives_one_split_or_all(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "test"), start=1):
        write(tmp_path / f"{split}.jsonl", *[DIALOG] * number)
    assert read_esconv(tmp_path).rows == 6
    valid = read_esconv(tmp_path, "valid")
    assert [example.id for example in valid.examples[::3]] == ["valid:1:1", "valid:2:1"]
    with pytest.raises(UserError, match="split 'dev': ESConv has train, valid, test."):
        read_esconv(tmp_path, "dev")
    with pytest.raises(UserError, match="this is one file, so there is no split 'test' to choose"):
        read_esconv(tmp_path / "test.jsonl", "test")
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(UserError, match="the folder lacks test.jsonl."):
        read_esconv(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        read_esconv(tmp_path / "nowhere")


def test_unusable_dialogues_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [*DIALOG, usr(" ")], [usr("Hi.")], [], DIALOG)
    corpus = read_esconv(path)
    assert [(r.id, r.reason, r.detail) for r in corpus.rejected] == [
        ("own:1", "empty turn", "own.jsonl line 1"),
        ("own:2", "no supporter turn", "own.jsonl line 2"),
        ("own:3", "no supporter turn", "own.jsonl line 3"),
    ]
    assert [example.id for example in corpus.examples] == ["own:4:1", "own:4:3", "own:4:5"]


@pytest.mark.parametrize(
    "dialog, message",
    [
        (
            [usr("Hi."), sys_("Hello.", "Joking")],
            "line 2, turn 2, field 'strategy': 'Joking' is unknown; known are Question, "
            "Restatement or Paraphrasing, Reflection of feelings, Self-disclosure, "
            "Affirmation and Reassurance, Providing Suggestions, Information, Others.",
        ),
        (
            [{"text": "Hi.", "speaker": "sys"}],
            "line 2, turn 1, field 'strategy': None is unknown; known are Question",
        ),
        (
            [{"text": "Hi.", "speaker": "seeker"}],
            "line 2, turn 1, field 'speaker': 'seeker' is neither 'usr' nor 'sys'.",
        ),
        (
            [{"text": 3, "speaker": "usr"}],
            "line 2, turn 1, field 'text': 3 is no text.",
        ),
        (["Hi."], "line 2, field 'dialog': a list of turns is expected."),
        (None, "line 2, field 'dialog': a list of turns is expected."),
    ],
)
def test_a_bad_dialogue_is_refused(tmp_path: Path, dialog: Any, message: str) -> None:
    path = write(tmp_path / "own.jsonl", DIALOG, dialog)
    with pytest.raises(UserError) as error:
        read_esconv(path)
    assert str(error.value).startswith(f"{path}, {message}")


def test_a_negative_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="before=-1: the number of turns in a window is 0 or more"):
        read_esconv(write(tmp_path / "own.jsonl", DIALOG), before=-1)


def test_the_real_corpus(real: Path) -> None:
    corpus = read_esconv(real / "esconv", stages=True)
    assert corpus.rows == corpus.facts()["groups"] == 1_300
    assert corpus.rejected == []
    assert corpus.counts == {
        "turns before merging": 38_365,
        "turns merged into the one before": 7_973,
        "supporter turns with several strategies": 1_560,
        "supporter turns with Others alone, no to all": 2_476,
    }
    assert len(corpus.examples) == len({example.id for example in corpus.examples}) == 15_325
    yes = {name: counts["1"] for name, counts in corpus.facts()["labels"].items()}
    assert yes == {
        "question": 3_684,
        "restatement_or_paraphrasing": 1_070,
        "reflection_of_feelings": 1_413,
        "self_disclosure": 1_650,
        "affirmation_and_reassurance": 2_731,
        "providing_suggestions": 2_797,
        "information": 1_172,
        "stage_exploration": 4_653,
        "stage_comforting": 5_519,
        "stage_action": 3_843,
    }
    sides = {
        tuple(turn.role for turn in example.input.following[:2]) for example in corpus.examples
    }
    assert sides == {(), ("user",), ("user", "assistant")}


def test_a_real_split_has_the_dialogues_of_the_authors(real: Path) -> None:
    assert read_esconv(real / "esconv", "valid").rows == 195
