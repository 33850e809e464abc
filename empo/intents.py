"""`empo intents`: how empathetic turns seem where an intent is expressed, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from empo.records import file_facts, write_json, write_text
from empo.settings import option, parse

INTENTS_SCHEMA = "empo.intents/1"


@dataclass
class IntentsSettings:
    """Settings of `empo intents`."""

    input: str = option(help="csv of dialogues with intents and perceived dimensions of two raters")
    output: str | None = option(None, help="folder for intents.json and intents.md")
    definitions: str | None = option(None, help="YAML file with the dimensions of the csv")
    correction: Literal["holm", "fdr_bh", "bonferroni"] = option(
        "holm", help="correction for the number of tests"
    )
    by_dialogue: bool = option(False, help="compare means of dialogues instead of single turns")

    def problems(self) -> list[str]:
        """What cannot work."""
        if self.output is not None and Path(self.output).is_file():
            return [f"--output: {self.output} is a file; a folder is needed."]
        return []


def intents_command(argv: Sequence[str]) -> int:
    """Perceived empathy by expressed intent: means, standard errors, corrected tests.

    The scores of a turn are the means of its two raters; an intent is there where both mark it.
    Welch's tests; *, **, *** are corrected p below .05, .01, .001. Turns of one dialogue depend on
    each other, so that tests over single turns are too sure: --by-dialogue compares dialogues.

    Example: empo intents --input dialogues.csv --output intents --by-dialogue
    """
    (settings,) = parse(
        argv, IntentsSettings, prog="empo intents", description=intents_command.__doc__ or ""
    )
    from empo.corpora.intents import intent_annotations, load_definitions
    from empo.raters.intent_analysis import intent_table, table_rows, turns_of
    from empo.reporting import markdown

    schema = load_definitions(settings.definitions)
    given = intent_annotations(settings.input, settings.definitions)
    turns = turns_of(given, tuple(schema.intents), tuple(schema.perceived))
    rows = intent_table(turns, settings.correction, settings.by_dialogue)
    headers, cells = table_rows(rows)
    tests = sum(row["p"] is not None for row in rows)
    note = f"{len(turns.marks):,} turns, {tests} tests, corrected by {settings.correction}."
    print(markdown.aligned([headers, *cells], left=2), note, sep="\n")
    if settings.output is not None:
        folder = Path(settings.output)
        facts = {"input": file_facts(settings.input), "correction": settings.correction}
        facts |= {"by_dialogue": settings.by_dialogue, "tests": tests}
        write_json(folder / "intents.json", {"schema": INTENTS_SCHEMA, **facts, "rows": rows})
        table = markdown.table(headers, cells, left=2)
        write_text(folder / "intents.md", f"# Perceived empathy by intent\n\n{table}\n{note}\n")
        print(f"\n{folder / 'intents.json'}, {folder / 'intents.md'}")
    return 0
