"""Time and memory of every stage that holds a whole corpus, on synthetic corpora of several sizes.

    python benchmarks/scale.py --output scale.json                 # 25,000 and 100,000 dialogues
    python benchmarks/scale.py --dialogues 500 1000 --stages pairs

Every stage runs in a process of its own: pairs of three epochs, the rows of SFT and DPO, writing
and reading responses, a NIDF table, the metrics that need no model (one system and the human
references), the report. Reported are wall and CPU seconds and the peak of resident memory as the
operating system counted them, and how many bytes of that peak a further dialogue costs, from the
smallest to the largest corpus. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_corpus import write_corpus

from empo.process import run
from empo.records import UserError, read_responses, write_json, write_jsonl
from empo.runs import now, versions
from empo.settings import option, parse

ROOT = Path(__file__).resolve().parents[1]
METRICS = "length,distinct_n,trie,repetition,nidf,self_bleu,emotion_shares"
SYSTEM_MESSAGE = "You are a kind listener."
MAX_LENGTH = 512
TOKENIZER_TURNS = 10_000
VOCABULARY = 8_000
EPOCHS = 3

# Linux counts the memory of the process that starts another as the other's: so a small one starts it
_WATCH = """\
import resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
print(f"\\n[{code}, {time.perf_counter() - begin}, {cpu}, {used.ru_maxrss}]")
"""


@dataclass
class Settings:
    """What to measure."""

    dialogues: list[int] = option(
        default_factory=lambda: [25_000, 100_000], help="sizes of the corpus, in dialogues"
    )
    output: str | None = option(None, help="JSON file for the figures")
    stages: list[str] | None = option(
        None, help="stages to report; those that they need run, too (all if not given)"
    )
    metrics: str = option(METRICS, help="metrics of the stage `responses`, separated by commas")
    folder: str | None = option(
        None, help="folder in which everything is written and kept (default: a temporary one)"
    )
    inside: str | None = option(None, help="run this stage in this process, in --folder")
    seed: int = option(0, help="seed of the corpus")

    def problems(self) -> list[str]:
        """Values that cannot work."""
        found = []
        if min(self.dialogues) < 64:
            found.append(f"--dialogues: {min(self.dialogues)} is too few; at least 64.")
        if unknown := [name for name in self.stages or () if name not in NEEDS]:
            found.append(
                f"--stages: no such stage: {', '.join(unknown)}; known: {', '.join(NEEDS)}."
            )
        return found


NEEDS = {
    "corpus": (),
    "tokenizer": ("corpus",),
    "pairs": ("corpus",),
    "sft_rows": ("tokenizer",),
    "dpo_rows": ("tokenizer",),
    "write_responses": ("corpus",),
    "read_responses": ("write_responses",),
    "nidf_table": ("corpus",),
    "responses": ("write_responses", "nidf_table"),
    "report": ("responses",),
}
"""Stage -> the stages whose files it reads, in the order in which they run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run the stages on every size, print and save the figures."""
    (settings,) = parse(argv, Settings, prog="benchmarks/scale.py", description=__doc__ or "")
    if settings.inside:
        INSIDE[settings.inside](Path(settings.folder or "."), settings)
        return 0
    begin = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        rows = [
            row
            for dialogues in sorted(settings.dialogues)
            for row in measure(
                Path(settings.folder or temporary) / str(dialogues), dialogues, settings
            )
        ]
    result = {
        "created": now(),
        "versions": versions(),
        "machine": {"cores": os.cpu_count(), "load_average": [begin[0], os.getloadavg()[0]]},
        "metrics": settings.metrics,
        "seed": settings.seed,
        "stages": rows,
        "bytes_per_dialogue": growth(rows),
    }
    show(result)
    if settings.output:
        write_json(settings.output, result)
        print(settings.output)
    return 0


def measure(folder: Path, dialogues: int, settings: Settings) -> Iterator[dict[str, Any]]:
    """Run what is asked for, and what that needs, in `folder`; a row of figures per stage."""
    folder.mkdir(parents=True)
    asked = settings.stages or list(NEEDS)
    needed = set(asked)
    for stage in reversed(NEEDS):
        if stage in needed:
            needed |= set(NEEDS[stage])
    for stage in NEEDS:
        if stage in needed:
            figures = run_stage(stage, folder, dialogues, settings)
            if stage in asked:
                yield {"stage": stage, "dialogues": dialogues, **figures}


def run_stage(stage: str, folder: Path, dialogues: int, settings: Settings) -> dict[str, Any]:
    """Wall and CPU seconds and peak megabytes of a stage in a process of its own.

    Raises UserError with the end of what it said where it fails.
    """
    inside = ["benchmarks/scale.py", "--inside", stage, "--folder", folder]
    command = COMMANDS[stage](folder) if stage in COMMANDS else inside
    if stage == "responses":
        command = [*command, "--metrics", settings.metrics]
    elif stage not in COMMANDS:
        command = [*command, "--dialogues", dialogues, "--seed", settings.seed]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    print(f"{dialogues:,} dialogues: {stage} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    *said, figures = done.stdout.splitlines()
    code, seconds, cpu_seconds, peak = json.loads(figures)
    if code:
        said += done.stderr.splitlines()
        raise UserError(f"{stage}: ended with {code}:\n" + "\n".join(said)[-2_000:].strip())
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1),
    }


COMMANDS: dict[str, Callable[[Path], list[Any]]] = {
    "pairs": lambda at: [
        *("-m", "empo.cli", "pairs", "--dialogues", at / "train.csv"),
        *("--epochs", EPOCHS, "--output", at / "pairs"),
    ],
    "nidf_table": lambda at: [
        *("-m", "empo.cli", "nidf-table", "--dialogues", at / "train.csv"),
        *("--output", at / "nidf.json"),
    ],
    "responses": lambda at: [
        *("eval/responses.py", "--responses", at / "responses.jsonl"),
        *("--nidf-table", at / "nidf.json", "--output", at / "results"),
    ],
    "report": lambda at: ["eval/report.py", at / "results", "--output", at / "report.md"],
}
"""Stage -> the words of its command, for a folder."""


def compose(folder: Path, settings: Settings) -> None:
    """Write the corpus."""
    (dialogues,) = settings.dialogues
    write_corpus(folder / "train.csv", dialogues, settings.seed)


def tokenizer(folder: Path, settings: Settings) -> None:
    """Train a small tokenizer on the first turns."""
    from empo.corpora import load_corpus
    from empo.small_models import train_tokenizer

    corpus = load_corpus(folder / "train.csv", limit=TOKENIZER_TURNS // 4)
    texts = [turn.text for dialogue in corpus.dialogues for turn in dialogue.turns]
    train_tokenizer([*texts, SYSTEM_MESSAGE], VOCABULARY).save_pretrained(folder / "tokenizer")


def sft_rows(folder: Path, settings: Settings) -> None:
    """Rows of SFT, as recipes/sft.py makes them."""
    from empo.alignment.sft import sft_rows
    from empo.corpora import load_corpus

    corpus = load_corpus(folder / "train.csv")
    print(sft_rows(corpus.dialogues, chat_format(folder), MAX_LENGTH)[1])


def dpo_rows(folder: Path, settings: Settings) -> None:
    """Rows of DPO with the draws of three epochs, as recipes/dpo.py makes them."""
    from empo.alignment.dpo import dpo_rows
    from empo.corpora import load_corpus
    from empo.emotions import OPPOSITES
    from empo.preferences import Draws

    corpus = load_corpus(folder / "train.csv")
    exchanges = corpus.exchanges()
    draws = Draws(exchanges, OPPOSITES, settings.seed)
    print(dpo_rows(exchanges, draws, chat_format(folder), MAX_LENGTH, EPOCHS)[1])


def chat_format(folder: Path) -> Any:
    """Zephyr's template on the small tokenizer."""
    from transformers import AutoTokenizer

    from empo.prompts import ChatFormat

    small = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return ChatFormat(small, "zephyr", SYSTEM_MESSAGE)


