"""Tasks of lm-eval with their data, by name; what cannot be loaded is named with the remedy."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from empo import hub
from empo.harness.protocol import EXPANDED, Protocol
from empo.records import UserError

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

_FILL_THE_CACHE = (
    "Run the command once online (without HF_HUB_OFFLINE) to fill the cache; where the data set is "
    "gated, also log in (`hf auth login`) and accept its terms on its page on the hub."
)


@dataclass
class Loaded:
    """Tasks by name, the groups they make up, and what could not be loaded: task and reason."""

    tasks: dict[str, Task] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    not_run: list[dict[str, str]] = field(default_factory=list)


def load_tasks(protocol: Protocol, folders: Iterable[str | Path] = ()) -> Loaded:
    """The benchmarks of a protocol with their data.

    `folders` hold task files beside lm-eval's own and those of the protocol's `include_path`. A
    data set or a package that is missing stops its own benchmark only. Raises UserError for names
    that nobody knows, and for a task asked for twice with different numbers of examples.
    """
    from transformers import set_seed

    hub.offline()  # or every data set would be tried for half a minute where there is no network
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what its warnings tell is counted here
    benchmarks = protocol.benchmarks()
    manager = _task_manager(
        list(benchmarks), [*map(str, folders), *filter(None, [protocol.include_path])]
    )
    loaded = Loaded()
    for name, shots in benchmarks.items():
        set_seed(protocol.seed)  # some tasks shuffle their options while they are loaded
        try:
            found = manager.load([name])
        except Exception as error:  # task files are code, and data sets fail in many ways
            loaded.not_run.append({"task": name, "reason": why_not_loaded(name, error)})
            continue
        for leaf, task in found["tasks"].items():
            own = task.get_config("num_fewshot")
            if own is None or (own != 0 and shots is not None):  # a task that says 0 means it
                task.set_config("num_fewshot", shots or 0)
            task.set_fewshot_seed(protocol.seed)
            there = shots_of(loaded.tasks.setdefault(leaf, task))
            if there != shots_of(task):
                raise UserError(
                    f"--tasks: {leaf} is asked for with {there} and, in {name}, with "
                    f"{shots_of(task)} examples. Ask for it once, or give --num-fewshot."
                )
        loaded.groups |= found.get("groups", {})
    return loaded


def shots_of(task: Task) -> int:
    """Number of examples in a prompt."""
    return task.get_config("num_fewshot") or 0


def _task_manager(names: Sequence[str], folders: Sequence[str]) -> TaskManager:
    """An index of task files that knows all names; of lm-eval's own only where it has to."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folders, include_defaults=False)
    if all(name in manager.task_index for name in names):
        return manager  # lm-eval's 14,000 files take half a minute to read
    manager = TaskManager(include_path=folders)
    known = {*manager.all_tasks, *EXPANDED}
    problems = []
    for name in names:
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, sorted(known), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else "."
            problems.append(f"--tasks: {name}: no such task{hint}")
    if problems:
        raise UserError("\n".join(problems))
    return manager


def why_not_loaded(name: str, error: Exception) -> str:
    """What is missing, in the words of the library that missed it, and the remedy."""
    text = " ".join(str(error).split())[:400].rstrip(".")
    if isinstance(error, ImportError):
        known = importlib.metadata.metadata("lm_eval").get_all("Provides-Extra") or []
        extras = [extra for extra in known if extra in name.split("_")]
        remedy = f" (pip install 'lm-eval[{','.join(extras)}]')" if extras else ""
        return f"a package is missing{remedy}: {text}."
    if "gated dataset" in text:
        return (
            f"the data set is gated: {text}. Accept its terms on its page on the hub, log in with "
            "`hf auth login`, and run the command again."
        )
    missing_file = isinstance(error, FileNotFoundError) and "Hub" not in text
    if (isinstance(error, OSError) and not missing_file) or "find cache for" in text:
        return f"the data set cannot be loaded: {text}. {_FILL_THE_CACHE}"
    return f"the task cannot be loaded: {type(error).__name__}: {text}."
