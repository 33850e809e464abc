"""Real commands in children forked from this process, which has the imports done; a fault put into each.

A child has its own standard streams (pipes that hold all it says), one thread, and ends through `empo.process.run` as the
command itself does, so that its exit code and what it says are those of the command.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300.0
"""Seconds after which a child counts as hanging."""

Inject = Callable[[], None]
"""Called in the child before the command: puts the fault into place there, and nowhere else."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is negative for the number of the signal that killed it."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        """Both streams, as a person sees them."""
        return f"{self.out}\n{self.err}"


class Child:
    """A command that runs in a process of its own, forked from this one."""

    def __init__(
        self,
        script: str,
        argv: Sequence[str | Path],
        inject: Inject | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        main = main_of(script)  # imported here, once for all children
        pipes = [os.pipe(), os.pipe()]
        for _, end in pipes:
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._begun = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(script, list(map(str, argv)), main, inject, environ or {}, pipes)
        for _, end in pipes:
            os.close(end)
        self._streams = [os.fdopen(end, encoding="utf-8", errors="replace") for end, _ in pipes]

    def end(self, limit: float = LIMIT) -> Ended:
        """Wait for the end. AssertionError, and the child is killed, where it takes too long."""
        until = time.monotonic() + limit
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"no end after {limit:g} s:\n{self._read()}")
            time.sleep(0.01)
        out, err = self._read()
        seconds = time.monotonic() - self._begun
        return Ended(os.waitstatus_to_exitcode(found[1]), out, err, seconds)

    def _read(self) -> list[str]:
        """All that was said; the child has ended."""
        texts = []
        for stream in self._streams:
            with stream:
                texts.append(stream.read())
        return texts


def run(
    script: str,
    argv: Sequence[str | Path],
    inject: Inject | None = None,
    environ: dict[str, str] | None = None,
) -> Ended:
    """A command to its end."""
    return Child(script, argv, inject, environ).end()


@cache
def main_of(script: str) -> Callable[[Sequence[str]], int]:
    """The main function of `recipes/sft.py` and the like."""
    name = "fault_" + script.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.main


def _become(
    script: str,
    argv: list[str],
    main: Callable[[Sequence[str]], int],
    inject: Inject | None,
    environ: dict[str, str],
    pipes: Sequence[tuple[int, int]],
) -> NoReturn:
    """Turn this process into the command; it never returns into the tests."""
    code = 1
    try:
        for number, (_, end) in enumerate(pipes, start=1):
            os.dup2(end, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        _tests_do_not_listen()
        os.environ.update(environ)
        os.chdir(ROOT)
        sys.argv = [script, *argv]
        from empo.process import run as end_by

        if inject is not None:
            inject()
        end_by(lambda: main(argv))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tests_do_not_listen() -> None:
    """Log to this process's stderr, as without pytest."""
    logging.root.handlers.clear()
    for logger in list(logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)
