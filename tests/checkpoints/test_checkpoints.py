"""Checkpoints: complete or passed over, whatever happens to their files and whenever a save is killed."""

from __future__ import annotations

import inspect
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from tiny_runs import Shelf
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    trainer,
    trainer_utils,
)
from trl import DPOTrainer, SFTConfig, SFTTrainer

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints import (
    MANIFEST,
    STATE,
    check,
    checkpoint_of,
    explained,
    last_checkpoint,
    make_room,
    rotate,
    seal,
    sweep,
)
from empo.checkpoints.random_states import load_random_state, save_random_state
from empo.checkpoints.trainer import Continued
from empo.process import MAKE_ROOM, Stopped
from empo.records import CHECKPOINT_SCHEMA, UserError, read_json, sha256, write_json
from empo.runs import Run
from empo.small_models import train_tokenizer

CHANGED = (
    "transformers has changed {}: adapt empo.checkpoints, then this test and the version range."
)
CPU = torch.device("cpu")
TOKENIZER = train_tokenizer(["a friend is sad today and hopes that it is better tomorrow"] * 8, 280)


def make(folder: Path, adapter: bool = True, **changed: Any) -> MaskedTurnTrainer:
    """A real trainer of a model of some thousand weights; a checkpoint after every step, one kept."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(TOKENIZER)}
    rows = Dataset.from_list([{"input_ids": [*range(3, 11)], "labels": [*range(3, 11)]}] * 8)
    given: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "save_total_limit": 1}
    given |= {"learning_rate": 0.05, "save_strategy": "steps"}
    args = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        per_device_train_batch_size=4,
        dataset_kwargs={"skip_prepare_dataset": True},
        **{**given, **changed},
    )
    trained = MaskedTurnTrainer(
        model=MistralForCausalLM(MistralConfig(**sizes, **heads)),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=2, lora_dropout=0.5, task_type="CAUSAL_LM") if adapter else None,
    )
    trained.run = Run.start(folder, "sft", {"seed": 42})
    trained.run.save(name="run", seed=42)
    return trained


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> MaskedTurnTrainer:
    """Two steps, of which both checkpoints were kept."""
    trained = make(tmp_path_factory.mktemp("done") / "run", save_total_limit=2)
    trained.train()
    return trained


@pytest.fixture
def run(done: MaskedTurnTrainer, tmp_path: Path) -> Path:
    """A copy of its folder, to be damaged."""
    return Path(shutil.copytree(done.args.output_dir, tmp_path / "run"))


def usable(folder: Path, digest: str) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*") if not check(path, {digest}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


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


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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


# --- the ends of epochs ---


class TermedAt(TrainerCallback):
    """Sends this process a SIGTERM in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Before its first batch."""
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def logged(trained: MaskedTurnTrainer) -> list[tuple[int, list[str]]]:
    """Step and kind of every row of the log."""
    return [
        (row["step"], [key for key in ("loss", "eval_loss") if key in row])
        for row in trained.state.log_history
    ]


EPOCHS: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2, "logging_steps": 1}
EPOCHS |= {"eval_strategy": "epoch"}


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stop_leaves_the_evaluations_of_a_run_that_was_not_stopped(
    tmp_path: Path, strategy: str, step: int
) -> None:
    """Two steps to an epoch: stopped in its middle nothing is evaluated, at its end before the save."""
    whole = make(tmp_path / "whole", **EPOCHS, save_strategy=strategy)
    with whole.stopping():
        whole.train()
    expected = [(1, ["loss"]), (2, ["loss"]), (2, ["eval_loss"]), (3, ["loss"]), (4, ["loss"])]
    expected += [(4, ["eval_loss"]), (4, [])]
    assert logged(whole) == expected
    stopped = make(tmp_path / "run", **EPOCHS, save_strategy=strategy)
    stopped.add_callback(TermedAt(step))
    with pytest.raises(Stopped, match=f"checkpoint-{step}"), stopped.stopping():
        stopped.train()
    assert logged(stopped) == [row for row in expected if row[0] <= step] + [(step, [])]
    run = stopped.run
    on = make(tmp_path / "on", **EPOCHS, save_strategy=strategy)
    on.args.output_dir, on.run = str(tmp_path / "run"), run
    last = last_checkpoint(tmp_path / "run", run.digests)
    assert last == str(tmp_path / "run" / f"checkpoint-{step}")
    with on.stopping():
        on.train(resume_from_checkpoint=last)
    assert logged(on) == expected
    theirs = whole.accelerator.get_state_dict(whole.model)
    for name, weight in on.accelerator.get_state_dict(on.model).items():
        assert torch.equal(weight, theirs[name])


def test_from_the_last_step_no_other_is_taken(tmp_path: Path) -> None:
    """Three steps end in the middle of an epoch."""
    trained = make(tmp_path / "run", max_steps=3)
    trained.train()
    on = make(tmp_path / "on", max_steps=3)
    on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert on.state.global_step == 3
    assert [row["step"] for row in on.state.log_history if "train_loss" in row] == [3]


# --- random states ---


def draws() -> list[float]:
    """One of everything that may be asked of the four generators."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        *torch.randn(3).tolist(),
        *torch.nn.functional.dropout(torch.ones(8)).tolist(),
    ]


