"""recipes/reward.py by its command: the model's own prompts, a reward that is kept, a stop that loses nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_runs import Shelf, recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.alignment.reward_trainer import prompt_rows
from empo.metrics.statistics import bootstrap_interval
from empo.models import load_tokenizer, resolve
from empo.prompts import ChatFormat
from empo.raters.identity import identities
from empo.records import UserError, read_json, read_jsonl, read_responses, write_json

FEW = ["--max_steps", "4", "--save_steps", "2", "--num_generations", "4"]
FEW += ["--max_completion_length", "6", "--limit", "12", "--lora_r", "4"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rater(tmp_path_factory.mktemp("rater") / "levels", 5)


@pytest.fixture(scope="module")
def trained(shelf: Shelf, rater: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reward") / "run"
    return shelf.run("reward", output, *FEW, "--rater", str(rater))


def logged(run: Path) -> list[dict[str, float]]:
    return [row for _, row in read_jsonl(run / "log.jsonl") if "reward" in row]


def test_the_run_keeps_what_was_rewarded(trained: Path, rater: Path, shelf: Shelf) -> None:
    facts = read_json(trained / "run.json")
    (reward,) = facts["reward"]
    (behind,) = identities([rater])
    assert {key: reward[key] for key in behind} == behind
    assert reward["transform"] == "expected" and reward["length_residual"] is True
    assert set(reward["length_effect"]) == {"slope", "mean", "correlation", "n"}
    assert facts["status"] == "complete" and facts["command"] == "reward" and facts["adapter"]
    assert facts["starts"] == [{"when": facts["starts"][0]["when"], "from_step": 0}]
    rows = logged(trained)
    assert len(rows) == 4 and all("kl" in row and "reply_characters" in row for row in rows)
    card = (trained / "README.md").read_text()
    assert "rewarded by a rater" in card and "without the effect of length" in card
    moved = load_file(trained / WEIGHTS)
    assert any(t.abs().max() > 0 for name, t in moved.items() if "lora_B" in name)


def test_replies_of_the_model_say_who_rewarded_it(
    trained: Path, rater: Path, shelf: Shelf, tmp_path: Path
) -> None:
    output = tmp_path / "rewarded.jsonl"
    given = ["--model", trained, "--dialogues", shelf.corpus, "--system", "rewarded"]
    given += ["--limit", 2, "--output", output, "--max-new-tokens", 4]
    assert recipe("generate")(list(map(str, given))) == 0
    (reward,) = read_json(f"{output}.manifest.json")["reward"]
    assert reward["weights"] == identities([rater])[0]["weights"]


def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: Path, rater: Path, shelf: Shelf, tmp_path: Path
) -> None:
    parts = tmp_path / "run"
    shutil.copytree(trained, parts)
    for name in (WEIGHTS, "log.jsonl"):
        (parts / name).unlink()
    shutil.rmtree(parts / "checkpoint-4")
    facts = read_json(parts / "run.json")
    (parts / "run.json").write_text(
        (trained / "run.json").read_text().replace('"status": "complete"', '"status": "running"')
    )
    assert facts["status"] == "complete"
    shelf.run("reward", parts, *FEW, "--rater", str(rater))
    one, other = load_file(trained / WEIGHTS), load_file(parts / WEIGHTS)
    assert all((one[name] == other[name]).all() for name in one)
    assert [row["reward"] for row in logged(parts)] == [row["reward"] for row in logged(trained)]
    assert read_json(parts / "run.json")["starts"][-1]["from_step"] == 2


@pytest.mark.parametrize("status", ["complete", "running"])
def test_a_run_under_another_reward_is_refused(
    trained: Path, rater: Path, shelf: Shelf, tmp_path: Path, status: str
) -> None:
    """The rater has been trained again, under the same name."""
    run = shutil.copytree(trained, tmp_path / "run")
    facts = read_json(run / "run.json")
    assert facts["identity"]["reward"] == [identities([rater])[0]["weights"]]
    other = tiny_rater(tmp_path / "levels", 6)
    facts |= {"status": status, "settings": {**facts["settings"], "rater": [str(other)]}}
    write_json(run / "run.json", facts)
    before = (run / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        shelf.run("reward", run, *FEW, "--rater", str(other))
    (there,), (now,) = (identities([folder]) for folder in (rater, other))
    line = f"  - reward: ['{there['weights']}'] there, ['{now['weights']}'] now"
    assert line in str(error.value).splitlines()
    ending = str(error.value).splitlines()[-1]
    assert ending.startswith("It stays as it is." if status == "complete" else "Restore it.")
    kept = read_json(run / "run.json")
    assert kept["reward"] == facts["reward"] and kept["identity"] == facts["identity"]
    if status == "complete":
        assert (run / "run.json").read_bytes() == before


def test_prompts_are_those_of_the_other_recipes(shelf: Shelf) -> None:
    from empo.corpora import load_corpus

    source = resolve(str(shelf.sft), merged=True)
    chat = ChatFormat(load_tokenizer(source), None, "You are a kind listener.")
    exchanges = load_corpus(shelf.corpus, "train").exchanges()
    rows, facts = prompt_rows(exchanges, chat, 48)
    assert facts["shortened"] > 0 and facts["rows"] == len(rows)
    for row in rows.select(range(8)):
        exchange = next(each for each in exchanges if each.id == row["id"])
        assert row["context"] == exchange.messages()
        assert chat.prompt(row["prompt"]) == chat.fitting_prompt(exchange.messages(), 48)[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rater", "nowhere"], "nowhere: this is no rater folder"),
        (["--dimensions", "cold"], "the rater has no dimension 'cold'"),
        (["--weights", "1", "2"], "weights: one weight per entry of `dimensions`"),
        (
            ["--num_iterations", "2"],
            "replies that serve several optimizer steps are in no checkpoint",
        ),
        (["--transform", "sum"], "--transform: 'sum' does not fit"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    shelf: Shelf, rater: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    given = [*FEW, "--rater", str(rater), *more]
    with pytest.raises(UserError) as error:
        shelf.run("reward", tmp_path / "run", *given)
    assert said in str(error.value)


def test_a_rewarded_rater_chooses_no_checkpoint(shelf: Shelf, rater: Path, tmp_path: Path) -> None:
    more = ["--select_by", "diff_epitome", "--select_rater", str(rater), "--eval_strategy", "steps"]
    more += ["--eval_steps", "2", "--select_sample", "2"]
    with pytest.raises(UserError, match="has the same weights as the reward"):
        shelf.run("reward", tmp_path / "run", *FEW, "--rater", str(rater), *more)


def test_a_rater_behind_the_start_chooses_no_checkpoint(
    shelf: Shelf, rater: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(shelf.sft / "merged", tmp_path / "start")
    before = tiny_rater(tmp_path / "before", 6)
    write_json(start / "run.json", read_json(start / "run.json") | {"reward": identities([before])})
    more = ["--model", str(start), "--select_by", "diff_epitome", "--select_rater", str(before)]
    more += ["--eval_strategy", "steps", "--eval_steps", "2", "--select_sample", "2"]
    with pytest.raises(UserError, match="before has the same weights as the reward before"):
        shelf.run("reward", tmp_path / "run", *FEW, "--rater", str(rater), *more)


@pytest.mark.slow
def test_the_reward_of_contexts_that_were_not_trained_on_rises(
    rater: Path, shelf: Shelf, tmp_path: Path
) -> None:
    from empo.length_effect import LengthEffect
    from empo.raters.loading import load_raters
    from empo.raters.rewards import as_reward
    from empo.rating import RatingInput

    more = ["--max_steps", "40", "--learning_rate", "3e-3", "--beta", "0.01", "--save_steps", "40"]
    more += ["--num_generations", "8", "--max_completion_length", "12", "--lora_r", "16"]
    run = shelf.run("reward", tmp_path / "run", *more, "--rater", str(rater))
    rewards = {}
    facts = read_json(run / "run.json")["reward"][0]
    effect = LengthEffect(**facts["length_effect"])
    reward = as_reward(load_raters([rater]), facts["dimensions"], length=effect)
    for name, model in (("sft", shelf.sft), ("rewarded", run)):
        output = tmp_path / f"{name}.jsonl"
        given = ["--model", model, "--dialogues", shelf.corpus, "--system", name]
        given += ["--output", output, "--max-new-tokens", 12, "--temperature", 1]
        assert recipe("generate")(list(map(str, given))) == 0
        replies = read_responses(output)
        rewards[name] = reward.of([RatingInput("", reply.response) for reply in replies])
    gains = [a - b for a, b in zip(rewards["rewarded"], rewards["sft"], strict=True)]
    low, _ = bootstrap_interval(np.array(gains), 0)
    assert low > 0, (rewards, low)
