"""Measure raters on a corpus with human judgements, beside a constant and the length of the text.

    python eval/raters.py --rater runs/rater --input epitome --output results
    python eval/raters.py --rater runs/a runs/b --input judged.jsonl --dimensions empathy
    python eval/raters.py --rater all-MiniLM-L6-v2 --scale affine --input pairs_test.csv --split test

Every rater is measured in the dimensions that it shares with the labels; several raters are
compared in pairs on the same inputs. Judge on groups (seeker posts, dialogues, stories) that no
rater was trained on: what it has seen it may only remember.

Writes rater.json, rater.md and rater-reliability.svg. Exit code 0: done; 2: an error in what was
given; 3: a dimension asked for by name that a rater does not have (it stands in `not_run`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from empo.records import write_json
from empo.settings import option, parse, run

if TYPE_CHECKING:
    from empo.corpora.labelled import LabelledCorpus
    from empo.rating import Rater


@dataclass
class Settings:
    """Which raters to measure, and on what."""

    rater: list[str] = option(help="rater folders; with --scale also a sentence-transformers model")
    input: str = option(help="file or folder with labels: EPITOME, ESConv, stories, jsonl, ...")
    output: str = option("rater-evaluation", help="folder for rater.json, rater.md and the figure")
    schema: str | None = option(None, help="schema of the input, if it cannot be told by its looks")
    split: str | None = option(None, help="split of the input, where its schema has splits")
    definitions: str | None = option(
        None, help="YAML file that says what the labels of a jsonl mean"
    )
    text: Literal["story", "summary"] = option("story", help="which text of a story pair is read")
    dimensions: list[str] | None = option(None, help="labels to measure in; all if not given")
    scale: Literal["affine", "times4", "unit"] | None = option(
        None, help="measure untrained encoders: 1 + 3 cos (affine), 4 cos (times4), cos (unit)"
    )
    threshold: float | None = option(
        None, help="scores above it are one class, for interval scales; the middle if not given"
    )
    severe: Literal["both", "under", "over"] = option(
        "both", help="severe errors: all, underestimates or overestimates only"
    )
    limit: int | None = option(None, help="take only the first examples")
    batch_size: int = option(32, help="inputs per batch; changes nothing but the speed")
    device: str | None = option(None, help="cpu, cuda, ...; chosen if not given")
    seed: int = option(0, help="seed of the resampling and of the folds of the baselines")

    def problems(self) -> list[str]:
        """Values that cannot be used."""
        found = [
            f"--{name.replace('_', '-')}: {value} is no positive number."
            for name, value in (("limit", self.limit), ("batch_size", self.batch_size))
            if value is not None and value < 1
        ]
        if len(set(self.rater)) < len(self.rater):
            found.append("--rater: a rater stands there twice. Give every rater once.")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, measure, save, say where it is."""
    argv = sys.argv[1:] if argv is None else argv
    (settings,) = parse(argv, Settings, prog="eval/raters.py", description=__doc__ or "")
    from empo.corpora.examples import load_labelled
    from empo.raters.loading import load_rater

    options = {"split": settings.split, "dimensions": settings.definitions}
    options |= {"text": settings.text if settings.text != "story" else None}
    options = {name: value for name, value in options.items() if value is not None}
    corpus = load_labelled(settings.input, settings.schema, **options)
    print(corpus.summary(), file=sys.stderr)
    raters = {
        name: load_rater(folder, settings.device, settings.scale)
        for name, folder in names(settings.rater).items()
    }
    return measure(raters, corpus, settings, shlex.join(["python", "eval/raters.py", *argv]))


def measure(
    raters: Mapping[str, Rater], corpus: LabelledCorpus, settings: Settings, command: str
) -> int:
    """Evaluate and compare the raters, write what was found, and return the exit code."""
    from empo.raters.comparison import compare_raters
    from empo.reporting.raters import plain_classes, plain_summary, write_rater_report

    results: dict[str, Any] = compare_raters(
        raters,
        corpus,
        dimensions=settings.dimensions,
        limit=settings.limit,
        batch_size=settings.batch_size,
        seed=settings.seed,
        threshold=settings.threshold,
        severe=settings.severe,
    )
    results["command"] = command
    output = Path(settings.output)
    report = write_rater_report(results, output)
    write_json(output / "rater.json", results)
    for name, entry in results["raters"].items():
        for warning in entry["warnings"]:
            print(f"warning: {name}: {warning}", file=sys.stderr)
    print(plain_summary(results), plain_classes(results), sep="\n\n")
    print(f"\n{report}\n{output / 'rater.json'}")
    for entry in results["not_run"]:
        print(f"asked for, but not run: {entry['rater']}: {entry['reason']}", file=sys.stderr)
    return 3 if results["not_run"] else 0


def names(folders: Sequence[str]) -> dict[str, str]:
    """A short name for every rater: the last part of its path, or all of it where those are equal."""
    short = {folder: Path(folder).name or folder for folder in folders}
    chosen = short if len(set(short.values())) == len(folders) else {f: f for f in folders}
    return {name: folder for folder, name in chosen.items()}


if __name__ == "__main__":
    run(main)
