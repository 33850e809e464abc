"""Forward and backward of one DPO step, trl's DPOTrainer and ours: one process, the same pairs.

    python benchmarks/dpo_step.py --output dpo_step.json     a CPU, one thread: process CPU seconds
    python benchmarks/dpo_step.py --device cuda              a GPU: wall seconds, synchronised

Every round draws new pairs with the lengths of --lengths and random tokens, and runs every mode on
them in an order of its own. All modes work on one set of weights, and their losses are compared.

    trl defaults                          trl as it comes: gradient checkpointing, the reference in
                                          every step, and on a CPU the head over all positions
    trl best                              no checkpointing, reference computed before training, head
                                          on the replies only
    trl best, checkpointing               the same with checkpointing
    trl best, re-draw                     trl best with the reference in the step: what trl computes
                                          ahead is for one draw, and ours changes with the epoch
    shared prefix                         ours: a prompt once for its replies, reference ahead
    shared prefix, checkpointing          the same with checkpointing
    shared prefix, K=3                    three rejected replies, so three pairs, to every prompt
    shared prefix, reference in the step  ours without the pass before training

Making batches and the optimizer are not part of a step; the first are timed by themselves, and so
is our pass before training. "Ours" in a ratio is the mode `shared prefix`. Random pairs come first,
then pairs of similar length, as from trl's length-grouped sampler, for both sides.
`--shape tiny --rounds 2` shows in seconds what comes.
"""

from __future__ import annotations

import csv
import gc
import os
import platform
import random
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_figures import RATIOS, ratio, show, summary
from dpo_modes import EPOCHS, MODES, OURS, SHAPES, Trainers, base_model, token_rows

from empo.alignment.launching import quiet_dependencies
from empo.process import run
from empo.records import UserError, read_text, write_json
from empo.runs import now, versions
from empo.settings import option, parse

if TYPE_CHECKING:
    import torch

COLUMNS = ["prompt", "chosen", *(f"rejected_{draw}" for draw in range(1, EPOCHS + 1))]
SELDOM = ("trl defaults", "trl best, checkpointing")
GROUPED = ("trl best", "trl best, re-draw", OURS)
MEGABATCH = 50
"""Batches whose rows are sorted together, as transformers' length-grouped sampler does."""

PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312}
"""Dense bfloat16, by what the name of the device contains; the first that fits."""


