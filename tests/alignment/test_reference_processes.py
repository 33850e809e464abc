"""Log-probabilities of the reference by two processes, also where one is killed.

As a script it is one of the processes:
test_reference_processes.py FOLDER BATCH_SIZE KILL_AT (KILL_AT of 0 kills nothing)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from reference_rows import IDENTITY, TOLERANCE, many, padded, random_rows, run, stored, tiny_model
from tiny_runs import accelerate as launched

from empo.alignment.reference_logps import FILE, with_reference
from empo.records import UserError


def process(folder: Path, batch_size: int, kill_at: int) -> None:
    """One of several processes; every call of the score needs all of them, as sharded weights do.

    In call KILL_AT the last process dies. Writes `process-RANK.json`.
    """
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    model, calls = tiny_model(), [0]

    def score(prompts: list[list[int]], completions: list[list[list[int]]]) -> list[list[float]]:
        assert prompts
        calls[0] += 1
        if calls[0] == kill_at and accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGKILL)
        together = torch.tensor([calls[0], 1])
        torch.distributed.all_reduce(together)
        assert together.tolist() == [calls[0] * accelerator.num_processes, 2]
        return padded(model, prompts, completions)

    def overflown(prompts: list[list[int]], of: list[list[list[int]]]) -> list[list[float]]:
        return [[math.nan if rank else -1.0 for _ in of_row] for of_row in of]

    def ours(rows: Dataset, score: Callable[..., Any], name: str) -> tuple[Dataset, dict[str, Any]]:
        place = folder / (name if rank == 0 else "nowhere")
        return with_reference(
            rows, name, score, place, IDENTITY, accelerator, batch_size, TOLERANCE
        )

    def refusal(rows: Dataset, score: Callable[..., Any], name: str) -> str:
        with pytest.raises(UserError) as raised:
            ours(rows, score, name)
        return str(raised.value)

    if rank == 0:
        shutil.rmtree(folder / "overflown", ignore_errors=True)
        (folder / "spoiled").mkdir(exist_ok=True)
        (folder / "spoiled" / FILE).write_text("log-probs")
    refusals = [
        refusal(random_rows(3 + rank), score, "unlike"),
        refusal(random_rows(3), score, "spoiled"),
        refusal(many(2), overflown, "overflown"),
    ]
    scored, facts = ours(random_rows(37), score, "cache")
    columns = scored.select_columns(["ref_chosen_logp", "ref_rejected_pool"]).to_list()
    written = {"calls": calls[0], "columns": columns, "facts": facts, "refusals": refusals}
    (folder / f"process-{rank}.json").write_text(json.dumps(written))
    accelerator.end_training()


def two_processes(folder: Path, port: int, kill_at: int = 0) -> tuple[int, str]:
    """Exit code and what two processes with batches of 2 rows printed."""
    words = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    found = os.pathsep.join([str(Path(__file__).parents[1] / "recipes"), *sys.path])
    done = launched(*words, __file__, folder, "2", str(kill_at), PYTHONPATH=found)
    return done.returncode, done.stdout + done.stderr


def one_process(folder: Path) -> tuple[Dataset, dict[str, Any]]:
    model = tiny_model()
    return run(random_rows(37), folder, lambda prompts, of: padded(model, prompts, of))


@pytest.mark.slow
def test_two_processes_with_unequal_work_find_what_one_finds(tmp_path: Path) -> None:
    """37 rows are 9 rounds of 2 x 2 and one row, for which the second process only helps."""
    code, output = two_processes(tmp_path, 29_741)
    assert code == 0, output
    first, second = (json.loads((tmp_path / f"process-{i}.json").read_text()) for i in (0, 1))
    assert first["calls"] == second["calls"] == 10
    assert first["columns"] == second["columns"]
    assert first["facts"]["computed"] == second["facts"]["computed"] == 148
    assert output.count("reference: 148 of 148 completions to compute (cache)") == 1
    assert len(stored(tmp_path / "cache")) == 148 and not (tmp_path / "nowhere").exists()
    assert first["refusals"] == second["refusals"]
    unlike, spoiled, overflown = second["refusals"]
    assert unlike.startswith("reference (unlike): the processes do not hold the same rows and the")
    assert spoiled.startswith(f"{tmp_path / 'spoiled' / FILE}: this is no cache of the reference's")
    assert overflown.startswith("row 'r0', chosen_ids: the reference's log-probability is nan (and")
    assert len(stored(tmp_path / "overflown")) == 3
    expected, _ = one_process(tmp_path / "one")
    for row, other in zip(expected, first["columns"], strict=True):
        assert row["ref_chosen_logp"] == pytest.approx(other["ref_chosen_logp"], abs=1e-4)
        assert row["ref_rejected_pool"] == pytest.approx(other["ref_rejected_pool"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_killed_are_continued_by_one(tmp_path: Path) -> None:
    """Dead in the 10th round: 8 rounds of 4 rows of 4 completions are kept."""
    code, output = two_processes(tmp_path, 29_742, kill_at=10)
    assert code != 0 and not list(tmp_path.glob("process-*.json")), output
    assert len(stored(tmp_path / "cache")) == 128
    scored, facts = one_process(tmp_path / "cache")
    assert (facts["computed"], facts["reused"]) == (20, 128)
    expected, _ = one_process(tmp_path / "one")
    for row, other in zip(scored, expected, strict=True):
        assert row["ref_chosen_logp"] == pytest.approx(other["ref_chosen_logp"], abs=1e-4)
        assert row["ref_rejected_pool"] == pytest.approx(other["ref_rejected_pool"], abs=1e-4)
    code, output = two_processes(tmp_path, 29_743)
    assert code == 0, output
    second = json.loads((tmp_path / "process-1.json").read_text())
    assert second["calls"] == 1 and second["facts"]["computed"] == 0
    assert second["columns"] == scored.select_columns([*second["columns"][0]]).to_list()


if __name__ == "__main__":
    process(Path(sys.argv[1]), *map(int, sys.argv[2:]))
