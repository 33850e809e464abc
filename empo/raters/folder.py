"""The file that makes a model folder a rater: what its scores mean, and what shows that it works."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from empo.rating import Dimension
from empo.records import UserError, read_json, read_object, sha256, shown, write_json
from empo.untrusted import (
    CONVERT,
    PICKLES,
    configs_of,
    is_folder_name,
    model_folders,
    refuse_code,
    shapes,
)

RATER_CONFIG = "rater_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
RATER_SCHEMA = "empo.rater/1"
_PACKAGES = ("torch", "transformers", "sentence-transformers")
JOINED = "joined"
"""Kind of a folder whose sub-folders are raters that stand side by side."""
UNITS = "units"
"""Sub-folder of a rater's run with what belongs to its single trainings (seeds and folds)."""
PROMPTS = "prompts.json"
"""What a rater without weights asks, and of which model; it stands for the weights."""
MODEL_ACCESS = "model_access.json"
"""Where the model of such a rater is; no score depends on it."""
_OF_THE_MODEL = (".safetensors", ".json", ".txt", ".model")
_OF_THE_RUN = {RATER_CONFIG, MODEL_ACCESS, "results.json", "rater.json", "run.json", "grid.json"}
NO_CODE = "Code that comes with an encoder or a rater is never run; choose another one."
UNSAVED = "unsaved"
"""The digest of a model whose weights lie in no folder yet."""
FEW_GROUPS = 10
"""Intervals from fewer groups than these are unreliable and mostly too narrow."""


