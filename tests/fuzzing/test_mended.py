"""What fuzzing found around language models that rate, each with the sentence that it gives now."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from language_model_readers import (
    DIALOGUE_ROWS,
    ESSAY_ROWS,
    EXPLAINED,
    NAMED,
    POOL,
    READERS,
    TURN_ROWS,
    WRITTEN,
)
from test_readers import placed

from empo.corpora.wassa import read_wassa_dialogues, read_wassa_essays
from empo.partial_replies import _whole
from empo.raters.calibrated import CalibratedRater
from empo.raters.explanations import write_explanations
from empo.raters.scoring_lm import ScoringLM
from empo.raters.scoring_templates import load_templates
from empo.raters.synthetic_pairs import parse_pairs
from empo.records import UserError, read_json, write_json
from empo.settings import load_yaml

BY_NAME = {reader.name: reader for reader in READERS}


def rows(path: Path, content: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(content)
    return path


def test_a_person_who_judges_twice_is_refused(tmp_path: Path) -> None:
    rows(tmp_path / "trac2_CONVT_a.csv", TURN_ROWS)
    path = rows(tmp_path / "trac1_CONVD_a.csv", [*DIALOGUE_ROWS, DIALOGUE_ROWS[1]])
    said = r"line 5, field 'conversation_id': '1' stands with the same person on line 2 already\."
    with pytest.raises(UserError, match=said):
        read_wassa_dialogues(path)
    with pytest.raises(UserError, match=said):
        read_wassa_essays(rows(tmp_path / "essays.csv", [*ESSAY_ROWS, ESSAY_ROWS[1]]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"turn": {"standard": "{label}{" + "x" * 900 + "}"}}, "the placeholder {xxxx"),
        ({"turn": {"y" * 900: "{label}"}}, "yyy...: no such family"),
        ({"turn": {"standard": ["z" * 900]}}, "a text is expected, not ['zzz"),
        ({"w" * 900: {}}, "is no kind of item with templates"),
    ],
)
def test_what_is_long_is_cut(tmp_path: Path, content: Any, said: str) -> None:
    write_json(tmp_path / "a.yaml", content)
    with pytest.raises(UserError) as error:
        load_templates("turn", tmp_path / "a.yaml")
    assert said in str(error.value) and "a.yaml" in str(error.value) and len(str(error.value)) < 600


def changed(folder: Path, reader: str, name: str, **values: Any) -> Path:
    """The reader's valid folder with other values in one of its JSON files."""
    placed(BY_NAME[reader], folder)
    content = read_json(folder / name)
    write_json(folder / name, content | values if isinstance(content, dict) else values["all"])
    return folder


