"""Tiny real runs that the tests share: a cut corpus, a base, SFT with a merged adapter, DPO.

Each is made once per session, by the recipe a user runs. `shelf` is a fixture; the test folders
that want it import it from here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "recipes" / "tiny"
EMOTIONS = ("surprised", "anticipating", "embarrassed", "confident")
"""Two pairs of opposites, so that every pool of the cut corpus has replies."""

SMALL = ["--hidden_size", "32", "--vocab_size", "400", "--learning_rate", "1e-2"]
SMALL += ["--num_train_epochs", "20"]
"""Talks badly, and ends most of its replies."""
LORA = [
    "--full_training",
    "false",
    "--lora_r",
    "8",
    "--lora_alpha",
    "16",
    "--learning_rate",
    "1e-2",
]


def cut_corpus(folder: Path, per_emotion: dict[str, int]) -> Path:
    """`data/sample` with the first dialogues of four emotions; split to number per emotion."""
    folder.mkdir(parents=True)
    for split, number in per_emotion.items():
        header, *lines = (ROOT / "data/sample" / f"{split}.csv").read_text().splitlines()
        kept, seen, counts = [header], set(), Counter()
        for line in lines:
            name, _, emotion = line.split(",")[:3]
            if emotion not in EMOTIONS or (name not in seen and counts[emotion] == number):
                continue
            counts[emotion] += name not in seen
            seen.add(name)
            kept.append(line)
        (folder / f"{split}.csv").write_text("\n".join(kept) + "\n")
    return folder


@cache
def recipe(name: str) -> Callable[[Sequence[str]], int]:
    """The main function of recipes/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / f"recipes/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main


def environment(**changed: str) -> dict[str, str]:
    """Of a process of its own: no network, one thread, nothing left of another launch."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ACCELERATE_", "TORCHELASTIC_"))
        and key not in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    own = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **changed}


def command(
    words: Sequence[str | Path], timeout: float = 600, **environ: str
) -> subprocess.CompletedProcess[str]:
    """A real command in the repository's root, its output as text."""
    return subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def accelerate(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch ...`."""
    launcher = "from accelerate.commands.accelerate_cli import main; main()"
    return command([sys.executable, "-c", launcher, "launch", *words], **environ)


class Shelf:
    """The corpus and the runs; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def corpus(self) -> Path:
        """64 dialogues to train on, 16 to validate, 20 to test."""
        return cut_corpus(self.folder / "corpus", {"train": 16, "valid": 4, "test": 5})

    def arguments(self, name: str, output: Path, *more: str | Path) -> list[str]:
        """Command line of a tiny recipe on the cut corpus; `more` goes last and wins."""
        given = ["--config", TINY / f"{name}.yaml", "--dialogues", self.corpus]
        given += ["--output_dir", output, "--per_device_train_batch_size", 8, "--logging_steps", 1]
        if name == "base":
            given += SMALL
        else:
            given += ["--model", self.base if name == "sft" else self.sft, *LORA]
        return list(map(str, [*given, *more]))

    def run(self, name: str, output: Path, *more: str | Path) -> Path:
        """Run a recipe in this process."""
        assert recipe(name)(self.arguments(name, output, *more)) == 0
        return output

    @cached_property
    def base(self) -> Path:
        """A base by the command in the head of recipes/base.py, in a process of its own."""
        output = self.folder / "base"
        configuration = ROOT / "accelerate_configs" / "cpu.yaml"
        done = accelerate(
            *("--config_file", configuration),
            ROOT / "recipes/base.py",
            *self.arguments("base", output),
        )
        assert done.returncode == 0, done.stderr
        return output

    @cached_property
    def sft(self) -> Path:
        """An adapter on the base, with its merged model."""
        return self.run("sft", self.folder / "sft", "--num_train_epochs", "2")

    @cached_property
    def dpo(self) -> Path:
        """Two epochs, so two draws."""
        return self.run("dpo", self.folder / "dpo", "--num_train_epochs", "2")


@cache
def _shelf(session: Path) -> Shelf:
    return Shelf(session / "shelf")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """One shelf for all folders of tests."""
    return _shelf(tmp_path_factory.getbasetemp())
