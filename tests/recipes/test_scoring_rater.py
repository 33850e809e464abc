"""A scoring language model by the commands of every rater: trained, measured, used, doubted aloud."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT, recipe

from empo.rate import rate_command
from empo.raters.collapse import APART
from empo.raters.folder import RaterConfig
from empo.raters.settings import RaterSettings
from empo.records import UserError, read_json, read_jsonl

WORDS = ("awful", "okay", "fine", "great")
COLUMNS = ["conversation_id", "article_id", "turn_id", "speaker", "text", "Emotion", "Empathy"]
COLUMNS += ["EmotionalPolarity"]
DOUBT = "on held-out groups it is not shown to beat the baselines in: emotion_intensity"


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty dialogues of four turns."""
    path = tmp_path_factory.mktemp("turns") / "turns.csv"
    rows = [
        [d, 7, t, f"Person {1 + t % 2}", f"it was {WORDS[(d + t) % 4]} {d}", (d + t) % 4, d % 3, 1]
        for d in range(30)
        for t in range(4)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.fixture(scope="module")
def rater(turns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained, with anchors, by the shipped settings for a laptop."""
    folder = tmp_path_factory.mktemp("rater") / "hardly"
    config = ROOT / "recipes" / "raters" / "wassa_turns_cpu.yaml"
    words = ["--config", str(config), "--data", str(turns), "--output_dir", str(folder)]
    words += ["--dimensions", "emotion_intensity", "--anchors", "1", "--hidden_size", "16"]
    words += ["--vocab_size", "400", "--pair_quota", "20", "--num_train_epochs", "1"]
    words += ["--threads", "1", "--max_length", "160"]
    assert recipe("rater")(words) == 0
    return folder


def test_the_recipe_writes_the_folder_of_a_rater_with_its_evidence(rater: Path) -> None:
    config = RaterConfig.read(rater)
    assert (config.kind, config.settings["item"]) == ("calibrated", "turn")
    assert config.dimensions[0].levels == (0.0, 1.0, 2.0, 3.0)
    assert set(config.evidence["dimensions"]["emotion_intensity"]) >= {"constant", "length"}
    results = read_json(rater / "results.json")
    assert any(DOUBT in warning for warning in results["warnings"])
    (training,) = results["trainings"]
    assert training["levels"] == {"emotion_intensity": 4}
    assert training["contrastive_pairs"]["emotion_intensity"]["kept"] == 20
    told = training["collapse"]["emotion_intensity"]
    assert told["answers"] == ["0", "1", "2", "3"] and len(told["rows"]) == len(told["n"]) >= 2
    assert [sum(row) for row in told["rows"]] == pytest.approx([1] * len(told["n"]))
    assert told["collapsed"] is True and told["distance"] < APART, "an epoch teaches it nothing"
    assert not list(rater.rglob("checkpoint-*"))
    card = (rater / "README.md").read_text()
    assert "families" in card and "emotion" in card


def test_articles_go_to_the_reader_of_turns_only(turns: Path, tmp_path: Path) -> None:
    read = recipe("rater").__globals__["corpora"]
    (tmp_path / "articles.csv").write_text("article_id,text\n7,It rained.\n")
    settings = RaterSettings(data=str(turns), articles=str(tmp_path / "articles.csv"), turns=2)
    corpus, _ = read(settings)
    assert {example.input.background for example in corpus.examples} == {"It rained."}
    assert max(len(example.input.turns) for example in corpus.examples) == 2
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "a", "context": "", "response": "x", "labels": {"warm": 1}}\n')
    with pytest.raises(UserError, match="the schema 'examples' has no option 'articles'"):
        read(RaterSettings(data=str(own), articles="articles.csv"))


def test_the_other_commands_use_it_and_repeat_the_warning(
    rater: Path, turns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("eval_raters", ROOT / "eval" / "raters.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    given = ["--rater", str(rater), "--input", str(turns), "--limit", "20"]
    output = tmp_path / "measured"
    assert module.main([*given, "--device", "cpu", "--output", str(output)]) == 0
    entry = read_json(output / "rater.json")["raters"]["hardly"]
    assert any(DOUBT in warning for warning in entry["warnings"])
    assert any("was trained on a part of this input" in warning for warning in entry["warnings"])
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"context": "", "response": "it was great", "background": "A story."}\n')
    scored = tmp_path / "scored.jsonl"
    words = ["--rater", str(rater), "--input", str(pairs), "--output", str(scored)]
    assert rate_command([*words, "--cache", str(tmp_path / "c"), "--device", "cpu"]) == 0
    ((_, row),) = read_jsonl(scored)
    assert 0 <= row["scores"]["emotion_intensity"] <= 3
    assert DOUBT in capsys.readouterr().err


def test_templates_are_looked_at_before_data_are_read(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("turn: {standard: 'How {label} is it?', contrastive: '{first} {label}'}")
    config = ROOT / "recipes" / "raters" / "wassa_turns_cpu.yaml"
    words = ["--config", str(config), "--data", "nowhere.csv", "--output_dir", str(tmp_path / "o")]
    with pytest.raises(UserError, match="turn, contrastive: the placeholder {second} is missing"):
        recipe("rater")([*words, "--templates", str(own)])
