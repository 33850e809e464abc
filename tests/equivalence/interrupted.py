"""Run a recipe and kill its process at a step, as a machine that goes down would.

python tests/equivalence/interrupted.py STEP recipes/dpo.py --config ... (STEP of 0 kills nothing)
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from empo.alignment.launching import quiet_dependencies

if __name__ == "__main__":
    quiet_dependencies()
    from empo.alignment import training

    step = int(sys.argv.pop(1))

    class KilledLogFile(training.LogFile):
        """Dies in the middle of a step: the step is logged, its checkpoint is not written."""

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Log; at the step that was asked for, die."""
            super().on_log(args, state, control, **kwargs)
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    training.LogFile = KilledLogFile
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
