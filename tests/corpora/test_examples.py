"""A user's own judged examples, and the door that tells all schemas apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from empo.corpora.epitome import FILES as EPITOME_FILES
from empo.corpora.examples import SCHEMAS, load_labelled, options_of, read_examples
from empo.corpora.intents import load_definitions
from empo.dialogues import Turn
from empo.rating import Dimension, RatingInput
from empo.records import UserError

WARMTH = (
    "dimensions:\n  - {name: warmth, low: 1, high: 5, kind: ordinal, levels: [1, 2, 3, 4, 5]}\n"
)


def line(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "context": "I fell.",
        "response": "Oh no.",
        "labels": {"warmth": 4},
    } | changes


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines as own.jsonl."""

    def write(*lines: dict[str, Any]) -> Path:
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def warmth(tmp_path: Path) -> Path:
    path = tmp_path / "warmth.yaml"
    path.write_text(WARMTH)
    return path


def test_texts_and_messages_are_read(write: Callable[..., Path], warmth: Path) -> None:
    messages = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "I fell."}]
    path = write(
        line("a", group="g"),
        line("b", context=messages, following=[{"role": "user", "content": "Thanks."}]),
    )
    corpus = read_examples(path, warmth)
    first, second = corpus.examples
    assert (first.group, second.group) == ("g", "b")
    assert first.input == RatingInput("I fell.", "Oh no.")
    assert second.input == RatingInput(
        (Turn("assistant", "Hi."), Turn("user", "I fell.")), "Oh no.", (Turn("user", "Thanks."),)
    )
    assert first.labels == {"warmth": 4.0}
    assert corpus.dimensions == (
        Dimension("warmth", 1.0, 5.0, "ordinal", (1.0, 2.0, 3.0, 4.0, 5.0)),
    )
    assert corpus.counts == {} and "inferred" not in corpus.summary()
    assert [file["file"] for file in corpus.files] == ["own.jsonl", "warmth.yaml"]


def test_dimensions_are_inferred_and_counted(write: Callable[..., Path]) -> None:
    lines = [line(f"i{i}", labels={"few": i % 20, "many": i / 2}) for i in range(21)]
    corpus = read_examples(write(*lines, line("last", labels={"few": 3})))
    assert corpus.dimensions == (
        Dimension("few", 0.0, 19.0, "ordinal", tuple(map(float, range(20)))),
        Dimension("many", 0.0, 10.0, "interval"),
    )
    assert corpus.counts == {"dimensions inferred from the labels": 2}
    with pytest.raises(UserError, match="every label in 'warmth' is 4, so its range cannot be"):
        read_examples(write(line()))


def test_nothing_to_judge_is_rejected(write: Callable[..., Path], warmth: Path) -> None:
    corpus = read_examples(write(line("a", response=" "), line("b", labels={}), line("c")), warmth)
    assert [(r.id, r.reason, r.detail) for r in corpus.rejected] == [
        ("a", "empty response", "line 1"),
        ("b", "no label", "line 2"),
    ]
    assert (corpus.rows, [example.id for example in corpus.examples]) == (3, ["c"])


@pytest.mark.parametrize(
    "bad, message",
    [
        (line("first"), "field 'id': 'first' stands on line 1 already."),
        (line(7), "field 'id': Input should be a valid string."),
        ({"id": "a", "context": "", "labels": {}}, "field 'response': Field required."),
        (line(responses="x"), "field 'responses': Extra inputs are not permitted."),
        (line(context=5), "field 'context.messages': Input should be a valid list."),
        (
            line(context=[{"role": "system", "content": "x"}]),
            "field 'context.messages.0.role': Input should be 'user' or 'assistant'.",
        ),
        (line(following=[{"role": "user"}]), "field 'following.0.content': Field required."),
        (line(labels={"warmth": "4"}), "field 'labels.warmth': Input should be a valid number."),
        (line(labels={"warmth": True}), "field 'labels.warmth': Input should be a valid number."),
        (line(labels={"warmth": None}), "field 'labels.warmth': Input should be a valid number."),
        (
            line(labels={"cold": 1}),
            "field 'labels.cold': no such dimension; there are: warmth.",
        ),
        (line(labels={"warmth": 6}), "field 'labels.warmth': 6 lies outside 1 to 5."),
        (line(labels={"warmth": 2.5}), "field 'labels.warmth': 2.5 is not one of 1, 2, 3, 4, 5."),
    ],
)
def test_a_bad_line_is_refused(
    write: Callable[..., Path], warmth: Path, bad: dict[str, Any], message: str
) -> None:
    path = write(line("first"), bad)
    with pytest.raises(UserError) as error:
        read_examples(path, warmth)
    assert str(error.value) == f"{path}, line 2, {message}"


# --- the door ---

TURN_LABELS = ["Emotion", "Empathy", "EmotionalPolarity"]
DIALOGUE_LABELS = ["this_persons_perceived_empathy_of_other_person"]
ESSAY_LABELS = ["person_empathy", "person_distress"]


