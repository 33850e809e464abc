"""The tiny encoders that these tests share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_encoders import write_encoders


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny `bert`, `roberta` and `t5`, all of 40 positions."""
    return write_encoders(tmp_path_factory.mktemp("encoders"))
