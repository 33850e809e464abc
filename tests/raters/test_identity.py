"""The weights behind a rater, and who is measured by its own reward."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_rater import tiny_rater

from empo.raters.asking import UNKNOWN, Asking
from empo.raters.folder import JOINED, RaterConfig, weights_digest
from empo.raters.identity import identities, marks, measured_by_reward, refuse_same_weights
from empo.raters.prompt_templates import Asked, Wording
from empo.rating import Dimension
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
    assert one["model"] != other["model"]
    (copied / "anchors.json").write_text("[]")
    (changed,) = identities([copied])
    assert changed["weights"] != one["weights"] and changed["model"] == one["model"]


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
    refuse_same_weights(identities([one]), [other])
    with pytest.raises(UserError, match="one has the same weights as the reward one; .*split_seed"):
        refuse_same_weights(identities([one]), [other, one])
    copied = shutil.copytree(one, tmp_path / "both" / "copy")
    dimensions = RaterConfig.read(copied).dimensions
    RaterConfig(JOINED, "both", dimensions, {"members": ["copy"]}).write(copied.parent)
    with pytest.raises(UserError, match="has the same weights as the reward"):
        refuse_same_weights(identities([copied.parent]), [one])
    (copied / "anchors.json").write_text("[]")
    with pytest.raises(UserError, match="has the same model as the reward one; what is rewarded"):
        refuse_same_weights(identities([one]), [str(copied.parent)])


HERE = {"kind": "local", "name": "m", "identity": "abc", "dtype": "float32", "chat_template": None}
THERE = {"kind": "endpoint", "name": "m", "base_url": "https://host/v1", "request": {}}


def asking(folder: Path, model: dict[str, object], task: str = "Rate.") -> Path:
    """The folder of a prompted rater."""
    folder.mkdir(parents=True)
    asked = Asked("warmth", task, "Warm.", ((0.0, "no"), (1.0, "yes")))
    Asking(Wording("{task}", "{response} {options}"), (asked,), {}, model).write(folder)
    dimension = Dimension("warmth", 0, 1, "binary", (0.0, 1.0))
    RaterConfig("prompt", folder.name, (dimension,)).write(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "same", "other"),
    [
        (HERE, {"name": "elsewhere", "dtype": "bfloat16"}, {"identity": "def"}),
        (HERE | {"identity": UNKNOWN}, {"dtype": "bfloat16"}, {"name": "n"}),
        (THERE, {"request": {"temperature": 1}}, {"base_url": "https://other/v1"}),
        (THERE, {"base_url": "https://host/v1/"}, {"name": "n"}),
    ],
)
def test_a_model_that_is_asked_is_known_again_however_it_is_asked(
    model: dict[str, object], same: dict[str, object], other: dict[str, object], tmp_path: Path
) -> None:
    folders = [
        asking(tmp_path / "one", model),
        asking(tmp_path / "same", model | same, "Judge."),
        asking(tmp_path / "other", model | other),
    ]
    one, again, another = identities(folders)
    assert len({entry["weights"] for entry in (one, again, another)}) == 3
    assert one["model"] == again["model"] != another["model"]
    refuse_same_weights(identities(folders[:1]), [str(folders[2])])
    with pytest.raises(UserError, match="same has the same model as the reward one"):
        refuse_same_weights(identities(folders[:1]), [str(folders[1])])


def test_a_system_of_the_same_model_is_named_and_old_or_odd_notes_are_read() -> None:
    meter = {"name": "meter", "weights": "a", "model": "m"}
    (found,) = measured_by_reward({"best": [{"name": "x", "weights": "b", "model": "m"}]}, [meter])
    assert found == (
        "System best: the rater meter that measures it here has also chosen its replies, or its "
        "training, with the same model, only otherwise asked. Its levels are near the reward itself "
        "and no measure; measure with a rater of another model."
    )
    (found,) = measured_by_reward({"best": [{"name": "x", "weights": "a", "model": "m"}]}, [meter])
    assert "with the same weights." in found
    odd = {"name": "x", "weights": "b", "model": {"m": []}}
    assert measured_by_reward({"best": [odd, {"name": "x", "weights": "b"}]}, [meter]) == []
    assert marks(odd) == {"b"} and marks(meter) == {"a", "m"}


def test_a_prompted_rater_whose_model_is_not_named_is_refused(tmp_path: Path) -> None:
    lost = {key: value for key, value in HERE.items() if key != "identity"}
    with pytest.raises(
        UserError, match=r"prompts.json, field 'model': 'identity' is missing\. Rest"
    ):
        identities([asking(tmp_path / "lost", lost)])
