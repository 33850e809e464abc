"""Where in a command a fault strikes: before, in the middle of, or after a call of a real function."""

from __future__ import annotations

import functools
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from forked import Ended

Moment = Literal["before", "half", "after"]
"""half: the file that the function writes is cut in its middle, as a kill within the write leaves it."""


def at(
    function: str, moment: Moment, act: Callable[[], None], path: str = "", nth: int = 1
) -> Callable[[], None]:
    """To be called in a child: `act` once, at the `nth` call of `function` with `path` in it.

    `function` is `module:name` or `module:Class.name`, as its callers find it; a call counts where
    one of its arguments, as text, ends with `path`.
    """

    def install() -> None:
        holder, last = _place(function)
        original = getattr(holder, last)
        calls = 0

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            given = [
                str(value) for value in (*args, *kwargs.values()) if isinstance(value, str | Path)
            ]
            met = next((text for text in given if text.endswith(path)), None if path else "")
            calls += met is not None
            if met is None or calls != nth:
                return original(*args, **kwargs)
            if moment == "before":
                act()
            result = original(*args, **kwargs)
            if moment == "half":
                with open(met, "r+b") as file:
                    file.truncate(os.path.getsize(met) // 2)
            if moment != "before":
                act()
            return result

        setattr(holder, last, counted)

    return install


def send(number: int) -> Callable[[], None]:
    """What sends a signal to the process itself."""
    return lambda: os.kill(os.getpid(), number)


def kill(function: str, moment: Moment, path: str = "", nth: int = 1) -> Callable[[], None]:
    """`at` with SIGKILL: no handler, no clean-up, as when a machine goes down."""
    return at(function, moment, send(signal.SIGKILL), path, nth)


def fail(error: Exception) -> Callable[[], None]:
    """What raises an error from within."""

    def act() -> None:
        raise error

    return act


def count(function: str) -> Callable[[], None]:
    """Have the child say on stderr, at its end, how often it called a function: `N calls`."""

    def install() -> None:
        holder, last = _place(function)
        original, calls = getattr(holder, last), 0

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return original(*args, **kwargs)

        setattr(holder, last, counted)
        end = os._exit

        def told(code: int) -> None:
            print(f"{calls} calls", file=sys.stderr, flush=True)
            end(code)

        os._exit = told  # type: ignore[assignment]

    return install


def calls(ended: Ended) -> int:
    """The number that `count` had a child say."""
    return int(re.findall(r"^(\d+) calls$", ended.err, re.MULTILINE)[-1])


def _place(function: str) -> tuple[Any, str]:
    """The module or class that holds `module:name` or `module:Class.name`, and the last name."""
    module, name = function.split(":")
    holder: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        holder = getattr(holder, part)
    return holder, last
