"""WASSA 2024: turns with their history, dialogues seen by one person, essays; articles; labels that miss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from empo.corpora.articles import read_articles
from empo.corpora.examples import load_labelled
from empo.corpora.wassa import (
    read_wassa_dialogues,
    read_wassa_essays,
    read_wassa_turns,
)
from empo.dialogues import Turn
from empo.records import UserError

WriteCsv = Callable[..., Path]
PERCEIVED = "this_persons_perceived_empathy_of_other_person"
TURN_COLUMNS = ["id", "article_id", "conversation_id", "turn_id", "speaker", "text"]
TURN_COLUMNS += ["person_id_1", "person_id_2", "Emotion", "EmotionalPolarity", "Empathy"]
TURN_COLUMNS += ["SelfDisclosure"]


def turn(number: int, speaker: int, text: str, *labels: object, dialogue: int = 1) -> list[object]:
    labels = labels or (1, 2, 3, 1.3333)
    start = [number, 7, dialogue, number, f"Person {speaker}", text, "p1", "p2"]
    return [*start, *labels]


@pytest.fixture
def track_2(write_csv: WriteCsv) -> Path:
    rows = [turn(10, 1, "third"), turn(0, 1, "first"), turn(2, 2, "second", 0.5, 1, 2, "NULL")]
    return write_csv("trac2_CONVT_train.csv", [TURN_COLUMNS, *rows])


def test_a_turn_has_its_history_seen_from_its_own_speaker(track_2: Path) -> None:
    corpus = load_labelled(track_2)
    assert corpus.schema == "wassa_turns"
    assert [e.input.response for e in corpus.examples] == ["first", "second", "third"]
    assert corpus.examples[1].input.context == (Turn("user", "first"),)
    assert corpus.examples[2].input.context == (
        Turn("assistant", "first"),
        Turn("user", "second"),
    )
    assert len({e.group for e in corpus.examples}) == 1
    assert corpus.examples[1].labels == {"emotion_intensity": 0.5, "polarity": 1.0, "empathy": 2.0}
    assert corpus.counts["emotion_intensity: different labels"] == 2
    assert corpus.counts["self_disclosure: no value"] == 1
    single = read_wassa_turns(track_2, before=0)
    assert {e.input.context for e in single.examples} == {()}


def test_a_row_that_misses_a_label_is_dropped_or_kept_with_the_others(write_csv: WriteCsv) -> None:
    rows = [turn(0, 1, "a"), turn(1, 2, "b", "NULL", 2, 3, 1), turn(2, 1, "c", 9, 2, 3, 1)]
    rows.append(turn(3, 2, "d", "", "", "", 1))
    path = write_csv("turns.csv", [TURN_COLUMNS, *rows])
    dropped = read_wassa_turns(path)
    assert [e.input.response for e in dropped.examples] == ["a"]
    assert [r.reason for r in dropped.rejected] == [
        "no emotion_intensity",
        "no emotion_intensity",
        "no emotion_intensity, empathy, polarity",
    ]
    assert dropped.counts["emotion_intensity: outside 0 to 5, taken as missing"] == 1
    assert dropped.counts["rows that miss a label of the task"] == 3
    kept = read_wassa_turns(path, incomplete="keep")
    assert [e.input.response for e in kept.examples] == ["a", "b", "c"]
    assert set(kept.examples[1].labels) == {"empathy", "polarity", "self_disclosure"}
    with pytest.raises(UserError, match="incomplete='some': rows that miss a label: drop or keep"):
        read_wassa_turns(path, incomplete="some")


def test_a_person_of_a_dialogue_judges_the_other_one(track_2: Path, write_csv: WriteCsv) -> None:
    columns = ["id", "conversation_id", "article_id", "person_id_1", PERCEIVED]
    rows = [[1, 1, 7, "p2", 6], [2, 1, 7, "p1", 3], [3, 5, 7, "p1", 3], [4, 1, 7, "p9", 2]]
    path = write_csv("trac1_CONVD_train.csv", [columns, *rows])
    corpus = load_labelled(path)
    seen_by_2, seen_by_1 = corpus.examples
    assert seen_by_2.labels == {"perceived_empathy": 6.0}
    assert seen_by_2.input.response == "first\nthird"
    assert [t.role for t in seen_by_2.input.turns] == ["assistant", "user", "assistant"]
    assert seen_by_1.input.response == "second"
    assert seen_by_1.group == seen_by_2.group == read_wassa_turns(track_2).examples[0].group
    assert [r.reason for r in corpus.rejected] == [
        "no turn of the dialogue in trac2_CONVT_train.csv",
        "the dialogue lacks one of its two persons",
    ]
    track_2.unlink()
    with pytest.raises(UserError, match="track 1 has no turns; they stand in the file of track 2"):
        read_wassa_dialogues(path)


ESSAY_COLUMNS = ["conversation_id", "article_id", "person_id", "person_essay"]
ESSAY_COLUMNS += ["person_empathy", "person_distress"]


def test_essays_of_a_conversation_and_equal_essays_are_one_group(write_csv: WriteCsv) -> None:
    rows = [[1, 7, "a", "one", 1, 2], [1, 7, "b", "two", 3, 4], [2, 7, "b", "two", 3, 4]]
    rows += [[2, 7, "c", "three", 5, 5], [3, 7, "d", "four", 5, 5]]
    corpus = load_labelled(write_csv("essays.csv", [ESSAY_COLUMNS, *rows]))
    groups = [e.group for e in corpus.examples]
    assert len(set(groups[:4])) == 1 and groups[4] != groups[0]
    assert corpus.counts["repeated essays"] == 1
    assert corpus.counts["examples without an article"] == 5
    assert [(d.name, d.low, d.high, d.kind) for d in corpus.dimensions] == [
        ("empathy", 1.0, 7.0, "interval"),
        ("distress", 1.0, 7.0, "interval"),
    ]


def test_a_backslash_escapes_a_quote(tmp_path: Path) -> None:
    path = tmp_path / "essays.csv"
    head = ",".join(ESSAY_COLUMNS)
    path.write_text(f'{head}\n1,7,a,"He said \\"no, never\\" to me",1,2\n', encoding="utf-8")
    (example,) = read_wassa_essays(path).examples
    assert example.input.response == 'He said "no, never" to me'


def test_articles_become_the_background(write_csv: WriteCsv, track_2: Path) -> None:
    columns = ["article_id", "text", "title", "object"]
    path = write_csv("articles.csv", [columns, [7, "It rained.", "Rain", ""], [8, "Dry.", "", ""]])
    assert read_articles(path) == {"7": "Title: Rain\nIt rained.", "8": "Dry."}
    corpus = read_wassa_turns(track_2, articles=path)
    assert {e.input.background for e in corpus.examples} == {"Title: Rain\nIt rained."}
    assert "examples without an article" not in corpus.counts
    assert [f["file"] for f in corpus.files] == ["trac2_CONVT_train.csv", "articles.csv"]
    other = write_csv("other.csv", [["article_id", "text"], [8, "Dry."]])
    with pytest.raises(UserError) as error:
        read_wassa_turns(track_2, articles=other)
    assert str(error.value) == (
        f"{track_2}, line 3, field 'article_id': '7' is not in {other}, which has 1 articles. Give "
        "the file of this corpus, or none."
    )


def test_an_article_that_stands_there_twice_is_refused(write_csv: WriteCsv) -> None:
    path = write_csv("articles.csv", [["article_id", "text"], [7, "a"], [7, "b"]])
    with pytest.raises(UserError, match="line 3, field 'article_id': '7' stands there twice"):
        read_articles(path)


def test_a_turn_that_stands_there_twice_is_refused(write_csv: WriteCsv) -> None:
    path = write_csv("turns.csv", [TURN_COLUMNS, turn(1, 1, "a"), turn(1, 2, "b")])
    with pytest.raises(UserError, match=r"line 3, field 'turn_id': '1' stands on line 2 already\."):
        read_wassa_turns(path)


def test_the_real_tracks(real: Path) -> None:
    folder = real / "wassa" / "2024"
    turns = read_wassa_turns(folder / "trac2_CONVT_train.csv")
    assert (len(turns.examples), turns.facts()["groups"], turns.rows) == (11_165, 487, 11_166)
    essays = read_wassa_essays(folder / "trac3_EMP_train.csv")
    assert (len(essays.examples), essays.facts()["groups"]) == (1_000, 499)
    dialogues = read_wassa_dialogues(folder / "trac1_CONVD_train.csv")
    assert (len(dialogues.examples), len(dialogues.rejected)) == (972, 28)
    assert turns.counts["empathy: different labels"] == 16
