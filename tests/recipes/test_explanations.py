"""recipes/explanations.py with a tiny chat model: written once, gone on with, refused."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT, recipe

sys.path.insert(0, str(ROOT / "tests" / "raters"))
from tiny_language_models import untrained, write_tokenizer

from empo.raters.explanations import read_explanations
from empo.records import UserError

ASPECTS = ("event", "emotion", "moral", "empathy")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("explained")
    tokenizer = write_tokenizer()
    untrained(tokenizer, 800).save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")
    labels = [f"similarity_{aspect}_human_AGG" for aspect in ASPECTS]
    rows = [[f"I lost my job {i}.", f"My day was poor {i}.", 1, 2, 3, 3.5] for i in range(3)]
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["story_A", "story_B", *labels], *rows])
    given = ["--data", str(folder / "pairs.csv"), "--model", str(folder / "chat")]
    return [*given, "--dimensions", "empathy", "--max_new_tokens", "6", "--device", "cpu"]


def test_explanations_are_written_and_a_second_run_goes_on(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "explanations.jsonl"
    run = recipe("explanations")
    assert run([*words, "--output", str(path), "--limit", "2"]) == 0
    assert "0 there, 2 asked" in capsys.readouterr().out
    found = read_explanations(path)
    assert set(found) <= {("pairs:1", "empathy"), ("pairs:2", "empathy")} and found
    assert run([*words, "--output", str(path)]) == 0
    assert f"{len(found)} there" in capsys.readouterr().out
    with pytest.raises(UserError, match="has model"):
        run([*words, "--output", str(path), "--max_new_tokens", "7"])


def test_a_pair_that_is_too_long_is_refused(words: list[str], tmp_path: Path) -> None:
    given = [*words, "--output", str(tmp_path / "x.jsonl"), "--max_prompt_tokens", "20"]
    with pytest.raises(UserError, match="a prompt has .* tokens, more than --max-prompt-tokens 20"):
        recipe("explanations")(given)
    with pytest.raises(UserError, match="--batch-size: 0 is no positive number"):
        recipe("explanations")([*given, "--batch_size", "0"])
