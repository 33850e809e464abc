"""Readers of what a user gives: settings, corpora, tables, lexicons, replies, pairs to rate."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from inputs import Sample

from empo import emotions, rate, records, settings, suites
from empo.agree import AgreementSettings
from empo.corpora import csv_rows, dimensions, examples, intents, load_corpus
from empo.corpora.epitome import FILES, read_epitome
from empo.corpora.stories import URDU_SCORES, URDU_STORIES
from empo.metrics import composed_emotion, iva, nidf
from empo.metrics.tokens import SIGNATURE
from empo.raters import judgements
from empo.sweep.grid import SweepSettings


@dataclass(frozen=True)
class Reader:
    """What reads `files` of a folder: `call` gets the folder.

    `covers` are the functions of empo that open these files; `found` says what fuzzing found.
    """

    name: str
    files: Mapping[str, Sample]
    call: Callable[[Path], object]
    covers: tuple[str, ...]
    found: str = ""
    takes_all: bool = False
    """Whether files that cannot be read are passed over, for whoever uses them refuses them."""
    open: str = ""
    """What is not mended yet: such a reader may raise other errors."""


def on(
    name: str, read: Callable[..., object], *more: Any, **options: Any
) -> Callable[[Path], object]:
    """A call of `read` on one file of the folder."""
    return lambda folder: read(folder / name, *more, **options)


def _all(read: Callable[..., Any]) -> Callable[..., object]:
    return lambda *words: list(read(*words))


ED = [
    "conv_id",
    "utterance_idx",
    "context",
    "prompt",
    "speaker_idx",
    "utterance",
    "selfeval",
    "tags",
]
ED_ROWS = [
    ED,
    ["hit:0_conv:1", "1", "sad", "A loss.", "1", "I lost my keys_comma_ all of them.", "", ""],
    ["hit:0_conv:1", "2", "sad", "A loss.", "0", "Oh no.", "", ""],
    ["hit:1_conv:2", "1", "joyful", "A win.", "3", "I won!", "", ""],
    ["hit:1_conv:2", "2", "joyful", "A win.", "4", "How nice.", "", ""],
    ["hit:1_conv:2", "3", "joyful", "A win.", "3", "Yes.", "", ""],
]
TURN_ROWS = [dict(zip(ED, row, strict=True)) for row in ED_ROWS[1:]]
MAPPED = {
    "dialogue_id": "id", "emotion": "mood", "utterance": "text", "role": "who", "turns": "turns",
    "role_map": {"usr": "user", "sys": "assistant"}, "label_map": {"happy": "joyful"},
    "situation": "about", "unescape": {"&amp;": "&"}, "quoting": "minimal",
}  # fmt: skip
NESTED = [
    {"id": "a", "mood": "happy", "about": "A win.",
     "turns": [{"who": "usr", "text": "I won."}, {"who": "sys", "text": "Great."}]},
    {"id": "b", "mood": "sad", "about": "A loss.",
     "turns": [{"who": "usr", "text": "Lost."}, {"who": "sys", "text": "Oh."}]},
]  # fmt: skip


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """A parquet file of these rows."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def _nested(folder: Path) -> object:
    return load_corpus(folder / "data.jsonl", mapping=folder / "mapping.yaml").facts()


