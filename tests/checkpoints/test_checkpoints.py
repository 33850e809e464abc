"""Checkpoints: complete or passed over, whatever happens to their files and whenever a save is killed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Shelf
from tiny_trainings import flip, make, names, usable
from transformers import TrainerControl, TrainerState

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints import (
    MANIFEST,
    STATE,
    check,
    checkpoint_of,
    last_checkpoint,
    rotate,
    seal,
    sweep,
)
from empo.checkpoints.trainer import Continued
from empo.records import CHECKPOINT_SCHEMA, UserError, read_json, sha256, write_json
from empo.runs import Run

# --- what a checkpoint is ---


def test_a_sealed_checkpoint_lists_every_file(done: MaskedTurnTrainer, run: Path) -> None:
    manifest = read_json(run / "checkpoint-2" / MANIFEST)
    assert manifest["schema"] == CHECKPOINT_SCHEMA == "empo.checkpoint/1"
    assert (manifest["step"], manifest["run"]) == (2, done.run.digest)
    listed = {entry.pop("file"): entry for entry in manifest["files"]}
    assert set(listed) == {path.name for path in (run / "checkpoint-2").iterdir()} - {MANIFEST}
    assert {"optimizer.pt", "scheduler.pt", STATE, "adapter_model.safetensors"} < set(listed)
    assert "rng_state.safetensors" in listed and "README.md" in listed
    assert not {"training_args.bin", "rng_state.pth"} & set(listed)
    for name, entry in listed.items():
        path = run / "checkpoint-2" / name
        assert entry == {"bytes": path.stat().st_size, "sha256": sha256(path)}
    assert usable(run, done.run.digest) == ["checkpoint-1", "checkpoint-2"]
    assert last_checkpoint(run, done.run.digests) == str(run / "checkpoint-2")


def test_what_was_not_saved_by_the_run_is_passed_over(
    done: MaskedTurnTrainer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = done.run.digest
    assert last_checkpoint(run / "nowhere", {digest}) is None
    assert caplog.text == ""
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-10").mkdir()
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-9")
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-8")
    manifest = read_json(run / "checkpoint-8" / MANIFEST)
    write_json(run / "checkpoint-8" / MANIFEST, manifest | {"step": 8})
    assert last_checkpoint(run, {digest}) == str(run / "checkpoint-2")
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{run / 'checkpoint-10'} is passed over: it has no manifest.json: saving it was interrupted",
        f"{run / 'checkpoint-9'} is passed over: its manifest.json is that of step 2",
        f"{run / 'checkpoint-8'} is passed over: its trainer_state.json is that of step 2",
    ]
    assert (run / "checkpoint-10").is_dir()
    caplog.clear()
    assert last_checkpoint(run, {"another"}) is None
    assert "checkpoint-2 is passed over: its manifest.json is that of another run" in caplog.text
    assert f"{run}: no checkpoint is usable, training begins from its start" in caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "{} has changed since it was saved"),
        (truncate, "{} has "),
        (lambda path: path.write_bytes(b""), "{} has 0 bytes, "),
        (Path.unlink, "{} is missing"),
        (lambda path: path.rename(path.with_name(f"!{path.name}")), "!{} is not in its manifest"),
    ],
    ids=["flip", "truncate", "empty", "delete", "rename"],
)
def test_damage_to_any_file_is_found_and_named(
    done: MaskedTurnTrainer,
    run: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    told: str,
) -> None:
    checkpoint = run / "checkpoint-2"
    kinds = [path.name for path in checkpoint.iterdir() if path.name != MANIFEST]
    assert len(kinds) >= 8
    for name in kinds:
        whole = (checkpoint / name).read_bytes()
        caplog.clear()
        damage(checkpoint / name)
        assert last_checkpoint(run, done.run.digests) == str(run / "checkpoint-1")
        assert f"{checkpoint} is passed over: {told.format(name)}" in caplog.text, name
        (checkpoint / f"!{name}").unlink(missing_ok=True)
        (checkpoint / name).write_bytes(whole)
        assert check(checkpoint, done.run.digests) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ('{"schema": "empo.ch', "line 1: not JSON"),
        ("[]", "this is no file of the schema 'empo.checkpoint/1'"),
        (
            '{"schema": "empo.checkpoint/9"}',
            "field 'schema': 'empo.checkpoint/9', but this version",
        ),
        ('{"schema": "empo.checkpoint/1", "step": 2}', "field 'run': Field required"),
        ("\udcff", "is not UTF-8"),
    ],
    ids=["empty", "cut", "list", "version", "field", "bytes"],
)
def test_a_manifest_that_cannot_be_read_is_passed_over(
    done: MaskedTurnTrainer,
    run: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    told: str,
) -> None:
    (run / "checkpoint-2" / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert last_checkpoint(run, done.run.digests) == str(run / "checkpoint-1")
    assert told in caplog.text


def test_any_flipped_bit_of_a_manifest_is_found_or_says_the_same(
    done: MaskedTurnTrainer, run: Path
) -> None:
    """Outside of white space between the values, which says nothing."""
    path = run / "checkpoint-2" / MANIFEST
    data, meaning = path.read_bytes(), read_json(path)
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 7
        path.write_bytes(changed)
        if check(path.parent, done.run.digests) is None:
            assert read_json(path) == meaning


def test_files_of_the_file_system_are_no_damage(done: MaskedTurnTrainer, run: Path) -> None:
    for name in (".DS_Store", ".nfs00000000012f"):
        (run / "checkpoint-2" / name).write_bytes(b"x")
    assert check(run / "checkpoint-2", done.run.digests) is None


def test_a_checkpoint_counts_with_the_best_that_it_names(
    done: MaskedTurnTrainer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest, newest = done.run.digest, run / "checkpoint-2"
    state = json.loads((newest / STATE).read_text())
    (newest / STATE).write_text(json.dumps(state | {"best_global_step": 1}))
    seal(newest, digest)
    assert last_checkpoint(run, {digest}, with_best=True) == str(newest)
    flip(run / "checkpoint-1" / "optimizer.pt")
    assert last_checkpoint(run, {digest}) == str(newest)
    assert last_checkpoint(run, {digest}, with_best=True) is None
    assert (
        f"{newest} is passed over: checkpoint-1, the best until then, is not usable: optimizer.pt "
        "has changed since it was saved"
    ) in caplog.text


# --- killed while it saves ---


def killed_at(event: int, save: Callable[[], None]) -> bool:
    """Whether `save`, in a process of its own, was killed before its file operation number `event`."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(name: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = name == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
            if writes or name in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
                seen += 1
                if seen > event:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(count)
            save()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_save_that_is_killed_anywhere_leaves_a_checkpoint_and_can_be_repeated(
    tmp_path: Path,
) -> None:
    """One checkpoint is kept: the one before, until the new one counts."""
    torch.set_num_threads(1)
    trained = make(tmp_path / "run", max_steps=3)
    trained.train()
    digest = trained.run.digest
    trained.state.global_step = 4
    (tmp_path / "run" / "_deleted-checkpoint-1").mkdir()
    (tmp_path / "run" / "checkpoint-4").mkdir()  # an earlier start was killed
    (tmp_path / "run" / "checkpoint-4" / "global_step4.pt").touch()
    event, found = 0, set()
    while True:
        folder = tmp_path / f"copy-{event}"
        shutil.copytree(tmp_path / "run", folder)
        trained.args.output_dir = str(folder)
        killed = killed_at(event, lambda: trained._save_checkpoint(trained.model, None))
        left = tuple(usable(folder, digest))
        assert left, event
        assert {*names(folder), "checkpoint-4"} - {*left, "checkpoint-4"} <= {
            "_deleted-checkpoint-1",
            "_deleted-checkpoint-3",
            "_deleted-checkpoint-4",
        }
        sealed = (folder / "checkpoint-4" / MANIFEST).is_file()
        assert last_checkpoint(folder, {digest}) == str(folder / f"checkpoint-{4 if sealed else 3}")
        found.add(left)
        if not killed:
            break
        if not sealed:
            trained._save_checkpoint(trained.model, None)
        sweep(folder)
        assert [name for name in names(folder) if name.startswith("_")] == []
        assert last_checkpoint(folder, {digest}) == str(folder / "checkpoint-4")
        shutil.rmtree(folder)
        event += 1
    assert event > 20
    assert found == {("checkpoint-3",), ("checkpoint-3", "checkpoint-4"), ("checkpoint-4",)}
    assert names(folder) == ["checkpoint-4"]


