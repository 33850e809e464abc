"""Readers of corpora: every format in, the same dialogues out, every rejected dialogue with a reason."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from empo.corpora import Corpus, Rejection, load_corpus, published_ids, published_subset
from empo.dialogues import Dialogue, Exchange, Turn
from empo.records import UserError, sha256

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
GOOD = [
    "hit:0_conv:0,1,sad,My cat died.,1,My cat died_comma_ today. ,,",
    "hit:0_conv:0,2,sad,My cat died.,0, I am so sorry.,,",
    "hit:0_conv:0,3,sad,My cat died.,1,Thanks.,,",
    "hit:0_conv:1,1,joyful,I won.,2,I won!,,",
    "hit:0_conv:1,2,joyful,I won.,3,Well done!,,",
]
DIALOGUES = [
    Dialogue(
        "hit:0_conv:0",
        "sad",
        "My cat died.",
        (
            Turn("user", "My cat died, today."),
            Turn("assistant", "I am so sorry."),
            Turn("user", "Thanks."),
        ),
    ),
    Dialogue(
        "hit:0_conv:1",
        "joyful",
        "I won.",
        (Turn("user", "I won!"), Turn("assistant", "Well done!")),
    ),
]


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """The rows as objects, turn numbers as numbers."""
    rows = [dict(zip(HEADER.split(","), line.split(","), strict=True)) for line in lines]
    return [{**row, "utterance_idx": int(row["utterance_idx"])} for row in rows]


def write_csv(path: Path, lines: list[str], header: str = HEADER, end: str = "\n") -> Path:
    path.write_bytes(end.join([header, *lines, ""]).encode())
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(tmp_path: Path, lines: list[str]) -> Corpus:
    """The two good dialogues and these lines after them, which begin on line 7."""
    return load_corpus(write_csv(tmp_path / "train.csv", [*GOOD, *lines]))


def refusal(source: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(source, **options)
    return str(error.value)


# --- sources ---


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_dialogues(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"train.{ending}"
    if ending == "csv":
        write_csv(path, GOOD)
    elif ending == "tsv":
        write_csv(path, [line.replace(",", "\t") for line in GOOD], HEADER.replace(",", "\t"))
    elif ending == "jsonl":
        write_jsonl(path, objects(GOOD))
    else:
        write_parquet(path, objects(GOOD))
    corpus = load_corpus(path)
    assert corpus.dialogues == DIALOGUES
    assert (corpus.rows, corpus.rejected) == (5, [])
    assert corpus.files == [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    ]


@pytest.mark.parametrize(
    "end, before", [("\r\n", b""), ("\n", b"\xef\xbb\xbf"), ("\r\n", b"\xef\xbb\xbf")]
)
@pytest.mark.parametrize("quoted", [False, True])
def test_byte_order_mark_and_carriage_returns_change_nothing(
    tmp_path: Path, end: str, before: bytes, quoted: bool
) -> None:
    path = write_csv(tmp_path / "train.csv", GOOD, end=end)
    mapping = None
    if quoted:  # the other reader of csv files
        mapping = tmp_path / "mapping.yaml"
        mapping.write_text(
            "dialogue_id: conv_id\nturn: utterance_idx\nemotion: context\nsituation: prompt\n"
            "utterance: utterance\nunescape: {_comma_: ','}\n"
        )
    path.write_bytes(before + path.read_bytes())
    assert load_corpus(path, mapping=mapping).dialogues == DIALOGUES


@pytest.mark.parametrize("last", ["", "\n\n"])
def test_a_missing_last_line_end_and_blank_lines_change_nothing(tmp_path: Path, last: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text("\n".join([HEADER, *GOOD]) + last)
    assert load_corpus(path).dialogues == DIALOGUES


def test_line_separators_of_unicode_inside_an_utterance_are_text(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c"
    corpus = read(tmp_path, [f"x,1,sad,p,1,{text},,", "x,2,sad,p,0,ok,,"])
    assert corpus.dialogues[-1].turns[0].text == text


@pytest.mark.parametrize(
    "name, split", [("train", "train"), ("valid", "valid"), ("validation", "valid"),
                    ("dev", "valid"), ("test", "test"), ("mine", "mine")],
)  # fmt: skip
def test_a_folder_holds_one_file_per_split(tmp_path: Path, name: str, split: str) -> None:
    write_csv(tmp_path / "other.csv", GOOD[:3])
    write_csv(tmp_path / f"{name}.csv", GOOD)
    corpus = load_corpus(tmp_path, split)
    assert (corpus.dialogues, corpus.split) == (DIALOGUES, split)


def test_a_folder_without_the_split_names_what_was_looked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", GOOD)
    text = refusal(tmp_path, split="valid")
    assert f"{tmp_path}: the folder holds no split 'valid'; looked for valid.csv, " in text
    assert "validation.parquet" in text and "dev.jsonl" in text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of `datasets` that ends with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("split, file", [("train", "train"), ("valid", "validation")])
def test_a_hub_repository_is_read_by_split(
    tmp_path: Path, cache: None, split: str, file: str
) -> None:
    repository = tmp_path / "owner" / "name"
    for name, lines in {"train": GOOD[:3], "validation": GOOD[:3], file: GOOD}.items():
        write_parquet(repository / "data" / f"{name}-00000-of-00001.parquet", objects(lines))
    corpus = load_corpus(f"hub:{repository}", split)
    assert corpus.dialogues == DIALOGUES
    (identity,) = corpus.files
    assert (identity["hub"], identity["split"]) == (str(repository), file)
    assert identity["fingerprint"]


def test_a_split_that_a_hub_repository_lacks_is_named(tmp_path: Path, cache: None) -> None:
    write_parquet(tmp_path / "corpus" / "data" / "train-00000-of-00001.parquet", objects(GOOD))
    text = refusal(f"hub:{tmp_path / 'corpus'}", split="test")
    assert f"hub:{tmp_path / 'corpus'} [test] cannot be loaded: " in text
    assert "Check the name, the split and the network" in text


# --- mapping files ---

ROWS = """\
dialogue_id: dialog
turn: number
emotion: mood
utterance: text
role: who
role_map: {usr: user, sys: assistant}
label_map: {happy: joyful}
"""
NESTED = """\
dialogue_id: id
turns: dialog
emotion: mood
situation: story
utterance: text
role: who
role_map: {usr: user, sys: assistant}
label_map: {happy: joyful}
"""


def write_mapping(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_mapping_of_rows_reads_a_quoted_csv_with_other_names(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(
        [
            ["who", "text", "mood", "dialog", "number"],
            ["usr", 'I won, "really"!\nYes.', "happy", "d1", 10],
            ["sys", "Well done!", "happy", "d1", 20],
        ]
    )
    (tmp_path / "own.csv").write_text(text.getvalue())
    corpus = load_corpus(tmp_path / "own.csv", mapping=write_mapping(tmp_path, ROWS))
    turns = (Turn("user", 'I won, "really"!\nYes.'), Turn("assistant", "Well done!"))
    assert corpus.dialogues == [Dialogue("d1", "joyful", "", turns)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_mapping_of_nested_turns_reads_one_dialogue_per_row(tmp_path: Path, ending: str) -> None:
    rows = [
        {
            "id": number,
            "mood": "happy",
            "story": "I won.",
            "dialog": [{"who": "usr", "text": "I won!"}, {"who": "sys", "text": "Well done!"}],
        }
        for number in (1, 2)
    ]
    write = {"jsonl": write_jsonl, "parquet": write_parquet}[ending]
    corpus = load_corpus(
        write(tmp_path / f"own.{ending}", rows), mapping=write_mapping(tmp_path, NESTED)
    )
    turns = (Turn("user", "I won!"), Turn("assistant", "Well done!"))
    assert corpus.dialogues == [Dialogue(id, "joyful", "I won.", turns) for id in ("1", "2")]
    assert corpus.rows == 2


def test_without_a_role_column_the_place_of_a_nested_turn_gives_the_role(tmp_path: Path) -> None:
    row = {"id": "a", "mood": "sad", "dialog": [{"text": "x"}, {"text": "y"}]}
    mapping = write_mapping(
        tmp_path, "dialogue_id: id\nturns: dialog\nemotion: mood\nutterance: text\n"
    )
    corpus = load_corpus(write_jsonl(tmp_path / "own.jsonl", [row]), mapping=mapping)
    assert [turn.role for turn in corpus.dialogues[0].turns] == ["user", "assistant"]


def nested(**changes: Any) -> list[dict[str, Any]]:
    turns = [{"who": "usr", "text": "I won!"}, {"who": "sys", "text": "Well done!"}]
    row = {"id": "good", "mood": "happy", "story": "s", "dialog": turns}
    return [row, {**row, "id": "bad", **changes}]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"dialog": "text"}, "column 'dialog' is no list of turns"),
        ({"dialog": ["text", "text"]}, "column 'dialog' is no list of turns"),
        ({"dialog": [{"who": "usr", "text": "x"}]}, "fewer than 2 turns"),
        ({"dialog": [{"who": "usr"}, {"who": "sys", "text": "y"}]}, "empty utterance"),
        ({"dialog": [{"who": "bot", "text": "x"}]}, "unknown role 'bot' (see role_map)"),
        ({"mood": "glad"}, "unknown emotion 'glad'"),
        pytest.param(
            {"dialog": []},
            "fewer than 2 turns",
        ),
    ],
)
def test_a_bad_nested_dialogue_is_left_out(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", nested(**changes))
    corpus = load_corpus(path, mapping=write_mapping(tmp_path, NESTED))
    assert [dialogue.id for dialogue in corpus.dialogues] == ["good"]
    assert corpus.rejected == [Rejection("bad", reason, "line 2")]


def test_a_nested_dialogue_id_that_occurs_twice_is_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [*nested(), *nested()[1:]])
    corpus = load_corpus(path, mapping=write_mapping(tmp_path, NESTED))
    assert corpus.rejected == [Rejection("bad", "dialogue id occurs twice", "line 3")]


@pytest.mark.parametrize(
    "text, told",
    [
        (ROWS + "turns: dialog\n", "give either `turn` (one row per turn) or `turns`"),
        (ROWS.replace("turn: number\n", ""), "give either `turn` (one row per turn) or `turns`"),
        (ROWS + "quoting: some\n", "quoting: 'some' does not fit: input should be 'none' or"),
        (ROWS.replace("emotion:", "emotions:"), "emotions: no such setting; did you mean emotion?"),
    ],
)
def test_a_mapping_file_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    path = write_csv(tmp_path / "train.csv", GOOD)
    assert told in refusal(path, mapping=write_mapping(tmp_path, text))


# --- files that cannot be read ---


def test_a_missing_file_is_told() -> None:
    assert refusal("nowhere/train.csv") == (
        "nowhere/train.csv: no such file or folder. Check the path."
    )


def test_an_unknown_ending_is_told(tmp_path: Path) -> None:
    text = refusal(write_csv(tmp_path / "train.xlsx", GOOD))
    assert "cannot tell the format by this ending; known are .csv, .tsv, .parquet, .jsonl." in text


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.csv", b"", "a.csv: the file is empty."),
        ("a.csv", b" \n\n", "a.csv: the file is empty."),
        ("a.jsonl", b"", "a.jsonl: the file is empty."),
        ("a.parquet", b"", "a.parquet: not a parquet file ("),
        ("a.csv", HEADER.encode(), "a.csv: there is a header but no row."),
        ("a.csv", HEADER.encode() + b"\r\n", "a.csv: there is a header but no row."),
        (
            "a.csv",
            "\n".join([HEADER, GOOD[0], "hit:0_conv:0,2,sad,p,0,très,,"]).encode("latin-1"),
            "a.csv, line 3: byte 0xe8 is not UTF-8. Convert the file",
        ),
        ("a.jsonl", b'{"conv_id": 1}\n', "a.jsonl, row 1: the columns context, prompt, "),
        ("a.jsonl", b'{"conv_id": 1\n', "a.jsonl, line 1: not JSON ("),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: a JSON object is expected, not list."),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert told in refusal(tmp_path / name)


def test_a_parquet_table_without_rows_is_told(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(objects(GOOD)).slice(0, 0)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").endswith("a.parquet: the table has no row.")


@pytest.mark.parametrize(
    "header, told",
    [
        (
            HEADER.replace("context", "emotion"),
            "the column context is missing; found: conv_id, utterance_idx, emotion, ",
        ),
        (HEADER.upper(), "the columns conv_id, context, prompt, utterance_idx, utterance are"),
    ],
)
def test_missing_columns_are_named_with_those_found(tmp_path: Path, header: str, told: str) -> None:
    text = refusal(write_csv(tmp_path / "train.csv", GOOD, header))
    assert told in text and text.endswith("give a mapping file (--mapping).")


@pytest.mark.parametrize(
    "quoting, line", [(csv.QUOTE_ALL, 1), (csv.QUOTE_NONNUMERIC, 1), (csv.QUOTE_MINIMAL, 2)]
)
@pytest.mark.parametrize("utterance", ["My cat died, today.", 'He said "no".'])
def test_a_quoted_csv_is_refused_and_never_half_read(
    tmp_path: Path, quoting: int, line: int, utterance: str
) -> None:
    rows = [row.split(",") for row in (HEADER, *GOOD)]
    rows[1][5] = utterance
    text = io.StringIO()
    csv.writer(text, quoting=quoting).writerows(rows)
    (tmp_path / "train.csv").write_text(text.getvalue())
    told = refusal(tmp_path / "train.csv")
    assert f"train.csv, line {line}: this looks like a quoted csv" in told
    assert "Give a mapping file with `quoting: minimal`, or the original file." in told


def test_quotes_that_belong_to_an_utterance_are_text_in_an_unquoted_csv(tmp_path: Path) -> None:
    said = ['"Really?" she asked', 'so "funny"', '"no"', '"']
    lines = [f"q{i},{n},sad,p,1,{text},," for i, text in enumerate(said) for n in (1, 2)]
    corpus = read(tmp_path, lines)
    assert [dialogue.turns[0].text for dialogue in corpus.dialogues[2:]] == said


def test_an_unquoted_csv_read_as_a_quoted_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('who,text,mood,dialog,number\nusr,"Oh" no,happy,d1,1\nsys,y,happy,d1,2\n')
    text = refusal(path, mapping=write_mapping(tmp_path, ROWS))
    assert "not a well-quoted csv (" in text
    assert "say `quoting: none` in the mapping file" in text


def test_wrong_quoting_is_told_with_the_line_it_is_on(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('who,text,mood,dialog,number\nusr,"Oh" no,happy,d1,1\nsys,y,happy,d1,2\n')
    assert "own.csv, line 2: " in refusal(path, mapping=write_mapping(tmp_path, ROWS))


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


def test_the_published_subset_loses_seven_and_cuts_three() -> None:
    lost = [5607, 5624, 19297, 19299, 19303, 19315, 19323]
    cut = [5545, 5546, 5627]
    context = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    exchanges = [
        Exchange(f"hit:{n // 2}_conv:{n}", "sad", context, "d") for n in (1, *lost, *cut, 2)
    ]
    kept = published_subset(exchanges)
    assert [exchange.id.rpartition(":")[2] for exchange in kept] == [
        "1",
        "5545",
        "5546",
        "5627",
        "2",
    ]
    assert [len(exchange.context) for exchange in kept] == [3, 1, 1, 1, 3]
    assert all(exchange.context[-1] == Turn("user", "c") for exchange in kept)
    assert published_ids(["conv:5607", "conv:5608", "x"]) == {"conv:5608", "x"}


# --- the real corpus ---

DATA = os.environ.get("EMPO_DATA")
real = pytest.mark.skipif(
    DATA is None or not (Path(DATA) / "empathetic_dialogues").is_dir(),
    reason="EMPO_DATA is not set to a folder that holds empathetic_dialogues/",
)


@real
@pytest.mark.parametrize(
    "split, dialogues, rejected",
    [
        ("train", 19_531, {"fewer than 2 turns": 2}),
        ("valid", 2_769, {"fewer than 2 turns": 1}),
        ("test", 2_547, {}),
    ],
)
def test_empathetic_dialogues_is_read_whole(
    split: str, dialogues: int, rejected: dict[str, int]
) -> None:
    corpus = load_corpus(Path(DATA) / "empathetic_dialogues", split)
    assert len(corpus.exchanges()) == dialogues
    assert corpus.facts()["rejected"] == rejected


@real
def test_the_published_evaluation_has_2540_exchanges_three_of_them_cut() -> None:
    whole = load_corpus(Path(DATA) / "empathetic_dialogues", "test").exchanges()
    published = published_subset(whole)
    assert len(published) == 2_540
    before = {exchange.id: exchange for exchange in whole}
    cut = [exchange for exchange in published if exchange != before[exchange.id]]
    assert sorted(exchange.id.rpartition(":")[2] for exchange in cut) == ["5545", "5546", "5627"]
    for exchange in cut:
        assert exchange.context == before[exchange.id].context[-1:]
        assert len(before[exchange.id].context) > 1
