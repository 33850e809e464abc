"""Dialogues and exchanges of a corpus; every rejected dialogue has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_rows import (
    DIALOGUES,
    GOOD,
    ROWS,
    read,
    refusal,
    write_csv,
    write_mapping,
)

from empo.corpora import Rejection, load_corpus
from empo.dialogues import Exchange, Turn

# --- dialogues that are left out ---

BAD = {
    "unknown emotion": (["b,1,glad,p,1,x,,", "b,2,glad,p,0,y,,"], "unknown emotion 'glad'"),
    "one turn": (["b,1,sad,p,1,x,,"], "fewer than 2 turns"),
    "empty utterance": (["b,1,sad,p,1,x,,", "b,2,sad,p,0,,,"], "empty utterance"),
    "blank utterance": (["b,1,sad,p,1,x,,", "b,2,sad,p,0, \t ,,"], "empty utterance"),
    "raw row id": (
        ["b,1,sad,p,1,x,,", "b,2,sad,p,0,yes hit:123_conv:246 2 sad,,"],
        "utterance contains a raw row id",
    ),
    "same role twice": (
        ["b,1,sad,p,1,x,,", "b,3,sad,p,1,y,,"],
        "roles do not alternate, beginning with the speaker",
    ),
    "listener begins": (
        ["b,2,sad,p,0,x,,", "b,3,sad,p,1,y,,"],
        "roles do not alternate, beginning with the speaker",
    ),
    "turn twice": (
        ["b,1,sad,p,1,x,,", "b,2,sad,p,0,y,,", "b,2,sad,p,0,z,,"],
        "roles do not alternate, beginning with the speaker",
    ),
    "no turn number": (["b,1,sad,p,1,x,,", "b,two,sad,p,0,y,,"], "turn number is no number"),
    "two emotions": (["b,1,sad,p,1,x,,", "b,2,joyful,p,0,y,,"], "several emotion labels"),
    "too many fields": (
        ["b,1,sad,p,1,x, well,,", "b,2,sad,p,0,y,,"],
        "row with 9 fields instead of 8",
    ),
    "too few fields": (["b,1,sad,p,1,x,,", "b,2,sad"], "row with 3 fields instead of 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_dialogue_is_left_out_with_reason_id_and_lines(tmp_path: Path, name: str) -> None:
    lines, reason = BAD[name]
    corpus = read(tmp_path, lines)
    where = "line 7" if len(lines) == 1 else f"lines 7-{6 + len(lines)}"
    assert corpus.dialogues == DIALOGUES
    assert corpus.rejected == [Rejection("b", reason, where)]
    assert corpus.rows == 5 + len(lines)
    facts = corpus.facts()
    assert facts["rejected"] == {reason: 1}
    assert facts["rejected_dialogues"] == [{"id": "b", "reason": reason, "detail": where}]
    assert f"1 x {reason}: b ({where})" in corpus.summary()


@pytest.mark.parametrize("name", BAD)
def test_a_corpus_of_bad_dialogues_only_is_refused_with_the_reasons(
    tmp_path: Path, name: str
) -> None:
    lines, reason = BAD[name]
    text = refusal(write_csv(tmp_path / "train.csv", lines))
    assert "train.csv: no usable dialogue." in text
    assert f"0 dialogues used, 1 left out\n  1 x {reason}: b (line" in text
    assert ("Map the labels with `label_map`" in text) is (name == "unknown emotion")


def test_rejections_are_counted_by_reason_over_the_whole_file(tmp_path: Path) -> None:
    lines = [f"s{i},1,sad,p,1,x,," for i in range(7)] + ["u,1,glad,p,1,x,,", "u,2,glad,p,0,y,,"]
    corpus = read(tmp_path, lines)
    assert corpus.facts()["rejected"] == {"fewer than 2 turns": 7, "unknown emotion 'glad'": 1}
    assert "14 rows, 2 dialogues used, 8 left out" in corpus.summary()
    assert (
        "7 x fewer than 2 turns: s0 (line 7), s1 (line 8), s2 (line 9), s3 (line 10), s4 (line 11)"
        ", and 2 more" in corpus.summary()
    )


def test_a_row_with_too_many_fields_is_told_for_an_id_with_blanks(tmp_path: Path) -> None:
    corpus = read(tmp_path, [" b,1,sad,p,1,x, well,,", " b,2,sad,p,0,y,,"])
    assert corpus.rejected == [Rejection("b", "row with 9 fields instead of 8", "lines 7-8")]


def test_a_short_row_of_a_quoted_csv_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "dialog,number,mood,text,who\na,1,sad,x,usr\na,2,sad\nb,1,sad,x,usr\nb,2,sad,y,sys\n"
    )
    corpus = load_corpus(path, mapping=write_mapping(tmp_path, ROWS))
    assert [dialogue.id for dialogue in corpus.dialogues] == ["b"]
    assert corpus.rejected == [Rejection("a", "row with 3 fields instead of 5", "lines 2-3")]


def test_own_labels_are_allowed_in_place_of_the_32(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", [*GOOD, *BAD["unknown emotion"][0]])
    corpus = load_corpus(path, labels={"sad", "glad"})
    assert [dialogue.emotion for dialogue in corpus.dialogues] == ["sad", "glad"]
    assert [r.reason for r in corpus.rejected] == ["unknown emotion 'joyful'"]


@pytest.mark.parametrize("limit, used, beyond", [(1, 1, 1), (2, 2, 0), (9, 2, 0)])
def test_a_limit_keeps_the_first_good_dialogues_and_counts_the_others(
    tmp_path: Path, limit: int, used: int, beyond: int
) -> None:
    lines, reason = BAD["one turn"]
    path = write_csv(tmp_path / "train.csv", [*lines, *GOOD])
    corpus = load_corpus(path, limit=limit)
    assert corpus.dialogues == DIALOGUES[:used]
    assert corpus.facts()["beyond_limit"] == beyond
    assert corpus.facts()["rejected"] == {reason: 1}
    assert ("1 beyond the limit" in corpus.summary()) is (beyond == 1)


# --- roles and exchanges ---


def test_roles_come_from_the_turn_number_and_not_from_the_place_of_the_row(tmp_path: Path) -> None:
    mixed = [GOOD[4], GOOD[2], GOOD[1], GOOD[3], GOOD[0]]
    corpus = load_corpus(write_csv(tmp_path / "train.csv", mixed))
    assert sorted(corpus.dialogues, key=lambda dialogue: dialogue.id) == DIALOGUES


def test_turns_are_ordered_by_number_and_not_as_text(tmp_path: Path) -> None:
    lines = [f"long,{n},sad,p,1,turn {n},," for n in sorted(range(1, 13), key=str)]
    turns = read(tmp_path, lines).dialogues[-1].turns
    assert [turn.text for turn in turns] == [f"turn {n}" for n in range(1, 13)]


def test_the_exchange_is_the_last_listener_turn_and_what_stands_before_it(tmp_path: Path) -> None:
    assert read(tmp_path, []).exchanges() == [
        Exchange("hit:0_conv:0", "sad", (Turn("user", "My cat died, today."),), "I am so sorry."),
        Exchange("hit:0_conv:1", "joyful", (Turn("user", "I won!"),), "Well done!"),
    ]