# --- old checkpoints ---


@pytest.mark.parametrize(
    ("steps", "newest", "limit", "best", "left"),
    [
        ([1, 2, 3], 3, None, None, [1, 2, 3]),
        ([1, 2, 3], 3, 0, None, [1, 2, 3]),
        ([1, 2, 3], 3, 3, None, [1, 2, 3]),
        ([1, 2, 3], 3, 2, None, [2, 3]),
        ([1, 2, 3], 3, 1, None, [3]),
        ([1, 2, 3], 3, 2, 1, [1, 3]),
        ([1, 2, 3], 3, 1, 1, [1, 3]),
        ([1, 2, 3], 3, 1, 3, [3]),
        ([2, 3], 3, 1, 1, [3]),
        ([8, 9, 10, 11], 11, 2, None, [10, 11]),
        ([8, 16, 24], 12, 2, None, [8, 12]),
        ([8, 16, 24], 12, 1, None, [12]),
        ([8, 16, 24], 12, 3, 8, [8, 12, 24]),
    ],
)
def test_the_oldest_checkpoints_go_and_newest_and_best_stay(
    tmp_path: Path, steps: list[int], newest: int, limit: int | None, best: int, left: list[int]
) -> None:
    for step in {*steps, newest}:
        checkpoint_of(tmp_path, step).mkdir()
        (checkpoint_of(tmp_path, step) / MANIFEST).touch()
    rotate(tmp_path, newest, limit, best)
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in left)


