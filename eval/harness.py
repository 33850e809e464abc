"""Language understanding of one model: lm-eval's tasks, every answer kept, systems compared by item.

    python eval/harness.py --model runs/dpo --tasks mmlu,leaderboard --output harness/dpo \\
        --compare harness/sft
    python eval/harness.py --model runs/dpo --suite quick --output harness/quick    # offline

Tasks: any of lm-eval's, those of --include-path, empo_emotions (in eval/tasks; offline), leaderboard
(Open LLM Leaderboard 2: BBH, MATH level 5, GPQA, MuSR, MMLU-Pro, IFEval) and open_llm_v1 (version 1).
Writes harness.json and items/TASK.jsonl. A second run does only what is missing. Exit code 0: done;
2: an error in what was given; 3: a task asked for could not run (it stands in `not_run`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from empo.harness.protocol import Protocol, same_evaluation
from empo.harness.task_files import digests
from empo.process import run
from empo.redaction import redacted
from empo.runs import LOCK, alone, versions
from empo.settings import option
from empo.suites import HELP, parse_with_suite

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True, kw_only=True)
class Settings(Protocol):
    """How a model is asked, and beside it which one, and where its answers go."""

    model: str = option(help="hub id, model folder or run folder (its adapter chain is applied)")
    output: str = option(help="folder for harness.json and the items")
    adapter: str | None = option(None, help="adapter folder to use instead of the model's own")
    system: str | None = option(None, help="name of the system (default: the end of the path)")
    compare: list[str] | None = option(None, help="output folders of other systems to compare with")
    trust_remote_code: bool = option(
        False, help="run the code that the model comes with (docs/security.md)"
    )
    batch_size: int = option(8, help="prompts at once; changes nothing but the speed")
    device: str | None = option(None, help="cpu, cuda, ... (default: a GPU where there is one)")
    suite: str | None = option(None, help=HELP)

    def problems(self) -> list[str]:
        """Values that cannot be used."""
        small = f"--batch-size: {self.batch_size} is below 1."
        return super().problems() + [small] * (self.batch_size < 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and measure while no other process does."""
    argv = sys.argv[1:] if argv is None else argv
    settings = parse_with_suite(
        argv, Settings, "harness", prog="eval/harness.py", description=__doc__ or ""
    )
    output = Path(settings.output)
    first = os.environ.get("RANK", "0") == "0"  # of several processes it is the one that writes
    with alone(output / LOCK, output) if first else nullcontext():
        return evaluate(settings, argv)


def evaluate(settings: Settings, argv: Sequence[str]) -> int:
    """Measure what is missing, save, compare, say where it is; the exit code."""
    asked = {field.name: getattr(settings, field.name) for field in fields(Protocol) if field.init}
    protocol = Protocol(**asked)
    from empo.alignment.launching import quiet_dependencies

    quiet_dependencies()
    from empo.harness.comparing import comparable
    from empo.harness.measuring import PARTIAL, measure
    from empo.harness.tasks import load_tasks
    from empo.models import resolve
    from empo.reporting import harness_results as files

    source = resolve(settings.model, settings.adapter, trust_remote_code=settings.trust_remote_code)
    folders = [TASKS, *filter(None, [protocol.include_path])]
    identity = {
        "system": settings.system or Path(settings.adapter or settings.model).name,
        "model": source.facts(),
        "settings": protocol.facts(),
        "task_files": digests(protocol.benchmarks(), folders),
    }
    output = Path(settings.output)
    file = output / files.HARNESS_FILE
    results = files.read_harness(file) if file.is_file() else None
    if results is not None:
        same_evaluation(output, results, identity, {*results["tasks"], *results["groups"]})
    complete = results is not None and not results["not_run"]
    others = {
        folder: files.read_harness(Path(folder) / files.HARNESS_FILE)
        for folder in settings.compare or ()
    }
    for folder, theirs in others.items():
        comparable(results if complete else {**identity, "versions": versions()}, theirs, folder)

    if not complete:
        loaded = load_tasks(protocol, [TASKS])
        speed = {"batch_size": settings.batch_size, "device": settings.device}
        measured = measure(loaded, source, protocol, output, identity, **speed)
        results = {"schema": files.HARNESS_SCHEMA, **measured, "comparisons": []}
    code = 3 if results["not_run"] else 0
    if os.environ.get("RANK", "0") != "0":
        return code
    results["command"] = redacted(shlex.join(["python", "eval/harness.py", *argv]))
    if not complete:
        files.write_harness(file, results)
    if code == 0:
        shutil.rmtree(output / PARTIAL, ignore_errors=True)
    if others:
        results["comparisons"] = comparisons(results, output, others)
        files.write_harness(file, results)
    shown = ["complete already"] * complete + [files.plain_summary(results), str(file)]
    print("\n\n".join(filter(None, shown)))
    for line in partly_shared(results):
        print(line)
    for entry in results["not_run"]:
        print(f"asked for, but not run: {entry['task']}: {entry['reason']}", file=sys.stderr)
    return code


def comparisons(
    results: Mapping[str, Any], output: Path, others: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """McNemar's test for every task and group against every other system, Holm over all of them."""
    from empo.harness.comparing import compare
    from empo.metrics.statistics import holm, mcnemar

    rows = []
    for folder, theirs in others.items():
        rows += compare(results, output, theirs, folder, mcnemar)
    for row, p_holm in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p_holm
        if p_holm is None:
            row["reasons"]["p_holm"] = "there is no p to correct."
    return rows


def partly_shared(results: Mapping[str, Any]) -> list[str]:
    """A line for every group, and task in no group, that was compared on a part of its items."""
    inside = {task for group in results["groups"].values() for task in group["tasks"]}
    return [
        f"{row['task']} against {row['b']}: {row['reasons']['n']}"
        for row in results["comparisons"]
        if "n" in row["reasons"] and row["task"] not in inside
    ]


if __name__ == "__main__":
    run(main)
