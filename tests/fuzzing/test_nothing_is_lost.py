"""Rows that were written are read or counted with a reason, and what we write reads back the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from language_model_readers import ARTICLE_ROWS, DIALOGUE_ROWS, ESSAY_ROWS, TURN_ROWS, WRITTEN
from light_readers import ED, parquet
from test_readers import INPUTS, put

from empo.corpora import Corpus, load_corpus
from empo.corpora.articles import read_articles
from empo.corpora.csv_rows import read_csv
from empo.corpora.esconv import STRATEGIES, read_esconv
from empo.corpora.examples import read_examples
from empo.corpora.labelled import Example, LabelledCorpus
from empo.corpora.levels import read_levels
from empo.corpora.wassa import read_wassa_dialogues, read_wassa_essays, read_wassa_turns
from empo.rate import read_pairs
from empo.raters.explanations import read_explanations, write_explanations
from empo.raters.judgements import read_tidy
from empo.raters.synthetic_pairs import parse_pairs
from empo.rating import RatingInput
from empo.records import (
    UserError,
    read_json,
    read_jsonl,
    read_responses,
    write_json,
    write_jsonl,
)
from empo.settings import load_yaml

pytestmark = pytest.mark.slow

fuzzed = budget(
    max_examples=INPUTS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)

# every character but the halves of pairs, often those at which lines or fields could break
ODD = st.sampled_from("\0\t\n\x0b\x0c\r\x1c\x85\u2028\u2029\ufeff\"',;\\ ")
CHARACTERS = st.one_of(ODD, st.characters(exclude_categories=["Cs"]), st.sampled_from("ab"))
TEXT = st.text(CHARACTERS, max_size=6)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**18), 10**18), TEXT,
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, VALUES, min_size=1, max_size=3)


@fuzzed
@given(VALUES)
def test_json_reads_back_as_it_was_written(tmp_path_factory: Any, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "a.json"
    write_json(path, value)
    assert read_json(path) == value


@fuzzed
@given(st.lists(OBJECTS, min_size=1, max_size=4))
def test_json_lines_read_back_as_they_were_written(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "a.jsonl"
    assert write_jsonl(path, rows) == len(rows)
    assert list(read_jsonl(path)) == list(enumerate(rows, start=1))


@fuzzed
@given(OBJECTS)
def test_json_is_yaml(tmp_path_factory: Any, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "a.yaml"
    put(path, json.dumps(value).encode())
    assert load_yaml(path) == value


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}),
    max_size=2,
).map(lambda messages: [*messages, {"role": "user", "content": "x"}])  # fmt: skip


@fuzzed
@given(st.lists(st.tuples(MESSAGES, TEXT, TEXT), min_size=1, max_size=4))
def test_every_response_is_read(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "responses.jsonl"
    written = [
        {"id": f"{i}", "emotion": text, "context": context, "reference": text, "response": reply,
         "system": text, "note": reply}
        for i, (context, text, reply) in enumerate(rows)
    ]  # fmt: skip
    write_jsonl(path, written)
    assert [response.model_dump() for response in read_responses(path)] == written
    turns = [len([m for m in row["context"] if m["role"] != "system"]) for row in written]
    ids, inputs = read_pairs(path)
    assert ids == [row["id"] for row in written]
    assert [len(found.turns) for found in inputs] == turns


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", ""]),
        st.sampled_from(["1", "2", "3", "4", "x", "nan", "1e400", ""]),
        st.sampled_from(["sad", "joyful", "", "odd"]),
        TEXT,
    ),
    min_size=1,
    max_size=7,
)


def _quoted(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ED)
        writer.writeheader()
        writer.writerows(rows)


def _plain(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [ED, *([row[name].replace(",", "_comma_") for name in ED] for row in rows)]
    put(path, "".join(",".join(line) + "\n" for line in lines).encode())


def _parquet(path: Path, rows: list[dict[str, str]]) -> None:
    put(path, parquet(rows))


KINDS: dict[str, tuple[str, Callable[[Path, list[dict[str, str]]], Any], str]] = {
    "unquoted": ("a.csv", _plain, "none"),
    "quoted": ("a.csv", _quoted, "minimal"),
    "JSON lines": ("a.jsonl", write_jsonl, "none"),
    "parquet": ("a.parquet", _parquet, "none"),
}


@pytest.mark.parametrize("kind", KINDS)
@fuzzed
@given(TURNS)
def test_every_turn_is_in_a_dialogue_or_a_rejected_one(
    tmp_path_factory: Any, kind: str, rows: list[tuple[str, str, str, str]]
) -> None:
    name, write, quoting = KINDS[kind]
    folder = tmp_path_factory.getbasetemp()
    mapping = folder / "mapping.yaml"
    names = {"dialogue_id": "conv_id", "turn": "utterance_idx", "emotion": "context"}
    put(mapping, json.dumps(names | {"utterance": "utterance", "quoting": quoting}).encode())
    written = [
        dict.fromkeys(ED, "") | {"conv_id": of, "utterance_idx": turn, "context": mood, "utterance": text}
        for of, turn, mood, text in rows
    ]  # fmt: skip
    if kind == "unquoted":  # a line ends where it ends there, and quotes are refused
        for row in written:
            row["utterance"] = "".join(c for c in row["utterance"] if c not in '\n\r"')
    good = [
        {"conv_id": "good", "utterance_idx": str(i), "context": "sad", "utterance": f"turn {i}"}
        for i in (1, 2)
    ]  # fmt: skip
    written += [dict.fromkeys(ED, "") | row for row in good]
    write(folder / name, written)
    corpus: Corpus = load_corpus(folder / name, mapping=mapping)
    assert corpus.rows == len(written)
    used = sum(len(dialogue.turns) for dialogue in corpus.dialogues)
    by_id: dict[str, int] = {}
    for row in written:
        by_id[row["conv_id"]] = by_id.get(row["conv_id"], 0) + 1
    without = by_id.pop("", 0)  # each is rejected under its line
    rejected = {rejection.id: by_id.get(rejection.id, 1) for rejection in corpus.rejected}
    assert len(rejected) == len(corpus.rejected)
    assert used + sum(rejected.values()) == len(written)
    assert without == sum("line" in name or "row" in name for name in rejected)
    assert len(corpus.dialogues) + len(corpus.rejected) == len(by_id) + without


@fuzzed
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_every_row_of_a_csv_is_read_as_it_was_written(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *rows])
    found = read_csv(path, ("a", "b"))
    assert [(row.fields["a"], row.fields["b"]) for row in found] == rows


@fuzzed
@given(st.lists(st.tuples(TEXT, st.booleans()), min_size=1, max_size=4))
def test_every_judged_example_is_read_or_rejected(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "examples.jsonl"
    write_jsonl(
        path,
        (
            {"id": f"{i}", "context": text, "response": text, "labels": {"warm": i % 2} if labelled else {}}
            for i, (text, labelled) in enumerate([*rows, ("x", True), ("y", True)])
        ),
    )  # fmt: skip
    try:
        corpus = read_examples(path)
    except UserError as error:
        assert "every label in 'warm' is" in str(error)
        return
    assert len(corpus.examples) + len(corpus.rejected) == corpus.rows == len(rows) + 2
    kept = {example.id: example.input.response for example in corpus.examples}
    assert all(kept[f"{i}"] == text for i, (text, _) in enumerate(rows) if f"{i}" in kept)


@fuzzed
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_every_levelled_reply_is_read_or_rejected(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "levels.csv"
    header = ["reply", "emotion", "emotional_reaction", "interpretation", "exploration"]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *([text, "sad", 0, 1, 2] for text in rows)])
    corpus = read_levels(path)
    assert len(corpus.examples) + len(corpus.rejected) == corpus.rows == len(rows)
    assert len(corpus.rejected) == sum(not text.strip() for text in rows)


ESC_TURN = st.one_of(
    st.builds(lambda text: {"speaker": "usr", "text": text}, TEXT),
    st.builds(
        lambda text, of: {"speaker": "sys", "text": text, "strategy": of},
        TEXT,
        st.sampled_from([*STRATEGIES, "Others"]),
    ),
)


@fuzzed
@given(st.lists(st.lists(ESC_TURN, max_size=5), min_size=1, max_size=3))
def test_every_supporter_turn_is_an_example_or_rejected(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "esconv.jsonl"
    write_jsonl(path, ({"dialog": dialog} for dialog in rows))
    corpus = read_esconv(path)
    bad = [
        dialog for dialog in rows
        if not all(turn["text"].strip() for turn in dialog)
        or not any(turn["speaker"] == "sys" for turn in dialog)
    ]  # fmt: skip
    supporters = sum(
        turn["speaker"] == "sys" and (i == 0 or dialog[i - 1]["speaker"] == "usr")
        for dialog in rows if dialog not in bad
        for i, turn in enumerate(dialog)
    )  # fmt: skip
    assert corpus.rows == len(rows) and len(corpus.rejected) == len(bad)
    assert len(corpus.examples) == supporters


@fuzzed
@given(st.lists(st.sampled_from(["1", "2.5", "", "NA", "nan", "-3"]), min_size=1, max_size=6))
def test_every_rating_is_read_or_counted_as_missing(tmp_path_factory: Any, values: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "tidy.csv"
    lines = [f"{i // 2},{'ab'[i % 2]},warmth,{value}" for i, value in enumerate(values)]
    put(path, "\n".join(["item,rater,aspect,value", *lines]).encode())
    given_ = [value for value in values if value not in ("", "NA", "nan")]
    items, raters = (len(values) + 1) // 2, min(len(values), 2)
    summary = read_tidy(path).summary()
    assert f": {len(given_):,} ratings of {items:,} items" in summary
    assert f"cells without a rating: {items * raters - len(given_):,}" in summary


def _escaped(path: Path, rows: list[list[str]]) -> None:
    """A csv as that of the shared task, with backslashes before quotes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, doublequote=False, escapechar="\\").writerows(rows)


