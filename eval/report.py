"""One report over results folders: training seeds, cells of a sweep, or a single run.

    python eval/report.py runs/seed-*/results --output runs/report.md
    python eval/report.py results --output results/report.md   # one folder, with its harness scores

Every folder is one run: what eval/responses.py wrote there (results.json, per_response.jsonl), what
eval/harness.py wrote (harness.json, or harness/SYSTEM/harness.json), what `empo survey analyse` wrote
(survey.json), or several of them. Systems are matched by
name; a name whose runs were trained with different settings becomes one system per setting. Values
are means and standard deviations over runs; a system that was not trained again counts once.

Writes OUTPUT (markdown), figures beside it, and the numbers behind it as JSON under the same name.
Exit code 0: done; 2: an error in what was given.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from empo.process import run
from empo.records import UserError, read_json, write_json, write_text
from empo.redaction import redacted
from empo.settings import option, parse

if TYPE_CHECKING:
    from empo.reporting.run_folders import RunFolder


@dataclass
class Settings:
    """Which runs to report and where to."""

    output: str = option(help="markdown file; the JSON and the figures get its name")
    results: list[str] = option(
        help="results folders, one per run; the option's name can be left out"
    )
    published: bool | None = option(
        None,
        help="rows of the EmPO paper beside ours, only where all results are of its 2,540 exchanges "
        "(if not given: there)",
    )
    seed: int = option(0, help="taken as by every command; nothing in a report is drawn")

    def problems(self) -> list[str]:
        """Values that cannot work."""
        if Path(self.output).suffix != ".md":
            return [f"--output: {self.output!r} does not end in .md."]
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, combine, draw, save, say where it is."""
    argv = sys.argv[1:] if argv is None else list(argv)
    (settings,) = parse(
        with_results(argv), Settings, prog="eval/report.py", description=__doc__ or ""
    )
    from empo.reporting.language_understanding import understanding_section
    from empo.reporting.over_runs import combine
    from empo.reporting.report import write_report
    from empo.reporting.run_figures import draw_figures
    from empo.reporting.run_folders import read_folders
    from empo.reporting.runs_report import (
        figures_section,
        pairs_section,
        render_runs,
        settings_section,
        surveys_sections,
    )

    output = Path(settings.output)
    refuse_to_replace(output.with_suffix(".json"))
    runs = read_folders(settings.results)
    with naming_files(runs):
        report = combine(runs, published=settings.published)
        report["command"] = redacted(shlex.join(["python", "eval/report.py", *argv]))
        write_json(output.with_suffix(".json"), report)
        figures = draw_figures(report, output)
        results = runs[0]["results"]
        if len(runs) == 1 and results is not None:
            published, scores = report["published"], report["language_understanding"]
            beside = [understanding_section(scores, published=published)] if scores else []
            beside += surveys_sections(report)
            beside += [settings_section(report["settings"]), pairs_section(report["pairs"])]
            beside.append(figures_section(figures))
            write_report(
                results,
                output.parent,
                published=published,
                understanding="\n".join(filter(None, beside)),
                name=output.name,
            )
        else:
            write_text(output, render_runs(report, figures))
    print(f"{output}\n{output.with_suffix('.json')}")
    return 0


@contextmanager
def naming_files(runs: Sequence[RunFolder]) -> Iterator[None]:
    """UserError where a results.json lacks a key that the report needs."""
    try:
        yield
    except KeyError as error:
        files = [str(Path(run["folder"]) / "results.json") for run in runs if run["results"]]
        raise UserError(
            f"{', or '.join(files)}: the key {error.args[0]!r}, which the report needs, is missing. "
            "Measure the responses again with eval/responses.py."
        ) from error


def with_results(argv: Sequence[str]) -> list[str]:
    """The command line with `--results` before the words that no option takes."""
    folders: list[str] = []
    others: list[str] = []
    option = ""
    for word in argv:
        if word.startswith("-"):
            option = "" if "=" in word or word in ("-h", "--help") else word
        elif not option:
            folders.append(word)
            continue
        others.append(word)
        if not word.startswith("-") and option != "--results":
            option = ""
    if folders and "--results" in others:
        raise UserError(f"{folders[0]}: give all results folders after --results, or none.")
    return [*others, *(["--results", *folders] if folders else [])]


def refuse_to_replace(path: Path) -> None:
    """UserError where the JSON beside the report would replace a file of another kind."""
    from empo.reporting.over_runs import REPORT_SCHEMA

    if path.is_file():
        there = read_json(path)
        if not isinstance(there, dict) or there.get("schema") != REPORT_SCHEMA:
            raise UserError(
                f"--output: the report writes {path} too, which is there and is no report. Choose "
                "another name."
            )


if __name__ == "__main__":
    run(main)
