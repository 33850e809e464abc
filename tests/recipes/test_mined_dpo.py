"""recipes/dpo.py on a folder of `empo pairs`: plain pairs train as plain draws do, mined ones differ."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from tiny_runs import Shelf, recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.pairs import pairs_command
from empo.raters.identity import identities
from empo.records import UserError, read_json, read_jsonl, sha256


def drawn(shelf: Shelf, output: Path, *more: object) -> Path:
    given = ["--dialogues", shelf.corpus, "--output", output, "--epochs", 2, "--show", 0, *more]
    assert pairs_command(list(map(str, given))) == 0
    return output


def losses(run: Path) -> list[float]:
    return [row["loss"] for _, row in read_jsonl(run / "log.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def mined(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A rater and a folder of pairs that it has chosen; some exchanges have none."""
    folder = tmp_path_factory.mktemp("mined")
    rater = tiny_rater(folder / "rater", 3)
    more = ["--rater", rater, "--rater-cache", folder / "r.sqlite", "--rater-value", "expected"]
    more += ["--candidates", 3, "--choose", "hardest", "--margin", 0.0]
    return rater, drawn(shelf, folder / "pairs", *more)


def test_plain_pairs_train_as_plain_draws(shelf: Shelf, tmp_path: Path) -> None:
    pairs = drawn(shelf, tmp_path / "pairs")
    run = shelf.run("dpo", tmp_path / "run", "--num_train_epochs", "2", "--pairs", pairs)
    assert losses(run) == losses(shelf.dpo)
    weights = "adapter_model.safetensors"
    assert sha256(run / weights) == sha256(shelf.dpo / weights)
    facts = read_json(run / "run.json")
    assert facts["pairs"]["exchanges_without_pairs"] == 0 and "reward" not in facts
    assert facts["identity"]["pairs"] == read_json(pairs / "manifest.json")["files"]


def test_mined_pairs_name_the_rater_as_a_reward(
    shelf: Shelf, mined: tuple[Path, Path], tmp_path: Path
) -> None:
    rater, pairs = mined
    run = shelf.run("dpo", tmp_path / "run", "--num_train_epochs", "2", "--pairs", pairs)
    assert losses(run) != losses(shelf.dpo)
    facts = read_json(run / "run.json")
    assert facts["reward"] == identities([rater])
    ids = {row["id"] for epoch in range(2) for _, row in read_jsonl(pairs / f"epoch-{epoch}.jsonl")}
    assert facts["lengths"]["train"]["rows"] == len(ids) < 64
    assert facts["pairs"]["exchanges_without_pairs"] == 64 - len(ids)
    given = ["--model", run, "--dialogues", shelf.corpus, "--system", "mined", "--limit", 2]
    output = tmp_path / "mined.jsonl"
    words = list(map(str, [*given, "--output", output, "--max-new-tokens", 4]))
    assert recipe("generate")(words) == 0
    manifest = read_json(f"{output}.manifest.json")
    assert manifest["reward"] == identities([rater]) and manifest["selected_by"] is None
    trained = manifest["trained"]
    assert "pairs" not in trained["settings"] and str(pairs) not in json.dumps(trained)
    of_tiny = ["emotional_reactions", "interpretations", "explorations"]
    expected = {"source": "opposite", "candidates": 3, "choose": "hardest", "margin": 0.0}
    expected |= {"raters": [identities([rater])[0]["name"]], "on_topic": None}
    expected |= {"exchanges": len(ids), "without_pairs": 64 - len(ids), "too_long": 0}
    assert trained["pairs"].items() >= expected.items()
    assert trained["pairs"]["dimensions"] == of_tiny
    card = (run / "README.md").read_text()
    assert "the best of 3 candidates drawn anew every epoch" in card
    assert f"{64 - len(ids)} were left out that have none" in card


def test_a_training_that_the_pairs_do_not_fit_is_refused(
    shelf: Shelf, mined: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="it has pairs of 2 epochs, and the training has more"):
        shelf.run("dpo", tmp_path / "a", "--num_train_epochs", "3", "--pairs", mined[1])
    with pytest.raises(UserError, match="has 1 rejected replies, and rejected_per_prompt is 2"):
        shelf.run("dpo", tmp_path / "b", "--rejected_per_prompt", "2", "--pairs", mined[1])
    changed = shutil.copytree(mined[1], tmp_path / "changed")
    line = json.loads((changed / "epoch-0.jsonl").read_text().splitlines()[0])
    (changed / "epoch-0.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r"epoch-0\.jsonl: it has changed since it was written"):
        shelf.run("dpo", tmp_path / "c", "--pairs", changed)


@pytest.fixture(scope="module")
def done(shelf: Shelf, mined: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("done") / "run"
    return shelf.run("dpo", output, "--num_train_epochs", "2", "--pairs", mined[1])


def test_a_complete_run_on_other_pairs_is_no_run_on_these(
    shelf: Shelf, mined: tuple[Path, Path], done: Path, tmp_path: Path
) -> None:
    """The folder of pairs is drawn anew, under the same name."""
    again = ["--num_train_epochs", "2", "--pairs", mined[1]]
    shelf.run("dpo", done, *again)
    kept = shutil.copytree(mined[1], tmp_path / "kept")
    before = (done / "run.json").read_bytes()
    shutil.rmtree(mined[1])
    try:
        drawn(shelf, mined[1], "--seed", 7)
        with pytest.raises(UserError) as error:
            shelf.run("dpo", done, *again)
    finally:
        shutil.rmtree(mined[1])
        kept.rename(mined[1])
    said = str(error.value)
    assert (
        f"{done}: this run is complete, and something that it learnt from is not what it was"
        in said
    )
    assert f"  - pairs: {read_json(mined[1] / 'manifest.json')['files']} there, [" in said
    assert (done / "run.json").read_bytes() == before


@pytest.mark.parametrize("behind", ["pairs", "start"])
def test_no_rater_behind_a_training_chooses_its_checkpoint(
    shelf: Shelf, mined: tuple[Path, Path], tmp_path: Path, behind: str
) -> None:
    rater, pairs = mined
    given = ["--select_by", "diff_epitome", "--select_rater", rater, "--select_sample", "2"]
    given += ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--num_train_epochs", "2"]
    if behind == "pairs":
        given += ["--pairs", pairs]
    else:  # as of an SFT model whose weights a reward has moved
        start = shutil.copytree(shelf.sft / "merged", tmp_path / "start")
        facts = read_json(start / "run.json") | {"reward": identities([rater])}
        (start / "run.json").write_text(json.dumps(facts))
        given += ["--model", start]
    with pytest.raises(UserError, match="rater has the same weights as the reward rater"):
        shelf.run("dpo", tmp_path / "run", *given)
