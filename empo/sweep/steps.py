"""The steps of a sweep: commands that are run once, and again only where something has changed."""

from __future__ import annotations

import gc
import importlib.util
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from empo.process import Stopped, stop_when_saved
from empo.records import UserError, misfit, read_json, write_json
from empo.runs import ACCEPT, ANEW, LOCK, alone, now
from empo.sweep.inputs import digests

ROOT = Path(__file__).resolve().parents[2]
SWEEP_SCHEMA = "empo.sweep/2"
BEFORE = "done before"


class StepRecord(TypedDict):
    """A step in sweep.json; `inputs` and `outputs` map paths to the sha256 they had at its end."""

    status: Literal["done", "incomplete"]
    command: list[str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: float
    ended: str


class Sweep(TypedDict):
    """sweep.json: every step by its key."""

    schema: Literal["empo.sweep/2"]
    steps: dict[str, StepRecord]


_SWEEP = TypeAdapter(Sweep)
_LOOK_SECONDS = 0.2
_ANEW = "Delete that folder to train it anew, or take another output_dir."
_ACCEPT = (
    "`accept_changes: true` in its settings continues it all the same; its folder then says so."
)


def read_steps(path: Path) -> dict[str, StepRecord]:
    """The steps in sweep.json, none where there is no file; UserError names what does not fit."""
    if not path.is_file():
        return {}
    remedy = "Delete the file: every command finds by itself what it has done already."
    try:
        return _SWEEP.validate_python(read_json(path))["steps"]
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    except ValidationError as error:
        raise misfit(str(path), error, remedy) from None


@cache
def load_script(name: str) -> ModuleType:
    """A script of recipes/ or eval/ as a module, `recipes/dpo.py` for example."""
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: no such script. Run this from a checkout of EmPO.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Step:
    """One command of a sweep: what it does for which cell and seed, from which files to which.

    `start` are those of the inputs that a training starts or learns from (model, pairs, raters): from
    others it is another model. A step with `work` is done by the
    sweep itself, in place of a script.
    """

    cell: str
    seed: int | None
    kind: str
    script: str
    argv: Sequence[str]
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    launch: Sequence[str] = ()
    start: Sequence[Path] = ()
    work: Callable[[], int] | None = None

    @property
    def key(self) -> str:
        """Its name in sweep.json and on the screen."""
        seed = [] if self.seed is None else [f"seed {self.seed}"]
        return ", ".join([self.cell, *seed, *([self.kind] if self.kind != self.cell else [])])

    @property
    def command(self) -> list[str]:
        """What a person would type."""
        first = ["empo"] if self.work else self.launch or ["python"]
        return [*first, self.script, *self.argv]


class Steps:
    """The steps of a sweep; each is done once, and sweep.json says so after each."""

    def __init__(self, path: Path, keep_going: bool = False) -> None:
        self.path = path
        self.keep_going = keep_going
        self.outcomes: list[tuple[Step, str, float]] = []
        self._known = read_steps(path)

    def do(self, step: Step) -> bool:
        """Do a step that is not done yet; whether its outputs are there.

        Raises UserError where it fails, unless the sweep keeps going.
        """
        begun, status = time.monotonic(), "stopped"
        try:
            status = self._done(step)
        except Exception as error:
            status = "failed"
            foreseen = isinstance(error, UserError)
            if not self.keep_going and not foreseen:
                raise
            if not self.keep_going:
                raise UserError(
                    f"{step.key}: {_in_a_sweep(str(error))}\n"
                    "What is done stays done; once this is mended, the same command goes on here."
                ) from None
            text = _in_a_sweep(str(error)) if foreseen else traceback.format_exc()
            print(f"error: {step.key}: {text}", file=sys.stderr)
        finally:
            self.outcomes.append((step, status, time.monotonic() - begun))
            _free_memory()
        return status != "failed"

    def _done(self, step: Step) -> str:
        """The status of a step that was done before, or is now."""
        inputs = digests(step.inputs)
        known = self._known.get(step.key)
        changed: list[str] = []
        if known is not None and known["status"] == "done" and known["command"] == step.command:
            outputs = digests(step.outputs)
            changed = [
                *_changed(known["inputs"], inputs),
                *_changed(known["outputs"], outputs),
            ]
            if not changed and all(path.is_file() for path in step.outputs):
                print(f"== {step.key}: {BEFORE}")
                return BEFORE
            started_from = map(str, step.start)
            anew = [p for p in started_from if p in changed and p in known["inputs"]]
            if anew and step.outputs[0].is_file():
                raise UserError(
                    f"{step.outputs[0].parent}: this model was trained before {anew[0]} was "
                    "written anew. Delete the folder to train it again, or take another output_dir."
                )
        print(f"\n== {step.key}")
        if changed:
            print(f"changed since it was done: {', '.join(changed)}")
        print(shlex.join(step.command), flush=True)
        begun = time.monotonic()
        code = _run(step)
        if code not in (0, 3):
            told = f" For a sweep, instead of --fresh: {_ANEW}" if step.launch else ""
            raise UserError(f"exit code {code}; what went wrong stands above.{told}")
        status: Literal["done", "incomplete"] = "incomplete" if code == 3 else "done"
        seconds = round(time.monotonic() - begun, 1)
        self._known[step.key] = {
            "status": status,
            "command": step.command,
            "inputs": inputs,
            "outputs": digests(step.outputs),
            "seconds": seconds,
            "ended": now(),
        }
        write_json(self.path, {"schema": SWEEP_SCHEMA, "steps": self._known})
        return status

    @property
    def code(self) -> int:
        """0: all is done; 1: a step failed; 3: something asked for by name could not run."""
        found = {status for _, status, _ in self.outcomes}
        return 1 if "failed" in found else 3 if "incomplete" in found else 0

    def table(self) -> str:
        """Cell, seed, status, seconds: a line per cell and seed, with the seconds of its steps."""
        order = ("stopped", "failed", "incomplete", "done", BEFORE)
        groups: dict[tuple[str, str], list[tuple[str, str, float]]] = {}
        for step, status, seconds in self.outcomes:
            seed = "" if step.seed is None else str(step.seed)
            groups.setdefault((step.cell, seed), []).append((step.kind, status, seconds))
        rows = [("cell", "seed", "status", "seconds", "")]
        for (cell, seed), steps in groups.items():
            worst = min((status for _, status, _ in steps), key=order.index)
            new = [(kind, seconds) for kind, status, seconds in steps if status != BEFORE]
            each = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in new if kind != cell)
            total = f"{sum(seconds for _, seconds in new):.1f}" if new else "-"
            rows.append((cell, seed, worst, total, each))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{cell:<{widths[0]}}  {seed:>{widths[1]}}  {status:<{widths[2]}}  "
            f"{seconds:>{widths[3]}}  {each}".rstrip()
            for cell, seed, status, seconds, each in rows
        )


