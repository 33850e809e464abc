"""Which checkpoint of a run to continue from: the newest one that is complete."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest `checkpoint-N` that holds trainer_state.json, or None.

    The trainer writes that file after weights, optimizer and random states, so a checkpoint without
    it was interrupted; it is named in the log and passed over.
    """
    found = sorted(
        (path for path in Path(folder).glob("checkpoint-*") if path.name[11:].isdigit()),
        key=lambda path: int(path.name[11:]),
        reverse=True,
    )
    for path in found:
        if (path / "trainer_state.json").is_file():
            return str(path)
        logger.warning("%s is not complete and is passed over", path)
    return None
