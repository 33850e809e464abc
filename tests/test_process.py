"""How a command ends: exit codes, signals, and of several processes the error that came first."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from empo.process import run
from empo.records import UserError

HEAD = "import os, signal, sys, time\nfrom pathlib import Path\n"
HEAD += (
    "from empo.process import Stopped, run, stop_when_saved\nfrom empo.records import UserError\n"
)


def start(folder: Path, body: str, **environ: str) -> subprocess.Popen[str]:
    """A process that runs `body`, a main function's lines; `ready` is written when it works."""
    lines = textwrap.indent(textwrap.dedent(body), "    ")
    script = f"{HEAD}\ndef main():\n{lines}\n\nrun(main)\n"
    script = script.replace("READY", f"Path({str(folder / 'ready')!r}).touch()")
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def working(folder: Path) -> None:
    """Wait until the process has begun to work."""
    for _ in range(600):
        if (folder / "ready").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the process never began to work")


def test_a_users_error_becomes_one_message_and_exit_code_2(capsys) -> None:
    def command() -> int:
        raise UserError("the oven is cold.")

    with pytest.raises(SystemExit) as end:
        run(command)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the oven is cold.\n"


@pytest.mark.parametrize("code, expected", [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_of_a_command_is_kept(code: int | None, expected: int) -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda: code)
    assert end.value.code == expected


class SafetensorError(Exception):
    """As safetensors says it."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out.json"),
            "error: out.json: no space left on device. Free space on the disk",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "error: a file could not be written to its end: disk quota exceeded. Free space",
        ),
        (
            SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
            "error: a file could not be written to its end: Error while serializing: I/O error: "
            "File too large (os error 27). Free space",
        ),
    ],
    ids=["full", "quota", "safetensors"],
)
def test_a_full_disk_becomes_one_message(capsys, error: Exception, told: str) -> None:
    def command() -> int:
        raise error

    with pytest.raises(SystemExit) as end:
        run(command)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(told) and said.count("\n") == 1
    assert said.endswith("give the same command again: it goes on with what is missing.\n")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("x")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    def command() -> int:
        raise error

    with pytest.raises(type(error)):
        run(command)


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")]
)
def test_a_signal_ends_a_command_with_a_sentence(
    tmp_path: Path, number: int, code: int, name: str
) -> None:
    process = start(tmp_path, "READY\ntime.sleep(60)")
    working(tmp_path)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error == (
        f"stopped by {name}. What is done is kept: the same command goes on with what is missing.\n"
    )


SAVES = """
import empo.process
empo.process._TWICE = {twice}
with stop_when_saved("the cake is out") as stop:
    READY
    while stop.number is None:
        time.sleep(0.01)
    print("stopping", flush=True)
    while not Path({saved!r}).exists():
        time.sleep(0.01)
    print("saved", flush=True)
raise Stopped(stop.number, "The cake is in the window")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_saves_first_ends_when_it_has_saved(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, SAVES.format(saved=str(tmp_path / "saved"), twice=600))
    working(tmp_path)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGTERM)  # the launcher's, on top
    process.send_signal(signal.SIGINT)  # the terminal's, at about the same time
    (tmp_path / "saved").touch()
    out, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == "saved\n"
    name = signal.Signals(number).name
    assert error == (
        "\nstopping when the cake is out; Ctrl-C again ends at once\n"
        f"stopped by {name}. The cake is in the window: the same command goes on with what is "
        "missing.\n"
    )


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, SAVES.format(saved=str(tmp_path / "never"), twice=0))
    working(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert out == ""


def test_handlers_are_restored() -> None:
    from empo.process import stop_when_saved

    before = signal.getsignal(signal.SIGTERM)
    with stop_when_saved("it is done") as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


JOINED = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
{body}
dist.all_reduce(torch.ones(1))
dist.all_reduce(torch.ones(1))
"""
ONE_FAILS = 'if dist.get_rank() == {rank}: raise UserError("the oven of {rank} is cold.")'
ALL_FAIL = 'raise UserError("the oven is cold.")'
ONE_IS_KILLED = "if dist.get_rank() == {rank}: os.kill(os.getpid(), signal.SIGKILL)"


def pair(folder: Path, body: str, script: str = JOINED) -> list[tuple[int, str]]:
    """Exit code and stderr of two joined processes."""
    port = free_port()
    processes = [
        start(
            folder,
            script.format(body=body),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    return [
        (process.returncode, error)
        for process, (_, error) in [(p, p.communicate(timeout=90)) for p in processes]
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_the_first_that_fails_speaks(tmp_path: Path, rank: int) -> None:
    ended = pair(tmp_path, ONE_FAILS.format(rank=rank))
    who = "process 1: " if rank else ""
    assert ended[rank][0] == 2
    assert f"{who}error: the oven of {rank} is cold." in ended[rank][1]
    assert ended[1 - rank][0] == 1
    assert "Traceback" not in ended[1 - rank][1]
    assert "the oven" not in ended[1 - rank][1]


def test_what_all_processes_find_is_said_once(tmp_path: Path) -> None:
    ended = pair(tmp_path, ALL_FAIL)
    assert [code for code, _ in ended] == [2, 2]
    assert sum(error.count("error: the oven is cold.") for _, error in ended) == 1


KEEPER_IS_KILLED = """
import time
import torch.distributed as dist
if os.environ["RANK"] == "0":
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, True, wait_for_workers=False)
    store.wait(["met"])
    os.kill(os.getpid(), signal.SIGKILL)
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, False)
store.set("met", "1")
store.get("never")
"""


def test_a_process_that_is_killed_before_all_have_met_is_missed(tmp_path: Path) -> None:
    ended = pair(tmp_path, "", KEEPER_IS_KILLED)
    assert ended[0][0] == -signal.SIGKILL
    assert ended[1][0] == 1 and "error: another process of this run is gone" in ended[1][1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_is_missed(tmp_path: Path, rank: int) -> None:
    ended = pair(tmp_path, ONE_IS_KILLED.format(rank=rank))
    assert ended[rank][0] == -signal.SIGKILL
    code, error = ended[1 - rank]
    assert code == 1
    assert "error: another process of this run is gone" in error
    assert "the same command goes on" in error.lower()
