"""Whatever a file holds, reading it gives its content or a UserError that names it; nothing else."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as budget
from inputs import Draw, distorted, draws
from language_model_readers import READERS as OF_LANGUAGE_MODELS
from light_readers import READERS as GIVEN
from light_readers import Reader
from model_readers import READERS as OF_MODELS
from run_readers import READERS as LEFT
from survey_readers import READERS as OF_SURVEYS

from empo.records import UserError

READERS = [*GIVEN, *LEFT, *OF_MODELS, *OF_LANGUAGE_MODELS, *OF_SURVEYS]
INPUTS = int(os.environ.get("EMPO_FUZZ_INPUTS", "1000"))
LONGEST = 3_000
"""Characters of a message: a value that is shown is cut."""
MEMORY = 3 * 2**30
"""Bytes that reading a file of some kilobytes may take on top of what the process has."""


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """A MemoryError instead of a machine that stops, where a file makes a reader take too much."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def placed(reader: Reader, folder: Path) -> Path:
    """The folder with the valid files of a reader and nothing else; only what is odd is deleted."""
    for path in [*folder.rglob("*")] if folder.is_dir() else ():
        if path.is_file() and path.relative_to(folder).as_posix() not in reader.files:
            path.unlink()
    for name, sample in reader.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put(folder / name, sample.data)
    return folder


def put(path: Path, data: bytes) -> None:
    """Write a file in place: file systems wait for the disk where one is emptied first."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def is_read(reader: Reader, folder: Path) -> bool:
    """Whether the folder is read; if not, what is told must be of use."""
    try:
        with contextlib.chdir(folder):  # a name in a file may be a relative path
            reader.call(folder)
    except UserError as error:
        told = str(error)
        assert any(name in told for name in (*reader.files, str(folder))), f"names no file: {told}"
        assert len(told) <= LONGEST, f"{len(told):,} characters: {told[:200]}"
        assert told.encode(), "can be printed"
        return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_what_a_file_holds_is_read_or_refused(
    reader: Reader, tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    counts = {True: 0, False: 0}

    @budget(
        max_examples=INPUTS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(draws)
    def fuzz(draw: Draw) -> None:
        folder = placed(reader, tmp_path / "files")
        name, data = distorted(reader.files, draw)
        put(folder / name, data)
        counts[is_read(reader, folder)] += 1

    facts = {"reader": reader.name, "found": reader.found}
    begun = time.process_time()
    try:
        fuzz()
    except Exception:
        if reader.open:
            facts["found"] = f"**open:** {reader.open}"
            pytest.xfail(reader.open)
        raise
    finally:
        inputs = sum(counts.values())
        facts |= {"inputs": inputs, "read": counts[True], "seconds": time.process_time() - begun}
        record_property("fuzzing", facts)
    assert inputs >= INPUTS and counts[True], counts
    assert counts[False] or reader.takes_all, counts
