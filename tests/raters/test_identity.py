"""The weights behind a rater, and who is measured by its own reward."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.raters.folder import JOINED, RaterConfig, weights_digest
from empo.raters.identity import identities, measured_by_reward, refuse_same_weights
from empo.records import UserError


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("raters")
    return [tiny_rater(folder / name, seed) for seed, name in enumerate(("one", "other"))]


def test_the_weights_decide_not_the_folder(two: list[Path], tmp_path: Path) -> None:
    one, other = identities(two)
    assert one["name"] == "one" and one["weights"] == weights_digest(two[0])
    assert one["signature"].startswith(f"one@{one['weights'][:12]} ")
    assert one["weights"] != other["weights"]
    copied = shutil.copytree(two[0], tmp_path / "copied")
    assert identities([copied]) == [one]


def test_raters_side_by_side_are_named_each(two: list[Path], tmp_path: Path) -> None:
    for folder in two:
        shutil.copytree(folder, tmp_path / "both" / folder.name)
    dimensions = RaterConfig.read(two[0]).dimensions
    members = {"members": [folder.name for folder in two]}
    RaterConfig(JOINED, "both", dimensions, members).write(tmp_path / "both")
    assert identities([tmp_path / "both"]) == identities(two)


def test_only_systems_of_the_measuring_weights_are_named() -> None:
    raters = [{"name": "meter", "weights": "a"}, {"name": "second", "weights": "b"}]
    rewards = {
        "grpo": [{"name": "x", "weights": "c"}, {"name": "y", "weights": "b"}],
        "best": [{"name": "z", "weights": "c"}],
    }
    (found,) = measured_by_reward(rewards, raters)
    assert found.startswith("System grpo: the rater second that measures it here has also chosen")
    assert measured_by_reward(rewards, []) == []


def test_one_rater_is_no_reward_and_metric_at_once(two: list[Path], tmp_path: Path) -> None:
    one, other = map(str, two)
    refuse_same_weights([one], [other])
    with pytest.raises(UserError, match="one has the same weights as the reward one; .*split_seed"):
        refuse_same_weights([one], [other, one])
    copied = shutil.copytree(one, tmp_path / "both" / "copy")
    dimensions = RaterConfig.read(copied).dimensions
    RaterConfig(JOINED, "both", dimensions, {"members": ["copy"]}).write(copied.parent)
    with pytest.raises(UserError, match="has the same weights as the reward"):
        refuse_same_weights([str(copied.parent)], [one])
