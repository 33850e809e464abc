"""recipes/rounds.py by its command: every round from the one before, stopped rounds that end the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_runs import LORA, TINY, Shelf, recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.raters.identity import identities
from empo.records import UserError, read_json, read_jsonl, read_responses, sha256
from empo.settings import parse
from empo.sweep.rounds import RoundsSettings, model_of

OURS = dict(zip([word[2:] for word in LORA[::2]], map(yaml.safe_load, LORA[1::2]), strict=True))
OURS |= {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rater(tmp_path_factory.mktemp("rater") / "levels", 5)


def written(folder: Path, shelf: Shelf, reward: Path, **changed: Any) -> list[str]:
    settings = {
        "output_dir": str(folder / "out"),
        "dialogues": str(shelf.corpus),
        "model": str(shelf.sft),
        "rater": [str(reward)],
        "samples": 4,
        "limit": 12,
        "rounds": 2,
        "min_pairs": 3,
        "length_residual": True,
        "dpo_config": str(TINY / "dpo.yaml"),
        "overrides": OURS,
        "generate": {"max_new_tokens": 40, "device": "cpu"},
        **changed,
    }
    path = folder / "rounds.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return ["--config", str(path)]


@pytest.fixture(scope="module")
def done(shelf: Shelf, rater: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    assert recipe("rounds")(written(folder, shelf, rater)) == 0
    return folder / "out"


def test_every_round_trains_on_its_own_samples(done: Path, rater: Path) -> None:
    digests = set()
    for number in (1, 2):
        folder = done / f"round-{number}"
        rows = [row for _, row in read_jsonl(folder / "samples.jsonl")]
        assert len(rows) == 12 and all(len(row["best_of"]["replies"]) == 4 for row in rows)
        facts = read_json(folder / "model" / "run.json")
        assert facts["pairs"]["sampled"]["best_of"]["n"] == 4
        assert facts["pairs"]["sampled"]["best_of"]["length_effect"]["n"] == 12
        assert facts["reward"] == identities([rater])  # named once, also where rounds follow
        for epoch in range(2):
            for _, pair in read_jsonl(folder / "pairs" / f"epoch-{epoch}.jsonl"):
                (row,) = [row for row in rows if row["id"] == pair["id"]]
                ended = [r for r in row["best_of"]["replies"] if r["finished"] and r["response"]]
                best = max(ended, key=lambda reply: reply["score"])
                assert pair["chosen"][0]["content"] == best["response"]
                assert pair["score_chosen"] > pair["score_rejected"]
        digests.add(sha256(folder / "samples.jsonl"))
    assert len(digests) == 2
    start = read_json(done / "round-2" / "model" / "run.json")["start"]
    assert "round-1" in str(start)


def test_the_policy_of_the_last_round_replies(done: Path, shelf: Shelf, tmp_path: Path) -> None:
    output = tmp_path / "r.jsonl"
    given = ["--model", model_of(done, 2), "--dialogues", shelf.corpus, "--system", "on-policy"]
    given += ["--limit", 2, "--output", output, "--max-new-tokens", 4]
    assert recipe("generate")(list(map(str, given))) == 0
    assert len(read_responses(output)) == 2
    trained = read_json(f"{output}.manifest.json")["trained"]["pairs"]
    assert (trained["source"], trained["choose"], trained["candidates"]) == ("sampled", "worst", 4)
    card = (done / "round-2" / "model" / "README.md").read_text()
    assert "of 4 replies that the policy itself gave" in card and "opposite emotion" not in card
    assert read_json(f"{output}.manifest.json")["reward"]


@pytest.mark.slow
def test_rounds_that_were_stopped_end_with_the_same_weights(
    done: Path, shelf: Shelf, rater: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written(tmp_path, shelf, rater, rounds=1)
    assert recipe("rounds")(first) == 0
    out = tmp_path / "out"
    assert not (out / "round-2").exists()
    capsys.readouterr()
    assert recipe("rounds")([*first, "--rounds", "2"]) == 0
    assert "== round 1, train: done before" in capsys.readouterr().out
    shutil.rmtree(out / "round-2" / "model")
    shutil.rmtree(out / "round-2" / "pairs")
    assert recipe("rounds")([*first, "--rounds", "2"]) == 0
    assert "== round 2, samples: done before" in capsys.readouterr().out
    for number in (1, 2):
        one, other = (load_file(model_of(of, number) / WEIGHTS) for of in (done, out))
        assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": 1}, "samples: 1 is too few; at least 2 is needed."),
        ({"rounds": 0}, "rounds: 0 is too few; at least 1 is needed."),
        ({"margin": -1.0}, "margin: -1.0 is negative: the best would be the worst."),
        ({"margin": 99.0}, "0 of 12 exchanges have a pair of sampled replies, and min_pairs is 3."),
        ({"min_pairs": 0}, "min_pairs: 0 is below 1."),
        (
            {"overrides": {**OURS, "limit": 9}},
            "limit: DPO reads the first 9 dialogues (limit of",
        ),
        ({"rater_dimension": ["cold"]}, "rater: the rater has no dimension cold; it has: "),
        ({"rater": ["nowhere"]}, "rater: nowhere: no such folder."),
        ({"dpo_config": "no.yaml"}, "dpo_config: no.yaml: no such file."),
        ({"overrides": {"pairs": "x", "seed": 1}}, "overrides: seed, pairs is set by the rounds"),
        ({"generate": {"limit": 3}}, "generate: limit is set by the rounds themselves."),
        ({"overrides": {**OURS, "num_train_epochs": 1.5}}, "rounds train whole epochs"),
    ],
)
def test_what_cannot_work_is_refused(
    shelf: Shelf, rater: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        recipe("rounds")(written(tmp_path, shelf, rater, **changed))
    assert said in str(error.value)
    assert not (tmp_path / "out" / "round-1" / "model").exists()


def test_the_recipe_in_the_repository_is_one(rater: Path) -> None:
    given = ["--config", str(TINY / "rounds.yaml"), "--rater", str(rater)]
    given += ["--dpo-config", str(TINY / "dpo.yaml")]
    (settings,) = parse(given, RoundsSettings, prog="recipes/rounds.py", description="")
    assert settings.epochs >= 1 and settings.samples >= 2
