"""SIGTERM and Ctrl-C: exit code, one sentence, and nothing lost that was done."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import forked
import pytest
from fault_table import Survived, steps
from phases import at, calls, count, send
from small_runs import (
    Runs,
    assert_same_rater,
    check_equal,
    continued_from,
    copied,
    log,
    results,
    steps_done,
)

from empo.records import read_json

LOGGED = "empo.alignment.callbacks:LogFile.on_log"
TRAINED = "empo.alignment.run_trainer:RunTrainer.training_step"
RATER_STEPS = 18
"""Of both seeds of the rater."""
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
EPOCHS = ["--save_strategy", "epoch"]


def stopped(script: str, argv: list[str], where: str, number: int, nth: int = 1) -> forked.Ended:
    """A command that gets a signal after the `nth` call of a function."""
    ended = forked.run(script, argv, at(where, "after", send(number), nth=nth))
    assert ended.code == CODES[signal.Signals(number)], ended.said
    assert "Traceback" not in ended.said
    lines = [line for line in ended.err.splitlines() if "stopped by" in line]
    assert len(lines) == 1 and ended.err.rstrip().endswith(lines[0])
    return ended


def by_both_signals(fault: int, where: str, then: str) -> pytest.MarkDecorator:
    """SIGTERM and Ctrl-C, two faults in a row, behind whose name a command says the same."""
    named = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
    return pytest.mark.parametrize(
        ("number", "said"),
        [
            pytest.param(
                number,
                f"stopped by {number.name}. {then}",
                marks=pytest.mark.fault(fault + i, f"{name} {where}"),
            )
            for i, (number, name) in enumerate(named.items())
        ],
    )


@pytest.mark.parametrize(
    ("number", "said"),
    [
        pytest.param(
            signal.SIGTERM,
            "stopped by SIGTERM. Saved in …checkpoint-5: the same command goes on with what is missing.",
            marks=pytest.mark.fault(64, "SIGTERM in a step of SFT"),
        ),
        pytest.param(
            signal.SIGINT,
            "stopping when this step is done and saved; Ctrl-C again ends at once stopped by SIGINT. "
            "Saved in …checkpoint-5: …",
            marks=pytest.mark.fault(65, "Ctrl-C in a step of SFT"),
        ),
    ],
)
def test_sft_saves_the_step_that_it_is_at(
    runs: Runs, tmp_path: Path, survived: Survived, number: int, said: str
) -> None:
    run = tmp_path / "run"
    ended = stopped("recipes/sft.py", runs.arguments("sft", run), TRAINED, number, nth=5)
    assert read_json(run / "run.json")["status"] == "stopped"
    done = steps_done(run)
    assert done == 5
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(ended, said, steps(done - continued_from(again)))


@pytest.mark.fault(66, "SIGTERM within an epoch, of a run that saves and evaluates every epoch")
def test_an_epoch_that_is_cut_off_is_not_evaluated(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run, whole = tmp_path / "run", runs.whole("sft", *EPOCHS)
    ended = stopped(
        "recipes/sft.py", runs.arguments("sft", run, *EPOCHS), TRAINED, signal.SIGTERM, nth=3
    )
    done = steps_done(run)
    assert done == 3 and (run / "checkpoint-3").is_dir()
    assert [row["step"] for row in log(run) if "eval_loss" in row] == [0]
    again = forked.run("recipes/sft.py", runs.arguments("sft", run, *EPOCHS))
    assert again.code == 0, again.said
    check_equal(run, whole)
    survived(
        ended, "stopped by SIGTERM. Saved in …checkpoint-3", steps(done - continued_from(again))
    )


@pytest.mark.fault(67, "SIGTERM in the last step of an epoch, before its evaluation")
def test_the_evaluation_of_an_epoch_is_kept(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    ended = stopped("recipes/sft.py", runs.arguments("sft", run), TRAINED, signal.SIGTERM, nth=4)
    assert [row["step"] for row in log(run) if "eval_loss" in row] == [0, 4]
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        ended, "stopped by SIGTERM. Saved in …checkpoint-4", steps(done - continued_from(again))
    )


@pytest.mark.fault(68, "Ctrl-C while a model is loaded")
def test_a_signal_before_training(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    ended = stopped(
        "recipes/sft.py", runs.arguments("sft", run), "empo.models:load_model", signal.SIGINT
    )
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        ended, "stopped by SIGINT. What is done is kept: the same command goes on …", "nothing"
    )


@pytest.mark.fault(69, "SIGTERM while the model is merged")
def test_a_signal_after_training(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    merging = "transformers.modeling_utils:safe_save_file"
    ended = stopped("recipes/sft.py", runs.arguments("sft", run), merging, signal.SIGTERM)
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        ended, "stopped by SIGTERM. What is done is kept: …", steps(done - continued_from(again))
    )


@pytest.mark.fault(70, "SIGTERM in a step of DPO")
def test_dpo_saves_the_step_that_it_is_at(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    ended = stopped("recipes/dpo.py", runs.arguments("dpo", run), TRAINED, signal.SIGTERM, nth=5)
    done = steps_done(run)
    again = forked.run("recipes/dpo.py", runs.arguments("dpo", run))
    assert again.code == 0, again.said
    check_equal(run, runs.dpo)
    survived(
        ended, "stopped by SIGTERM. Saved in …checkpoint-5", steps(done - continued_from(again))
    )


@pytest.mark.fault(71, "SIGTERM while the reference is computed")
def test_a_reference_pass_goes_on(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run, more = tmp_path / "run", ["--precompute_ref_batch_size", "1"]
    where = "empo.alignment.logp_store:LogpStore.write"
    argv = runs.arguments("dpo", run, *more)
    ended = stopped("recipes/dpo.py", argv, where, signal.SIGTERM, nth=1)
    again = forked.run("recipes/dpo.py", argv)
    assert again.code == 0, again.said
    assert "24 of 48 completions" in again.out
    check_equal(run, runs.whole("dpo", *more))
    survived(ended, "stopped by SIGTERM. What is done is kept: …", "nothing")


@by_both_signals(72, "in a generation", "…the same command goes on with what is missing.")
def test_generation_keeps_what_is_done(
    runs: Runs, tmp_path: Path, survived: Survived, number: int, said: str
) -> None:
    output = tmp_path / "replies.jsonl"
    where = "empo.generation:reply_to"
    ended = stopped("recipes/generate.py", runs.generation(output), where, number, nth=3)
    again = forked.run("recipes/generate.py", runs.generation(output), count(where))
    assert again.code == 0, again.said
    assert output.read_bytes() == runs.replies.read_bytes()
    assert calls(again) <= 2
    survived(ended, said, "at most 1 batch of replies")


@pytest.mark.fault(74, "SIGTERM in an evaluation")
def test_an_evaluation_stops(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    where = "empo.metrics.length:length"
    ended = stopped("eval/responses.py", runs.evaluation(tmp_path), where, signal.SIGTERM)
    again = forked.run("eval/responses.py", runs.evaluation(tmp_path))
    assert again.code == 0, again.said
    assert results(tmp_path) == results(runs.evaluated)
    survived(ended, "stopped by SIGTERM. …the same command goes on …", "the evaluation")


@by_both_signals(
    75,
    "in the training of a rater",
    "Saved in …: the same command goes on with what is missing.",
)
def test_a_rater_goes_on(
    runs: Runs, tmp_path: Path, survived: Survived, number: int, said: str
) -> None:
    rater = tmp_path / "warmth"
    where = "transformers:Trainer.training_step"
    ended = stopped("recipes/rater.py", runs.rating(rater), where, number, nth=14)
    again = forked.run("recipes/rater.py", runs.rating(rater), count(where))
    assert again.code == 0, again.said
    assert_same_rater(rater, runs.rater)
    survived(ended, said, steps(14 + calls(again) - RATER_STEPS))


@pytest.mark.fault(77, "SIGTERM twice, and Ctrl-C on top, as launchers send them")
def test_signals_that_are_repeated(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    def all_of_them() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)

    run = tmp_path / "run"
    ended = forked.run(
        "recipes/sft.py", runs.arguments("sft", run), at(LOGGED, "after", all_of_them, nth=6)
    )
    assert ended.code == 130, ended.said
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(ended, "stopped by SIGINT. Saved in …checkpoint-", steps(done - continued_from(again)))


@pytest.mark.fault(78, "two commands on one folder")
def test_one_at_a_time(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")

    def slowly() -> None:
        (tmp_path / "at work").touch()
        waited = time.monotonic() + 120
        while not (tmp_path / "go on").exists() and time.monotonic() < waited:
            time.sleep(0.05)

    first = forked.Child(
        "recipes/sft.py", runs.arguments("sft", run), at("empo.models:load_model", "before", slowly)
    )
    until = time.monotonic() + 60
    while not (tmp_path / "at work").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    second = forked.run("recipes/sft.py", runs.arguments("sft", run))
    (tmp_path / "go on").touch()
    assert second.code == 2, second.said
    ended = first.end()
    assert ended.code == 0, ended.said
    check_equal(run, runs.sft)
    survived(
        second,
        "another process (number …on …) is at work on it. Wait until it has ended, stop it, or "
        "choose another place for this one.",
        "nothing",
    )


@pytest.mark.fault(79, "the lock of a process that was killed is left")
def test_a_lock_ends_with_its_process(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    assert (run / ".lock").is_file()
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(again, "continuing from …checkpoint-6", steps(done - continued_from(again)))