@dataclass(frozen=True)
class RaterConfig:
    """rater_config.json: the kind of rater, its dimensions, how inputs are read, its evidence.

    `settings` belong to the kind (max_length, scale, ...). `evidence` says what the rater achieved
    on held-out groups beside the constant and the length-only baseline, for the model with the
    digest `weights` and the settings and dimensions with the digest `settings`: `{"weights",
    "settings", "n", "groups", "drawn", "notes", "dimensions": {name: {"metric", "constant":
    {"difference", "interval"}, "length": {"difference", "interval"}}}}`, differences in favour of
    the rater where positive. The intervals draw `drawn`, groups or inputs; they show
    something only with FEW_GROUPS groups or more, and `notes` are what else was said about them.
    """

    kind: str
    name: str
    dimensions: tuple[Dimension, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] | None = None

    def write(self, folder: str | Path) -> None:
        """Write rater_config.json into `folder`; last, so that a folder which has it is whole."""
        facts = {
            "schema": RATER_SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "dimensions": [dimension.facts() for dimension in self.dimensions],
            "settings": dict(self.settings),
            "evidence": self.evidence,
        }
        write_json(Path(folder) / RATER_CONFIG, facts)

    @classmethod
    def read(cls, folder: str | Path) -> RaterConfig:
        """Read the config of a rater folder.

        Raises UserError where the folder is no rater, one of another schema, or a field is missing
        or of a wrong type.
        """
        path = Path(folder) / RATER_CONFIG
        if not path.is_file():
            run = Path(folder) / "run.json"
            command = read_object(run).get("command") if run.is_file() else None
            if command == "rater":
                raise UserError(
                    f"{folder}: the training of this rater has not ended. Run its command again."
                )
            if command is not None:
                raise UserError(f"{folder}: this is a run of {str(command)[:80]}, no rater.")
            raise UserError(
                f"{folder}: this is no rater folder ({RATER_CONFIG} is missing). Train one with "
                "recipes/rater.py; an untrained encoder needs a --scale."
            )
        facts = read_json(path)
        if not isinstance(facts, dict) or facts.get("schema") != RATER_SCHEMA:
            raise UserError(f"{path}: this is no rater of the schema {RATER_SCHEMA!r}.")
        try:
            config = cls(
                facts["kind"],
                facts["name"],
                tuple(map(Dimension.from_facts, facts["dimensions"])),
                facts["settings"],
                facts["evidence"],
            )
            wrong = config._problems()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: a field is missing or wrong ({shown(error, 300)}).") from None
        if wrong:
            raise UserError(f"{path}: {'; '.join(line[:300] for line in wrong[:5])}.")
        return config

    def _problems(self) -> list[str]:
        """Fields of another type than the rest of the program relies on."""
        found = [
            f"{name}: a text is expected"
            for name in ("kind", "name")
            if not isinstance(getattr(self, name), str)
        ]
        if not self.dimensions:
            found.append("dimensions: there is none")
        if not isinstance(self.settings, Mapping):
            return [*found, f"settings: an object is expected, not {self.settings!r}"]
        if self.kind == JOINED:
            members = self.settings.get("members")
            inside = isinstance(members, list) and all(map(is_folder_name, members))
            if not inside or not members:
                found.append(
                    "settings, members: names of folders right below this one are expected, not "
                    f"{members!r}"
                )
        if self.evidence is not None:
            if not isinstance(self.evidence.get("weights"), str):
                found.append("evidence, weights: a digest is expected")
            if not isinstance(self.evidence.get("groups"), int):
                found.append("evidence, groups: a number is expected")
            for name, shown in self.evidence["dimensions"].items():
                for baseline in ("constant", "length"):
                    interval = shown[baseline]["interval"]
                    if interval is not None and not _is_interval(interval):
                        found.append(
                            f"evidence, {name}, {baseline}, interval: two numbers or null are "
                            f"expected, not {interval!r}"
                        )
        return found

    def bound(self, evidence: Mapping[str, Any], weights: str) -> RaterConfig:
        """This config with evidence (without digests) for the model with the digest `weights`."""
        bound = {**evidence, "weights": weights, "settings": self._settings_digest()}
        return dataclasses.replace(self, evidence=bound)

    def _settings_digest(self) -> str:
        dimensions = [Dimension.from_facts(d.facts()).facts() for d in self.dimensions]
        text = json.dumps([self.kind, dict(self.settings), dimensions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def signature(self, weights: str) -> str:
        """All that is needed to get the same scores again, in one line; no framework is imported."""
        names = "+".join(dimension.name for dimension in self.dimensions)
        packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return f"{self.name}@{weights[:12]} ({self.kind}; {names}; {settings}; {packages})"

    def warnings(self, weights: str) -> tuple[str, ...]:
        """What every report of these scores must say: the rater's own note, and why the scores of
        these weights should not be trusted; empty where there is no note and the evidence is there.

        A rater counts as an evaluator or a reward only where it beats the constant and the
        length-only baseline on held-out groups, with an interval above 0, in every dimension.
        """
        note = (f"Rater {self.name}: {self.settings['note']}",) if self.settings.get("note") else ()
        return (*note, *self._doubts(weights))

    def _doubts(self, weights: str) -> tuple[str, ...]:
        if self.evidence is None:
            return (
                f"Rater {self.name}: nothing shows that it beats a constant and the length of the "
                "response on held-out groups. Its scores are no measure.",
            )
        found = (self.evidence["weights"], self.evidence.get("settings"))
        if found != (weights, self._settings_digest()):
            return (
                f"Rater {self.name}: its evidence belongs to other weights, tokenizer or settings than "
                "those in the folder. Its scores are no measure.",
            )
        failing = [
            f"{name} (against {baseline})"
            for name, shown in self.evidence["dimensions"].items()
            for baseline in ("constant", "length")
            if shown[baseline]["interval"] is None or shown[baseline]["interval"][0] <= 0
        ]
        missing = {d.name for d in self.dimensions} - self.evidence["dimensions"].keys()
        failing += [f"{name} (not measured)" for name in sorted(missing)]
        found = []
        if failing:
            found.append(
                f"Rater {self.name}: on held-out groups it is not shown to beat the baselines in: "
                f"{', '.join(failing)}. Do not read these scores as a measure."
            )
        drawn, groups = self.evidence.get("drawn", "nobody knows what"), self.evidence["groups"]
        if drawn != "groups" or groups < FEW_GROUPS:
            of = f"only {groups} groups" if drawn == "groups" else f"{drawn}, not of groups"
            found.append(
                f"Rater {self.name}: the intervals of its evidence come from draws of {of}, so they "
                "are too narrow to show that it beats the baselines. Do not read these scores as a "
                "measure."
            )
        return tuple(found)


def attest(folder: str | Path, evidence: Mapping[str, Any]) -> None:
    """Bind evidence (see `RaterConfig`, without digests) to the model that lies in a folder.

    Raters that stand side by side each get the part about their own dimensions. Raises UserError
    where the evidence says nothing about a dimension.
    """
    config = RaterConfig.read(folder)
    if config.kind == JOINED:
        for member in config.settings["members"]:
            attest(Path(folder) / member, evidence)
        return
    measured = evidence.get("dimensions", {})
    names = [dimension.name for dimension in config.dimensions]
    if missing := [name for name in names if name not in measured]:
        raise UserError(
            f"{folder}: the evidence says nothing about {', '.join(missing)}; it is about "
            f"{', '.join(measured) or 'no dimension'}. Measure every dimension of the rater."
        )
    own = {**evidence, "dimensions": {name: measured[name] for name in names}}
    config.bound(own, weights_digest(folder)).write(folder)


def require_tokenizer(folder: str | Path) -> None:
    """Raise UserError where a saved rater has lost its tokenizer, or holds what is not loaded.

    transformers would make one without a vocabulary, and every text would look the same. For the
    rest see `check_files`.
    """
    missing = [name for name in TOKENIZER_FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: the tokenizer lacks {', '.join(missing)}. Restore the rater's files or train "
            "it again."
        )
    check_files(folder)


def check_files(folder: str | Path) -> None:
    """Raise UserError where an encoder's or rater's folder names code, or a file of it is damaged.

    Or where the weights of it, or of one of its modules, are pickled.
    """
    refuse_code(str(folder), configs_of(folder), NO_CODE)
    for place in model_folders(folder):
        weights = list(place.glob("*.safetensors"))
        pickles = [path for path in place.glob("*") if path.suffix in PICKLES]
        for pickled in sorted(pickles) if not weights else ():
            raise UserError(
                f"{pickled}: these weights are pickled, and a pickle can run any code, so it is not "
                f"opened. {CONVERT}"
            )
        for file in weights:
            shapes(file)


def weight_files(folder: str | Path) -> list[Path]:
    """The files that `weights_digest` is made of, sorted; none where there is no such folder."""
    folder = Path(folder)
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in _OF_THE_MODEL
        and file.name not in _OF_THE_RUN
        and UNITS not in file.relative_to(folder).parts  # checkpoints of training
        and file.is_file()
    ]


def weights_digest(folder: str | Path) -> str:
    """Digest over the model in a folder and its sub-folders: weights, shapes and tokenizer.

    Everything that moves a score counts, beside rater_config.json, whose settings stand in the
    signature themselves; what a run writes beside the model does not. A rater that asks a model
    elsewhere has PROMPTS, which names that model, in place of weights. Raises UserError where there
    are neither, or only pickled weights, which are never opened.
    """
    folder = Path(folder)
    files = weight_files(folder)
    if not any(file.suffix == ".safetensors" or file == folder / PROMPTS for file in files):
        pickled = [p.name for p in folder.glob("*") if p.suffix in PICKLES]
        if pickled:
            raise UserError(
                f"{folder}: the weights are pickled ({', '.join(sorted(pickled))}), and a pickle can "
                f"run any code, so it is not opened. {CONVERT}"
            )
        raise UserError(f"{folder}: there are no weights (*.safetensors).")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(bound, int | float) for bound in value)
    )