LABEL = st.sampled_from(["1", "2.5", "5", "", "NULL", "unknown", "9", "-1"])
SPOKEN = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["1", "2"]), TEXT, LABEL, LABEL),
    min_size=1,
    max_size=6,
)


def _turns(path: Path, rows: list[tuple[str, str, str, str, str]]) -> None:
    """The rows as a file of turns, whose numbers are those of the lines."""
    written = [
        ["7", dialogue, f"{i}", f"Person {speaker}", text, "p1", "p2", first, second, "1", second]
        for i, (dialogue, speaker, text, first, second) in enumerate(rows)
    ]
    _escaped(path, [TURN_ROWS[0], *written])


def _kept(corpus: LabelledCorpus, rows: int) -> dict[str, Example]:
    """The examples by id, where every row is one or rejected, each at a line of its own."""
    assert corpus.rows == rows == len(corpus.examples) + len(corpus.rejected)
    assert len({rejection.detail for rejection in corpus.rejected}) == len(corpus.rejected)
    found = {example.id.partition(":")[2]: example for example in corpus.examples}
    assert len(found) == len(corpus.examples)
    return found


def _values(row: Any, scales: dict[int, tuple[float, float]]) -> list[float]:
    """The labels of a row, by the places at which they stand, that lie on their scale."""
    given = [(float(row[i]), scale) for i, scale in scales.items() if row[i][-1:].isdigit()]
    return [value for value, (low, high) in given if low <= value <= high]


