"""Best of n: the same replies whatever the batches and restarts, and a manifest that says who chose."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from empo.choosing import BestOf, Judge
from empo.corpora import load_corpus
from empo.dialogues import Exchange
from empo.generation import Decoding, cut_at_last_sentence, generate
from empo.models import ModelSource, load_model, load_tokenizer
from empo.prompts import ChatFormat
from empo.raters.identity import identities
from empo.records import UserError, read_json, read_jsonl

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
sys.path.insert(0, str(Path(__file__).parent))
from function_raters import FunctionRater, interval
from tiny_rater import tiny_rater
from tiny_runs import ROOT, Shelf, command, recipe, shelf

__all__ = ["shelf"]

SAMPLED = Decoding(batch_size=7, max_new_tokens=12, temperature=1.0)
BEHIND = [{"name": "length", "weights": "none", "signature": "function"}]


class Interrupted(Exception):
    """What a stopped job looks like from inside."""


@pytest.fixture(scope="module")
def chat(shelf: Shelf) -> ChatFormat:
    tokenizer = load_tokenizer(ModelSource(str(shelf.base)))
    return ChatFormat(tokenizer, system_message="You are a kind listener.", training=False)


@pytest.fixture(scope="module")
def model(shelf: Shelf) -> PreTrainedModel:
    return load_model(ModelSource(str(shelf.base))).eval()


@pytest.fixture(scope="module")
def exchanges(shelf: Shelf) -> list[Exchange]:
    return load_corpus(shelf.corpus, "test").exchanges()[:8]


def longest(n: int = 3) -> BestOf:
    """Likes long replies."""
    rater = FunctionRater(lambda pair: [len(pair.response)], interval("length", 0, 10_000))
    return BestOf(n, Judge(rater), BEHIND)


@pytest.fixture
def write(
    model: PreTrainedModel, chat: ChatFormat, exchanges: list[Exchange], tmp_path: Path
) -> Callable[..., Path]:
    def go(name: str, best_of: BestOf | None, decoding: Decoding = SAMPLED) -> Path:
        output = tmp_path / name
        generate(model, chat, exchanges, "s", output, decoding, {"model": "m"}, best_of)
        return output

    return go


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def test_batches_of_any_size_say_the_same(write: Callable[..., Path]) -> None:
    one, seven, all_of_them = (
        rows(write(f"{n}.jsonl", longest(), replace(SAMPLED, batch_size=n))) for n in (1, 7, 24)
    )
    assert one == seven == all_of_them
    assert {row["best_of"]["place"] for row in one} == {0, 1, 2}


def test_a_run_that_was_stopped_ends_in_the_same_files(
    write: Callable[..., Path], model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write("whole.jsonl", longest())
    real, calls = model.generate, []

    def stopping(**inputs: Any) -> torch.Tensor:
        if len(calls) == 2:
            raise Interrupted
        calls.append(1)
        return real(**inputs)

    with monkeypatch.context() as stopped:
        stopped.setattr(model, "generate", stopping)
        with pytest.raises(Interrupted):
            write("stopped.jsonl", longest())
    with monkeypatch.context() as counted:
        again: list[int] = []
        counted.setattr(model, "generate", lambda **x: again.append(1) or real(**x))
        stopped_file = write("stopped.jsonl", longest())
    assert len(again) == 2  # of four batches: 8 exchanges x 3 replies in batches of 7
    assert stopped_file.read_bytes() == whole.read_bytes()
    manifests = [read_json(f"{path}.manifest.json") for path in (whole, stopped_file)]
    assert manifests[0] | {"created": ""} == manifests[1] | {"created": ""}


def test_the_best_is_the_longest_of_the_replies_that_more_would_hold(
    write: Callable[..., Path], exchanges: list[Exchange]
) -> None:
    two, four = (rows(write(f"{n}.jsonl", longest(n))) for n in (2, 4))
    for few, more in zip(two, four, strict=True):
        # the first two of four replies are the two of two, so the best of four is as long or longer
        assert more["best_of"]["score"] >= few["best_of"]["score"] == len(few["response"])
        assert (few["best_of"]["n"], more["best_of"]["n"]) == (2, 4)
    assert [row["response"] for row in two] != [row["response"] for row in four]
    seeded = rows(write("seed.jsonl", longest(2), replace(SAMPLED, seed=7)))
    assert [row["response"] for row in seeded] != [row["response"] for row in two]


def test_the_manifest_says_who_chose_and_how_length_drifts(write: Callable[..., Path]) -> None:
    output = write("a.jsonl", longest())
    manifest = read_json(f"{output}.manifest.json")
    assert manifest["selected_by"] == BEHIND
    assert manifest["best_of"] == {
        **{"n": 3, "dimensions": ["length"], "value": "score", "low": 0, "high": 10_000}
    }
    found = rows(output)
    best = sum(len(row["response"]) for row in found) / len(found)
    chosen = manifest["chosen"]
    assert chosen["mean_characters"]["best"] == pytest.approx(best, abs=1e-6)
    assert chosen["mean_score"] == chosen["mean_characters"]  # the score is the length
    assert chosen["mean_characters"]["all"] < best
    assert (chosen["exchanges"], chosen["unrated"]) == (8, 0)


def test_a_rater_without_any_score_keeps_the_first_and_counts(
    write: Callable[..., Path],
) -> None:
    blind = FunctionRater(lambda pair: [math.nan], interval("length"))
    output = write("blind.jsonl", BestOf(3, Judge(blind), BEHIND))
    found = rows(output)
    assert {(row["best_of"]["place"], row["best_of"]["scored"]) for row in found} == {(0, 0)}
    assert {row["best_of"]["score"] for row in found} == {None}
    chosen = read_json(f"{output}.manifest.json")["chosen"]
    assert chosen["unrated"] == 8 and chosen["mean_score"] == {"best": None, "all": None}


def test_what_is_rated_is_what_is_written(write: Callable[..., Path]) -> None:
    best_of = longest()
    output = write("cut.jsonl", best_of, replace(SAMPLED, cut_at_sentence=True))
    texts = {pair.response for pair in best_of.judge.rater.asked}
    assert all(text == cut_at_last_sentence(text) for text in texts)
    assert {row["response"] for row in rows(output)} <= texts


def test_a_plain_file_is_not_taken_for_a_chosen_one(write: Callable[..., Path]) -> None:
    output = write("a.jsonl", None)
    assert "best_of" not in rows(output)[0]
    with pytest.raises(UserError, match=r"differs in best_of, selected_by\)\. Choose another"):
        write("a.jsonl", longest())
    write("b.jsonl", longest())
    with pytest.raises(UserError, match=r"differs in best_of, selected_by\)\. Choose another"):
        write("b.jsonl", None)


# --- the recipe ---


def words(shelf: Shelf, output: Path, *more: object) -> list[str]:
    given = ["--model", shelf.base, "--dialogues", shelf.corpus, "--system", "base-best-of-2"]
    given += ["--output", output, "--limit", 4, "--max-new-tokens", 8]
    return list(map(str, [*given, *more]))


def measured(responses: Path, rater: Path, output: Path) -> dict[str, Any]:
    """results.json of DIFF-EPITOME by the real command."""
    given = ["--responses", responses, "--rater", rater, "--metrics", "diff_epitome"]
    done = command(
        [sys.executable, ROOT / "eval/responses.py", *given, "--resamples", 99, "--output", output]
    )
    assert done.returncode == 0, done.stderr
    return read_json(output / "results.json")


def test_the_recipe_chooses_by_a_rater_folder_and_a_metric_knows_it(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chooser, other = tiny_rater(tmp_path / "chooser", 1), tiny_rater(tmp_path / "other", 2)
    output = tmp_path / "best.jsonl"
    more = ["--best-of", 2, "--rater", chooser, "--rater-cache", tmp_path / "r.sqlite"]
    more += ["--rater-value", "expected", "--rater-dimension", "explorations"]
    assert recipe("generate")(words(shelf, output, *more)) == 0
    printed = capsys.readouterr()
    assert "warning: Rater chooser: nothing shows that it beats" in printed.err
    assert "best of 2: mean score " in printed.out
    manifest = read_json(f"{output}.manifest.json")
    assert manifest["selected_by"] == identities([chooser])
    assert manifest["best_of"]["dimensions"] == ["explorations"]
    assert manifest["decoding"]["temperature"] == 1.0
    for row in rows(output):
        assert row["best_of"]["score"] == row["best_of"]["scores"]["explorations"]

    own = measured(output, chooser, tmp_path / "own")
    assert own["systems"]["base-best-of-2"]["reward"] == identities([chooser])
    sentence = (
        "System base-best-of-2: the rater chooser that measures it here has also chosen its replies, "
        "or its training, with the same weights. Its levels are the reward itself and no measure; "
        "measure with a rater of other weights, trained on another split."
    )
    assert own["warnings"][-1] == sentence
    assert f"**{sentence}**" in (tmp_path / "own" / "report.md").read_text("utf-8")
    assert sentence not in measured(output, other, tmp_path / "others")["warnings"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["--best-of", 1, "--rater", "r"],
            "--best-of: of 1 nothing can be chosen; give 2 or more.",
        ),
        (["--best-of", 2], "--best-of: give the rater that chooses as --rater DIR."),
        (["--rater", "r"], "--rater: nothing is chosen without --best-of N."),
        (
            ["--best-of", 2, "--rater", "r", "--temperature", 0],
            "--temperature: greedy replies to one context are all the same; --best-of needs a "
            "temperature above 0.",
        ),
        (["--best-of", 2, "--rater", "nowhere"], "nowhere: this is no rater folder"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path: Path, more: list[object], told: str) -> None:
    corpus = Path(__file__).resolve().parents[1] / "data" / "sample"
    given = ["--model", "no-model", "--dialogues", corpus, "--system", "s", *more]
    with pytest.raises(UserError) as error:
        recipe("generate")(list(map(str, [*given, "--output", tmp_path / "a.jsonl"])))
    assert told in str(error.value)
    assert not (tmp_path / "a.jsonl").exists()


def test_an_unknown_dimension_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    corpus = Path(__file__).resolve().parents[1] / "data" / "sample"
    rater = tiny_rater(tmp_path / "rater")
    given = ["--model", "no-model", "--dialogues", corpus, "--system", "s", "--best-of", 2]
    given += ["--rater", rater, "--rater-dimension", "warmth", "--output", tmp_path / "a.jsonl"]
    given += ["--rater-cache", tmp_path / "r.sqlite"]
    with pytest.raises(UserError) as error:
        recipe("generate")(list(map(str, given)))
    assert str(error.value) == (
        "--rater-dimension: the rater has no dimension 'warmth'; it has: emotional_reactions, "
        "interpretations, explorations."
    )