@pytest.mark.parametrize("used", [0, 1, 2, 1000])
def test_random_states_come_back_exactly(tmp_path: Path, used: int) -> None:
    """Also in the middle of a pair of normal numbers, of which Python and numpy keep the second."""
    trainer_utils.set_seed(7)
    for _ in range(used):
        draws()
    save_random_state(tmp_path / "state.safetensors", CPU)
    expected = [draws() for _ in range(700)]  # past the end of the words that are kept
    trainer_utils.set_seed(8)
    assert draws() != expected[0]
    load_random_state(tmp_path / "state.safetensors", CPU)
    assert [draws() for _ in range(700)] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_a_gpu_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cuda:0")
    save_random_state(tmp_path / "state.safetensors", device)
    expected = torch.randn(8, device=device)
    load_random_state(tmp_path / "state.safetensors", device)
    assert torch.equal(torch.randn(8, device=device), expected)
    save_random_state(tmp_path / "cpu.safetensors", CPU)
    load_random_state(tmp_path / "cpu.safetensors", device)
    assert "cpu.safetensors has no random state of a cuda" in caplog.text


def test_a_trainer_restores_the_state_of_its_own_process(
    done: MaskedTurnTrainer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert done._random_state(str(run)).name == "rng_state.safetensors"
    done._load_rng_state(None)
    done._load_rng_state(str(run / "checkpoint-2"))
    expected = draws()
    draws()
    done._load_rng_state(str(run / "checkpoint-2"))
    assert draws() == expected
    done._load_rng_state(str(run))
    assert f"{run}/rng_state.safetensors is not there: dropout goes on with other" in caplog.text


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


@pytest.mark.parametrize("method", ["_load_optimizer_and_scheduler", "_load_scaler"])
def test_the_trainer_reads_its_own_files_with_weights_only(method: str) -> None:
    lines = inspect.getsource(getattr(Trainer, method))
    assert lines.count("torch.load(") == lines.count("weights_only=True") > 0, CHANGED.format(
        f"how Trainer.{method} reads files"
    )


def test_no_pickle_that_nobody_reads_is_kept(shelf: Shelf) -> None:
    kept = {path.relative_to(shelf.dpo).as_posix() for path in shelf.dpo.rglob("*")}
    assert "checkpoint-16/optimizer.pt" in kept
    suffixes = (".bin", ".pt", ".pth", ".pkl")
    assert {name.split("/")[-1] for name in kept if name.endswith(suffixes)} == {
        "optimizer.pt",
        "scheduler.pt",
    }


# --- the disk ---


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


# --- private names of the trainer ---


@pytest.mark.parametrize(
    ("cls", "method", "parameters"),
    [
        (Trainer, "_save_checkpoint", ["self", "model", "trial"]),
        (SFTTrainer, "_save_checkpoint", ["self", "model", "trial"]),
        (DPOTrainer, "_save_checkpoint", ["self", "model", "trial"]),
        (
            Trainer,
            "_run_epoch",
            "self model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial "
            "ignore_keys_for_eval start_time resume_from_checkpoint epochs_trained "
            "steps_trained_in_current_epoch".split(),
        ),
        (Trainer, "_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        (Trainer, "_save_rng_state", ["self", "output_dir"]),
        (Trainer, "_load_rng_state", ["self", "checkpoint"]),
        (Trainer, "_load_best_model", ["self"]),
    ],
)
def test_the_trainer_still_has_what_we_override(
    cls: type, method: str, parameters: list[str]
) -> None:
    found = getattr(cls, method, None)
    assert found is not None, CHANGED.format(f"{cls.__name__}.{method}")
    assert list(inspect.signature(found).parameters) == parameters, CHANGED.format(
        f"the parameters of {cls.__name__}.{method}"
    )


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("_save_checkpoint", "self._save_rng_state(output_dir)"),
        ("_save_checkpoint", "save_total_limit=self.args.save_total_limit"),
        (
            "_save_checkpoint",
            "self.state.save_to_json(os.path.join(output_dir, TRAINER_STATE_NAME))",
        ),
        ("_inner_training_loop", "if self.control.should_training_stop:"),
        ("_run_epoch", "self.callback_handler.on_epoch_end(self.args, self.state, self.control)"),
        ("_finalize_training", "self._load_best_model()"),
        ("_run_epoch", "self._load_rng_state(resume_from_checkpoint)"),
    ],
)
def test_the_trainer_still_calls_it(method: str, line: str) -> None:
    assert line in inspect.getsource(getattr(Trainer, method)), CHANGED.format(
        f"where Trainer.{method} calls {line}"
    )


