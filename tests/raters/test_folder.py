from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from empo.raters.folder import JOINED, RATER_CONFIG, UNITS, RaterConfig, attest, weights_digest
from empo.rating import Dimension
from empo.records import UserError

EMPATHY = Dimension("empathy", 1, 4, "ordinal", (1.0, 2.0, 3.0, 4.0))
EVENT = Dimension("event", 0, 1, "interval")
CONFIG = RaterConfig("pair_classifier", "mine", (EMPATHY, EVENT), {"inputs": {"turns": 1}})


def shown(**intervals: list[float] | None) -> dict[str, Any]:
    """Evidence; an interval per dimension and baseline, `empathy_length=[low, high]`."""
    dimensions = {
        name: {
            "metric": "macro_f1",
            **{
                baseline: {
                    "difference": 0.2,
                    "interval": intervals.get(f"{name}_{baseline}", [0.1, 0.3]),
                }
                for baseline in ("constant", "length")
            },
        }
        for name in ("empathy", "event")
    }
    return {"n": 40, "groups": 10, "drawn": "groups", "notes": [], "dimensions": dimensions}


def weights(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    return folder


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = CONFIG.bound(shown(), "abc")
    config.write(tmp_path)
    assert RaterConfig.read(tmp_path) == config


def test_what_is_no_rater_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no rater folder \(rater_config.json is missing\)"):
        RaterConfig.read(tmp_path)
    file = tmp_path / RATER_CONFIG
    CONFIG.write(tmp_path)
    facts = json.loads(file.read_text())
    for wrong in ([], {**facts, "schema": "empo.rater/9"}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="no rater of the schema 'empo.rater/1'"):
            RaterConfig.read(tmp_path)
    for field in ("kind", "name", "dimensions", "settings", "evidence"):
        file.write_text(json.dumps({key: facts[key] for key in facts if key != field}))
        with pytest.raises(UserError, match=rf"a field is missing or wrong .*{field}"):
            RaterConfig.read(tmp_path)
    file.write_text(json.dumps({**facts, "dimensions": [{"name": "empathy"}]}))
    with pytest.raises(UserError, match="a field is missing or wrong .*levels"):
        RaterConfig.read(tmp_path)


def test_the_signature_tells_everything_the_scores_depend_on() -> None:
    signature = CONFIG.signature("0123456789abcdef")
    assert signature.startswith("mine@0123456789ab (pair_classifier; empathy+event; ")
    assert '"turns": 1' in signature and "transformers 5" in signature
    other = dataclasses.replace(CONFIG, settings={"inputs": {"turns": 2}})
    assert other.signature("0123456789abcdef") != signature


def test_a_rater_without_evidence_warns() -> None:
    (warning,) = CONFIG.warnings("abc")
    assert warning == (
        "Rater mine: nothing shows that it beats a constant and the length of the response on "
        "held-out groups. Its scores are no measure."
    )


def test_evidence_for_other_weights_warns() -> None:
    config = CONFIG.bound(shown(), "abc")
    assert config.warnings("abc") == ()
    (warning,) = config.warnings("abd")
    assert "its evidence belongs to other weights" in warning and "Rater mine" in warning


@pytest.mark.parametrize("interval", [[-0.1, 0.3], [0.0, 0.2], [-0.3, -0.1], None])
def test_an_interval_that_is_not_above_0_warns(interval: list[float] | None) -> None:
    evidence = shown(event_length=interval)
    (warning,) = CONFIG.bound(evidence, "abc").warnings("abc")
    assert "not shown to beat the baselines in: event (against length)." in warning
    both = shown(event_length=interval, empathy_constant=interval)
    (warning,) = CONFIG.bound(both, "abc").warnings("abc")
    assert "empathy (against constant), event (against length)." in warning


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"groups": 9}, "come from draws of only 9 groups, so"),
        ({"drawn": "inputs", "groups": 400}, "come from draws of inputs, not of groups, so"),
        ({"drawn": "groups or inputs"}, "come from draws of groups or inputs, not of groups, so"),
    ],
)
def test_intervals_that_are_too_narrow_show_nothing(changed: dict[str, Any], said: str) -> None:
    (warning,) = CONFIG.bound({**shown(), **changed}, "abc").warnings("abc")
    assert said in warning and warning.endswith("Do not read these scores as a measure.")
    both = {**shown(event_length=[-0.1, 0.1]), **changed}
    assert len(CONFIG.bound(both, "abc").warnings("abc")) == 2


def test_a_dimension_that_was_not_measured_warns() -> None:
    evidence = shown()
    del evidence["dimensions"]["event"]
    (warning,) = CONFIG.bound(evidence, "abc").warnings("abc")
    assert "baselines in: event (not measured)." in warning


def test_attested_evidence_belongs_to_the_weights_that_lie_there(tmp_path: Path) -> None:
    CONFIG.write(weights(tmp_path))
    attest(tmp_path, shown())
    config = RaterConfig.read(tmp_path)
    assert config.warnings(weights_digest(tmp_path)) == ()
    assert config.evidence is not None and config.evidence["n"] == 40
    weights(tmp_path, "other weights")
    assert "other weights" in config.warnings(weights_digest(tmp_path))[0]
    attest(tmp_path, shown())  # measured again
    assert RaterConfig.read(tmp_path).warnings(weights_digest(tmp_path)) == ()