@pytest.fixture
def sources(tmp_path: Path, write_csv: Callable[..., Path], write: Callable[..., Path]) -> Any:
    """One tiny corpus of every schema."""
    for name in EPITOME_FILES.values():
        header = ["sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"]
        write_csv(f"epitome/{name}", [header, ["s", "r", "I fell.", "Oh no.", 1, ""]])
    dialog = [
        {"text": "Hi.", "speaker": "usr"},
        {"text": "Yes?", "speaker": "sys", "strategy": "Question"},
    ]
    (tmp_path / "esconv").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "esconv" / f"{split}.jsonl").write_text(json.dumps({"dialog": dialog}))
    aspects = [f"similarity_{a}_human_AGG" for a in ("event", "emotion", "moral", "empathy")]
    scores = [f"Person_{p}_{a}_score" for p in range(1, 5) for a in ("event", "emotion", "empathy")]
    write_csv("urdu/cleaned_urdu_stories.csv", [["story_A", "story_B"], ["a", "b"]])
    write_csv("urdu/Urdu_Dataset_Annotation.csv", [scores, [1] * 12])
    columns = [f"{name}_{rater}" for name in load_definitions().names for rater in (1, 2)]
    head = ["dialogue_id", "turn", "role", "text"]
    levels = ["reply", "emotion", "emotional_reaction", "interpretation", "exploration"]
    ids = ["conversation_id", "article_id"]
    turns = write_csv(
        "trac2_CONVT.csv",
        [
            [*ids, "turn_id", "speaker_id", "text", *TURN_LABELS],
            [1, 7, 1, "p", "Hi.", 1, 2, 1],
            [1, 7, 2, "q", "Hello.", 1, 2, 1],
        ],
    )
    return {
        "epitome": [tmp_path / "epitome"],
        "esconv": [tmp_path / "esconv", tmp_path / "esconv" / "valid.jsonl"],
        "stories": [
            write_csv("stories.csv", [["story_A", "story_B", *aspects], ["a", "b", 1, 2, 3, 4]])
        ],
        "urdu": [tmp_path / "urdu"],
        "intents": [
            write_csv("intents.csv", [head + columns, ["d", 1, "agent", "Hi.", *[1] * 40]])
        ],
        "levels": [write_csv("levels.csv", [levels, ["Oh.", "sad", 0, 1, 2]])],
        "wassa_turns": [turns],
        "wassa_dialogues": [
            write_csv("trac1_CONVD.csv", [[*ids, "person_id", *DIALOGUE_LABELS], [1, 7, "p", 6]])
        ],
        "wassa_essays": [
            write_csv(
                "essays.csv",
                [[*ids, "person_id", "person_essay", *ESSAY_LABELS], [1, 7, "p", "Sad.", 1, 2]],
            )
        ],
        "examples": [write(line("a"), line("b", labels={"warmth": 1}))],
    }


def test_every_schema_is_told_by_its_looks(sources: dict[str, list[Path]]) -> None:
    assert sources.keys() == SCHEMAS.keys()
    for schema, paths in sources.items():
        for path in paths:
            corpus = load_labelled(path)
            assert corpus.schema == schema
            assert corpus == load_labelled(str(path), schema)
            assert corpus.examples


def test_options_go_to_the_reader(sources: dict[str, list[Path]]) -> None:
    assert len(load_labelled(sources["epitome"][0], derived=False).dimensions) == 3
    assert load_labelled(sources["esconv"][0], split="valid", stages=True).rows == 1
    (path,) = sources["levels"]
    with pytest.raises(UserError) as error:
        load_labelled(path, before=2)
    assert str(error.value) == f"{path}: the schema 'levels' has no option 'before'; it has: none."
    with pytest.raises(UserError, match="no option 'befor'; it has: split, before, after, stages."):
        load_labelled(sources["esconv"][0], befor=2)


def test_the_options_of_a_schema_can_be_asked(sources: dict[str, list[Path]]) -> None:
    asked = {schema: options_of(paths[0]) for schema, paths in sources.items()}
    assert asked["levels"] == [] and asked["intents"] == ["definitions", "before", "after"]
    assert asked["examples"] == options_of("anywhere", "examples") == ["definitions"]


def test_what_cannot_be_told_names_the_known_schemas(
    tmp_path: Path, write_csv: Callable[..., Path], write: Callable[..., Path]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "train.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "notes.txt").write_text("x")
    cases = {
        tmp_path / "empty": "the folder holds: no file.",
        tmp_path / "talk": "the folder holds: train.jsonl.",
        tmp_path / "notes.txt": "the ending is '.txt'.",
        write({"text": "x", "label": 1}): "the first line has the keys: label, text.",
        write_csv("own.csv", [["text", "label"], ["x", 1]]): "the columns are: label, text.",
    }
    for path, seen in cases.items():
        with pytest.raises(UserError) as error:
            load_labelled(path)
        message = str(error.value)
        assert message.startswith(
            f"{path}: cannot tell the schema; {seen} Known schemas: epitome ("
        )
        assert all(f"{schema} (" in message for schema in SCHEMAS)


def test_an_unknown_schema_or_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schema 'epitom' is unknown. Known schemas: epitome"):
        load_labelled(tmp_path, "epitom")
    for name in ("nothing", "nothing.csv", "nothing.jsonl"):
        with pytest.raises(UserError, match=f"{name}: no such file"):
            load_labelled(tmp_path / name)


def test_a_corpus_without_a_usable_example_is_refused(write: Callable[..., Path]) -> None:
    path = write(line("a", response=""))
    with pytest.raises(UserError) as error:
        load_labelled(path)
    assert str(error.value).startswith(f"{path}: no usable example.\n{path} [examples]: 1 rows, 0")
    assert "1 x empty response: a (line 1)" in str(error.value)


@pytest.mark.parametrize(
    "source, schema, examples",
    [
        ("epitome", "epitome", 3_023),
        ("esconv", "esconv", 15_325),
        ("empathic_stories/pairs_dev.csv", "stories", 100),
        ("empathic_stories/pairs_test.csv", "stories", 400),
        ("urdu_pairs", "urdu", 291),
    ],
)
def test_the_real_corpora(real: Path, source: str, schema: str, examples: int) -> None:
    corpus = load_labelled(real / source)
    assert (corpus.schema, len(corpus.examples)) == (schema, examples)