def write_responses(folder: Path, settings: Settings) -> None:
    """Responses of a system that answers with the reply of the dialogue before."""
    from empo.corpora import load_corpus

    exchanges = load_corpus(folder / "train.csv").exchanges()
    write_jsonl(
        folder / "responses.jsonl",
        (
            {
                "id": exchange.id,
                "emotion": exchange.emotion,
                "context": exchange.messages(),
                "reference": exchange.reply,
                "response": exchanges[place - 1].reply,
                "system": "system",
                "finished": True,
            }
            for place, exchange in enumerate(exchanges)
        ),
    )


def read(folder: Path, settings: Settings) -> None:
    """Read the responses."""
    print(len(read_responses(folder / "responses.jsonl")))


INSIDE: dict[str, Callable[[Path, Settings], None]] = {
    "corpus": compose,
    "tokenizer": tokenizer,
    "sft_rows": sft_rows,
    "dpo_rows": dpo_rows,
    "write_responses": write_responses,
    "read_responses": read,
}
"""Stages that no command of EmPO does alone."""


def bound_mb(dialogues: int) -> float:
    """What every stage stays below, in megabytes: 600 MB and 9 KB a dialogue."""
    return 600 + 9e-3 * dialogues


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Stage -> bytes of peak memory that each further dialogue has cost, smallest to largest size."""
    found = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        first, *_, last = [row for row in rows if row["stage"] == stage] * 2
        more = last["dialogues"] - first["dialogues"]
        if more:
            found[stage] = round((last["peak_mb"] - first["peak_mb"]) * 1e6 / more)
    return found


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    print(
        f"{'stage':<17}{'dialogues':>10}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}  bytes/dialogue"
    )
    grown = result["bytes_per_dialogue"]
    largest = max(row["dialogues"] for row in result["stages"])
    for row in sorted(result["stages"], key=lambda row: list(NEEDS).index(row["stage"])):
        more = f"{grown[row['stage']]:>16,}" if grown and row["dialogues"] == largest else ""
        print(
            f"{row['stage']:<17}{row['dialogues']:>10,}{row['seconds']:>10.1f}"
            f"{row['cpu_seconds']:>10.1f}{row['peak_mb']:>10,.0f}{more}"
        )


if __name__ == "__main__":
    run(main)
