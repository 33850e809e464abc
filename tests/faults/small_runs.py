"""The smallest real runs: eight steps of SFT and of DPO on a base that was trained for one."""

from __future__ import annotations

import json
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import forked
import phases
from tiny_encoders import write_encoders
from tiny_runs import LORA, TINY, cut_corpus

from empo.records import read_json, read_jsonl, sha256, write_jsonl

STEPS = 8
"""Of every training here, in two epochs; a checkpoint after every second, of which two are kept."""
TRAINING = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "2"]
TRAINING += ["--save_total_limit", "2", "--logging_steps", "1", "--threads", "1"]
CLOCK = ("runtime", "per_second", "num_tokens", "train_loss")
"""Ends of logged keys that depend on the clock, or on the last start (trl counts tokens since it, and
the last row has the mean loss since it)."""


class Runs:
    """A corpus of 16 dialogues, a base, and the runs that nothing happened to, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._whole: dict[str, Path] = {}

    @cached_property
    def corpus(self) -> Path:
        """16 dialogues to train on, 4 to validate, 8 to test, of four emotions."""
        return cut_corpus(self.folder / "corpus", {"train": 4, "valid": 1, "test": 2})

    @cached_property
    def base(self) -> Path:
        """Nobody has to understand it."""
        more = ["--max_steps", "1", "--hidden_size", "16", "--layers", "1", "--vocab_size", "400"]
        more += ["--eval_strategy", "no", "--save_strategy", "no"]
        return self._made("base", self.folder / "base", *more)

    @cached_property
    def sft(self) -> Path:
        """SFT that nothing happened to, with its merged model."""
        return self.whole("sft")

    @cached_property
    def stopped(self) -> Path:
        """SFT that was killed after its step 7: checkpoints 4 and 6, the log to its seventh row.

        To be copied before a fault is done to it.
        """
        folder = self.folder / "stopped"
        ended = forked.run(
            "recipes/sft.py",
            self.arguments("sft", folder),
            phases.kill("empo.alignment.callbacks:LogFile.on_log", "after", nth=9),
        )
        assert ended.code == -9, ended.said
        return folder

    @cached_property
    def dpo(self) -> Path:
        """DPO that nothing happened to."""
        return self.whole("dpo")

    @cached_property
    def replies(self) -> Path:
        """Replies of `dpo` to the test split, in four batches."""
        output = self.folder / "replies.jsonl"
        self._done("recipes/generate.py", self.generation(output))
        return output

    @cached_property
    def evaluated(self) -> Path:
        """What was measured on the replies."""
        self._done("eval/responses.py", self.evaluation(self.folder / "evaluated"))
        return self.folder / "evaluated"

    @cached_property
    def encoder(self) -> Path:
        """An encoder of some thousand parameters."""
        return write_encoders(self.folder / "encoders")["bert"]

    @cached_property
    def judged(self) -> Path:
        """40 judged replies: a word decides the level."""
        path = self.folder / "judged.jsonl"
        levels = {"weak": 0, "good": 1, "hard": 2}
        rows = [
            {
                "id": f"r{i}",
                "group": f"g{i // 2}",
                "context": "I lost my job.",
                "response": f"that sounds {list(levels)[i % 3]} to me",
                "labels": {"warmth": i % 3},
            }
            for i in range(40)
        ]
        write_jsonl(path, rows)
        return path

    @cached_property
    def rater(self) -> Path:
        """A rater of two seeds, of 12 steps each, that nothing happened to."""
        output = self.folder / "raters" / "warmth"
        self._done("recipes/rater.py", self.rating(output))
        return output

    def generation(self, output: Path, *more: Any) -> list[str]:
        """Command line of recipes/generate.py: 8 replies of `dpo`, two to a batch."""
        given = ["--model", self.dpo, "--dialogues", self.corpus, "--system", "dpo"]
        given += ["--output", output, "--batch_size", 2, "--max_new_tokens", 8]
        return list(map(str, [*given, *more]))

    def evaluation(self, output: Path, *more: Any) -> list[str]:
        """Command line of eval/responses.py on the replies."""
        given = ["--responses", self.replies, "--dialogues", self.corpus, "--output", output]
        given += ["--metrics", "distinct_n,length,repetition", "--resamples", 99]
        return list(map(str, [*given, *more]))

    def rating(self, output: Path, *more: Any) -> list[str]:
        """Command line of recipes/rater.py: two seeds of three epochs."""
        given = ["--data", self.judged, "--encoder", self.encoder, "--output_dir", output]
        given += ["--max_length", 12, "--num_train_epochs", 3, "--learning_rate", 1e-3]
        given += ["--per_device_train_batch_size", 8, "--use_cpu", "true", "--seeds", 1, 2]
        given += ["--validation_share", 0.2, "--test_share", 0.25, "--threads", 1]
        return list(map(str, [*given, *more]))

    def arguments(self, name: str, output: Path, *more: Any) -> list[str]:
        """Command line of a recipe here; `more` goes last and wins."""
        given: list[Any] = ["--config", TINY / f"{name}.yaml", "--dialogues", self.corpus]
        given += ["--output_dir", output, *TRAINING]
        if name == "base":
            given += ["--per_device_train_batch_size", 4]
        if name == "sft":
            given += ["--model", self.base, *LORA, "--per_device_train_batch_size", 4]
        if name == "dpo":
            given += ["--model", self.sft, *LORA, "--per_device_train_batch_size", 4]
        return list(map(str, [*given, *more]))

    def whole(self, name: str, *more: Any) -> Path:
        """The run of a recipe that nothing happened to."""
        key = " ".join(map(str, (name, *more)))
        if key not in self._whole:
            folder = self.folder / f"whole-{len(self._whole)}-{name}"
            self._whole[key] = self._made(name, folder, *more)
        return self._whole[key]

    def _made(self, name: str, folder: Path, *more: Any) -> Path:
        self._done(f"recipes/{name}.py", self.arguments(name, folder, *more))
        return folder

    def _done(self, script: str, argv: list[str]) -> None:
        ended = forked.run(script, argv)
        assert ended.code == 0, ended.said


def copied(source: Path, folder: Path) -> Path:
    """A copy of a run folder that a fault may be done to."""
    return Path(shutil.copytree(source, folder, symlinks=True))


def log(run: Path) -> list[dict[str, Any]]:
    """log.jsonl without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if not key.endswith(CLOCK)}
        for _, row in read_jsonl(run / "log.jsonl")
    ]


