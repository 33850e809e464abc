"""Every fault here is a row of the table in docs/reliability.md; `--write-table` writes it anew."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "recipes"), str(HERE.parent / "raters")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fault_table import COLLECTED, WHOLE, Survived, documented, keep, write  # noqa: E402
from small_runs import Runs  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/reliability.md anew")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number, name): a fault that the table lists")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    faults: dict[int, str] = {}
    for item in ours:
        if (mark := item.get_closest_marker("fault")) is not None:
            number, name = mark.args
            if number in faults:
                raise pytest.UsageError(f"two faults have the number {number}: {name!r}")
            faults[number] = name
    files = {item.path for item in ours}
    config.stash[COLLECTED] = faults
    config.stash[WHOLE] = files == set(HERE.glob("test_*.py")) and not config.option.keyword
    if config.getoption("--write-table", default=False) and config.stash[WHOLE]:
        keep(set(faults))


@pytest.fixture(scope="session", autouse=True)
def imports() -> None:
    """What the commands import, imported once, before the first child is forked."""
    import torch
    import trl  # noqa: F401

    import empo.alignment.dpo
    import empo.alignment.dpo_trainer
    import empo.alignment.sft
    import empo.raters.cross_validation
    import empo.reporting.report
    import empo.selection  # noqa: F401

    if importlib.util.find_spec("deepspeed"):
        importlib.import_module("deepspeed")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def runs(imports: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs that nothing happened to."""
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Survived:
    """To be called with what was said and lost; the row has to be that of the document."""
    return Survived(*request.node.get_closest_marker("fault").args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """After a fault that was survived: its row."""
    yield
    if "survived" not in getattr(item, "fixturenames", ()):
        return
    record = item.funcargs["survived"]
    assert record.row is not None, f"fault {record.number} was not recorded"
    if item.config.getoption("--write-table", default=False):
        write(record.row)
    else:
        assert record.row == documented().get(record.number), "run `make reliability`"
