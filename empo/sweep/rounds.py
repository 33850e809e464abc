"""On-policy pairs in rounds: what each round runs, and its settings (recipes/rounds.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from empo.choosing import Value
from empo.judging import JudgeSettings
from empo.mining.epochs import fewest_pairs
from empo.mining.sampled import SampledPairs
from empo.pair_files import write_pair_files
from empo.records import UserError, file_facts, read_object
from empo.runs import versions
from empo.settings import load_yaml, option
from empo.sweep.grid import number_of_epochs, words
from empo.sweep.inputs import RUN, files_of, model_files
from empo.sweep.steps import Step

_OF_SAMPLING = ("model", "dialogues", "split", "system", "output", "seed", "best_of", "rater")
"""Settings of recipes/generate.py that the rounds give themselves."""
_OF_TRAINING = ("output_dir", "dialogues", "model", "seed", "pairs", "fresh")
"""Settings of recipes/dpo.py that the rounds give themselves."""


@dataclass(kw_only=True)
class RoundsSettings(JudgeSettings):
    """Settings of recipes/rounds.py."""

    output_dir: str = option(help="folder of the rounds: round-1, round-2, ...")
    dialogues: str = option(help="folder with train and valid of a corpus, or hub:owner/name")
    model: str = option(help="run folder that the first round samples from: SFT, merged")
    rounds: int = option(2, help="times that replies are sampled, paired and trained on")
    samples: int = option(8, help="replies sampled per context and round")
    limit: int | None = option(None, help="sample for the first N exchanges only")
    rater: list[str] = option(help="rater folders that rank the samples; not those that measure")
    rater_value: Value = option("expected", help="score, or expected: it has fewer ties")
    length_residual: bool = option(
        True, help="rank at equal length: by what the score has beside the length of the reply"
    )
    rater_cache: str | None = option(
        None, help="SQLite file with earlier ratings (default: ratings.sqlite in output_dir)"
    )
    margin: float | None = option(
        None, help="keep a pair only if score(best) - score(worst) is at least this"
    )
    min_pairs: int | None = option(
        None, help="fewest pairs of a round (default: 100, or 1 % of the exchanges if less)"
    )
    dpo_config: str = option(help="YAML of recipes/dpo.py that every round trains with")
    overrides: dict[str, Any] = option(
        default_factory=dict, help="settings of recipes/dpo.py, the same in all rounds"
    )
    generate: dict[str, Any] = option(
        default_factory=dict, help="further settings of recipes/generate.py for the samples"
    )
    seed: int = option(42, help="seed of samples and training")
    launch: list[str] | None = option(
        None, help="words before a training script, such as accelerate launch (default: in-process)"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        for name, least in (("rounds", 1), ("samples", 2)):
            if getattr(self, name) < least:
                found.append(
                    f"{name}: {getattr(self, name)} is too few; at least {least} is needed."
                )
        for name in ("limit", "min_pairs"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"{name}: {value} is below 1.")
        if self.margin is not None and self.margin < 0:
            found.append(f"margin: {self.margin} is negative: the best would be the worst.")
        if not Path(self.dpo_config).is_file():
            return [*found, f"dpo_config: {self.dpo_config}: no such file."]
        most = self.training.get("limit")
        if most is not None and (self.limit is None or self.limit > most):
            found.append(
                f"limit: DPO reads the first {most} dialogues (limit of {self.dpo_config} or of "
                f"overrides), so samples of {self.limit or 'all'} exchanges cannot all be trained on. "
                f"Set limit to {most} at most, or the limit of DPO higher."
            )
        if Path(self.dialogues).is_file():
            found.append(
                f"dialogues: {self.dialogues} is a single file; a folder with train and valid is needed."
            )
        for where, given, own in (
            ("overrides", self.overrides, _OF_TRAINING),
            ("generate", self.generate, (*_OF_SAMPLING, "limit")),
        ):
            if taken := [key for key in own if key in given]:
                found.append(f"{where}: {', '.join(taken)} is set by the rounds themselves.")
        found += [f"rater: {f}: no such folder." for f in self.rater if not Path(f).is_dir()]
        if self.launch and shutil.which(self.launch[0]) is None:
            found.append(f"launch: {self.launch[0]}: no such program.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            found.append("launch: start the rounds with python; they launch their trainings.")
        return found

    @cached_property
    def training(self) -> dict[str, Any]:
        """The settings of the DPO of every round."""
        return {**load_yaml(self.dpo_config), **self.overrides}

    @property
    def epochs(self) -> int:
        """Epochs of every round's DPO, each with other rejected samples.

        Raises UserError for part of one, and as `number_of_epochs`.
        """
        epochs = number_of_epochs(self.training)
        if epochs != int(epochs):
            raise UserError(
                f"{self.dpo_config}: num_train_epochs is {epochs}; rounds train whole epochs, since "
                "every epoch has its own pairs."
            )
        return int(epochs)


def model_of(output_dir: str | Path, number: int) -> Path:
    """The run folder of a round's policy; rounds count from 1."""
    return Path(output_dir) / f"round-{number}" / "model"


