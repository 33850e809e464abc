"""SIGKILL at every phase of a save, of the end of a run, and of what comes before training."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from fault_table import Survived, steps
from phases import at, calls, count, kill
from small_runs import (
    Runs,
    assert_same_rater,
    check_equal,
    continued_from,
    results,
    steps_done,
)

from empo.alignment.reference_logps import _BATCHES_PER_WRITE
from empo.records import read_json

WEIGHTS = "peft.peft_model:safe_save_file"
MERGED = "transformers.modeling_utils:safe_save_file"
STATE = "transformers.trainer_callback:TrainerState.save_to_json"
IN_SIX = "checkpoint-6/"


class Case(NamedTuple):
    """A kill in SFT; `from_step` is where the run then goes on from."""

    number: int
    name: str
    inject: Callable[[], None]
    from_step: int


def _half_a_line() -> None:
    """The newest row of the log is not whole; then SIGKILL."""
    path = Path(sys.argv[sys.argv.index("--output_dir") + 1]) / "log.jsonl"
    os.truncate(path, path.stat().st_size - 20)
    os.kill(os.getpid(), signal.SIGKILL)


TRAINED = "transformers:Trainer.training_step"
LOGGED = "empo.alignment.callbacks:LogFile.on_log"
SFT = [
    Case(1, "killed while the model is loaded", kill("empo.models:load_model", "before"), 0),
    Case(2, "killed before the first checkpoint", kill(LOGGED, "after", nth=2), 0),
    Case(
        3,
        "killed in the middle of a step",
        kill("accelerate.optimizer:AcceleratedOptimizer.step", "before", nth=6),
        4,
    ),
    Case(
        4,
        "killed while a row of the log is written",
        at(LOGGED, "after", _half_a_line, nth=9),
        6,
    ),
    Case(
        5,
        "killed before the weights of a checkpoint",
        kill(WEIGHTS, "before", f"{IN_SIX}adapter_model.safetensors"),
        4,
    ),
    Case(
        6,
        "killed in the middle of the weights of a checkpoint",
        kill(WEIGHTS, "half", f"{IN_SIX}adapter_model.safetensors"),
        4,
    ),
    Case(
        7,
        "killed between weights and optimizer of a checkpoint",
        kill("torch:save", "before", f"{IN_SIX}optimizer.pt"),
        4,
    ),
    Case(
        8,
        "killed in the middle of the optimizer's state",
        kill("torch:save", "half", f"{IN_SIX}optimizer.pt"),
        4,
    ),
    Case(
        9,
        "killed in the middle of the random states",
        kill(
            "empo.checkpoints.trainer:save_random_state", "half", f"{IN_SIX}rng_state.safetensors"
        ),
        4,
    ),
    Case(
        10,
        "killed in the middle of trainer_state.json",
        kill(STATE, "half", f"{IN_SIX}trainer_state.json"),
        4,
    ),
    Case(
        11,
        "killed before the manifest of a checkpoint appears",
        kill("os:replace", "before", f"{IN_SIX}manifest.json"),
        4,
    ),
    Case(
        12,
        "killed when the manifest is there, before old checkpoints go",
        kill("empo.checkpoints.trainer:rotate", "before", nth=3),
        6,
    ),
    Case(
        13,
        "killed when an old checkpoint is renamed, not yet deleted",
        kill("shutil:rmtree", "before", "_deleted-checkpoint-2", nth=2),
        6,
    ),
    Case(
        14,
        "killed in the middle of the deletion of an old checkpoint",
        kill("os:unlink", "after", "optimizer.pt"),
        6,
    ),
    Case(
        15,
        "killed before the weights of the run",
        kill(WEIGHTS, "before", "adapter_model.safetensors", nth=5),
        8,
    ),
    Case(
        16,
        "killed in the middle of the weights of the run",
        kill(WEIGHTS, "half", "adapter_model.safetensors", nth=5),
        8,
    ),
    Case(
        17,
        "killed between the weights of the run and its log",
        kill("empo.alignment.training:write_jsonl", "before"),
        8,
    ),
    Case(
        18,
        "killed in the middle of the merged weights",
        kill(MERGED, "half", "merged/model.safetensors"),
        8,
    ),
    Case(
        19,
        "killed before the merged model counts",
        kill("os:replace", "before", "merged/run.json"),
        8,
    ),
    Case(20, "killed before the run counts", kill("empo.runs:Run.save", "before", nth=3), 8),
]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=pytest.mark.fault(c.number, c.name)) for c in SFT]
)
def test_sft_that_is_killed_ends_as_if_it_was_not(
    runs: Runs, tmp_path: Path, survived: Survived, case: Case
) -> None:
    run = tmp_path / "run"
    killed = forked.run("recipes/sft.py", runs.arguments("sft", run), case.inject)
    assert killed.code == -signal.SIGKILL, killed.said
    done = steps_done(run) + (case.number == 4)  # the step whose row is not whole
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    assert continued_from(again) == case.from_step
    check_equal(run, runs.sft)
    said = f"continuing from …checkpoint-{case.from_step}" if case.from_step else "SFT model in …"
    survived(again, said, steps(done - case.from_step))


@pytest.mark.fault(21, "killed when the run counts")
def test_a_complete_run_is_left_alone(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    inject = kill("empo.runs:Run.save", "after", nth=3)
    killed = forked.run("recipes/sft.py", runs.arguments("sft", run), inject)
    assert killed.code == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    left = run / ".lock"  # of the process that was killed
    assert {**after, left: 0} == {**before, left: 0}
    check_equal(run, runs.sft)
    survived(again, "this run is complete.", steps(0))


@pytest.mark.fault(22, "killed at the end of a run that `max_steps` ends within an epoch")
def test_no_step_is_taken_twice_at_the_end(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    seven = ["--max_steps", "7", "--lr_scheduler_type", "constant"]
    run = tmp_path / "run"
    inject = kill(WEIGHTS, "before", "run/adapter_model.safetensors")
    killed = forked.run("recipes/sft.py", runs.arguments("sft", run, *seven), inject)
    assert killed.code == -signal.SIGKILL
    assert steps_done(run) == 7
    again = forked.run("recipes/sft.py", runs.arguments("sft", run, *seven))
    assert again.code == 0, again.said
    check_equal(run, runs.whole("sft", *seven))
    survived(again, "continuing from …checkpoint-7", steps(7 - continued_from(again)))


@pytest.mark.fault(23, "DPO killed in its second epoch")
def test_dpo_goes_on_with_the_draws_it_would_have_had(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run = tmp_path / "run"
    killed = forked.run("recipes/dpo.py", runs.arguments("dpo", run), kill(LOGGED, "after", nth=9))
    assert killed.code == -signal.SIGKILL
    done = steps_done(run)
    assert done == 7
    again = forked.run("recipes/dpo.py", runs.arguments("dpo", run))
    assert again.code == 0, again.said
    assert "are in" in again.out and "to compute" not in again.out  # the reference is kept
    check_equal(run, runs.whole("dpo"))
    survived(again, "continuing from …checkpoint-6", steps(done - continued_from(again)))


@pytest.mark.fault(24, "DPO killed while the reference is computed")
def test_a_reference_pass_goes_on(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    more = ["--precompute_ref_batch_size", "1"]
    inject = kill("empo.alignment.logp_store:LogpStore.write", "before", nth=2)
    killed = forked.run("recipes/dpo.py", runs.arguments("dpo", run, *more), inject)
    assert killed.code == -signal.SIGKILL
    again = forked.run("recipes/dpo.py", runs.arguments("dpo", run, *more))
    assert again.code == 0, again.said
    left, of = map(
        int, re.search(r"(\d+) of (\d+) completions to compute \(train", again.out).groups()
    )
    assert of - left == 3 * _BATCHES_PER_WRITE  # chosen and two rejected of every row
    check_equal(run, runs.whole("dpo", *more))
    survived(
        again,
        "reference: …completions to compute (train)",
        f"{_BATCHES_PER_WRITE} batches of the reference",
    )


GENERATED = "empo.generation:reply_to"


@pytest.mark.fault(25, "generation killed in a batch")
def test_generation_goes_on(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    output = tmp_path / "replies.jsonl"
    inject = kill(GENERATED, "after", nth=3)
    killed = forked.run("recipes/generate.py", runs.generation(output), inject)
    assert killed.code == -signal.SIGKILL
    again = forked.run("recipes/generate.py", runs.generation(output), count(GENERATED))
    assert again.code == 0, again.said
    assert output.read_bytes() == runs.replies.read_bytes()
    assert calls(again) == 2  # of four
    survived(again, "8 replies of dpo", "1 batch of replies")


@pytest.mark.fault(26, "generation killed while a batch is written down")
def test_half_a_batch_is_made_again(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    output = tmp_path / "replies.jsonl"
    killed = forked.run(
        "recipes/generate.py", runs.generation(output), kill(GENERATED, "after", nth=4)
    )
    assert killed.code == -signal.SIGKILL
    partial = output.with_name(f".{output.name}.partial")
    os.truncate(partial, partial.stat().st_size - 30)
    again = forked.run("recipes/generate.py", runs.generation(output), count(GENERATED))
    assert again.code == 0, again.said
    assert output.read_bytes() == runs.replies.read_bytes()
    assert calls(again) == 2
    survived(again, "8 replies of dpo", "2 batches of replies")


@pytest.mark.fault(27, "generation killed when the replies are there, before their manifest")
def test_replies_get_their_manifest(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    output = tmp_path / "replies.jsonl"
    inject = kill("os:replace", "before", "replies.jsonl.manifest.json")
    assert forked.run("recipes/generate.py", runs.generation(output), inject).code < 0
    again = forked.run("recipes/generate.py", runs.generation(output), count(GENERATED))
    assert again.code == 0, again.said
    assert calls(again) == 0
    assert output.read_bytes() == runs.replies.read_bytes()
    made, expected = (
        read_json(path.with_name(f"{path.name}.manifest.json")) for path in (output, runs.replies)
    )
    assert made["sha256"] == expected["sha256"]
    survived(again, "8 replies of dpo", "nothing")


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(
            "empo.reporting.results:write_results",
            marks=pytest.mark.fault(28, "evaluation killed before its results"),
        ),
        pytest.param(
            "empo.reporting.report:write_report",
            marks=pytest.mark.fault(29, "evaluation killed before its report"),
        ),
    ],
)
def test_an_evaluation_is_made_again(
    runs: Runs, tmp_path: Path, survived: Survived, function: str
) -> None:
    inject = kill(function, "before")
    assert forked.run("eval/responses.py", runs.evaluation(tmp_path), inject).code < 0
    again = forked.run("eval/responses.py", runs.evaluation(tmp_path))
    assert again.code == 0, again.said
    assert results(tmp_path) == results(runs.evaluated)
    ours, theirs = (folder / "per_response.jsonl" for folder in (tmp_path, runs.evaluated))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (tmp_path / "report.md").is_file()
    survived(again, "results.json", "the evaluation")


@pytest.mark.fault(30, "a rater's training killed in its second seed")
def test_a_rater_goes_on_in_its_seed(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    rater = tmp_path / "warmth"
    inject = kill("transformers:Trainer._save_checkpoint", "before", nth=6)  # epoch 3 of 3, seed 2
    killed = forked.run("recipes/rater.py", runs.rating(rater), inject)
    assert killed.code == -signal.SIGKILL, killed.said
    again = forked.run("recipes/rater.py", runs.rating(rater), count(TRAINED))
    assert again.code == 0, again.said
    assert_same_rater(rater, runs.rater)
    survived(again, "seed 2: goes on from …checkpoint-", steps(calls(again)))
