"""Measure raters on a corpus with human judgements, beside a constant and the length of the text.

    python eval/raters.py --rater runs/rater --input epitome --output results
    python eval/raters.py --rater runs/a runs/b --input judged.jsonl --dimensions empathy
    python eval/raters.py --rater minilm --scale affine --input pairs_test.csv
    python eval/raters.py --held-out runs/a runs/b runs/c

Every rater is measured in the dimensions that it shares with the labels; several raters are
compared in pairs on the same inputs. Judge on groups (seeker posts, dialogues, stories) that no
rater was trained on: what it has seen it may only remember. Runs of recipes/rater.py with the same
data and split are compared with --held-out, on the predictions for what they held out.

Writes rater.json, rater.md and rater-reliability.svg; scores are kept in ratings.sqlite, and a second
run makes only those that are missing. Exit code 0: done; 2: an error in what was
given; 3: a dimension asked for by name that a rater does not have (it stands in `not_run`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from empo.process import run
from empo.records import write_json
from empo.redaction import redacted
from empo.runs import LOCK, alone
from empo.settings import option, parse

if TYPE_CHECKING:
    from empo.corpora.labelled import LabelledCorpus
    from empo.rating import Rater


@dataclass
class Settings:
    """Which raters to measure, and on what."""

    rater: list[str] | None = option(
        None, help="rater folders; with --scale also a sentence-transformers model or minilm"
    )
    input: str | None = option(
        None, help="file or folder with labels: EPITOME, ESConv, stories, jsonl, ..."
    )
    held_out: list[str] | None = option(
        None, help="instead: runs of recipes/rater.py, two or more, compared on what they held out"
    )
    output: str = option("rater-evaluation", help="folder for rater.json, rater.md and the figure")
    schema: str | None = option(None, help="schema of the input, if it cannot be told by its looks")
    split: str | None = option(None, help="split of the input, where its schema has splits")
    definitions: str | None = option(
        None, help="YAML file that says what the labels of a jsonl or of intents mean"
    )
    articles: str | None = option(None, help="WASSA: csv of the news articles")
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
    limit: int | None = option(None, help="take only so many examples, drawn by the seed")
    batch_size: int = option(32, help="inputs per batch; changes nothing but the speed")
    device: str | None = option(None, help="cpu, cuda, ...; chosen if not given")
    seed: int = option(0, help="seed of resampling, folds of baselines, and the limit")

    def problems(self) -> list[str]:
        """Values that cannot be used."""
        found = [
            f"--{name.replace('_', '-')}: {value} is no positive number."
            for name, value in (("limit", self.limit), ("batch_size", self.batch_size))
            if value is not None and value < 1
        ]
        for name, given in (("rater", self.rater or []), ("held-out", self.held_out or [])):
            if len(set(given)) < len(given):
                found.append(f"--{name}: one stands there twice. Give every one once.")
        if self.held_out is None:
            return found + [
                f"--{name}: missing (give --rater and --input, or --held-out)."
                for name in ("rater", "input")
                if not getattr(self, name)
            ]
        if len(self.held_out) < 2:
            found.append("--held-out: give two runs or more.")
        return found + [
            f"--{name}: does not go with --held-out, which reads what its runs have kept."
            for name in _NOT_HELD_OUT
            if getattr(self, name) is not None
        ]


_NOT_HELD_OUT = (
    "rater input schema split definitions articles dimensions scale threshold limit device".split()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, measure while no other process does, save, say where it is."""
    argv = sys.argv[1:] if argv is None else argv
    (settings,) = parse(argv, Settings, prog="eval/raters.py", description=__doc__ or "")
    command = redacted(shlex.join(["python", "eval/raters.py", *argv]))
    output = Path(settings.output)
    if settings.held_out:
        from empo.raters.held_out_comparison import compare_held_out

        results = compare_held_out(names(settings.held_out))
        with alone(output / LOCK, output):
            return write(results | {"command": command}, settings.output)
    from empo.corpora.examples import load_labelled
    from empo.raters.combined import CachedRater
    from empo.raters.loading import load_rater

    options = {"split": settings.split, "definitions": settings.definitions}
    options |= {"articles": settings.articles}
    options |= {"text": settings.text if settings.text != "story" else None}
    options = {name: value for name, value in options.items() if value is not None}
    corpus = load_labelled(settings.input, settings.schema, **options)
    print(corpus.summary(), file=sys.stderr)
    raters = {
        name: load_rater(folder, settings.device, settings.scale)
        for name, folder in names(settings.rater).items()
    }
    with alone(output / LOCK, output):
        cache = output / "ratings.sqlite"
        cached = {name: CachedRater(rater, cache) for name, rater in raters.items()}
        return measure(cached, corpus, settings, command)


def measure(
    raters: Mapping[str, Rater], corpus: LabelledCorpus, settings: Settings, command: str
) -> int:
    """Evaluate and compare the raters, write what was found, and return the exit code."""
    from empo.raters.comparison import compare_raters

    results: dict[str, Any] = compare_raters(
        raters,
        corpus,
        dimensions=settings.dimensions,
        limit=settings.limit,
        batch_size=settings.batch_size,
        seed=settings.seed,
        threshold=settings.threshold,
        severe=settings.severe,
        folders=names(settings.rater),
    )
    return write(results | {"command": command}, settings.output)


def write(results: dict[str, Any], folder: str) -> int:
    """Write rater.json and rater.md, show what was found, and return the exit code."""
    from empo.reporting.raters import (
        plain_classes,
        plain_comparisons,
        plain_summary,
        write_rater_report,
    )

    output = Path(folder)
    report = write_rater_report(results, output)
    write_json(output / "rater.json", results)
    for name, entry in results["raters"].items():
        for warning in entry["warnings"]:
            print(f"warning: {name}: {warning}", file=sys.stderr)
    shown = (plain_summary(results), plain_classes(results), plain_comparisons(results))
    print("\n\n".join(text for text in shown if text))
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
