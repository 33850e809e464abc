"""Reader of the sample corpus's levels: replies whose levels follow from how they were composed."""

from __future__ import annotations

from pathlib import Path

from empo.corpora import Rejection
from empo.corpora.csv_rows import read_csv
from empo.corpora.labelled import Example, LabelledCorpus
from empo.rating import MECHANISMS, Dimension, RatingInput
from empo.records import file_facts

LEVELS = (0.0, 1.0, 2.0)
COLUMNS = dict(
    zip(MECHANISMS, ("emotional_reaction", "interpretation", "exploration"), strict=True)
)
"""The column of each mechanism."""


def read_levels(path: str | Path) -> LabelledCorpus:
    """A csv with the columns reply, emotion and one level (0, 1, 2) per mechanism.

    The context is empty, for the levels belong to the reply alone. The group is the reply's text.
    The emotion is not used. Rejected: rows with an empty reply.

    Raises UserError for a missing column, an unknown or missing level.
    """
    examples: list[Example] = []
    rejected: list[Rejection] = []
    rows = read_csv(path, ("reply", "emotion", *COLUMNS.values()))
    for number, row in enumerate(rows, start=1):
        labels = {}
        for mechanism, column in COLUMNS.items():
            row.required(column)
            labels[mechanism] = row.level(column, LEVELS)
        name, reply = f"{Path(path).stem}:{number}", row.text("reply")
        if reply:
            examples.append(Example(name, reply, RatingInput("", reply), labels))
        else:
            rejected.append(Rejection(name, "empty reply", f"line {row.line}"))
    return LabelledCorpus(
        str(path),
        "levels",
        tuple(Dimension(name, 0.0, 2.0, "ordinal", LEVELS) for name in MECHANISMS),
        examples,
        rejected,
        len(rows),
        [file_facts(path)],
    )
