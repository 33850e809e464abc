"""Explanations told the gold score: what is asked, what a stop costs, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from empo.corpora.labelled import Example
from empo.raters.explanations import explanation_messages, read_explanations, write_explanations
from empo.rating import RatingInput
from empo.records import UserError

EXAMPLES = [
    Example(f"p{i}", "g", RatingInput(f"story {i}", f"tale {i}"), {"event": 1.0 + i, "moral": 2.0})
    for i in range(3)
]
LABELS = {"event": (1.0, 4.0)}
MODEL = {"name": "tiny", "max_new_tokens": 8}


class Chat:
    """Replies with the gold score that it was told; stops after so many calls."""

    def __init__(self, calls: int = 99, blank: str = "") -> None:
        self.calls, self.blank = calls, blank

    def __call__(self, conversations: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        asked = [messages[-1]["content"] for messages in conversations]
        return [
            ""
            if self.blank and self.blank in text
            else f"Because\nof {text.split('much): ')[1][0]}."
            for text in asked
        ]


def test_the_model_is_told_both_stories_the_label_and_the_gold_score() -> None:
    ((message),) = explanation_messages(EXAMPLES[1], "event", 1.0, 4.0)
    assert message["role"] == "user"
    for part in ("Story A: story 1", "Story B: tale 1", "in event, from 1 ", "(very much): 2."):
        assert part in message["content"]
    for point in ("themes", "emotional content", "characters", "narrative structure", "overall"):
        assert point in message["content"]


def test_explanations_are_written_with_what_they_were_made_from(tmp_path: Path) -> None:
    path = tmp_path / "own" / "explanations.jsonl"
    counts = write_explanations(EXAMPLES, LABELS, Chat(), MODEL, path)
    assert counts == {"there": 0, "asked": 3, "written": 3, "blank": 0}
    line = json.loads(path.read_text().splitlines()[2])
    assert (line["id"], line["label"], line["gold"]) == ("p2", "event", 3.0)
    assert line["explanation"] == "Because of 3." and line["model"] == MODEL
    assert len(line["prompt"]) == 12 and line["created"]
    assert read_explanations(path)["p0", "event"] == "Because of 1."


def test_a_stop_costs_one_batch_and_a_cut_line_is_written_again(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_explanations(EXAMPLES, LABELS, Chat(), MODEL, whole, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        write_explanations(EXAMPLES, LABELS, Chat(calls=2), MODEL, path, batch_size=1)
    path.write_bytes(path.read_bytes()[:-20])  # in the middle of the second line
    counts = write_explanations(EXAMPLES, LABELS, Chat(), MODEL, path, batch_size=1)
    assert counts == {"there": 1, "asked": 2, "written": 2, "blank": 0}
    assert read_explanations(path) == read_explanations(whole)
    again = write_explanations(EXAMPLES, LABELS, Chat(calls=0), MODEL, path)
    assert again == {"there": 3, "asked": 0, "written": 0, "blank": 0}


def test_a_blank_reply_is_counted_and_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    counts = write_explanations(EXAMPLES, LABELS, Chat(blank="story 1"), MODEL, path)
    assert counts == {"there": 0, "asked": 3, "written": 2, "blank": 1}
    assert write_explanations(EXAMPLES, LABELS, Chat(), MODEL, path)["asked"] == 1


def test_explanations_of_another_model_or_score_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_explanations(EXAMPLES, LABELS, Chat(), MODEL, path)
    with pytest.raises(UserError, match="of event for 'p0' has model {'name': 'tiny'"):
        write_explanations(EXAMPLES, LABELS, Chat(), {"name": "other"}, path)
    changed = [Example("p0", "g", EXAMPLES[0].input, {"event": 4.0})]
    with pytest.raises(UserError, match="is of the score 1, but the data say 4"):
        write_explanations(changed, LABELS, Chat(), MODEL, path)
    summary = [Example("p0", "g", RatingInput("story 0", "short"), EXAMPLES[0].labels)]
    for other, labels in ((summary, LABELS), (EXAMPLES, {"event": (0.0, 4.0)})):
        with pytest.raises(UserError) as error:
            write_explanations(other, labels, Chat(calls=0), MODEL, path)
        assert str(error.value) == (
            f"{path}: the explanation of event for 'p0' is of other stories, or another range of the "
            "score. Give the data and the text (--text) that it was made from, or choose another file."
        )
    path.write_text('{"id": "p0"}\n')
    with pytest.raises(UserError, match="line 1, field 'label': missing"):
        read_explanations(path)
