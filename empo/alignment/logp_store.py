"""Log-probabilities by key in one SQLite file.

There is one writer, the main process, and an ordinary rollback journal: that also works on network
disks, and the file is whole by itself when it is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from empo.sqlite_file import Kind, SqliteFile

_KIND = Kind(
    holds="the reference's log-probabilities",
    application=0x456D5052,  # "EmPR"
    schema=1,
    table="logps",
    columns=("key", "logp"),
    create="CREATE TABLE logps (key BLOB PRIMARY KEY, logp REAL NOT NULL) WITHOUT ROWID",
    write_ahead=False,
)


class LogpStore:
    """Log-probabilities by key in one file, floats to the last bit.

    All methods raise UserError where the file is no such store, is damaged, cannot be written, or
    is locked for long. Nothing that is there is ever overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SqliteFile(path, _KIND)

    def open(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Make the file where there is none, check it, and read the entries of `keys` it has."""
        self._file.prepare()
        found = {key: logp for key, (logp,) in self._file.read(keys).items()}
        for logp in found.values():
            if not (isinstance(logp, float) and math.isfinite(logp)):
                raise self._file.damaged(f"it has {logp!r} as a log-probability")
        return found

    def write(self, logps: Mapping[bytes, float]) -> None:
        """Keep these entries in one transaction."""
        self._file.write(logps.items())
