"""Several processes: the same losses as one, the same run after a kill, no silent fallback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ROOT, Shelf, accelerate, command

from empo import models
from empo.models import load_model
from empo.records import read_json, read_jsonl, sha256

pytestmark = pytest.mark.slow

TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO += ["--dynamo_backend", "no"]
PORTS = iter(range(29_611, 29_700))
MEASURED = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
INTERRUPTED = Path(__file__).with_name("interrupted.py")
STEPS = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "3"]
STEPS += ["--eval_strategy", "no", "--eval_on_start", "false"]


GLOO = ["--use_cpu", "false", "--ddp_backend", "gloo"]


def configured(name: str) -> list[str]:
    """Launcher words for a shipped configuration, on two processes of this machine."""
    path = ROOT / "accelerate_configs" / f"{name}.yaml"
    return ["--config_file", str(path), "--num_processes", "2", "--mixed_precision", "no"]


def launch(
    *words: str | Path, launcher: list[str] = TWO, **environ: str
) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of several processes on a port of its own."""
    return accelerate(*launcher, "--main_process_port", str(next(PORTS)), *words, **environ)


def losses(run: Path) -> list[dict[str, Any]]:
    """What was measured in every step."""
    rows = [row for _, row in read_jsonl(run / "log.jsonl") if "loss" in row]
    return [{key: row[key] for key in MEASURED if key in row} for row in rows]