def test_raters_side_by_side_are_attested_each_for_its_own_dimension(tmp_path: Path) -> None:
    for dimension in (EMPATHY, EVENT):
        folder = weights(tmp_path / dimension.name, f"weights of {dimension.name}")
        RaterConfig("pair_classifier", dimension.name, (dimension,)).write(folder)
    joined = RaterConfig(JOINED, "both", (EMPATHY, EVENT), {"members": ["empathy", "event"]})
    joined.write(tmp_path)
    attest(tmp_path, shown(event_constant=[-0.1, 0.1]))
    members = {name: RaterConfig.read(tmp_path / name) for name in ("empathy", "event")}
    for name, member in members.items():
        assert list(member.evidence["dimensions"]) == [name]
        assert member.evidence["weights"] == weights_digest(tmp_path / name)
    assert members["empathy"].warnings(weights_digest(tmp_path / "empathy")) == ()
    (warning,) = members["event"].warnings(weights_digest(tmp_path / "event"))
    assert "event (against constant)" in warning
    assert RaterConfig.read(tmp_path) == joined


MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "vocab.txt",
    "spiece.model",
    "1_Pooling/config.json",
    "member/model.safetensors",
)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_every_file_of_the_model_changes_the_digest(tmp_path: Path, name: str) -> None:
    whole = weights_digest(weights(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    found = {whole}
    for content in ("{}", '{"architecture": "window"}'):
        (tmp_path / name).write_text(content)
        found.add(weights_digest(tmp_path))
    assert len(found) == 3
    (tmp_path / name).unlink()
    assert weights_digest(tmp_path) == whole


def test_what_a_run_writes_beside_the_model_leaves_the_digest(tmp_path: Path) -> None:
    whole = weights_digest(weights(tmp_path))
    for name in (RATER_CONFIG, "results.json", "rater.json", "run.json", "grid.json", "README.md"):
        (tmp_path / name).write_text("{}")
    weights(tmp_path / UNITS / "seed-1", "a checkpoint")
    (tmp_path / UNITS / "seed-1" / "unit.json").write_text("{}")
    assert weights_digest(tmp_path) == whole
    assert weights_digest(weights(tmp_path / "elsewhere")) == whole


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": {"inputs": {"turns": 2}}},
        {"dimensions": [{**EMPATHY.facts(), "high": 5}, EVENT.facts()]},
        {"kind": "embedding"},
    ],
)
def test_evidence_is_bound_to_settings_and_dimensions(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    CONFIG.write(weights(tmp_path))
    attest(tmp_path, shown())
    facts = json.loads((tmp_path / RATER_CONFIG).read_text())
    (tmp_path / RATER_CONFIG).write_text(json.dumps({**facts, **changed}))
    (warning,) = RaterConfig.read(tmp_path).warnings(weights_digest(tmp_path))
    assert "its evidence belongs to other weights, tokenizer or settings than" in warning


def test_evidence_that_lacks_a_dimension_is_refused(tmp_path: Path) -> None:
    CONFIG.write(weights(tmp_path))
    evidence = shown()
    del evidence["dimensions"]["event"]
    with pytest.raises(UserError, match="says nothing about event; it is about empathy"):
        attest(tmp_path, evidence)
    with pytest.raises(UserError, match="about empathy, event; it is about no dimension"):
        attest(tmp_path, {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": None}, "settings: an object is expected, not None"),
        ({"settings": []}, r"settings: an object is expected, not \[\]"),
        ({"dimensions": []}, "dimensions: there is none"),
        ({"dimensions": None}, "a field is missing or wrong"),
        ({"name": 3}, "name: a text is expected"),
        ({"evidence": []}, "a field is missing or wrong"),
        ({"evidence": {"dimensions": {}, "groups": 9}}, "evidence, weights: a digest is expected"),
        ({"evidence": {"dimensions": {}, "weights": "a"}}, "evidence, groups: a number is"),
        ({"evidence": {"weights": "abc", "groups": 9}}, "missing or wrong .*dimensions"),
        (
            {"evidence": {"weights": "a", "groups": 9, "dimensions": {"event": {}}}},
            "missing or wrong .*constant",
        ),
        (
            {"evidence": {"weights": "a", **shown(event_length=[])}},
            r"event, length, interval: .*\[\]",
        ),
    ],
)
def test_configs_with_wrong_fields(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    CONFIG.write(tmp_path)
    facts = json.loads((tmp_path / RATER_CONFIG).read_text())
    (tmp_path / RATER_CONFIG).write_text(json.dumps({**facts, **changed}))
    with pytest.raises(UserError, match=rf"rater_config\.json: .*{said}"):
        RaterConfig.read(tmp_path)


@pytest.mark.parametrize(
    "members", [None, [], ["."], [".."], ["../x"], ["/x"], ["a/b"], [""], [1], "empathy"]
)
def test_members_of_a_joined_rater_lie_right_below_it(tmp_path: Path, members: Any) -> None:
    RaterConfig(JOINED, "both", (EMPATHY, EVENT), {"members": members}).write(tmp_path)
    with pytest.raises(UserError, match="settings, members: names of folders right below"):
        RaterConfig.read(tmp_path)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no weights \(\*\.safetensors\)"):
        weights_digest(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UserError, match=r"pickled \(pytorch_model\.bin\).*Convert them"):
        weights_digest(tmp_path)
