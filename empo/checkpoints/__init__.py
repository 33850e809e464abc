"""Checkpoints that are complete or do not count: sealed by a manifest, checked, rotated.

A save ends with `manifest.json`: the step, the run, size and SHA-256 of every file. It is written
last, when everything before it is on the disk, and older checkpoints go only after it; so whenever
a process is killed, the newest folder that agrees with its manifest can be continued from. Nothing
in a checkpoint is unpickled that is not read with `weights_only`, or (what DeepSpeed loads) listed
with its digest by a manifest of the same run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from typing_extensions import TypedDict

from empo.process import MAKE_ROOM
from empo.records import CHECKPOINT_SCHEMA, UserError, read_typed, sha256, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
_NAME = "checkpoint-"
_DELETED = "_deleted-"
"""Before the name of a folder that is being deleted; uploads to the hub leave out `_*`."""
_OF_SYSTEMS = (".DS_Store", ".nfs")
"""Beginnings of files that file systems put into folders; nothing loads them."""


class FileEntry(TypedDict):
    """One file of a checkpoint; `file` is its path in the folder, with slashes."""

    file: str
    bytes: int
    sha256: str


class Manifest(TypedDict):
    """`manifest.json` of a checkpoint; `run` is the digest of the run that it belongs to."""

    schema: str
    step: int
    run: str
    files: list[FileEntry]


_MANIFEST = TypeAdapter(Manifest)


def checkpoint_of(folder: str | Path, step: int) -> Path:
    """The folder of the checkpoint after `step`."""
    return Path(folder) / f"{_NAME}{step}"


def seal(checkpoint: Path, run: str) -> None:
    """Write the manifest of a checkpoint, all of whose files are there, as the last of it.

    The files are on the disk before: what a manifest lists survives a loss of power. Raises OSError
    where that fails.
    """
    files = _files(checkpoint)
    for path in files.values():
        _to_disk(path)
    for folder in {checkpoint, *(path.parent for path in files.values())}:
        _to_disk(folder)
    entries = [
        FileEntry(file=name, bytes=path.stat().st_size, sha256=digest)
        for (name, path), digest in zip(files.items(), _digests(files), strict=True)
    ]
    manifest = Manifest(schema=CHECKPOINT_SCHEMA, step=_step(checkpoint), run=run, files=entries)
    write_json(checkpoint / MANIFEST, manifest)
    _to_disk(checkpoint)
    _to_disk(checkpoint.parent)


def check(checkpoint: Path, runs: Collection[str]) -> str | None:
    """What is wrong with a checkpoint of the run with these digests; None where nothing is.

    Every file is read: missing, added, shortened and changed ones are found.
    """
    step = _step(checkpoint)
    if not (checkpoint / MANIFEST).is_file():
        return f"it has no {MANIFEST}: saving it was interrupted"
    try:
        manifest = _read(checkpoint)
        if manifest["run"] not in runs:
            return f"its {MANIFEST} is that of another run"
        if manifest["step"] != step:
            return f"its {MANIFEST} is that of step {manifest['step']}"
        listed, files = {entry["file"]: entry for entry in manifest["files"]}, _files(checkpoint)
        for name in sorted(listed.keys() ^ files.keys()):
            where = f"is not in its {MANIFEST}" if name in files else "is missing"
            return f"{name} {where}"
        for name, path in files.items():
            if (size := path.stat().st_size) != (saved := listed[name]["bytes"]):
                return f"{name} has {size:,} bytes, {saved:,} were saved"
        for name, digest in zip(files, _digests(files), strict=True):
            if digest != listed[name]["sha256"]:
                return f"{name} has changed since it was saved"
        reached = _state(checkpoint)["global_step"]
        return None if reached == step else f"its {STATE} is that of step {reached}"
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({error})"


def last_checkpoint(
    folder: str | Path, runs: Collection[str], with_best: bool = False
) -> str | None:
    """The newest checkpoint in `folder` that agrees with its manifest and is of `runs`, or None.

    One that does not is named in the log with what is wrong, and passed over; it stays until the
    run saves that step again. With `with_best` the best checkpoint so far, which the end of the run
    will load, has to agree, too: from before it the run makes it again.
    """
    found = _checkpoints(folder)
    wrong = cache(lambda checkpoint: check(checkpoint, runs))
    for step in sorted(found, reverse=True):
        reason = wrong(found[step])
        if reason is None and with_best:
            best = _state(found[step]).get("best_global_step")
            if best and (of_best := wrong(checkpoint_of(folder, best))) is not None:
                reason = f"{_NAME}{best}, the best until then, is not usable: {of_best}"
        if reason is None:
            return str(found[step])
        logger.warning("%s is passed over: %s", found[step], reason)
    if found:
        logger.warning("%s: no checkpoint is usable, training begins from its start", folder)
    return None


def make_room(checkpoint: Path, least: int) -> None:
    """Remove what an interrupted save or deletion left, and see that the next save fits.

    It needs as many bytes as the newest checkpoint has, or, where there is none, at least `least`.
    Raises UserError where the disk has not as many left.
    """
    sweep(checkpoint.parent)
    if checkpoint.exists():
        _discard(checkpoint)
    sizes = _sizes(checkpoint.parent)
    needed = sizes[max(sizes)] if sizes else least
    free = shutil.disk_usage(checkpoint.parent).free
    if free < needed:
        raise UserError(
            f"{checkpoint}: a checkpoint needs {_size(needed)}, {_size(free)} are free on the disk "
            f"of {checkpoint.parent}. {_remedy(checkpoint.parent)}"
        )


@contextmanager
def explained(path: Path, folder: str | Path) -> Iterator[None]:
    """Turn what the libraries raise where `path` of the run in `folder` cannot be written to UserError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's
            raise
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"{path}: it could not be written to its end ({(str(error).strip() or type(error).__name__).splitlines()[0]}); "
            f"{_size(free)} are free on its disk. {_remedy(Path(folder))}"
        ) from error


