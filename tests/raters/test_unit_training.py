"""What is kept of the trainings, what is cleared away, and in which order files are put in place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.folder import JOINED, RATER_CONFIG, RaterConfig, weights_digest
from empo.raters.held_out import Unit
from empo.raters.settings import RaterSettings
from empo.raters.unit_training import MODEL, _clear, _parts, keep_rater
from empo.rating import Dimension, RatingInput
from empo.records import UserError

WARMTH = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
SORROW = Dimension("sorrow", 0, 1, "interval")
INTERVAL = {"difference": 0.2, "interval": [0.1, 0.3]}
EVIDENCE: dict[str, Any] = {
    "n": 100,
    "groups": 50,
    "drawn": "groups",
    "notes": [],
    "dimensions": {
        name: {"metric": "mse", "constant": INTERVAL, "length": INTERVAL}
        for name in ("warmth", "sorrow")
    },
}


def unit(output: Path, seed: int, score: float | None) -> Unit:
    """A unit as a training leaves it that was killed behind unit.json; None: before it."""
    made = Unit(seed, 0, output / "units" / f"seed-{seed}" / "fold-0")
    for place in (made.folder / "checkpoint-7", made.folder / "sorrow" / "checkpoint-9"):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_text("of the training")
    (made.folder / MODEL).mkdir()
    (made.folder / MODEL / "model.safetensors").write_text(f"weights {seed}")
    if score is not None:
        (made.folder / "unit.json").write_text(json.dumps({"validation_score": score}))
    return made


def test_a_kill_behind_the_end_of_a_unit_leaves_nothing_for_good(tmp_path: Path) -> None:
    units = [unit(tmp_path, 1, 0.3), unit(tmp_path, 2, 0.5), unit(tmp_path, 3, None)]
    _clear(units)
    assert [(u.folder / MODEL).is_dir() for u in units] == [False, True, True]
    left = {path.relative_to(tmp_path / "units").parts[0] for path in tmp_path.rglob("checkpoint*")}
    assert left == {"seed-3"}, "a unit that is not done goes on from its checkpoint"


def two(folder: Path) -> None:
    """Raters side by side, as they are saved."""
    for dimension in (WARMTH, SORROW):
        member = folder / dimension.name
        member.mkdir(parents=True)
        (member / "model.safetensors").write_text(dimension.name)
        RaterConfig("pair_classifier", dimension.name, (dimension,), {"inputs": {}}).write(member)
    members = {"members": ["warmth", "sorrow"]}
    RaterConfig(JOINED, "both", (WARMTH, SORROW), members).write(folder)


def test_the_kept_rater_is_whole_and_bound_to_its_evidence(tmp_path: Path) -> None:
    best = Unit(1, 0, tmp_path / "units" / "seed-1" / "fold-0")
    two(best.folder / MODEL)
    keep_rater(best, tmp_path, EVIDENCE)
    assert RaterConfig.read(tmp_path).kind == JOINED
    for name in ("warmth", "sorrow"):
        member = RaterConfig.read(tmp_path / name)
        assert member.warnings(weights_digest(tmp_path / name)) == ()
    assert not (best.folder / MODEL).exists()
    keep_rater(best, tmp_path, EVIDENCE)  # a restart: it was put there before
    assert RaterConfig.read(tmp_path).kind == JOINED


def test_a_rater_that_cannot_be_copied_whole_is_none(tmp_path: Path) -> None:
    best = Unit(1, 0, tmp_path / "units" / "seed-1" / "fold-0")
    two(best.folder / MODEL)
    two(tmp_path)  # of an earlier try
    lost = best.folder / MODEL / "sorrow" / "model.safetensors"
    lost.unlink()
    lost.symlink_to(tmp_path / "nowhere")  # as a bad disk would: it cannot be read
    with pytest.raises(shutil.Error):
        keep_rater(best, tmp_path, EVIDENCE)
    assert not [path for path in tmp_path.rglob(RATER_CONFIG) if "units" not in path.parts]
    lost.unlink()
    lost.write_text("sorrow")
    keep_rater(best, tmp_path, EVIDENCE)
    assert RaterConfig.read(tmp_path / "sorrow").evidence is not None


def test_only_where_examples_are_learnt_from_has_the_training_part_to_have_all_levels() -> None:
    labels = [2.0, *(float(i % 2) for i in range(20))]
    rows = [
        Example(f"e{i}", f"g{i}", RatingInput("a", "b"), {"warmth": label})
        for i, label in enumerate(labels)
    ]
    corpus = LabelledCorpus("mine", "examples", (WARMTH,), rows, [], len(rows), [])
    asked = {"data": "-", "architecture": "prompt", "loss": "none", "folds": 3}
    _, parts = _parts(corpus, None, RaterSettings(**asked))
    assert len(parts) == 3
    for given in ({"shots": "few"}, {"architecture": "cross_encoder", "loss": "cross_entropy"}):
        with pytest.raises(UserError, match="level 2 is absent from the training part of fold"):
            _parts(corpus, None, RaterSettings(**(asked | given)))
