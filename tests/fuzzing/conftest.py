"""The modules that these tests share, and the table of figures that a run writes."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from figures import write_figures

FIGURES = "EMPO_FUZZ_FIGURES"
"""Environment variable: the markdown file whose table of figures is written."""


def pytest_terminal_summary(terminalreporter):
    """Write the table from what the tests recorded, also where they ran in several processes."""
    path = os.environ.get(FIGURES)
    rows = [
        dict(report.user_properties)["fuzzing"]
        for outcome in ("passed", "xfailed")
        for report in terminalreporter.stats.get(outcome, [])
        if "fuzzing" in dict(report.user_properties)
    ]
    if path and rows and not terminalreporter.stats.get("failed"):
        write_figures(Path(path), rows)
        terminalreporter.write_line(f"figures: {path}")
