"""The tiny runs that these tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import shelf

__all__ = ["shelf"]