def _changed(known: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Paths that are new, gone or have other content."""
    return [path for path in {**known, **found} if known.get(path) != found.get(path)]


def _run(step: Step) -> int:
    """The exit code of a step; of one with `launch`, in processes of its own."""
    if step.work is not None:
        return step.work()
    if step.launch:
        return _launched(step)
    return load_script(step.script).main(list(step.argv))


def _launched(step: Step) -> int:
    """The exit code of a step in processes of its own; a signal goes to all of them.

    Raises Stopped when they have saved: they hold the lock of the step's folder until then, also
    where their launcher ends at once.
    """
    folder = step.outputs[0].parent
    words = [*step.launch, str(ROOT / step.script), *step.argv]
    told = False
    with (
        stop_when_saved("the processes of this step have saved") as stop,
        subprocess.Popen(words, process_group=0) as launcher,
    ):
        while True:
            try:
                code = launcher.wait(timeout=_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stop.number is not None and not told:
                    os.killpg(launcher.pid, stop.number)
                    told = True
        while stop.number is not None and _in_use(folder):
            time.sleep(_LOOK_SECONDS)
    if stop.number is not None:
        raise Stopped(stop.number)
    return code


def _in_use(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with alone(folder / LOCK, folder):
            return False
    except UserError:
        return True


def _in_a_sweep(text: str) -> str:
    """The message of a command with what a sweep has in place of the command's own options."""
    return text.replace(ANEW, _ANEW).replace(ACCEPT, _ACCEPT)


def _free_memory() -> None:
    """Let the next step have what the models of this one held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
