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
from empo.records import UserError, read_json, sha256, write_json

RATER_CONFIG = "rater_config.json"
RATER_SCHEMA = "empo.rater/1"
_PACKAGES = ("torch", "transformers", "sentence-transformers")
JOINED = "joined"
"""Kind of a folder whose sub-folders are raters that stand side by side."""
UNITS = "units"
"""Sub-folder of a rater's run with what belongs to its single trainings (seeds and folds)."""


@dataclass(frozen=True)
class RaterConfig:
    """rater_config.json: the kind of rater, its dimensions, how inputs are read, its evidence.

    `settings` belong to the kind (max_length, scale, ...). `evidence` says what the rater achieved
    on held-out groups beside the constant and the length-only baseline, for the weights with the
    digest `weights`: `{"weights", "n", "groups", "dimensions": {name: {"metric", "constant":
    {"difference", "interval"}, "length": {"difference", "interval"}}}}`, differences in favour of
    the rater where positive.
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

        Raises UserError where the folder is no rater, or one of another schema.
        """
        path = Path(folder) / RATER_CONFIG
        if not path.is_file():
            raise UserError(
                f"{folder}: this is no rater folder ({RATER_CONFIG} is missing). Train one with "
                "recipes/rater.py."
            )
        facts = read_json(path)
        if not isinstance(facts, dict) or facts.get("schema") != RATER_SCHEMA:
            raise UserError(f"{path}: this is no rater of the schema {RATER_SCHEMA!r}.")
        try:
            return cls(
                facts["kind"],
                facts["name"],
                tuple(map(Dimension.from_facts, facts["dimensions"])),
                facts["settings"],
                facts["evidence"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a field is missing or wrong ({error!r}).") from None

    def signature(self, weights: str) -> str:
        """All that is needed to get the same scores again, in one line; no framework is imported."""
        names = "+".join(dimension.name for dimension in self.dimensions)
        packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return f"{self.name}@{weights[:12]} ({self.kind}; {names}; {settings}; {packages})"

    def warnings(self, weights: str) -> tuple[str, ...]:
        """Why the scores of these weights should not be trusted; empty where the evidence is there.

        A rater counts as an evaluator or a reward only where it beats the constant and the
        length-only baseline on held-out groups, with an interval above 0, in every dimension.
        """
        if self.evidence is None:
            return (
                f"Rater {self.name}: nothing shows that it beats a constant and the length of the "
                "response on held-out groups. Its scores are no measure.",
            )
        if self.evidence["weights"] != weights:
            return (
                f"Rater {self.name}: its evidence belongs to other weights than those in the "
                "folder. Its scores are no measure.",
            )
        failing = [
            f"{name} (against {baseline})"
            for name, shown in self.evidence["dimensions"].items()
            for baseline in ("constant", "length")
            if shown[baseline]["interval"] is None or shown[baseline]["interval"][0] <= 0
        ]
        missing = {d.name for d in self.dimensions} - self.evidence["dimensions"].keys()
        failing += [f"{name} (not measured)" for name in sorted(missing)]
        if not failing:
            return ()
        return (
            f"Rater {self.name}: on held-out groups it is not shown to beat the baselines in: "
            f"{', '.join(failing)}. Do not read these scores as a measure.",
        )


def attest(folder: str | Path, evidence: Mapping[str, Any]) -> None:
    """Bind evidence (see `RaterConfig`, without `weights`) to the weights that lie in a folder.

    Raters that stand side by side each get the part about their own dimensions.
    """
    config = RaterConfig.read(folder)
    if config.kind == JOINED:
        for member in config.settings["members"]:
            attest(Path(folder) / member, evidence)
        return
    names = [dimension.name for dimension in config.dimensions]
    own = {name: evidence["dimensions"][name] for name in names}
    bound = {**evidence, "weights": weights_digest(folder), "dimensions": own}
    dataclasses.replace(config, evidence=bound).write(folder)


def weights_digest(folder: str | Path) -> str:
    """Digest over the safetensors of a folder and its sub-folders.

    Raises UserError where there are none, or only pickled weights, which are never opened.
    """
    folder = Path(folder)
    files = [
        file
        for file in sorted(folder.rglob("*.safetensors"))
        if UNITS not in file.relative_to(folder).parts  # checkpoints of training
    ]
    if not files:
        pickled = [p.name for ending in ("bin", "pth", "pt") for p in folder.glob(f"*.{ending}")]
        if pickled:
            raise UserError(
                f"{folder}: the weights are pickled ({', '.join(sorted(pickled))}), and a pickle can "
                "run any code, so it is not opened. Save them as safetensors."
            )
        raise UserError(f"{folder}: there are no weights (*.safetensors).")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()
