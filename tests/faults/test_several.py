"""Two processes under the real launcher: one that dies, a signal, another number, a port."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from fault_table import Survived, steps
from forked import ROOT, Ended
from small_runs import Runs, check_equal, continued_from, copied, steps_done
from tiny_runs import accelerate

from empo.records import read_json

LAUNCHED = Path(__file__).with_name("launched.py")
TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO += ["--dynamo_backend", "no"]
STEP = "empo.alignment.run_trainer:RunTrainer.training_step"
SECONDS = 60
"""Within which all processes of a run have ended when one of them is gone."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def launch(*words: str | Path, port: int | None = None) -> Ended:
    """`accelerate launch` of two processes to its end."""
    begun = time.monotonic()
    done = accelerate(*TWO, "--main_process_port", str(port or free_port()), *words)
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)


def argv(runs: Runs, run: Path) -> list[str]:
    """SFT with batches of 2 on each process, so 8 steps."""
    more = ["--per_device_train_batch_size", "2", "--merge_adapter", "false"]
    return runs.arguments("sft", run, *more)


@pytest.fixture(scope="module")
def whole(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run on two processes that nothing happened to, and how long it took."""
    run = tmp_path_factory.mktemp("two") / "run"
    ended = launch(ROOT / "recipes/sft.py", *argv(runs, run))
    assert ended.code == 0, ended.said
    return run, ended.seconds


def goes_on(runs: Runs, run: Path, whole: Path) -> Ended:
    """The same command to its end, equal to the run that nothing happened to."""
    again = launch(ROOT / "recipes/sft.py", *argv(runs, run))
    assert again.code == 0, again.said
    check_equal(run, whole)
    return again


@pytest.mark.parametrize(
    ("rank", "action", "said"),
    [
        pytest.param(
            0,
            "kill",
            "process 1: error: another process of this run is gone; …The same command goes on from "
            "the last complete checkpoint.",
            marks=pytest.mark.fault(104, "the first of two processes is killed"),
        ),
        pytest.param(
            1,
            "kill",
            "error: another process of this run is gone; …The same command goes on from the last "
            "complete checkpoint.",
            marks=pytest.mark.fault(105, "the second of two processes is killed"),
        ),
        pytest.param(
            1,
            "fail",
            "ValueError: the data of this process are damaged",
            marks=pytest.mark.fault(106, "an exception in one of two processes"),
        ),
    ],
)
def test_one_process_that_dies_ends_all(
    runs: Runs,
    whole: tuple[Path, float],
    tmp_path: Path,
    survived: Survived,
    rank: int,
    action: str,
    said: str,
) -> None:
    run = tmp_path / "run"
    ended = launch(LAUNCHED, str(rank), STEP, "7", action, "recipes/sft.py", *argv(runs, run))
    assert ended.code != 0
    assert ended.seconds < whole[1] + SECONDS
    done = steps_done(run)
    again = goes_on(runs, run, whole[0])
    survived(ended, said, steps(done - continued_from(again)))


@pytest.mark.fault(107, "SIGTERM to the launcher of two processes")
def test_both_processes_stop_at_one_step(
    runs: Runs, whole: tuple[Path, float], tmp_path: Path, survived: Survived
) -> None:
    run = tmp_path / "run"
    ended = launch(LAUNCHED, "1", STEP, "5", "stop", "recipes/sft.py", *argv(runs, run))
    assert ended.code != 0
    assert read_json(run / "run.json")["status"] == "stopped"
    done = steps_done(run)
    newest = run / f"checkpoint-{done}"
    listed = {entry["file"] for entry in read_json(newest / "manifest.json")["files"]}
    assert {"rng_state_0.safetensors", "rng_state_1.safetensors"} <= listed
    again = goes_on(runs, run, whole[0])
    survived(
        ended,
        "stopped by SIGTERM. Saved in …checkpoint-…: the same command goes on with what is missing.",
        steps(done - continued_from(again)),
    )


@pytest.mark.fault(108, "a run of one process is continued on two")
def test_another_number_of_processes_is_refused(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    words = runs.arguments("sft", run)
    refused = launch(ROOT / "recipes/sft.py", *words)
    assert refused.code != 0
    words += ["--accept_changes", "true"]
    elsewhere = launch(ROOT / "recipes/sft.py", *words)
    assert elsewhere.code != 0
    assert "an epoch had 4 optimizer steps and would now have 2" in elsewhere.said
    accepted = launch(ROOT / "recipes/sft.py", *words, "--per_device_train_batch_size", "2")
    assert accepted.code == 0, accepted.said
    assert continued_from(accepted) == 6
    changes = [entry["changes"] for entry in read_json(run / "run.json")["accepted"]]
    assert changes == [
        ["per_device_train_batch_size: 4 there, 2 now"],
        ["processes: 1 there, 2 now"],
    ]
    survived(
        refused,
        "something else than its settings has changed: - processes: 1 there, 2 now …"
        "`--accept-changes` continues it all the same; its folder then says so.",
        "nothing (goes on)",
    )


@pytest.mark.fault(109, "the launcher's port is in use")
def test_a_port_in_use(
    runs: Runs, whole: tuple[Path, float], tmp_path: Path, survived: Survived
) -> None:
    run = tmp_path / "run"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = launch(ROOT / "recipes/sft.py", *argv(runs, run), port=port)
    assert ended.code == 0, ended.said
    check_equal(run, whole[0])
    survived(ended, "…already in use…", "nothing")