@dataclass
class Settings:
    """What to measure."""

    output: str | None = option(None, help="JSON file for the figures")
    device: str | None = option(None, help="cpu or cuda (default: cuda where there is one)")
    shape: str | None = option(
        None,
        help="model with random weights: tiny, small (8 layers of 512) or 7b (Mistral-7B) (default: "
        "small on a CPU, 7b on a GPU); float32 on a CPU, bfloat16 with autocast on a GPU",
    )
    lora_r: list[int] | None = option(
        None, help="ranks of the adapters, one after the other (default: 64, for 7b 64 and 1024)"
    )
    lengths: str = option(
        str(Path(__file__).with_name("ed_lengths.csv")),
        help="csv with the numbers of tokens: " + ", ".join(COLUMNS),
    )
    pairs: int = option(8, help="pairs of a step")
    rounds: int = option(12, help="rounds of random pairs")
    grouped_rounds: int = option(6, help=f"rounds of pairs of similar length: {'; '.join(GROUPED)}")
    seldom_rounds: int = option(
        3, help=f"on a CPU, rounds that have the slowest modes too: {'; '.join(SELDOM)}"
    )
    memory: bool = option(
        False, help="on a CPU, peak memory of every mode's step, each in a forked child (Linux)"
    )
    peak_tflops: float | None = option(
        None, help="dense bfloat16 TFLOP/s of the GPU (default: by its name, where it is known)"
    )
    seed: int = option(0, help="seed of weights, pairs and orders")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if self.shape not in (None, *SHAPES):
            found.append(f"shape: {self.shape} is none of {', '.join(SHAPES)}.")
        if self.device not in (None, "cpu", "cuda"):
            found.append(f"device: {self.device} is neither cpu nor cuda.")
        least = {"pairs": 1, "rounds": 1, "grouped_rounds": 0, "seldom_rounds": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                found.append(f"{name}: {getattr(self, name)} is less than {bound}.")
        if self.lora_r is not None and min(self.lora_r, default=0) < 1:
            found.append(f"lora_r: {self.lora_r} are not ranks of at least 1.")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Build the trainers, run the rounds, print and save the figures."""
    (settings,) = parse(argv, Settings, prog="benchmarks/dpo_step.py", description=__doc__ or "")
    lengths = read_lengths(settings.lengths, settings.pairs)
    quiet_dependencies()
    if settings.device != "cpu":  # trl refuses several GPUs in one process
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: torch finds no CUDA device here. Give --device cpu.")
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        torch.set_num_threads(1)
    shape = settings.shape or ("7b" if cuda else "small")
    words = sys.argv[1:] if argv is None else argv
    result: dict[str, Any] = {
        "created": now(),
        "command": ["python", "benchmarks/dpo_step.py", *words],
        "versions": versions(),
        "machine": machine(device, settings.peak_tflops),
        "seconds_are": "synchronised wall time" if cuda else "process CPU time",
        "dtype": "bfloat16 with autocast" if cuda else "float32",
        "seed": settings.seed,
        "shape": {"name": shape, **asdict(SHAPES[shape])},
        "pairs": settings.pairs,
        "modes": {name: asdict(mode) for name, mode in MODES.items()},
        "measurements": [],
    }
    torch.manual_seed(settings.seed)
    base = base_model(SHAPES[shape], device)
    for rank in settings.lora_r or SHAPES[shape].lora_r:
        measured = measure(settings, base, rank, device, lengths, result["machine"])
        if not result["measurements"]:  # what a reader looks for first
            result |= {name: measured[name] for name in RATIOS}
        result["measurements"].append(measured)
        result["machine"]["load_average"].append(load_average())
        show(result, measured)
        if settings.output:
            write_json(settings.output, result)
    if settings.output:
        print(settings.output)
    return 0


def measure(
    settings: Settings,
    base: Any,
    rank: int,
    device: torch.device,
    lengths: Sequence[Sequence[int]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """All rounds of one rank, and what they say."""
    cuda = device.type == "cuda"
    rng = random.Random(f"{settings.seed}:{rank}")

    def pairs(number: int, grouped: bool = False, rng: random.Random = rng) -> list[dict[str, Any]]:
        return token_rows(draw(rng, lengths, number, grouped), rng, base.config.vocab_size)

    rounds: dict[str, list[dict[str, Any]]] = {"random": [], "length_grouped": []}
    with tempfile.TemporaryDirectory() as folder:
        told(f"r={rank}: building the trainers")
        trainers = Trainers(base, rank, device, folder)
        # a first step is not like the others: kernels, allocator, our comparison of a first batch
        trainers.round(pairs(settings.pairs if cuda else 1), list(MODES), rng)
        memory = {}
        if settings.memory and not cuda:
            told(f"r={rank}: memory")
            of_its_own = random.Random(settings.seed)  # the rounds are the same without
            memory = forked_memory(trainers, pairs(settings.pairs, rng=of_its_own))
        for kind, number in zip(rounds, (settings.rounds, settings.grouped_rounds), strict=True):
            for place in range(number):
                names = [
                    name
                    for name in (MODES if kind == "random" else GROUPED)
                    if cuda or name not in SELDOM or place < settings.seldom_rounds
                ]
                done = trainers.round(pairs(settings.pairs, kind != "random"), names, rng)
                rounds[kind].append(done)
                seconds = (f"{name} {step['seconds']:.2f}" for name, step in done["steps"].items())
                told(f"r={rank}, {kind} {place + 1}/{number}: {'; '.join(seconds)}")
    sections = {
        kind: summary(of, trainers, facts, memory if kind == "random" else {})
        for kind, of in rounds.items()
    }
    return {
        "lora_r": rank,
        "parameters": trainers.parameters,
        **{
            name: ratio(rounds["random"], *of, name.endswith("_amortised"))
            for name, of in RATIOS.items()
        },
        **sections,
        "largest_loss_difference": max(r["loss_difference"] for of in rounds.values() for r in of),
        "peak_process_mb": peak_process_mb(),
    }


def read_lengths(path: str, pairs: int) -> list[list[int]]:
    """Tokens of prompt, chosen and rejected replies; UserError names what is wrong, and where."""
    header, *rows = csv.reader(read_text(path).splitlines())
    if header != COLUMNS:
        raise UserError(
            f"{path}: its columns are {','.join(header)!r}; {','.join(COLUMNS)!r} are expected."
        )
    for line, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS) or not all(re.fullmatch("[1-9][0-9]*", cell) for cell in row):
            raise UserError(
                f"{path}, line {line}: {','.join(row)!r}; {len(COLUMNS)} numbers of tokens, each at "
                "least 1, are expected."
            )
    if len(rows) < pairs:
        raise UserError(f"{path}: {len(rows)} rows are fewer than the {pairs} of --pairs.")
    return [[int(cell) for cell in row] for row in rows]


def draw(
    rng: random.Random, lengths: Sequence[Sequence[int]], number: int, grouped: bool
) -> list[Sequence[int]]:
    """Lengths of the pairs of a step: any, or neighbours in a sorted sample of `MEGABATCH` steps.

    They are sorted by the longer of trl's two sequences, which saves trl most.
    """
    if not grouped:
        return rng.sample(lengths, number)
    steps = min(MEGABATCH, len(lengths) // number)
    sample = rng.sample(lengths, steps * number)
    sample.sort(key=lambda row: row[0] + max(row[1:3]))
    begin = rng.randrange(steps) * number
    return sample[begin : begin + number]


def forked_memory(trainers: Trainers, rows: list[dict[str, Any]]) -> dict[str, float]:
    """MB that a step of every mode needs above weights and adapters, each in a child of its own."""
    trainers.round(rows, [], random.Random(0))  # the values of the reference
    return {name: in_child(partial(trainers.step, name, rows)) for name in MODES}


def in_child(job: Callable[[], object]) -> float:
    """MB by which the resident memory of a forked child grows at its peak."""
    import ctypes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide growth
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            job()
            grown = peak_process_mb() - pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            os.write(writer, str(grown).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        raise UserError("--memory: a step failed in a forked child (above). Leave --memory out.")
    return float(answer)


def peak_process_mb() -> float:
    """Peak resident memory of this process so far, MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


def load_average() -> float:
    """Processes that wanted a CPU in the last minute."""
    return round(os.getloadavg()[0], 2)


def machine(device: torch.device, peak_tflops: float | None) -> dict[str, Any]:
    """What it was measured on; `peak_tflops` is None with a reason where it is not known."""
    import torch

    facts: dict[str, Any] = {
        "device": device.type,
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load_average": [load_average()],
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
        facts |= {"gpu": name, "cuda": torch.version.cuda, "peak_tflops": peak_tflops or known}
        if facts["peak_tflops"] is None:
            reason = f"{name} is not in the table of this benchmark; give --peak-tflops"
            facts["reasons"] = {"peak_tflops": reason}
    return facts


def told(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
