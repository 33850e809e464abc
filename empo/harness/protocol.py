"""How a model is asked: which benchmarks, with how many examples, and whether it is the same again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from empo.records import UserError, shown
from empo.settings import option

OPEN_LLM_V1: Mapping[str, tuple[int, str]] = {
    "arc_challenge": (25, "acc_norm"),
    "hellaswag": (10, "acc_norm"),
    "mmlu": (5, "acc"),
    "truthfulqa_mc2": (0, "acc"),
    "winogrande": (5, "acc"),
    "gsm8k": (5, "exact_match"),
}
"""Benchmark to number of examples and main metric. Source: Open LLM Leaderboard, version 1
(huggingface.co/docs/leaderboards/open_llm_leaderboard/archive)."""

LEADERBOARD: tuple[str, ...] = tuple(
    f"leaderboard_{name}" for name in ("bbh", "math_hard", "gpqa", "musr", "mmlu_pro", "ifeval")
)
"""Open LLM Leaderboard, version 2. lm-eval's task files set the numbers of examples."""

EXPANDED: Mapping[str, tuple[str, ...]] = {
    "leaderboard": LEADERBOARD,
    "open_llm_v1": tuple(OPEN_LLM_V1),
}
"""Names that stand for several benchmarks; each of these is loaded and reported by itself."""


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that moves a figure beside the weights.

    `processes` is the number that was launched: each draws its own random examples.
    """

    tasks: str = option(help="names separated by commas")
    num_fewshot: int | None = option(
        None, help="examples in a prompt (default: the leaderboards' number, or the task's own)"
    )
    limit: int | None = option(None, help="only the first N items of every task")
    apply_chat_template: bool = option(False, help="ask in the model's chat template")
    max_length: int | None = option(None, help="tokens of prompt and answer (default: the model's)")
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="type of the weights")
    seed: int = option(42, help="seed of the examples in the prompts")
    include_path: str | None = option(None, help="folder with task files of your own")
    processes: int = field(init=False, default_factory=_processes)

    def problems(self) -> list[str]:
        """Values that cannot be used."""
        found = [] if self.names else ["--tasks: no name is given."]
        for name, least in (("num_fewshot", 0), ("limit", 1), ("max_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                found.append(f"--{name.replace('_', '-')}: {value} is below {least}.")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            found.append(f"--include-path: {self.include_path} is no folder.")
        return found

    @property
    def names(self) -> list[str]:
        """What was asked for, each once."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.tasks.split(",")))))

    def facts(self) -> dict[str, Any]:
        """As JSON, for manifests."""
        return {**asdict(self), "tasks": self.names}

    def benchmarks(self) -> dict[str, int | None]:
        """Benchmark to number of examples, in the order asked; None leaves it to the task."""
        parts = [part for name in self.names for part in EXPANDED.get(name, (name,))]
        if self.num_fewshot is not None:
            return dict.fromkeys(parts, self.num_fewshot)
        return {name: OPEN_LLM_V1[name][0] if name in OPEN_LLM_V1 else None for name in parts}


def same_evaluation(
    folder: str | Path,
    there: Mapping[str, Any],
    asked: Mapping[str, Any],
    measured: Collection[str] = (),
) -> None:
    """Raise UserError where `there`, the facts kept in a folder, differ from those asked for.

    Weights are the same where their digests are, wherever they lie; names count where there is no
    digest. `task_files` count for the tasks and groups that were `measured`.
    """
    before, now = (
        _flat(_identity({key: facts.get(key) for key in asked}, measured))
        for facts in (there, asked)
    )
    differing = [
        f"  - {key}: {shown(before.get(key))} there, {shown(now.get(key))} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(
            f"{folder}: the folder holds another evaluation. It differs in:\n"
            + "\n".join(differing)
            + "\nChoose another --output, or delete the folder."
        )


def _identity(facts: Mapping[str, Any], measured: Collection[str]) -> dict[str, Any]:
    """Facts without the places where things lie, where digests say what they are."""
    kept = dict(facts)
    if isinstance(model := kept.get("model"), Mapping):
        kept["model"] = {key: _weights(value) for key, value in model.items()}
    if isinstance(settings := kept.get("settings"), Mapping):
        kept["settings"] = {k: v for k, v in settings.items() if k != "include_path"}
    if "task_files" in kept:
        files = kept["task_files"] or {}
        kept["task_files"] = {name: files[name] for name in files if name in measured}
    return kept


def _weights(entry: Any) -> Any:
    """What identifies weights: digest, else commit on the hub, else the name."""
    if isinstance(entry, list):
        return [_weights(one) for one in entry]
    if not isinstance(entry, Mapping):
        return entry
    digest = next((key for key in ("sha256", "commit") if entry.get(key)), None)
    return {digest: entry[digest]} if digest else entry


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
