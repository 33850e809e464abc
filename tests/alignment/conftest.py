"""The tiny runs and rows that these tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import shelf

__all__ = ["shelf"]