def test_what_has_no_manifest_goes_first(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint_of(tmp_path, step).mkdir()
        if step != 2:
            (checkpoint_of(tmp_path, step) / MANIFEST).touch()
    rotate(tmp_path, newest=3, limit=2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_a_run_keeps_the_best_checkpoint_and_loads_it_only_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate that harms, the first evaluation is the best one."""
    changed: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e3, "max_grad_norm": 0}
    changed |= {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    trained = make(tmp_path / "run", **changed, save_total_limit=2, lr_scheduler_type="constant")
    trained.train()
    assert trained.state.best_global_step == 1
    assert names(tmp_path / "run") == ["checkpoint-1", "checkpoint-4"]
    weights = trained.accelerator.get_state_dict(trained.model)
    flip(tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors")
    with pytest.raises(UserError) as error:
        trained._load_best_model()
    assert str(error.value) == (
        f"{tmp_path / 'run' / 'checkpoint-1'}: the best checkpoint cannot be loaded: "
        "adapter_model.safetensors has changed since it was saved. Give the same command again: "
        "the run makes it anew, from a checkpoint before it where there is one."
    )
    for name, weight in trained.accelerator.get_state_dict(trained.model).items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize(("best", "found"), [(1, "checkpoint-1"), (3, None), (None, "as it was")])
def test_the_best_checkpoint_of_a_run_that_was_moved_is_found(
    run: Path, best: int | None, found: str | None
) -> None:
    args = make(run).args
    state = TrainerState(best_global_step=best, best_model_checkpoint="as it was")
    Continued().on_train_begin(args, state, TrainerControl())
    expected = str(run / found) if best and found else found
    assert state.best_model_checkpoint == expected


# --- pickles ---


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_a_pickle_in_a_checkpoint_does_not_run(tmp_path: Path, run: Path, name: str) -> None:
    """Even where the manifest has been made to fit, which anybody can do who can write the file."""
    trained = make(run, max_steps=3)
    checkpoint, marker = run / "checkpoint-2", tmp_path / "marker"
    state = torch.load(checkpoint / name, weights_only=True)
    torch.save({**state, "more": Payload(marker)}, checkpoint / name)
    assert last_checkpoint(run, trained.run.digests) == str(run / "checkpoint-1")
    seal(checkpoint, trained.run.digest)
    last = last_checkpoint(run, trained.run.digests)
    assert last == str(checkpoint)
    with pytest.raises(
        UserError, match=r"checkpoint-2: optimizer.pt or scheduler.pt holds a pickle"
    ):
        trained.train(resume_from_checkpoint=last)
    assert not marker.exists()
    torch.load(checkpoint / name, weights_only=False)
    assert marker.is_dir()  # it would have


def test_no_pickle_that_nobody_reads_is_kept(shelf: Shelf) -> None:
    kept = {path.relative_to(shelf.dpo).as_posix() for path in shelf.dpo.rglob("*")}
    assert "checkpoint-16/optimizer.pt" in kept
    suffixes = (".bin", ".pt", ".pth", ".pkl")
    assert {name.split("/")[-1] for name in kept if name.endswith(suffixes)} == {
        "optimizer.pt",
        "scheduler.pt",
    }


# --- whole runs ---


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a flipped bit the weights know nothing at the end; the broken folder is saved anew."""
    whole, run = shelf.dpo, tmp_path / "dpo"
    shelf.run("dpo", run, "--num_train_epochs", "2")
    facts = (run / "run.json").read_text().replace('"status": "complete"', '"status": "running"')
    (run / "run.json").write_text(facts)
    (run / "adapter_model.safetensors").unlink()
    flip(run / "checkpoint-16" / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING):
        shelf.run("dpo", run, "--num_train_epochs", "2")
    broken = run / "checkpoint-16"
    assert (
        f"{broken} is passed over: adapter_model.safetensors has changed since it was saved"
    ) in caplog.text
    assert f"continuing from {run / 'checkpoint-8'}" in caplog.text
    for name in ("adapter_model.safetensors", "checkpoint-16/optimizer.pt"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    digest = Run(run, read_json(run / "run.json")).digest
    assert usable(run, digest) == ["checkpoint-16", "checkpoint-8"]
