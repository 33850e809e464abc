"""`empo agreement`: how far annotators agree, from a table or a judged corpus with two raters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from empo.records import write_json, write_text
from empo.settings import option, parse


@dataclass
class AgreementSettings:
    """Settings of `empo agreement`."""

    input: str = option(help="csv or tsv; columns item, rater, aspect, value, or see --wide")
    output: str | None = option(None, help="folder for agreement.json and agreement.md")
    wide: str | None = option(
        None, help="names of the columns of a wide table, as 'Person_{rater}_{aspect}_score'"
    )
    schema: Literal["table", "intents"] = option(
        "table", help="table, or intents: the csv of dialogues that the raters read"
    )
    definitions: str | None = option(
        None, help="with --schema intents: YAML file with the dimensions of the csv"
    )
    resamples: int = option(2_000, help="bootstrap resamples of the items")
    seed: int = option(0, help="seed of the bootstrap")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if self.resamples < 100:
            found.append(f"--resamples: {self.resamples} is too few; at least 100 are needed.")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is negative; 0 or more is needed.")
        if self.wide is not None and self.schema == "intents":
            found.append("--wide: the columns of the schema intents are known; leave it out.")
        if self.definitions is not None and self.schema != "intents":
            found.append("--definitions: only --schema intents has them.")
        if self.output is not None and Path(self.output).is_file():
            found.append(f"--output: {self.output} is a file; a folder is needed.")
        return found


def agreement_command(argv: Sequence[str]) -> int:
    """Agreement of annotators: Pearson, Spearman, kappa, alpha with intervals.

    A tidy table has one row per rating: item, rater, aspect, value; the optional columns `setting`
    and `group` (of annotators) are reported apart. A wide table has one row per item and a column
    per rater and aspect. An empty value, NA or NaN is a missing rating: a pair of raters is
    compared on the items that both rated. Pearson, Spearman, Cohen's kappa and the share of equal
    classes are means over the pairs of raters; kappa and the share take values rounded to whole
    numbers, halves up. Krippendorff's alpha is of the interval level. Intervals are 95 %
    percentile bootstrap intervals over items. A csv of intents has two columns per dimension; the
    items are the agent's turns.

    Example: empo agreement --input tidy.csv --output agreement
             empo agreement --input table.csv --wide 'Person_{rater}_{aspect}_score'
             empo agreement --input intents.csv --schema intents
    """
    (settings,) = parse(
        argv,
        AgreementSettings,
        prog="empo agreement",
        description=agreement_command.__doc__ or "",
    )
    from empo.raters import judgements
    from empo.raters.agreement import agreement, agreement_table, plain_table
    from empo.reporting import markdown

    if settings.schema == "intents":
        from empo.corpora.intents import intent_annotations

        given = intent_annotations(settings.input, settings.definitions)
        sheet = judgements.from_corpus(settings.input, settings.schema, given)
    elif settings.wide is None:
        sheet = judgements.read_tidy(settings.input)
    else:
        sheet = judgements.read_wide(settings.input, settings.wide)
    print(sheet.summary(), flush=True)
    result = agreement(sheet, resamples=settings.resamples, seed=settings.seed)
    headers, rows, notes = agreement_table(result)
    print("", plain_table(headers, rows), *notes, sep="\n")
    if settings.output is not None:
        folder = Path(settings.output)
        facts = [markdown.escape(line) for line in [*sheet.summary().splitlines(), *notes]]
        table = markdown.table(headers, rows, left=headers.index("value"))
        text = f"# Agreement of annotators\n\n{table}\n" + "".join(f"- {x}\n" for x in facts)
        write_json(folder / "agreement.json", result)
        write_text(folder / "agreement.md", text)
        print(f"\n{folder / 'agreement.json'}, {folder / 'agreement.md'}")
    return 0
