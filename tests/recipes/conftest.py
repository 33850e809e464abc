"""The tiny runs that these tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_runs import shelf

__all__ = ["shelf"]