def round_steps(settings: RoundsSettings, number: int) -> list[Step]:
    """Sample, pair, train and merge: the steps of one round, which starts from the one before."""
    folder = Path(settings.output_dir) / f"round-{number}"
    start = str(settings.model if number == 1 else model_of(settings.output_dir, number - 1))
    samples, pairs = folder / "samples.jsonl", folder / "pairs"
    name = f"round {number}"
    sampling = {
        "model": start,
        "dialogues": settings.dialogues,
        "split": "train",
        "system": f"round-{number}",
        "output": str(samples),
        "seed": settings.seed + 1_000 * (number - 1),  # a round does not sample what another did
        "best_of": settings.samples,
        "rater": settings.rater,
        "rater_value": settings.rater_value,
        "length_residual": settings.length_residual,
        "rater_cache": settings.rater_cache or str(Path(settings.output_dir) / "ratings.sqlite"),
        **({"rater_dimension": settings.rater_dimension} if settings.rater_dimension else {}),
        **({"limit": settings.limit} if settings.limit else {}),
        **settings.generate,
    }
    manifest = samples.with_name(f"{samples.name}.manifest.json")
    sample = Step(
        name, None, "samples", "recipes/generate.py", _options(sampling), files_of(sampling),
        [samples, manifest],
    )  # fmt: skip
    told = ["--responses", str(samples), "--output", str(pairs), "--epochs", str(settings.epochs)]
    told += ["--margin", str(settings.margin)] if settings.margin is not None else []
    told += ["--min-pairs", str(settings.min_pairs)] if settings.min_pairs is not None else []
    pair = Step(
        name, None, "pairs", "sampled-pairs", told, [samples, manifest], [pairs / "manifest.json"],
        work=partial(write_sampled_pairs, settings, samples, pairs),
    )  # fmt: skip
    model = model_of(settings.output_dir, number)
    training = ["--config", settings.dpo_config, "--output_dir", str(model)]
    training += ["--dialogues", settings.dialogues, "--model", start, "--pairs", str(pairs)]
    training += ["--seed", str(settings.seed), *words(settings.overrides)]
    read = {**settings.training, "config": settings.dpo_config, "dialogues": settings.dialogues}
    begun = model_files(Path(start))
    inputs = [*files_of({k: v for k, v in read.items() if k != "model"}), *begun]
    inputs += [pairs / "manifest.json"]
    train = Step(
        name, None, "train", "recipes/dpo.py", training, inputs, [model / RUN],
        tuple(settings.launch or ()), [*begun, pairs / "manifest.json"],
    )  # fmt: skip
    steps = [sample, pair, train]
    if not settings.training.get("full_training"):
        steps.append(_merging(name, model))
    return steps


def _merging(name: str, model: Path) -> Step:
    """The next round, and replies, start from weights that lie in one folder."""
    from empo.models import MERGED

    def merge() -> int:
        from empo.cli import merge_command

        return merge_command(["--model", str(model)])

    adapter = [model / RUN, model / "adapter_model.safetensors"]
    outputs = [model / MERGED / RUN, model / MERGED / "model.safetensors"]
    return Step(name, None, "merge", "merge", ["--model", str(model)], adapter, outputs, work=merge)


def write_sampled_pairs(settings: RoundsSettings, samples: Path, output: Path) -> int:
    """The pairs of a round as a folder of pair files; the exit code.

    Raises UserError where too few exchanges have one.
    """
    several = int(settings.training.get("rejected_per_prompt", 1))
    found = SampledPairs(samples, settings.margin, several)
    found.require(fewest_pairs(settings.min_pairs, found.exchanges))
    manifest = read_object(samples.with_name(f"{samples.name}.manifest.json"))
    asked = {
        "seed": manifest["decoding"]["seed"],
        "system_message": manifest["system_message"],
        "sampled": {
            "responses": file_facts(samples),
            "best_of": manifest["best_of"],
            "margin": settings.margin,
            "rejected": several,
        },
    }
    facts = found.facts()
    write_pair_files(
        output,
        map(found.rows, range(settings.epochs)),
        asked,
        {"selected_by": manifest["selected_by"], "statistics": facts, "versions": versions()},
    )
    print(told(facts))
    return 0


def told(facts: Mapping[str, Any]) -> str:
    """The pairs of a round in words."""
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in facts["dropped"].items())
    return (
        f"{facts['kept']:,} of {facts['exchanges']:,} exchanges have a pair (left out: "
        f"{dropped or 'none'}); best and worst are {facts['mean_margin']:.3g} apart; characters: chosen "
        f"{facts['mean_chosen_characters']:.1f}, rejected {facts['mean_rejected_characters']:.1f}"
    )


def progress(settings: RoundsSettings) -> str:
    """A table of the policies that were sampled: what their replies were worth, and how long they were.

    The last one is sampled by nobody; its replies are for another rater to measure.
    """
    columns = ("policy", "pairs", "score", "of the best", "characters", "of the best reply")
    rows = [columns]
    for number in range(1, settings.rounds + 1):
        folder = Path(settings.output_dir) / f"round-{number}"
        chosen = read_object(folder / "samples.jsonl.manifest.json")["chosen"]
        kept = read_object(folder / "pairs" / "manifest.json")["statistics"]["kept"]
        score, length = chosen["mean_score"], chosen["mean_characters"]
        rows.append(
            (f"round {number - 1}" if number > 1 else "start", f"{kept:,}", f"{score['all']:.3f}", f"{score['best']:.3f}",
             f"{length['all']:.1f}", f"{length['best']:.1f}")
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in rows)


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of a command whose names are written with hyphens."""
    return words({key.replace("_", "-"): value for key, value in settings.items()})