def _corpus(name: str, **options: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        corpus = load_corpus(folder / name, labels=None, **options)
        return corpus.summary(), corpus.facts(), corpus.exchanges()

    return read


MESSAGE = {"role": "user", "content": "I lost my job."}
RESPONSES = [
    {"id": f"e{i}", "emotion": "sad", "context": [MESSAGE], "reference": "Oh.", "response": text,
     "system": system, "finished": True}
    for system in ("sft", "dpo") for i, text in enumerate(("That is hard.", "Go on."))
]  # fmt: skip
SCALES = {
    "dimensions": [
        {"name": "warmth", "low": 1, "high": 5, "kind": "ordinal", "levels": [1, 2, 3, 4, 5]},
        {"name": "asks", "low": 0, "high": 1, "kind": "binary"},
        {"name": "near", "low": 0, "high": 100, "kind": "interval"},
    ]
}
EXAMPLES = [
    {"id": "a", "group": "g", "context": "I lost it.", "response": "Oh.", "labels": {"warmth": 4}},
    {"id": "b", "context": [MESSAGE], "response": "Hm.", "labels": {"warmth": 2, "asks": 0},
     "following": [{"role": "user", "content": "Yes."}]},
    {"id": "c", "context": "A", "response": "Why?", "labels": {"asks": 1, "near": 7.5}},
]  # fmt: skip


def _labelled(name: str, **options: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        corpus = examples.load_labelled(folder / name, **options)
        return corpus.summary()

    return read


def _read(reader: Callable[..., Any], name: str, **options: Any) -> Callable[[Path], object]:
    return lambda folder: reader(folder / name, **options).summary()


EPITOME_ROWS = [
    ["sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"],
    ["1", "2", "I feel  alone.", "I am here.", "2", "I am here.|"],
    ["1", "2", "I feel alone.", "I am here.", "1", "here|"],
    ["3", "4", "My reddit day.", "What happened?", "0", ""],
]
STORY_COLUMNS = [
    f"similarity_{aspect}_human_AGG" for aspect in ("event", "emotion", "moral", "empathy")
]
STORY_ROWS = [
    ["story_A", "story_B", "story_A_summary", "story_B_summary", *STORY_COLUMNS],
    ["One day.", "One night.", "Day.", "Night.", "1", "2.5", "", "4"],
    ["One day.", "A third.", "Day.", "Third.", "3", "2", "1.5", "1"],
]
PERSONS = [f"Person_{p}_{a}_score" for p in (1, 2, 3, 4) for a in ("event", "emotion", "empathy")]
URDU = {
    URDU_STORIES: Sample("csv", [["story_A", "story_B"], ["Ek", "Do"], ["Teen", "Char"]]),
    URDU_SCORES: Sample("csv", [PERSONS, ["1"] * 12, ["2.5"] * 12]),
}
LEVEL_ROWS = [
    ["reply", "emotion", "emotional_reaction", "interpretation", "exploration"],
    ["That hurts. Why?", "sad", "1", "0", "2"],
    ["Oh.", "neutral", "0", "0", "0"],
]
ESCONV = [
    {"emotion_type": "sadness", "dialog": [
        {"speaker": "usr", "text": "Hi."},
        {"speaker": "sys", "text": "Hello.", "strategy": "Others"},
        {"speaker": "sys", "text": "How are you?", "strategy": "Question"},
        {"speaker": "usr", "text": "Sad."},
    ]},
    {"dialog": [{"speaker": "sys", "text": "I see.", "strategy": "Information"}]},
]  # fmt: skip
DEFINED = {"intents": {"asks": "a question"}, "perceived": {"warm": "warmth"}, "threshold": 4.0}
INTENT_ROWS = [
    ["dialogue_id", "turn", "role", "text", "asks_1", "asks_2", "warm_1", "warm_2"],
    ["d", "1", "customer", "My order is late.", "", "", "", ""],
    ["d", "2", "agent", "Which one?", "1", "1", "4", "5"],
    ["d", "4", "agent", "I see.", "0", "1", "", ""],
]
TIDY = [
    ["item", "rater", "aspect", "value", "setting", "group", "note"],
    *([str(i), r, "warmth", v, "lab", "x", ""] for i, r, v in
      ((1, "a", "1"), (1, "b", "2"), (2, "a", "3.5"), (2, "b", "NA"), (3, "a", ""), (3, "b", "2"))),
]  # fmt: skip
NIDF = {
    "schema": "empo.nidf/1", "tokens": SIGNATURE, "turns": "all turns but the last",
    "dialogues": 2, "documents": 5, "corpus_sha256": "0" * 64, "counts": {"i": 4, "am": 2, "sad": 1},
}  # fmt: skip
SWEEP = {
    "output_dir": "out", "dialogues": "data", "recipe": "dpo", "recipe_config": "dpo.yaml",
    "grid": {"beta": [0.1, 0.5]}, "seeds": [1, 2], "overrides": {"max_steps": 2}, "limit": 5,
}  # fmt: skip


def _configured(*classes: type) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        words = ["--config", str(folder / "given.yaml")]
        return settings.parse(words, *classes, prog=words[1], description="")

    return read


@dataclass
class Measured:
    """Settings of a made-up command with a suite."""

    suite: str | None = settings.option(None, help="a suite")
    metrics: list[str] | None = settings.option(None, help="metrics")
    limit: int | None = settings.option(None, help="a number")


def _suite(folder: Path) -> object:
    words = ["--suite", str(folder / "suite.yaml"), "--config", str(folder / "given.yaml")]
    return suites.parse_with_suite(words, Measured, "responses", prog=str(folder), description="")


READERS = [
    Reader(
        "records: text", {"a.txt": Sample("text", "A line.\nAnother.\n")},
        on("a.txt", records.read_text), ("records.read_text",),
    ),
    Reader(
        "records: JSON", {"a.json": Sample("json", NIDF)}, on("a.json", records.read_json),
        ("records.read_json",),
        "deep nesting, numbers of 5,000 digits, `1e999` read as infinity, halves of surrogate pairs, "
        "a key twice (one value was lost)",
    ),
    Reader(
        "records: JSON lines", {"a.jsonl": Sample("jsonl", RESPONSES)},
        on("a.jsonl", _all(records.read_jsonl)), ("records.read_jsonl",),
        "as JSON; and NaN was read",
    ),
    Reader(
        "responses", {"a.jsonl": Sample("jsonl", RESPONSES)}, on("a.jsonl", records.read_responses),
        ("records.read_responses",),
    ),
    Reader(
        "settings: YAML", {"a.yaml": Sample("yaml", SWEEP)}, on("a.yaml", settings.load_yaml),
        ("settings.load_yaml",),
        "deep nesting, aliases that stand for a billion values or for themselves, `!!int` and its "
        "sisters on other text, `.nan`, dates (no JSON can keep them)",
    ),
    Reader(
        "settings of a command", {"given.yaml": Sample("yaml", {"input": "a", "resamples": 100})},
        _configured(AgreementSettings), ("settings.resolve",),
    ),
    Reader(
        "settings of a sweep", {"given.yaml": Sample("yaml", SWEEP), "dpo.yaml": Sample("yaml", {})},
        lambda folder: settings.resolve(
            ["--config", str(folder / "given.yaml"), "--recipe_config", str(folder / "dpo.yaml")],
            SweepSettings, prog=str(folder), description="",
        ),
        ("settings.resolve",),
    ),
    Reader(
        "suite",
        {"suite.yaml": Sample("yaml", {"responses": {"metrics": ["nidf"]}, "harness": {"limit": 2}}),
         "given.yaml": Sample("yaml", {"limit": 3})},
        _suite, ("suites.load_suite", "suites.parse_with_suite"),
    ),
    Reader(
        "opposites",
        {"a.csv": Sample("csv", [["label", "opposite", "source"], ["sad", "joyful", "own"], ["joyful", "sad", ""]])},
        on("a.csv", emotions.load_opposites), ("emotions.load_opposites",), found="wrong quoting, fields of 140,000 characters; surplus fields were passed over",
    ),
    Reader(
        "dialogues: unquoted csv",
        {"a.csv": Sample("text", "".join(",".join(row) + "\n" for row in ED_ROWS))},
        _corpus("a.csv"), ("corpora.tables._add_unquoted", "corpora.load_corpus"), found="rows without a dialogue id were taken for one dialogue",
    ),
    Reader(
        "dialogues: quoted csv",
        {"a.csv": Sample("csv", ED_ROWS),
         "mapping.yaml": Sample("yaml", {"dialogue_id": "conv_id", "turn": "utterance_idx", "emotion": "context", "utterance": "utterance"})},
        lambda folder: load_corpus(folder / "a.csv", labels=None, mapping=folder / "mapping.yaml").facts(),
        ("corpora.tables._add_quoted", "corpora.mapping.load_mapping"), found="empty names of columns in a mapping",
    ),
    Reader(
        "dialogues: tsv", {"train.tsv": Sample("tsv", ED_ROWS)},
        lambda folder: load_corpus(folder, "train", labels=None).summary(),
        ("corpora.tables._add_unquoted",),
    ),
    Reader(
        "dialogues: JSON lines", {"a.jsonl": Sample("jsonl", TURN_ROWS)}, _corpus("a.jsonl"),
        ("corpora.tables.read_rows",),
    ),
    Reader(
        "dialogues: nested JSON lines and mapping",
        {"data.jsonl": Sample("jsonl", NESTED), "mapping.yaml": Sample("yaml", MAPPED)},
        _nested, ("corpora.tables.read_rows", "corpora.mapping.load_mapping"),
    ),
    Reader(
        "dialogues: parquet", {"a.parquet": Sample("binary", parquet(TURN_ROWS))},
        _corpus("a.parquet"), ("corpora.tables._parquet_rows",), found="rows without a dialogue id were the dialogue `None`",
    ),
    Reader(
        "judged: csv rows", {"a.csv": Sample("csv", LEVEL_ROWS)},
        lambda folder: (csv_rows.header_of(folder / "a.csv"), csv_rows.read_csv(folder / "a.csv", ["reply"])),
        ("corpora.csv_rows.read_csv", "corpora.csv_rows.header_of", "corpora.csv_rows._reader"),
    ),
    Reader(
        "judged: dimensions", {"a.yaml": Sample("yaml", SCALES)},
        on("a.yaml", dimensions.load_dimensions), ("corpora.dimensions.load_dimensions",),
    ),
    Reader(
        "judged: examples",
        {"a.jsonl": Sample("jsonl", EXAMPLES), "scales.yaml": Sample("yaml", SCALES)},
        lambda folder: examples.load_labelled(
            folder / "a.jsonl", definitions=folder / "scales.yaml").summary(),
        ("corpora.examples.read_examples", "corpora.examples._schema_of"),
    ),
    Reader(
        "judged: examples, dimensions inferred",
        {"a.jsonl": Sample("jsonl", [e | {"labels": {"warmth": i}} for i, e in enumerate(EXAMPLES)])},
        _labelled("a.jsonl"), ("corpora.examples.read_examples", "corpora.examples._schema_of"),
    ),
    Reader(
        "judged: EPITOME", {name: Sample("csv", EPITOME_ROWS) for name in FILES.values()},
        _read(read_epitome, ""), ("corpora.epitome.read_epitome",),
    ),
    Reader(
        "judged: ESConv",
        {f"{name}.jsonl": Sample("jsonl", ESCONV) for name in ("train", "valid", "test")},
        lambda folder: examples.load_labelled(folder, stages=True).summary(),
        ("corpora.esconv.read_esconv", "corpora.examples._schema_of"), found="a speaker that is a list",
    ),
    Reader(
        "judged: stories", {"a.csv": Sample("csv", STORY_ROWS)}, _labelled("a.csv", text="summary"),
        ("corpora.stories.read_stories", "corpora.examples._schema_of"),
    ),
    Reader("judged: Urdu stories", URDU, _labelled(""), ("corpora.stories._urdu_rows",)),
    Reader(
        "judged: levels", {"a.csv": Sample("csv", LEVEL_ROWS)}, _labelled("a.csv"),
        ("corpora.levels.read_levels",),
    ),
    Reader(
        "judged: intents",
        {"a.csv": Sample("csv", INTENT_ROWS), "defined.yaml": Sample("yaml", DEFINED)},
        lambda folder: (
            intents.read_intents(folder / "a.csv", folder / "defined.yaml").summary(),
            intents.intent_annotations(folder / "a.csv", folder / "defined.yaml"),
        ),
        ("corpora.intents._dialogues", "corpora.intents.load_definitions"),
    ),
    Reader(
        "judgements: tidy", {"a.csv": Sample("csv", TIDY)},
        lambda folder: judgements.read_tidy(folder / "a.csv").summary(),
        ("raters.judgements._rows",),
    ),
    Reader(
        "judgements: wide", {"a.csv": Sample("csv", [PERSONS, ["1"] * 12, ["2.5"] * 12])},
        lambda folder: judgements.read_wide(folder / "a.csv", "Person_{rater}_{aspect}_score").summary(),
        ("raters.judgements._rows",),
    ),
    Reader("metrics: NIDF table", {"a.json": Sample("json", NIDF)}, on("a.json", nidf.load_table), ("metrics.nidf.load_table",)),
    Reader(
        "metrics: lexicons",
        {iva.VAD_FILE: Sample("tsv", [["Word", "Valence", "Arousal", "Dominance"], ["sad", "0.1", "0.3", "0.2"], ["glad", "0.9", ".5", "1"]]),
         iva.INTENSITY_FILE: Sample("tsv", [["sad", "sadness", "0.8"], ["sad", "fear", "0.2"]])},
        iva.load_lexicons, ("metrics.iva._rows",),
    ),
    Reader(
        "metrics: composed sentences", {"a.csv": Sample("csv", LEVEL_ROWS)},
        on("a.csv", composed_emotion.load_sentences), ("metrics.composed_emotion.load_sentences",), found="missing columns, bytes that are not UTF-8, short rows",
    ),
    Reader(
        "pairs to rate", {"a.jsonl": Sample("jsonl", EXAMPLES)}, on("a.jsonl", rate.read_pairs),
        ("rate.read_pairs",),
    ),
]  # fmt: skip
