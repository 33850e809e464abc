"""`empo intents`: how empathetic turns seem where an intent is expressed, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from empo.records import file_facts, write_json, write_text
from empo.settings import option, parse

INTENTS_SCHEMA = "empo.intents/2"


@dataclass
class IntentsSettings:
    """Settings of `empo intents`."""

    input: str = option(help="csv of dialogues with intents and perceived dimensions of two raters")
    output: str | None = option(None, help="folder for intents.json and intents.md")
    definitions: str | None = option(None, help="YAML file with the dimensions of the csv")
    correction: Literal["holm", "fdr_bh", "bonferroni"] = option(
        "holm", help="correction for the number of tests"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        if self.output is not None and Path(self.output).is_file():
            return [f"--output: {self.output} is a file; a folder is needed."]
        return []


def intents_command(argv: Sequence[str]) -> int:
    """Perceived empathy by expressed intent: means, standard errors, corrected tests.

    The scores of a turn are the means of its two raters; an intent is there where both mark it.
    Within a dialogue the mean with the intent is compared with the mean without it, and dialogues
    that have one of the two only are left out and counted: the paired t test over dialogues; *, **,
    *** are corrected p below .05, .01, .001. Means over single turns are description and not tested.

    Example: empo intents --input dialogues.csv --output intents
    """
    (settings,) = parse(
        argv, IntentsSettings, prog="empo intents", description=intents_command.__doc__ or ""
    )
    from empo.corpora.intents import intent_annotations, load_definitions
    from empo.raters.intent_analysis import dialogue_rows, intent_table, turn_rows, turns_of
    from empo.reporting import markdown

    schema = load_definitions(settings.definitions)
    given = intent_annotations(settings.input, settings.definitions)
    turns = turns_of(given, tuple(schema.intents), tuple(schema.perceived))
    rows = intent_table(turns, settings.correction)
    tests = sum(row["p"] is not None for row in rows)
    tables = [
        (f"Within dialogues: {tests} tests, corrected by {settings.correction}", dialogue_rows),
        (f"Over {len(turns.marks):,} single turns, not tested", turn_rows),
    ]
    for title, cells in tables:
        headers, lines = cells(rows)
        print(f"{title}\n\n{markdown.aligned([headers, *lines], left=2)}\n")
    if settings.output is not None:
        folder = Path(settings.output)
        facts = {"input": file_facts(settings.input), "correction": settings.correction}
        facts |= {"tests": tests}
        write_json(folder / "intents.json", {"schema": INTENTS_SCHEMA, **facts, "rows": rows})
        parts = [f"## {title}\n\n{markdown.table(*cells(rows), left=2)}" for title, cells in tables]
        text = "\n".join(["# Perceived empathy by intent\n", *parts])
        write_text(folder / "intents.md", text)
        print(f"{folder / 'intents.json'}, {folder / 'intents.md'}")
    return 0