@pytest.mark.parametrize("incomplete", ["drop", "keep"])
@fuzzed
@given(SPOKEN)
def test_every_turn_of_the_shared_task_is_an_example_or_rejected(
    tmp_path_factory: Any, incomplete: Any, rows: list[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "turns.csv"
    _turns(path, rows)
    found = _kept(read_wassa_turns(path, incomplete=incomplete), len(rows))
    spoken: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        text = row[2].strip()
        labels = _values(row, {3: (0, 5), 4: (0, 2)})
        example = found.get(f"{row[0]}:{i}")
        assert (example is not None) == bool(text and (incomplete == "keep" or len(labels) == 2))
        if text:
            spoken.setdefault(row[0], []).append(text)
        if example is not None:
            before = [turn.text for turn in example.input.turns]
            assert [*before, example.input.response] == spoken[row[0]]
            known = [example.labels[name] for name in ("emotion_intensity", "polarity")
                     if name in example.labels]  # fmt: skip
            assert known == labels


@fuzzed
@given(SPOKEN, st.lists(LABEL, min_size=4, max_size=4))
def test_every_judgement_of_a_dialogue_is_an_example_or_rejected(
    tmp_path_factory: Any, rows: list[Any], values: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    _turns(folder / "trac2_CONVT_x.csv", rows)
    judged = [
        [dialogue, "7", judge, value]
        for (dialogue, judge), value in zip(
            (("1", "p1"), ("1", "p2"), ("2", "p1"), ("9", "p1")), values, strict=True
        )
    ]
    _escaped(folder / "trac1_CONVD_x.csv", [DIALOGUE_ROWS[0], *judged])
    found = _kept(read_wassa_dialogues(folder / "trac1_CONVD_x.csv"), len(judged))
    for dialogue, _, judge, value in judged:
        said = [(f"p{who}", text.strip()) for of, who, text, *_ in rows if of == dialogue]
        said = [(who, text) for who, text in said if text]
        both = len({who for who, _ in said}) == 2
        example = found.get(f"{dialogue}:{judge}")
        assert (example is not None) == bool(both and value in ("1", "2.5", "5"))
        if example is not None:
            assert [turn.text for turn in example.input.turns] == [text for _, text in said]
            own = [text for who, text in said if who != judge]
            assert example.input.response == "\n".join(own)


@fuzzed
@given(st.lists(st.tuples(st.sampled_from("12"), TEXT, LABEL, LABEL), min_size=1, max_size=5))
def test_every_essay_is_an_example_or_rejected(tmp_path_factory: Any, rows: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "essays.csv"
    written = [[of, "7", f"p{i}", text, *labels] for i, (of, text, *labels) in enumerate(rows)]
    _escaped(path, [ESSAY_ROWS[0], *written])
    found = _kept(read_wassa_essays(path), len(rows))
    for of, _, person, text, *labels in written:
        example = found.get(f"{of}:{person}")
        values = _values(labels, {0: (1, 7), 1: (1, 7)})
        assert (example is not None) == bool(text.strip() and len(values) == 2)
        assert example is None or example.input.response == text.strip()
        assert example is None or [*example.labels.values()] == values


@fuzzed
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_every_article_is_read_or_the_file_refused(tmp_path_factory: Any, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "articles.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [ARTICLE_ROWS[0], *([f"{i}", text, title, ""] for i, (text, title) in enumerate(rows))]
        )
    try:
        found = read_articles(path)
    except UserError as error:
        assert "field 'text': " in str(error) and not all(text.strip() for text, _ in rows)
        return
    heads = [f"Title: {title.strip()}\n" if title.strip() else "" for _, title in rows]
    assert found == {f"{i}": head + rows[i][0].strip() for i, head in enumerate(heads)}


@fuzzed
@given(st.lists(TEXT, min_size=1, max_size=3), st.integers(0, 400))
def test_an_explanation_is_there_or_asked_for_again(
    tmp_path_factory: Any, texts: list[str], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "explanations.jsonl"
    path.unlink(missing_ok=True)
    examples = [
        Example(f"{i}{text}", "g", RatingInput("", text), {"a": 1.0})
        for i, text in enumerate(texts)
    ]

    def written() -> dict[str, int]:
        return write_explanations(
            examples, {"a": (0, 1)}, lambda asked: ["So it is."] * len(asked), {"name": "m"}, path
        )

    assert written()["written"] == len(texts)
    whole = path.read_bytes()
    put(path, whole[: max(0, len(whole) - cut)])
    left = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    there = sum(end <= len(left) for end in ends)
    counts = written()
    assert (counts["there"], counts["written"]) == (there, len(texts) - there)
    assert path.read_bytes().startswith(left[: ends[there - 1] + 1] if there else b"")
    assert list(read_explanations(path)) == [(example.id, "a") for example in examples]


@fuzzed
@given(st.lists(st.tuples(TEXT, st.sampled_from([1, 2.5, 2.2, "1", None])), max_size=4))
def test_every_pair_of_a_reply_is_read_or_rejected(rows: list[Any]) -> None:
    entries = [
        {**WRITTEN[0], "story_A": f"a {i}", "story_B": f"b{text}b", "score": score}
        for i, (text, score) in enumerate(rows)
    ]
    for ascii_only in (True, False):
        reply = f"```json\n{json.dumps(entries, ensure_ascii=ascii_only)}\n```"
        found, rejected = parse_pairs(reply, (1, 99))
        assert len(found) + len(rejected) == len(rows)
        good = [entry for entry in entries if entry["score"] in (1, 2.5)]
        assert [pair.story_b for pair in found] == [entry["story_B"] for entry in good]
