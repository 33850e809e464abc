"""Every format in, the same dialogues out; a file that cannot be read is told."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from sample_rows import (
    DIALOGUES,
    GOOD,
    HEADER,
    ROWS,
    objects,
    read,
    refusal,
    write_csv,
    write_jsonl,
    write_mapping,
    write_parquet,
)

from empo.corpora import load_corpus
from empo.records import UserError, sha256

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


# --- rows that cannot be placed ---


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_without_a_dialogue_id_are_left_out_one_by_one(tmp_path: Path, ending: str) -> None:
    lines = [*GOOD, *(line.replace("hit:0_conv:1,", " ,") for line in GOOD)]
    nameless = sum(line.startswith(" ,") for line in lines)
    path = tmp_path / f"own.{ending}"
    if ending == "csv":
        write_csv(path, lines)
    else:
        rows = [row | {"conv_id": row["conv_id"].strip() or None} for row in objects(lines)]
        (write_jsonl if ending == "jsonl" else write_parquet)(path, rows)
    corpus = load_corpus(path)
    found = [(r.id, r.reason) for r in corpus.rejected if r.reason == "no dialogue id"]
    assert nameless and len(found) == nameless and len({name for name, _ in found}) == nameless
    assert all(name.startswith("line ") for name, _ in found)


@pytest.mark.parametrize("number", ["nan", "inf", "-1e999", "9" * 400])
def test_a_turn_number_that_is_not_finite_is_no_number(tmp_path: Path, number: str) -> None:
    corpus = read(tmp_path, [",".join(["odd", number, *GOOD[0].split(",")[2:]])])
    assert corpus.rejected[-1].reason == "turn number is no number"


def test_a_parquet_file_with_text_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, objects(GOOD))
    content = path.read_bytes()
    word = next(row["utterance"] for row in objects(GOOD) if len(row["utterance"]) > 5).encode()
    assert word in content
    path.write_bytes(content.replace(word, b"\xff" * len(word)))
    with pytest.raises(UserError, match=r"x\.parquet: .*UTF-8; write the table anew"):
        load_corpus(path)
