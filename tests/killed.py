"""Commands in forks: killed before any one of their changes of files, or asked to stop by a signal."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from empo.process import run

_CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR


def killed_before(change: int, folder: Path, work: Callable[[], Any]) -> bool:
    """Do `work` in a fork that SIGKILL ends before its `change`-th change in `folder`, from 1 on.

    Returns whether it was killed; False where it came to its end before.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if "torch" in sys.modules:  # its threads are not in a fork
                sys.modules["torch"].set_num_threads(1)
            _kill_at(change, str(folder))
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the command failed by itself; see its traceback"
    return False


def _kill_at(change: int, folder: str) -> None:
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _CHANGES or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        seen += 1
        if seen == change:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def asked_to_stop(
    number: int, when: Callable[[], bool], stderr: Path, work: Callable[[], int | None]
) -> int:
    """Do `work` as a command does, in a fork that gets a signal as soon as `when` is true.

    What it writes to its standard error goes into the file `stderr`. Returns its exit code.
    """
    child = os.fork()
    if child == 0:
        code: Any = 70
        try:
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            run(work)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + 300
    while not when():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), f"it ended before: {stderr.read_text()}"
        if time.monotonic() > deadline:
            number = signal.SIGKILL  # it never came so far
            break
        time.sleep(0.002)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is not hidden, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
