"""The tiny runs and trainings that these tests share."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import shelf
from tiny_trainings import make

from empo.alignment.sft import MaskedTurnTrainer

__all__ = ["shelf"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> MaskedTurnTrainer:
    """Two steps, of which both checkpoints were kept."""
    trained = make(tmp_path_factory.mktemp("done") / "run", save_total_limit=2)
    trained.train()
    return trained


@pytest.fixture
def run(done: MaskedTurnTrainer, tmp_path: Path) -> Path:
    """A copy of its folder, to be damaged."""
    return Path(shutil.copytree(done.args.output_dir, tmp_path / "run"))
