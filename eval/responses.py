"""Measure the responses of one or more systems and the human references beside them.

    python eval/responses.py --output results --responses sft.jsonl dpo.jsonl \\
        --nidf-table nidf.json --lexicons lexicons --rater raters/er raters/ip raters/ex
    python eval/responses.py --output human --dialogues empathetic_dialogues   # references alone

Metrics: trie (diversity), nidf (specificity; needs a table), iva (emotional intensity, valence,
arousal, dominance; needs the NRC lexicons), length, diff_epitome (levels of empathy against the
reference; needs raters of the three EPITOME mechanisms, in one folder or several). Systems are
compared in pairs on the exchanges that all of them answered.

Writes results.json, report.md and figures. Exit code 0: done; 2: an error in what was given; 3:
something asked for by name could not run (it stands in `not_run`).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from empo.records import Response, UserError, file_facts, read_responses
from empo.settings import option, parse, run

PUBLISHED_EXCHANGES = 2_540


@dataclass
class Settings:
    """What to measure and with which files."""

    output: str = option(help="folder for results.json, report.md and the figures")
    responses: list[str] | None = option(
        None, help="responses files; the key `system` of a line names its column"
    )
    dialogues: str | None = option(
        None, help="corpus file or folder whose human references are measured"
    )
    split: str = option("test", help="split of the corpus")
    subset: Literal["published"] | None = option(
        None, help="published: the 2,540 test exchanges of the EmPO paper, its rows beside ours"
    )
    metrics: str | None = option(
        None, help="names separated by commas; all that can run if not given"
    )
    nidf_table: str | None = option(None, help="table made by `empo nidf-table`, for nidf")
    lexicons: str | None = option(
        None, help="folder with the NRC lexicons, for iva ($EMPO_DATA/lexicons where that exists)"
    )
    intensity_rows: Literal["last", "maximum"] = option(
        "last", help="value of a word with several emotions: its last row or its maximum"
    )
    rater: list[str] | None = option(
        None, help="rater folders, for diff_epitome: together all three EPITOME mechanisms"
    )
    rater_cache: str | None = option(
        None, help="file that keeps ratings for the next time (OUTPUT/ratings.sqlite if not given)"
    )
    seed: int = option(0, help="seed of resampling and of the samples shown")

    @property
    def asked(self) -> list[str]:
        """Metrics asked for by name."""
        names = [name.strip() for name in (self.metrics or "").split(",")]
        return [name for name in names if name] + ["diff_epitome"] * (self.rater is not None)

    def problems(self) -> list[str]:
        """Combinations that cannot be measured."""
        from empo.metrics.evaluation import METRICS

        found = []
        if self.responses is None and self.dialogues is None:
            found.append("give --responses FILE... or --dialogues FILE_OR_DIR (or both).")
        if self.rater_cache is not None and self.rater is None:
            found.append("--rater-cache: there is nothing to keep without --rater DIR.")
        if unknown := [name for name in self.asked if name not in METRICS]:
            found.append(
                f"--metrics: no such metric: {', '.join(unknown)}; known: {', '.join(METRICS)}."
            )
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, measure, save, say where it is."""
    argv = sys.argv[1:] if argv is None else argv
    (settings,) = parse(argv, Settings, prog="eval/responses.py", description=__doc__ or "")
    from empo.metrics.evaluation import METRICS, evaluate
    from empo.metrics.iva import load_lexicons
    from empo.metrics.nidf import load_table
    from empo.reporting.report import summary, write_report
    from empo.reporting.results import write_results

    output = Path(settings.output)
    systems, facts = load_systems(settings)
    folder = Path(os.environ.get("EMPO_DATA", os.devnull)) / "lexicons"
    lexicons = settings.lexicons or (str(folder) if folder.is_dir() else None)

    rater = None
    if settings.rater:
        from empo.raters.combined import CachedRater
        from empo.raters.loading import load_raters

        cache = settings.rater_cache or output / "ratings.sqlite"
        rater = CachedRater(load_raters(settings.rater), cache)

    results = evaluate(
        systems,
        seed=settings.seed,
        nidf_table=load_table(settings.nidf_table) if settings.nidf_table else None,
        lexicons=load_lexicons(lexicons, settings.intensity_rows) if lexicons else None,
        rater=rater,
        metrics=settings.asked if settings.metrics else METRICS,
    )
    command = shlex.join(["python", "eval/responses.py", *argv])
    results |= {"command": command, "inputs": facts}

    write_results(output / "results.json", results)
    report = write_report(results, output, published=settings.subset == "published")
    print(summary(results))
    print(f"\n{report}\n{output / 'results.json'}")
    failed = [entry for entry in results["not_run"] if entry["metric"] in settings.asked]
    for entry in failed:
        print(f"asked for, but not run: {entry['metric']}: {entry['reason']}", file=sys.stderr)
    return 3 if failed else 0


def load_systems(settings: Settings) -> tuple[dict[str, list[Response]], list[dict[str, Any]]]:
    """Responses by system, those of the subset only, and facts of the files read."""
    from empo.corpora import load_corpus, published_ids, published_subset
    from empo.metrics.evaluation import HUMAN, human_responses

    systems: dict[str, dict[str, Response]] = {}
    facts: list[dict[str, Any]] = []
    published = settings.subset == "published"
    if settings.dialogues is not None:
        corpus = load_corpus(settings.dialogues, settings.split)
        print(corpus.summary(), file=sys.stderr)
        exchanges = published_subset(corpus.exchanges()) if published else corpus.exchanges()
        systems[HUMAN] = {reply.id: reply for reply in human_responses(exchanges)}
        facts.append(corpus.facts())
    for path in settings.responses or ():
        for response in read_responses(path):
            replies = systems.setdefault(response.system, {})
            if response.id in replies:
                raise UserError(
                    f"{path}, field 'id': {response.id!r} of system {response.system!r} was read "
                    "already. Give every system once."
                )
            replies[response.id] = response
        facts.append(file_facts(path))
    for name, replies in systems.items() if published else ():
        kept = published_ids(replies)
        if len(kept) != PUBLISHED_EXCHANGES:
            raise UserError(
                f"--subset published: {name!r} has {len(kept):,} of the {PUBLISHED_EXCHANGES:,} "
                "exchanges. Leave the option out, or give responses to the whole test split."
            )
        systems[name] = {key: reply for key, reply in replies.items() if key in kept}
    return {name: list(replies.values()) for name, replies in systems.items()}, facts


if __name__ == "__main__":
    run(main)