@pytest.fixture(scope="module")
def two(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SFT and DPO on two processes of 4 rows each."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("sft", "dpo"):
        more = [*STEPS, "--per_device_train_batch_size", "4", "--processes", "2"]
        words = shelf.arguments(name, folder / name, *more)
        done = launch(ROOT / f"recipes/{name}.py", *words)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in ("sft", "dpo")}


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_two_processes_take_the_steps_of_one(
    shelf: Shelf, two: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """The same global batch of 8; 64 rows fill it."""
    one = shelf.run(name, tmp_path / name, *STEPS)
    ours, theirs = losses(two[name]), losses(one)
    assert len(ours) == len(theirs) == 16
    for step, other in zip(ours, theirs, strict=True):
        assert step["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert step == pytest.approx(other, rel=1e-3, abs=1e-4)
    facts = read_json(two[name] / "run.json")
    assert facts["launch"] == {
        "requested": {"processes": 2, "deepspeed": False, "fsdp": False},
        "actual": {"processes": 2, "type": "MULTI_CPU"},
    }
    assert facts["rows_repeated_per_epoch"] == 0


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_two_processes_killed_in_the_middle_of_an_epoch_go_on(
    shelf: Shelf, two: dict[str, Path], tmp_path: Path, name: str
) -> None:
    stopped = tmp_path / name
    more = [*STEPS, "--per_device_train_batch_size", "4", "--processes", "2"]
    words = shelf.arguments(name, stopped, *more)
    killed = launch(INTERRUPTED, "11", ROOT / f"recipes/{name}.py", *words)
    assert killed.returncode != 0
    assert read_json(stopped / "run.json")["status"] == "running"
    assert (stopped / "checkpoint-9").is_dir() and not (stopped / "checkpoint-12").exists()
    done = launch(ROOT / f"recipes/{name}.py", *words)
    assert done.returncode == 0, done.stderr
    assert losses(stopped) == losses(two[name])
    weights = [sha256(run / "adapter_model.safetensors") for run in (stopped, two[name])]
    assert weights[0] == weights[1]
    model = load_model(models.resolve(str(stopped), merged=False))
    trained = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert len(trained) == 7 and all(p.abs().max() > 0 for p in trained.values())


def test_deepspeed_zero_2_trains_an_adapter_that_any_process_loads(
    shelf: Shelf, two: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    output = tmp_path / "dpo"
    more = [*STEPS, "--per_device_train_batch_size", "4", "--processes", "2"]
    done = launch(
        ROOT / "recipes/dpo.py",
        *shelf.arguments("dpo", output, *more, *GLOO),
        launcher=configured("deepspeed_zero2"),
        DS_ACCELERATOR="cpu",
        TORCH_EXTENSIONS_DIR=str(
            tmp_path / "extensions"
        ),  # a killed compile would lock a shared one
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert read_json(output / "run.json")["launch"] == {
        "requested": {"processes": 2, "deepspeed": True, "fsdp": False},
        "actual": {"processes": 2, "type": "DEEPSPEED"},
    }
    for step, other in zip(losses(output), losses(two["dpo"]), strict=True):
        assert step["loss"] == pytest.approx(other["loss"], abs=1e-4)
    model = load_model(models.resolve(str(output)))
    trained = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(trained) == 14
    assert all(p.numel() and p.abs().max() > 0 for p in trained.values())


@pytest.mark.parametrize(
    ("configuration", "name"),
    [("deepspeed_zero2", "sft"), ("deepspeed_zero2", "dpo"), ("deepspeed_zero3", "sft")],
)
def test_deepspeed_killed_in_the_middle_of_an_epoch_goes_on(
    shelf: Shelf, tmp_path: Path, configuration: str, name: str
) -> None:
    """SFT with dropout: every process needs its part of the optimizer and its random state."""
    pytest.importorskip("deepspeed")
    environ = {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    runs = []
    for folder, killed_at in (("whole", None), ("stopped", 7)):
        runs.append(tmp_path / folder)
        more = [*STEPS, *GLOO, "--num_train_epochs", "1"]
        more += ["--per_device_train_batch_size", "4", "--processes", "2"]
        if name == "sft":
            more += ["--lora_dropout", "0.1", "--merge_adapter", "false"]
        words = shelf.arguments(name, runs[-1], *more)
        launcher, script = configured(configuration), ROOT / f"recipes/{name}.py"
        if killed_at is not None:
            killed = launch(
                INTERRUPTED, str(killed_at), script, *words, launcher=launcher, **environ
            )
            assert killed.returncode != 0
            assert read_json(runs[-1] / "run.json")["status"] == "running"
            sealed = read_json(runs[-1] / "checkpoint-6" / "manifest.json")
            listed = {entry["file"] for entry in sealed["files"]}
            assert {"rng_state_0.safetensors", "rng_state_1.safetensors"} <= listed
            assert sum(name.endswith("_optim_states.pt") for name in listed) == 2
        done = launch(script, *words, launcher=launcher, **environ)
        assert done.returncode == 0, done.stderr[-4000:]
        assert ("continuing from" in done.stderr) == (killed_at is not None)
    whole, stopped = runs
    assert losses(stopped) == losses(whole) and len(losses(whole)) == 8
    weights = [sha256(run / "adapter_model.safetensors") for run in runs]
    assert weights[0] == weights[1]


def test_deepspeed_zero_3_saves_and_merges_the_whole_adapter(shelf: Shelf, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    output = tmp_path / "sft"
    more = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--processes", "2"]
    done = launch(
        ROOT / "recipes/sft.py",
        *shelf.arguments("sft", output, *more, *GLOO, "--merge_adapter", "true"),
        launcher=configured("deepspeed_zero3"),
        DS_ACCELERATOR="cpu",
        TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    adapted = load_model(models.resolve(str(output), merged=False)).eval()
    merged = load_model(models.resolve(str(output))).eval()
    ids = torch.tensor([[1, 7, 20, 33]])
    with torch.inference_mode():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=0, atol=1e-5)
    trained = {name: p for name, p in adapted.named_parameters() if "lora_B" in name}
    assert len(trained) == 7 and all(p.abs().max() > 0 for p in trained.values())


COMPARED = (*MEASURED, "entropy", "logits/chosen", "rewards/accuracies", "mean_token_accuracy")
ONE_EPOCH = ["--num_train_epochs", "1", "--save_strategy", "no", "--logging_steps", "1"]
ONE_EPOCH += ["--per_device_train_batch_size", "4", "--processes", "2"]


@pytest.mark.parametrize(
    ("configuration", "more"),
    [
        pytest.param(None, [], id="ddp"),
        pytest.param(None, ["--gradient_checkpointing", "true"], id="ddp, checkpointing"),
        pytest.param("deepspeed_zero2", GLOO, id="zero-2"),
        pytest.param("deepspeed_zero3", GLOO, id="zero-3"),
    ],
)
def test_shared_prompts_log_what_trls_own_step_logs(
    shelf: Shelf, tmp_path: Path, configuration: str | None, more: list[str]
) -> None:
    """Whole runs on two processes, evaluation included; ours has the reference run ahead."""
    environ = {}
    launcher = TWO
    if configuration is not None:
        pytest.importorskip("deepspeed")
        launcher = configured(configuration)
        environ = {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    logs = []
    for name, script in (
        ("ours", ROOT / "recipes/dpo.py"),
        ("stock", Path(__file__).with_name("stock.py")),
    ):
        words = shelf.arguments("dpo", tmp_path / name, *ONE_EPOCH, *more)
        done = launch(script, *words, launcher=launcher, **environ)
        assert done.returncode == 0, done.stderr[-4000:]
        rows = [row for _, row in read_jsonl(tmp_path / name / "log.jsonl")]
        kept = [
            {key: value for key, value in row.items() if key.removeprefix("eval_") in COMPARED}
            for row in rows
        ]
        logs.append([row for row in kept if row])
    ours, stock = logs
    assert read_json(tmp_path / "ours" / "run.json")["shared_prefix"] is True
    assert len(ours) == len(stock) == 8 + 2
    assert all("eval_loss" in row or "grad_norm" in row for row in ours)
    for step, other in zip(ours, stock, strict=True):
        assert step.keys() == other.keys()
        for row in (step, other):  # before the first step pairs are tied, and rounding decides
            if "rewards/accuracies" not in row and abs(row["eval_rewards/margins"]) < 1e-6:
                del row["eval_rewards/accuracies"]
            elif abs(row.get("rewards/margins", 1)) < 1e-6:
                del row["rewards/accuracies"]
        assert step == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert max(abs(step.get("rewards/margins", 0)) for step in ours) > 0.005


def test_pairs_weigh_the_same_on_processes_with_unequal_batches(
    shelf: Shelf, tmp_path: Path
) -> None:
    """One step an epoch: over all batches of all processes it is the mean over all pairs."""
    more = ["--tokens_per_batch", "700", "--gradient_accumulation_steps", "100"]
    more += ["--num_train_epochs", "2", "--save_strategy", "no", "--eval_strategy", "no"]
    more += ["--eval_on_start", "false"]
    one = shelf.run("dpo", tmp_path / "one", *more)
    words = shelf.arguments("dpo", tmp_path / "two", *more, "--processes", "2")
    done = launch(ROOT / "recipes/dpo.py", *words)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = read_json(tmp_path / "two" / "run.json")["batches"]
    assert facts["batches_per_epoch"] % 2 == 0 and facts["min_rows"] < facts["max_rows"]
    ours, theirs = losses(tmp_path / "two"), losses(one)
    assert len(ours) == len(theirs) == 2
    for step, other in zip(ours, theirs, strict=True):
        assert step["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert step["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("launcher", "more", "told"),
    [
        pytest.param(
            configured("deepspeed_zero2"),
            [],
            "DeepSpeed was asked for, MULTI_CPU runs.",
            id="deepspeed dropped by use_cpu",
        ),
        pytest.param(configured("fsdp"), GLOO, "FSDP was asked for, NO runs.", id="fsdp"),
        pytest.param(
            TWO,
            GLOO,
            "2 processes run, but nothing averages their gradients",
            id="two that train alone",
        ),
    ],
)
def test_a_launch_that_becomes_something_else_stops(
    shelf: Shelf, tmp_path: Path, launcher: list[str], more: list[str], told: str
) -> None:
    words = shelf.arguments("dpo", tmp_path / "run", "--num_train_epochs", "1", *more)
    done = launch(ROOT / "recipes/dpo.py", *words, launcher=launcher, DS_ACCELERATOR="cpu")
    assert done.returncode != 0
    assert "error: the launch is not what was asked for:" in done.stderr
    assert told in done.stderr
    assert "exitcode  : 2" in done.stderr  # the launcher's report of the process
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environ", "more", "told"),
    [
        (
            {"WORLD_SIZE": "2"},
            ["--use_cpu", "false"],
            "2 processes were launched, but they do not form one group (world size 1)",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, [], "FSDP was asked for, NO runs."),
        ({}, ["--processes", "2"], "the recipe asks for 2 processes, 1 run."),
    ],
    ids=["no group", "fsdp", "too few"],
)
def test_the_process_itself_ends_with_2(
    shelf: Shelf, tmp_path: Path, environ: dict[str, str], more: list[str], told: str
) -> None:
    words = shelf.arguments("dpo", tmp_path / "run", *more)
    done = command([sys.executable, ROOT / "recipes/dpo.py", *words], **environ)
    assert done.returncode == 2, done.stderr
    assert "error: the launch is not what was asked for:" in done.stderr and told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
