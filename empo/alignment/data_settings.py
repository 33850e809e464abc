"""Settings of the dialogues that a recipe trains on."""

from __future__ import annotations

from dataclasses import dataclass

from empo.prompts import SYSTEM_MESSAGE
from empo.settings import option


@dataclass(kw_only=True)
class DataSettings:
    """Which dialogues are trained on and how they are put into a prompt."""

    dialogues: str = option(help="corpus: file, folder with train/valid/test, or hub:owner/name")
    split: str = option("train", help="split to train on")
    valid: str | None = option(
        None, help="validation corpus (default: split `valid` of a folder or hub corpus)"
    )
    mapping: str | None = option(None, help="YAML with the column names of another corpus")
    limit: int | None = option(None, help="use only the first N dialogues of each split")
    chat_template: str | None = option(
        None, help="`zephyr` or a .jinja file with generation markers (default: the tokenizer's)"
    )
    system_message: str | None = option(SYSTEM_MESSAGE, help="system message; null for none")
    threads: int | None = option(
        None, help="CPU threads (default: all); a tiny model is as fast on one, and steadier"
    )
    processes: int | None = option(
        None, help="number of processes this recipe must run on; another number stops it"
    )
    fresh: bool = option(
        False, help="begin a new run, in a folder beside output_dir where that is in use"
    )
    accept_changes: bool = option(
        False, help="continue a run although settings, data, template or processes have changed"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if self.limit is not None and self.limit < 1:
            found.append(f"limit: {self.limit} leaves no dialogue; at least 1 is needed.")
        if self.fresh and self.accept_changes:
            found.append("fresh: a new run has no changes to accept; leave accept_changes out.")
        return found
