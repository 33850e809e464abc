"""Groups of a corpus that another rater has not seen, so that two raters learn from different people."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.corpora.labelled import Example
from empo.records import UserError
from empo.runs import read_run


def cut_groups(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """The examples of `limit` groups drawn by `seed`, in their order; a file is often sorted."""
    groups = list(dict.fromkeys(example.group for example in examples))
    if limit is None or limit >= len(groups):
        return list(examples)
    kept = set(random.Random(seed).sample(groups, limit))
    return [example for example in examples if example.group in kept]


def unseen_by(
    folder: str | Path, examples: Sequence[Example], files: Sequence[Mapping[str, Any]]
) -> list[Example]:
    """The examples of groups that the rater in a folder was neither trained nor measured on.

    `examples` are those of the corpus files, a list of {file, sha256}, in their order: what the other
    rater used is drawn from them again. Raises UserError where the folder is no finished run of a
    rater, learnt from other files or from other dimensions, or left no group.
    """
    run = read_run(folder)
    if run is None or run["command"] != "rater":
        raise UserError(f"apart_from: {folder} is no run of recipes/rater.py; name its output_dir.")
    theirs = run.get("identity", {}).get("data") or [[]]
    if [file["sha256"] for file in theirs[0]] != [file["sha256"] for file in files]:
        raise UserError(
            f"apart_from: {folder} learnt from other files, so which of these groups it has seen is "
            "not known. Leave apart_from out, or train both on the same data."
        )
    settings = run["settings"]
    rest = list(examples)
    if before := settings.get("apart_from"):
        rest = unseen_by(before, rest, files)
    if (names := settings.get("dimensions")) is not None:
        rest = [example for example in rest if set(names) & example.labels.keys()]
    used = cut_groups(rest, settings.get("limit"), settings.get("split_seed", 0))
    seen = {example.group for example in used}
    left = [example for example in examples if example.group not in seen]
    if not left:
        raise UserError(
            f"apart_from: {folder} has seen all {len(seen):,} groups. Train it with `limit`, so that "
            "some are left."
        )
    return left
