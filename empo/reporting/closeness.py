"""The report's section on BERTScore: how close the responses are to the human references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.markdown import interval, number, table
from empo.reporting.published import BERTSCORE, with_published


def closeness_section(systems: Mapping[str, Any], published: bool) -> str:
    """The section, empty where no system has a BERTScore; `systems` of results.json."""
    measured = {
        name: system["metrics"]["bertscore"]
        for name, system in systems.items()
        if "bertscore" in system["metrics"]
    }
    if not measured:
        return ""
    rows = {
        name: [
            f"{number(of['f1'])} ± {number(of['sd'])}",
            interval(of["interval"]),
            number(of["precision"]),
            number(of["recall"]),
            number(of["length_correlation"]),
            str(of["blank"]),
            str(of["n"]),
        ]
        for name, of in measured.items()
    }
    text = (
        "## Closeness to the reference (BERTScore)\n\nSimilarity of the words of a response and "
        "its human reference in an encoder's space; F1 as mean ± standard deviation over responses "
        "with the 95 % bootstrap interval of the mean, precision, recall, and the correlation of "
        "F1 with the length of the response (r). A blank response counts as 0. The encoder stands "
        "under *How it was measured*; values of different encoders cannot be compared.\n\n"
        + table(
            ["system", "F1", "interval", "precision", "recall", "r", "blank", "n"],
            with_published(rows, BERTSCORE, published),
        )
    )
    if published:
        text += (
            "\nRows marked *published* are Table 2 of the paper (roberta-large, not rescaled).\n"
        )
    return text
