"""The process of a command: the signals that stop it, the error that it ends with, its exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from empo.records import UserError
from empo.redaction import redacted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAKE_ROOM = (
    "Free space on the disk that the command writes to, or raise the limit on files (`ulimit -f`) or "
    "the quota"
)
"""What to do where a file could not be written to its end."""
_TWICE = 1.0
"""Seconds in which a second Ctrl-C is the first one: a terminal and a launcher both send it."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to stop; what it has done is kept."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.where = where

    def __str__(self) -> str:
        where = self.where or "What is done is kept"
        return (
            f"stopped by {signal.Signals(self.number).name}. {where}: the same command goes on "
            "with what is missing."
        )


class StopRequest:
    """Whether a signal has asked a command to stop when it has saved what it works on."""

    number: int | None = None
    """The signal, None until one comes."""


@contextmanager
def stop_when_saved(what: str) -> Iterator[StopRequest]:
    """Let the first SIGTERM or Ctrl-C only be noted, for a block that looks at the request and saves.

    `what` ends the sentence on the screen ("stopping when ..."). A second Ctrl-C ends the process at
    once, a repeated SIGTERM does nothing more. The handlers of before are restored at the end.
    """
    request = StopRequest()
    begun = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if request.number is None:
            request.number, begun = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                os.write(2, f"\nstopping when {what}; Ctrl-C again ends at once\n".encode())
        elif number == signal.SIGINT and time.monotonic() - begun > _TWICE:
            _end_at_once(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call a command's main and end the process: with its code, or with a message instead of a traceback.

    A UserError, a path that is in the way or may not be written, and a full disk end with 2; SIGTERM
    with 143 and Ctrl-C with 130, and what is done stays done. Of several processes the first one
    that fails speaks; the others end because of it.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    try:
        code = main() or 0
        _leave_group()
    except UserError as error:
        code = _end(f"error: {error}", 2)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        reason = (error.strerror or type(error).__name__).lower()
        code = _end(f"error: {error.filename}: {reason}. Choose another path.", 2)
    except KeyboardInterrupt as stop:
        stop = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        code = _end(str(stop), 128 + stop.number)
        _leave_group()
    except Exception as error:
        if (full := _full_disk(error)) is not None:
            code = _end(full, 2)
        elif isinstance(error, RuntimeError) and _processes() > 1 and _lost_another(error):
            code = _end(
                "error: another process of this run is gone; its own error stands above, or it was "
                f"killed ({_first_line(error)}). The same command goes on from the last "
                "complete checkpoint.",
                1,
                lost_another=True,
            )
            os._exit(code)  # what is left of the group may abort the process while it is taken down
        else:
            raise
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the command wherever it is; from then on a signal ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher may send it after Ctrl-C
    begun = time.monotonic()

    def again(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - begun > _TWICE:
            _end_at_once(number)

    signal.signal(signal.SIGINT, again)
    raise Stopped(number)


def _end_at_once(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _leave_group() -> None:
    """Take the group of processes down; its threads may abort an interpreter that ends with them."""
    distributed = sys.modules.get("torch.distributed")
    if _processes() > 1 and distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _end(message: str, code: int, lost_another: bool = False) -> int:
    """Print why the command ends where this process is the one to say it; returns the code."""
    if _speaks(lost_another):
        who = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""
        print(f"{who}{redacted(message)}", file=sys.stderr, flush=True)
    return code


def _speaks(lost_another: bool) -> bool:
    """Of the processes of a run the first to end; before they are joined, one per machine.

    Where one was lost before they were joined, it may be the one that would have spoken.
    """
    if _processes() == 1:
        return True
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return lost_another or os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        store = distributed.distributed_c10d._get_default_store()
        return store.add("empo/ended", 1) == 1
    except RuntimeError:  # the process that kept the store has ended
        return os.environ.get("RANK") != "0"


def _full_disk(error: Exception) -> str | None:
    """What to say where a file could not be written to its end; None where that was not it."""
    text = str(error)
    rust = any(f"(os error {number})" in text for number in _FULL)  # safetensors has no OSError
    if not rust and getattr(error, "errno", None) not in _FULL:
        return None
    file = getattr(error, "filename", None)
    reason = text.splitlines()[0] if rust else (error.strerror or text).lower()
    return (
        f"error: {f'{file}: ' if file else 'a file could not be written to its end: '}{reason}. "
        f"{MAKE_ROOM}, and give the same command again: it goes on with what is missing."
    )


_OF_ONE_THAT_IS_GONE = (
    *("Connection closed by peer", "Connection reset by peer", "gloo"),
    "Connection was likely closed",  # the process that keeps the group's addresses, before all have met
)


def _lost_another(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    text = str(error)
    return type(error).__name__ == "DistBackendError" or any(
        sign in text for sign in _OF_ONE_THAT_IS_GONE
    )