def test_the_trainer_still_deletes_nothing_without_a_limit(run: Path) -> None:
    trainer_utils.rotate_checkpoints(str(run), save_total_limit=None)
    assert names(run) == ["checkpoint-1", "checkpoint-2"]
    assert trainer.TRAINING_ARGS_NAME == "training_args.bin", CHANGED.format(
        "its file of arguments"
    )
    assert trainer.TRAINER_STATE_NAME == STATE, CHANGED.format("its file of states")


# --- limits, late stops, changed settings ---


def folders(run: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return sorted(int(path.name[11:]) for path in run.glob("checkpoint-*"))


def test_a_limit_of_1_leaves_best_and_newest(tmp_path: Path) -> None:
    """A kill after training then finds its last step; the trainer itself would leave the best alone."""
    trained = make(
        tmp_path / "run",
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first is best
    )
    with trained.stopping():
        trained.train()
    assert folders(tmp_path / "run") == [1, 3]
    assert trained.args.save_total_limit == 1


def test_a_stop_rotates_as_any_save(tmp_path: Path) -> None:
    stopped = make(tmp_path / "run", max_steps=4, save_total_limit=2)
    stopped.add_callback(TermedAt(4))
    with pytest.raises(Stopped, match="checkpoint-4"), stopped.stopping():
        stopped.train()
    assert folders(tmp_path / "run") == [3, 4]


class TermedInTheLastEvaluation(TrainerCallback):
    """Sends this process a SIGTERM when all steps are done."""

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Behind the evaluation."""
        if state.global_step == state.max_steps:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("saved", [True, False])
def test_a_stop_after_the_last_step_ends_where_that_is_saved(tmp_path: Path, saved: bool) -> None:
    changed = {**EPOCHS, "save_strategy": "epoch" if saved else "no"}
    trained = make(tmp_path / "run", **changed)
    trained.add_callback(TermedInTheLastEvaluation())
    if saved:
        with pytest.raises(Stopped, match="checkpoint-4"), trained.stopping():
            trained.train()
    else:  # what is left to do is less than doing it again
        with trained.stopping():
            trained.train()
    assert trained.state.global_step == 4


def test_a_continued_run_saves_as_often_as_it_is_told_now(tmp_path: Path) -> None:
    first = make(tmp_path / "run", max_steps=6, save_steps=2, save_total_limit=None)
    first.add_callback(TermedAt(2))
    with pytest.raises(Stopped), first.stopping():
        first.train()
    on = make(tmp_path / "on", max_steps=6, save_steps=1, save_total_limit=None)
    on.args.output_dir, on.run = first.args.output_dir, first.run
    with on.stopping():
        on.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert folders(tmp_path / "run") == [2, 3, 4, 5, 6]
