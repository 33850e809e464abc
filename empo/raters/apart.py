"""Groups of a corpus that another rater has not seen: other posts, dialogues or stories."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.settings import RaterSettings
from empo.rating import Dimension
from empo.records import UserError
from empo.runs import read_run


def cut_groups(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """The examples of `limit` groups drawn by `seed`, in their order; a file is often sorted."""
    groups = list(dict.fromkeys(example.group for example in examples))
    if limit is None or limit >= len(groups):
        return list(examples)
    kept = set(random.Random(seed).sample(groups, limit))
    return [example for example in examples if example.group in kept]


def chosen_dimensions(corpus: LabelledCorpus, names: Sequence[str] | None) -> list[Dimension]:
    """The dimensions asked for, or all that the corpus does not derive from others.

    Raises UserError for an unknown name.
    """
    known = {dimension.name: dimension for dimension in corpus.dimensions}
    if names is None:
        return [d for d in corpus.dimensions if d.name not in corpus.derived]
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"dimensions: {', '.join(unknown)} is unknown; {corpus.source} has: {', '.join(known)}."
        )
    return [known[name] for name in names]


_READ = ("schema", "incomplete", "text", "articles", "definitions")
"""Settings that move which groups a corpus has."""


def unseen_by(folder: str | Path, corpus: LabelledCorpus, settings: RaterSettings) -> list[Example]:
    """The examples of groups that the rater in a folder was neither trained nor measured on.

    What the other rater used is drawn from the corpus again, as its settings say. Raises UserError
    where the folder is no finished run of a rater, learnt from other files or read them otherwise
    than `settings` do, or left no group.
    """
    run = read_run(folder)
    if run is None or run["command"] != "rater":
        raise UserError(f"apart_from: {folder} is no run of recipes/rater.py; name its output_dir.")
    theirs = run["settings"]
    data = run.get("identity", {}).get("data") or [[]]
    other = [name for name in _READ if theirs.get(name, _default(name)) != getattr(settings, name)]
    if [f["sha256"] for f in data[0]] != [f["sha256"] for f in corpus.facts()["files"]]:
        other.insert(0, "the files of its data")
    if other:
        raise UserError(
            f"apart_from: {folder} learnt from another reading of the data (it differs in "
            f"{', '.join(other)}), so which of these groups it has seen is not known. Train both on "
            "the same data, read alike, or leave apart_from out."
        )
    rest = list(corpus.examples)
    if before := theirs.get("apart_from"):
        rest = unseen_by(before, corpus, settings)
    names = {dimension.name for dimension in chosen_dimensions(corpus, theirs.get("dimensions"))}
    rest = [example for example in rest if names & example.labels.keys()]
    used = cut_groups(rest, theirs.get("limit"), theirs.get("split_seed", _default("split_seed")))
    seen = {example.group for example in used}
    left = [example for example in corpus.examples if example.group not in seen]
    if not left:
        raise UserError(
            f"apart_from: {folder} has seen all {len(seen):,} groups. Train it with `limit`, so that "
            "some are left."
        )
    return left


def _default(name: str) -> Any:
    return next(field.default for field in fields(RaterSettings) if field.name == name)
