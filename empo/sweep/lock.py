"""One sweep at a time in a folder: a file with the process that is at work there."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empo.records import UserError, read_json, write_json
from empo.runs import now

LOCK = "sweep.lock"


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold `folder`/sweep.lock during the block.

    Raises UserError where the folder holds other files than a sweep's, where another process that is alive, or one on another machine, holds it; the
    lock of a process that has died is taken over, and said.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    ours = [*folder.glob("sweep.*"), *folder.glob("seed-*"), *folder.glob("before")]
    if any(folder.iterdir()) and not ours:
        raise UserError(
            f"{folder}: the folder is not empty and holds no sweep. Choose an empty or a new output "
            "folder."
        )
    own = {"process": os.getpid(), "host": socket.gethostname(), "started": now()}
    with _one_at_a_time(folder):
        if path.is_file():
            _take_over(path, own)
        write_json(path, own)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take_over(path: Path, own: dict[str, Any]) -> None:
    """Say that the process of a lock is dead; UserError where it is not, or nobody can tell."""
    try:
        held = read_json(path)
        process, host, started = held["process"], held["host"], held["started"]
        alive = host != own["host"] or (process != own["process"] and _is_alive(process))
    except (UserError, TypeError, KeyError):
        raise UserError(
            f"{path}: this is no lock of a sweep. If no sweep runs in {path.parent}, delete the file."
        ) from None
    if alive:
        raise UserError(
            f"{path.parent}: another sweep works in this folder (process {process} on {host}, since "
            f"{started}). Wait for it, or take another output_dir. If that process is no sweep any "
            f"more, delete {path}."
        )
    print(f"{path}: process {process} has died without releasing it; this sweep takes it over")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two that find the same dead lock must not both take it over."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
