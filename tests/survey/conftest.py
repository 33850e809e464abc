"""A small survey, fresh for every test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_survey import Served, build


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("template") / "survey")


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A fresh survey that nobody has answered."""
    return Path(shutil.copytree(template, tmp_path / "survey"))


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    server = Served(folder)
    yield server
    if server.process.poll() is None:
        server.kill()