SETTINGS = json.loads(BY_NAME["rater: with anchors"].files["rater_config.json"].data)["settings"]
LEVELS = {"name": "warmth", "low": 0, "high": 2, "kind": "ordinal"}


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("templates.json", {"chat": 1}, "templates.json: `chat`, a text, and `texts`, an object"),
        ("templates.json", {"chat": "{% for x in range(10**9) %}a{% endfor %}"}, "is not used: "),
        ("templates.json", {"texts": {"standard": "{label}{x}"}}, "placeholder {x} is unknown"),
        ("templates.json", {"texts": {"explained": "{label}"}}, "texts: standard is missing"),
        (
            "rater_config.json",
            {"settings": SETTINGS | {"turns": -1}},
            "settings, turns: -1 is below 0",
        ),
        ("rater_config.json", {"settings": SETTINGS | {"dtype": "int8"}}, "not 'int8'"),
        (
            "rater_config.json",
            {"dimensions": [LEVELS | {"levels": [1, 0, 2]}]},
            "in ascending order",
        ),
        (
            "rater_config.json",
            {"dimensions": [LEVELS | {"levels": [0, "nan"]}]},
            "in ascending order",
        ),
    ],
)
def test_a_scoring_language_model_is_refused(
    tmp_path: Path, name: str, values: Any, said: str
) -> None:
    with pytest.raises(UserError) as error:
        ScoringLM.load(changed(tmp_path, "rater: with anchors", name, **values), "cpu")
    assert said in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("anchors.json", {"all": {}}, "a list of anchors is expected, not dict"),
        ("anchors.json", {"all": [POOL[0] | {"labels": {"warmth": "1"}}]}, "anchor 1, field 'labels.w"),
        ("anchors.json", {"all": [POOL[0] | {"context": [["user"]]}]}, "anchor 1, field 'context.0.1': Field required."),
        ("anchors.json", {"all": []}, "no anchor has a label of 'warmth'"),
        ("templates.json", {"texts": {"standard": "{label}"}}, "texts: contrastive is missing"),
        ("rater_config.json", {"settings": SETTINGS | {"anchors": None}}, "the anchors cannot be read"),
    ],
)  # fmt: skip
def test_a_rater_with_anchors_is_refused(tmp_path: Path, name: str, values: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        CalibratedRater.load(changed(tmp_path, "rater: with anchors", name, **values), "cpu")
    assert said in str(error.value) and name in str(error.value)


def explain(path: Path) -> dict[str, int]:
    labels = {"event": (1.0, 4.0), "moral": (1.0, 4.0)}
    return write_explanations([NAMED], labels, lambda asked: [], {"name": "tiny"}, path)


def test_explanations_that_are_none_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    lines = [json.dumps(line) for line in EXPLAINED]
    path = tmp_path / "a.jsonl"
    for text, said in (
        ("A line of a diary", "line 1: not JSON"),
        ("no JSON\n{}", "line 1: not JSON"),
        (f"{lines[0]}\n{lines[1]}\n{lines[0]}\n", "line 3: the explanation of event for 'p1' stands on"),
        (lines[0].replace("2.5", '"2.5"'), "line 1, field 'gold': int or float is expected, not '2.5'"),
        (lines[0].replace('"p1"', '["p1"]'), r"line 1, field 'id': str is expected, not \['p1'\]"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            explain(path)
        assert path.read_text() == text


def test_a_whole_last_line_without_an_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in EXPLAINED))
    assert explain(path)["there"] == 2
    assert path.read_text().count("\n") == 2


def test_replies_that_are_no_plain_json_are_rejected() -> None:
    nested = "more than 100 lists or objects stand within each other. Is this the right file?"
    assert parse_pairs("[" * 100_000) == ([], [(0, f"not JSON: {nested}")])
    ((place, reason),) = parse_pairs('[{"score": ' + "1" * 5000 + "}]")[1]
    assert place == 0 and reason.startswith("not JSON: 11111111111111111111... (5,000 characters)")
    assert parse_pairs('[{"a": 1, "a": 2}]')[1][0][1].startswith(
        "not JSON: the key 'a' stands twice"
    )
    ((_, reason),) = parse_pairs(json.dumps([{**WRITTEN[0], "x" * 9000: 1}]), (3, 6))[1]
    assert reason == f"{'x' * 40}...: Extra inputs are not permitted"


def test_a_line_separator_in_a_story_is_kept() -> None:
    entry = {**WRITTEN[0], "story_A": "My dog\u2028ran away."}
    (pair,), rejected = parse_pairs(json.dumps([entry], ensure_ascii=False), (3, 6))
    assert pair.story_a == entry["story_A"] and rejected == []


def test_levels_without_end_in_a_line_half_made_are_a_damaged_line(tmp_path: Path) -> None:
    partial = tmp_path / ".a.jsonl.partial"
    partial.write_text('{"key": ' + "[" * 100_000)
    assert _whole(partial.read_bytes()) is None


def test_an_escape_that_is_no_character_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('limit: 3\nmodel: "\\UFFFFFFFF"\n')
    with pytest.raises(UserError, match=r"a.yaml, line 2: .*is the number of no character\."):
        load_yaml(path)
