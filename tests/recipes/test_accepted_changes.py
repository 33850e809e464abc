"""`--accept-changes` and `--fresh` of real trainings: what goes on, from where, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import Shelf

from empo.records import UserError, read_json, read_jsonl, write_json

TWO = ["--num_train_epochs", "2", "--save_strategy", "epoch"]


@pytest.fixture(scope="module")
def trained(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT of two epochs of 8 steps."""
    return shelf.run("sft", tmp_path_factory.mktemp("accepted") / "run", *TWO)


@pytest.fixture
def stopped(trained: Path, tmp_path: Path) -> Path:
    """The same after its first epoch, as a kill then leaves it."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "checkpoint-16")
    shutil.rmtree(run / "merged")
    (run / "adapter_model.safetensors").unlink()
    write_json(run / "run.json", read_json(run / "run.json") | {"status": "running"})
    return run


def steps(run: Path) -> list[int]:
    """The optimizer steps in the log."""
    return [row["step"] for _, row in read_jsonl(run / "log.jsonl") if "loss" in row]


def test_more_epochs_are_trained_from_where_the_run_was(shelf: Shelf, stopped: Path) -> None:
    three = ["--num_train_epochs", "3", "--save_strategy", "epoch"]
    with pytest.raises(UserError, match=r"num_train_epochs: 2\.0 there, 3\.0 now"):
        shelf.run("sft", stopped, *three)
    shelf.run("sft", stopped, *three, "--accept-changes")
    facts = read_json(stopped / "run.json")
    assert [entry["changes"] for entry in facts["accepted"]] == [
        ["num_train_epochs: 2.0 there, 3.0 now"]
    ]
    assert (facts["status"], facts["steps"]) == ("complete", 24)
    assert steps(stopped) == list(range(1, 25))


def test_another_number_of_steps_to_an_epoch_is_no_place_to_go_on_from(
    shelf: Shelf, stopped: Path
) -> None:
    before = (stopped / "run.json").read_bytes()
    changed = [*TWO, "--per_device_train_batch_size", "16", "--accept-changes"]
    with pytest.raises(UserError) as error:
        shelf.run("sft", stopped, *changed)
    assert str(error.value) == (
        f"{stopped}: an epoch had 8 optimizer steps and would now have 4, so step 8 would be another "
        "place in the data. Keep rows and processes x batch x accumulation as they were. `--fresh` "
        "begins a new one in a folder beside it."
    )
    assert (stopped / "run.json").read_bytes() == before  # the settings of before still fit
    shelf.run("sft", stopped, *TWO)
    assert steps(stopped) == list(range(1, 17))


def test_the_same_batch_in_other_pieces_goes_on(shelf: Shelf, stopped: Path) -> None:
    pieces = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    shelf.run("sft", stopped, *TWO, *pieces, "--accept-changes")
    assert steps(stopped) == list(range(1, 17))


@pytest.mark.parametrize(
    ("setting", "value"), [("lora_alpha", "8"), ("learning_rate", "0.5"), ("lora_r", "4")]
)
def test_what_the_checkpoint_has_in_it_cannot_be_accepted(
    shelf: Shelf, stopped: Path, setting: str, value: str
) -> None:
    with pytest.raises(UserError, match=f"{setting} cannot change in a run"):
        shelf.run("sft", stopped, *TWO, f"--{setting}", value, "--accept-changes")


def test_another_precision_is_another_run(shelf: Shelf, stopped: Path) -> None:
    facts = read_json(stopped / "run.json")
    facts["identity"]["precision"] = "bf16"
    write_json(stopped / "run.json", facts)
    with pytest.raises(UserError, match=r"precision: 'bf16' there, 'no' now"):
        shelf.run("sft", stopped, *TWO)


def test_another_sharding_cannot_be_accepted(shelf: Shelf, stopped: Path) -> None:
    facts = read_json(stopped / "run.json")
    facts["identity"]["sharding"] = "DeepSpeed ZeRO-2"
    write_json(stopped / "run.json", facts)
    with pytest.raises(UserError, match=r"sharding: 'DeepSpeed ZeRO-2' there, 'none' now"):
        shelf.run("sft", stopped, *TWO, "--accept-changes")


def test_a_fresh_run_leaves_the_old_one_as_it_is(
    shelf: Shelf, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    shelf.run("sft", stopped, "--num_train_epochs", "1", "--fresh")
    beside = stopped.with_name("run-2")
    assert read_json(beside / "run.json")["name"] == "run-2"
    assert read_json(beside / "run.json")["status"] == "complete"
    assert f"a new run in {beside}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before
