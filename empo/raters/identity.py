"""Which trained weights stand behind a rater: what a reward and a metric must not share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.raters.folder import JOINED, RaterConfig, weights_digest
from empo.records import UserError


def identities(folders: Sequence[str | Path]) -> list[dict[str, str]]:
    """{name, weights, signature} of every rater in the folders, in order.

    A folder with raters side by side gives one entry per rater in it, so that the same weights are
    found whichever way they are put together. Raises UserError as `RaterConfig.read`.
    """
    found = []
    for folder in folders:
        config = RaterConfig.read(folder)
        if config.kind == JOINED:
            found += identities([Path(folder) / name for name in config.settings["members"]])
            continue
        weights = weights_digest(folder)
        entry = {"name": config.name, "weights": weights, "signature": config.signature(weights)}
        found.append(entry)
    return found


def refuse_same_weights(rewards: Sequence[str], metrics: Sequence[str]) -> None:
    """Raise UserError where a rater of the folders `rewards` chooses checkpoints by `metrics`, too."""
    rewarding = {entry["weights"]: entry["name"] for entry in identities(rewards)}
    for entry in identities(metrics):
        if entry["weights"] in rewarding:
            raise UserError(
                f"select_rater: {entry['name']} has the same weights as the reward "
                f"{rewarding[entry['weights']]}; what is rewarded is no measure of itself. Train one "
                "with another seed on another split (split_seed), or name another rater."
            )


def measured_by_reward(
    rewards: Mapping[str, Sequence[Mapping[str, Any]]], raters: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A warning for every system that was chosen or trained by weights that measure it now.

    `rewards`: system -> what stands behind it, a list of {name, weights}; `raters`: those of the
    metric, likewise.
    """
    measuring = {rater["weights"]: rater["name"] for rater in raters}
    return [
        f"System {system}: the rater {measuring[reward['weights']]} that measures it here has also "
        "chosen its replies, or its training, with the same weights. Its levels are the reward "
        "itself and no measure; measure with a rater of other weights, trained on another split."
        for system, behind in rewards.items()
        for reward in behind
        if reward["weights"] in measuring
    ]