def rotate(folder: str | Path, newest: int, limit: int | None, best: int | None = None) -> None:
    """Delete checkpoints until `limit` are left, the oldest first; call when `newest` is sealed.

    The checkpoints of the steps `newest` and `best` stay in any case. Those that could not be
    continued from, of steps that the run has still before it or without a manifest, go first.
    """
    if limit is None or limit < 1:
        return
    found = _checkpoints(folder)
    kept = {newest, best} & found.keys()
    order = [
        ((path / MANIFEST).is_file() and step < newest, step)
        for step, path in found.items()
        if step not in kept
    ]
    excess = len(found) - max(limit, len(kept))
    for _, step in sorted(order)[: max(excess, 0)]:
        _discard(found[step])


def sweep(folder: str | Path) -> None:
    """Remove the rest of checkpoints whose deletion was interrupted."""
    for left in Path(folder).glob(f"{_DELETED}{_NAME}*"):
        shutil.rmtree(left, ignore_errors=True)


def _checkpoints(folder: str | Path) -> dict[int, Path]:
    found = (path for path in Path(folder).glob(f"{_NAME}*") if path.is_dir())
    return {_step(path): path for path in found if path.name.removeprefix(_NAME).isdigit()}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_NAME))


def _files(checkpoint: Path) -> dict[str, Path]:
    """All files of a checkpoint but its manifest, by their path in it."""
    found = {p.relative_to(checkpoint).as_posix(): p for p in checkpoint.rglob("*") if p.is_file()}
    return {
        name: found[name]
        for name in sorted(found)
        if name != MANIFEST and not found[name].name.startswith(_OF_SYSTEMS)
    }


def _digests(files: dict[str, Path]) -> list[str]:
    with ThreadPoolExecutor(4) as pool:  # hashing leaves the interpreter to other threads
        return list(pool.map(sha256, files.values()))


def _read(checkpoint: Path) -> Manifest:
    remedy = "Another version of EmPO wrote it."
    return read_typed(checkpoint / MANIFEST, CHECKPOINT_SCHEMA, _MANIFEST, remedy)


def _state(checkpoint: Path) -> dict[str, int | None]:
    return json.loads((checkpoint / STATE).read_text("utf-8"))  # the trainer writes NaN


def _sizes(folder: Path) -> dict[int, int]:
    """Step to bytes of the checkpoints that have a manifest."""
    sizes = {}
    for step, checkpoint in _checkpoints(folder).items():
        with suppress(UserError):
            sizes[step] = sum(entry["bytes"] for entry in _read(checkpoint)["files"])
    return sizes


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint that stops being one before its first file goes."""
    deleted = checkpoint.with_name(_DELETED + checkpoint.name)
    shutil.rmtree(deleted, ignore_errors=True)
    checkpoint.rename(deleted)
    shutil.rmtree(deleted, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems do not sync folders
            raise
    finally:
        os.close(descriptor)


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"


def _remedy(folder: Path) -> str:
    sealed = [step for step, path in _checkpoints(folder).items() if (path / MANIFEST).is_file()]
    then = f"goes on from {_NAME}{max(sealed)}" if sealed else "begins from its start"
    return (
        f"{MAKE_ROOM}, and give the same command again: the run {then}. While one is saved, a run "
        "keeps save_total_limit + 1 checkpoints."
    )
