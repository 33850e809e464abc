"""The tiny models and tasks of the harness that these tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny_harness import run, shelf, tasks

__all__ = ["run", "shelf", "tasks"]
