"""A launch that became something else than what was asked for stops with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainingArguments

from empo.alignment.launching import check_launch, repeated_rows
from empo.records import UserError


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingArguments:
    for name in ("WORLD_SIZE", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    made = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert made.world_size == 1
    return made


def test_one_process_that_was_asked_for_runs(args: TrainingArguments) -> None:
    assert check_launch(args) == check_launch(args, processes=1)
    assert check_launch(args) == {
        "requested": {"processes": 1, "deepspeed": False, "fsdp": False},
        "actual": {"processes": 1, "type": "NO"},
    }


WORLD = (
    "2 processes were launched, but they do not form one group (world size 1): each would train "
    "alone. On a CPU set `use_cpu: true` and launch with `--multi_gpu --num_processes N`."
)
DEEPSPEED = (
    "DeepSpeed was asked for, NO runs. accelerate drops DeepSpeed where `use_cpu` is true: set "
    "`use_cpu: false` in both files (and on a CPU `ddp_backend: gloo`, DS_ACCELERATOR=cpu)."
)
FSDP = "FSDP was asked for, NO runs. FSDP needs a GPU: take another configuration on a CPU."


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WORLD_SIZE", "2", WORLD),
        ("ACCELERATE_USE_DEEPSPEED", "true", DEEPSPEED),
        ("ACCELERATE_USE_FSDP", "true", FSDP),
    ],
)
def test_a_fallback_is_told(
    args: TrainingArguments, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        check_launch(args)
    assert str(error.value) == f"the launch is not what was asked for:\n  - {line}"


def test_the_number_of_processes_of_a_recipe_is_kept(args: TrainingArguments) -> None:
    with pytest.raises(UserError) as error:
        check_launch(args, processes=4)
    assert str(error.value) == (
        "the launch is not what was asked for:\n"
        "  - the recipe asks for 4 processes, 1 run. Without mpirun a MULTI_CPU configuration "
        "starts one process: launch with `accelerate launch --multi_gpu --num_processes 4`."
    )


def test_everything_is_told_at_once(
    args: TrainingArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError) as error:
        check_launch(args, processes=2)
    lines = str(error.value).splitlines()[1:]
    assert [line[4:] for i, line in enumerate(lines) if i != 1] == [WORLD, DEEPSPEED, FSDP]
    assert lines[1].startswith("  - the recipe asks for 2 processes, 1 run.")


@pytest.mark.parametrize(
    ("rows", "batch", "repeated"), [(64, 16, 0), (65, 16, 15), (79, 16, 1), (3, 16, 13)]
)
def test_rows_that_fill_the_last_batch(rows: int, batch: int, repeated: int) -> None:
    assert repeated_rows(rows, batch) == repeated
    assert (rows + repeated) % batch == 0
