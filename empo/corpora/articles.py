"""News articles by id, the background of what people write and say about them."""

from __future__ import annotations

from pathlib import Path

from empo.corpora.csv_rows import read_csv

ARTICLE_FIELDS = {"title": "Title", "source": "Source", "object": "Who suffers"}
"""Optional columns of a file of articles, and how an article's text names them."""


def read_articles(path: str | Path) -> dict[str, str]:
    """Articles by id, each as one text, of a csv with article_id and text.

    The columns of ARTICLE_FIELDS are optional, for the file and for a row: a line of their own
    above the text. Raises UserError for a missing column, an empty text, an id that is there twice.
    """
    found: dict[str, str] = {}
    for row in read_csv(path, ("article_id", "text")):
        name = row.required("article_id")
        if name in found:
            raise row.refused("article_id", "stands there twice.")
        lines = [
            f"{shown}: {row.text(column)}"
            for column, shown in ARTICLE_FIELDS.items()
            if column in row.fields and row.text(column)
        ]
        found[name] = "\n".join([*lines, row.required("text")])
    return found
