"""Which weights and model stand behind a rater: what a reward and a metric must not share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.raters.asking import REMEDY, UNKNOWN, Asking
from empo.raters.folder import JOINED, PROMPTS, UNITS, RaterConfig, weights_digest
from empo.records import UserError, sha256

_NO_MEASURE = {
    "weights": "with the same weights. Its levels are the reward itself and no measure; measure "
    "with a rater of other weights, trained on another split.",
    "model": "with the same model, only otherwise asked. Its levels are near the reward itself and "
    "no measure; measure with a rater of another model.",
}
"""By what two raters have in common, the closest first."""


def identities(folders: Sequence[str | Path]) -> list[dict[str, str]]:
    """{name, weights, model, signature} of every rater in the folders, in order.

    `weights` is the digest of all files that move a score; `model` is what lies under them: raters
    with other anchors, templates or wordings have it in common. It is the digest of the weights
    alone or, of a rater that asks, the digest of that model, its commit, or its name at an address.

    A folder with raters side by side gives one entry per rater in it, so that the same weights are
    found whichever way they are put together. Raises UserError as `RaterConfig.read` and
    `Asking.read`.
    """
    found = []
    for folder in map(Path, folders):
        config = RaterConfig.read(folder)
        if config.kind == JOINED:
            found += identities([folder / name for name in config.settings["members"]])
            continue
        weights = weights_digest(folder)
        entry = {"name": config.name, "weights": weights, "model": _model(folder)}
        found.append({**entry, "signature": config.signature(weights)})
    return found


def _model(folder: Path) -> str:
    if not (folder / PROMPTS).is_file():
        files = sorted(
            sha256(file)
            for file in folder.rglob("*.safetensors")
            if UNITS not in file.relative_to(folder).parts
        )
        return hashlib.sha256(" ".join(files).encode()).hexdigest()
    facts = Asking.read(folder).model
    try:
        if facts["kind"] == "endpoint":
            return f"{facts['name']} at {str(facts['base_url']).rstrip('/')}"
        return str(facts["name"] if facts["identity"] == UNKNOWN else facts["identity"])
    except KeyError as error:
        raise UserError(
            f"{folder / PROMPTS}, field 'model': {error} is missing. {REMEDY}"
        ) from None


def marks(rater: Mapping[str, Any]) -> set[str]:
    """What marks a rater as the same or of the same model, of an entry as `measured_by_reward` takes."""
    return {rater[key] for key in _NO_MEASURE if isinstance(rater.get(key), str)}


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What two raters have in common: "weights", "model" or nothing."""
    known = (key for key in _NO_MEASURE if isinstance(one.get(key), str))
    return next((key for key in known if one[key] == other.get(key)), None)


def refuse_same_weights(rewards: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    """Raise UserError where a rater that rewards would choose checkpoints, too, or one of its model.

    `rewards` are entries of `identities`, or those of a run that began with a rewarded model;
    `metrics` are the folders of the raters that choose.
    """
    for entry in identities(metrics):
        for reward in rewards:
            if what := _shared(entry, reward):
                raise UserError(
                    f"select_rater: {entry['name']} has the same {what} as the reward "
                    f"{reward['name']}; what is rewarded is no measure of itself. Train one with "
                    "another seed on another split (split_seed), or name another rater."
                )


def measured_by_reward(
    rewards: Mapping[str, Sequence[Mapping[str, Any]]], raters: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A warning for every system that was chosen or trained by what measures it now.

    `rewards`: system -> what stands behind it, a list of {name, weights} and, where it was noted,
    model; `raters`: those of the metric, likewise.
    """
    found = []
    for system, behind in rewards.items():
        for reward in behind:
            shared = {_shared(reward, rater): rater["name"] for rater in raters}
            what = next((key for key in _NO_MEASURE if key in shared), None)
            if what is not None:
                found.append(
                    f"System {system}: the rater {shared[what]} that measures it here has also "
                    f"chosen its replies, or its training, {_NO_MEASURE[what]}"
                )
    return found
