"""Disks without room for a checkpoint, before and while it is saved."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_trainings import make, names

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints import MANIFEST, explained, last_checkpoint, make_room
from empo.process import MAKE_ROOM
from empo.records import UserError, read_json, write_json


def test_a_save_that_will_not_fit_stops_before_it_begins(
    done: MaskedTurnTrainer, tmp_path: Path, run: Path
) -> None:
    with pytest.raises(UserError) as error:
        make_room(tmp_path / "checkpoint-1", least=10**18)
    text = str(error.value)
    wanted = f"{tmp_path / 'checkpoint-1'}: a checkpoint needs 1,000,000,000.0 GB, "
    found = re.match(re.escape(wanted) + r"([\d.,]+) GB are free", text)
    free = shutil.disk_usage(tmp_path).free / 1e9
    assert found and abs(float(found[1].replace(",", "")) - free) < 20  # others write, too
    assert text.endswith(
        f"are free on the disk of {tmp_path}. {MAKE_ROOM}, and give the same command "
        "again: the run begins from its start. While one is saved, a run keeps save_total_limit + 1 "
        "checkpoints."
    )
    assert not (tmp_path / "checkpoint-1").exists()
    make_room(run / "checkpoint-3", least=10**18)  # the newest one was small
    for step in (1, 2):
        path = run / f"checkpoint-{step}" / MANIFEST
        manifest = read_json(path)
        manifest["files"][0]["bytes"] = 10**18 if step == 2 else 0
        write_json(path, manifest)
    with pytest.raises(UserError, match=r"the run goes on from checkpoint-2\. While"):
        make_room(run / "checkpoint-3", least=0)


@pytest.mark.parametrize("adapter", [True, False])
def test_the_first_checkpoint_is_estimated_from_weights_and_optimizer(
    tmp_path: Path, adapter: bool
) -> None:
    trained = make(tmp_path, adapter, max_steps=1)
    trained.train()
    (weights,) = (tmp_path / "checkpoint-1").glob("*model.safetensors")
    states = torch.load(tmp_path / "checkpoint-1" / "optimizer.pt", weights_only=True)["state"]
    tensors = sum(tensor.nbytes for state in states.values() for tensor in state.values())
    least = trained._least_bytes()
    assert least - tensors <= weights.stat().st_size <= least - tensors + 20_000  # its header
    assert tensors > 2 * (least - tensors)


@contextmanager
def files_of_8_kb() -> Iterator[None]:
    """The limit on the size of files makes a write fail in its middle, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_in_the_middle_stops_with_a_sentence(run: Path) -> None:
    trained = make(run, max_steps=3)
    trained.create_optimizer_and_scheduler(3)
    trained.state.global_step = 3
    with files_of_8_kb(), pytest.raises(UserError) as error:
        trained._save_checkpoint(trained.model, None)
    assert str(error.value).startswith(
        f"{run / 'checkpoint-3'}: it could not be written to its end ("
    )
    assert "the run goes on from checkpoint-2." in str(error.value)
    assert trained.args.save_total_limit == 1
    assert (run / "checkpoint-3").is_dir()
    assert last_checkpoint(run, trained.run.digests) == str(run / "checkpoint-2")
    trained._save_checkpoint(trained.model, None)
    assert names(run) == ["checkpoint-3"]
    assert last_checkpoint(run, trained.run.digests) == str(run / "checkpoint-3")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 100_000),
        lambda path: torch.save({"x": torch.zeros(100_000)}, path),
        lambda path: torch.save({str(n): torch.zeros(100) for n in range(100)}, path),
        lambda path: save_file({"x": torch.zeros(100_000)}, path),
    ],
    ids=["python", "torch", "torch, many", "safetensors"],
)
def test_whatever_cannot_be_written_to_its_end_is_explained(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "checkpoint-1"
    with (
        pytest.raises(UserError, match="checkpoint-1: it could not be written to its end"),
        explained(path, tmp_path),
        files_of_8_kb(),
    ):
        write(path)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), ValueError("x"), UserError("x")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained(tmp_path, tmp_path):
        raise error
    assert raised.value is error
