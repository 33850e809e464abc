"""Run a recipe under a launcher, with a fault in one of its processes.

python tests/faults/launched.py RANK MODULE:FUNCTION NTH ACTION recipes/sft.py --config ...

ACTION: kill (SIGKILL of this process), fail (an exception), stop (SIGTERM to the launcher).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from empo.alignment.launching import quiet_dependencies

if __name__ == "__main__":
    quiet_dependencies()
    sys.path.insert(0, str(Path(__file__).parent))
    from phases import at, fail, send

    rank, function, nth, action = sys.argv[1:5]
    sys.argv = sys.argv[5:]
    if os.environ["RANK"] == rank:
        act = {
            "kill": send(signal.SIGKILL),
            "fail": fail(ValueError("the data of this process are damaged")),
            "stop": lambda: os.kill(os.getppid(), signal.SIGTERM),
        }[action]
        at(function, "after", act, nth=int(nth))()
    runpy.run_path(sys.argv[0], run_name="__main__")