def steps_done(run: Path) -> int:
    """The last step that is in the log of a run, 0 where there is none."""
    if not (run / "log.jsonl").is_file():
        return 0
    whole = (run / "log.jsonl").read_text().rpartition("\n")[0].splitlines()  # a kill may cut a row
    return max((row["step"] for row in map(json.loads, whole) if "loss" in row), default=0)


def continued_from(ended: forked.Ended) -> int:
    """The step that a command said it went on from; 0 where it began anew."""
    found = re.search(r"continuing from \S*checkpoint-(\d+)", ended.err)
    return int(found[1]) if found else 0


def check_equal(run: Path, whole: Path) -> None:
    """Weights and tokenizer to the last byte, the log, the facts."""
    for pattern in (
        "*.safetensors",
        "merged/*.safetensors",
        "tokenizer.json",
    ):
        names = [path.relative_to(whole) for path in sorted(whole.glob(pattern))]
        assert names == [path.relative_to(run) for path in sorted(run.glob(pattern))], pattern
        for name in names:
            assert sha256(run / name) == sha256(whole / name), name
    assert _adapter(run) == _adapter(whole)
    assert log(run) == log(whole)
    done, expected = (read_json(folder / "run.json") for folder in (run, whole))
    assert done["status"] == "complete"
    for key in ("settings", "identity", "data", "lengths", "steps", "epochs"):
        assert done.get(key) == expected.get(key), key
    checkpoints = [sorted(p.name for p in folder.glob("*checkpoint-*")) for folder in (run, whole)]
    assert checkpoints[0] == checkpoints[1]


def _adapter(run: Path) -> Any:
    """adapter_config.json; peft writes the names of layers in an order of the process."""
    config = read_json(run / "adapter_config.json")
    return config | {"target_modules": sorted(config["target_modules"])}


def results(folder: Path) -> Any:
    """results.json without what depends on the clock and on the place of the folder."""
    kept = read_json(folder / "results.json")
    return {key: value for key, value in kept.items() if key not in ("created", "command")}


def assert_same_rater(rater: Path, whole: Path) -> None:
    """The weights, the predictions of every unit, and the results but for the seconds."""
    for pattern in ("*.safetensors", "units/**/predictions.jsonl"):
        names = [path.relative_to(whole) for path in sorted(whole.glob(pattern))]
        assert names and names == [p.relative_to(rater) for p in sorted(rater.glob(pattern))]
        for name in names:
            assert sha256(rater / name) == sha256(whole / name), name
    found, expected = results(rater), results(whole)
    for trained in (*found["trainings"], *expected["trainings"]):
        del trained["seconds"]
    assert found == expected
