"""The report's side-by-side samples, with the rule by which they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.metrics.samples import RULES
from empo.reporting.markdown import escape, table

LONGEST = 1_000
"""Characters of a reply that are shown."""

_TITLES = {"random": "At random", "largest disagreement": "Largest disagreement"}


def samples_section(results: Mapping[str, Any]) -> str:
    """Exchanges with every system's reply, grouped by the rule that chose them."""
    by_rule: dict[str, list[Mapping[str, Any]]] = {}
    for sample in results["samples"]:
        by_rule.setdefault(sample.get("rule", "random"), []).append(sample)
    text = (
        "## Side by side\n\nChosen by rule, not by hand; of the context only the last speaker "
        "turn is shown.\n"
    )
    for rule, samples in by_rule.items():
        text += f"\n### {_TITLES.get(rule, escape(rule))}: {len(samples)}\n\n{_explained(rule, results['seed'])}\n"
        for sample in samples:
            rows = [["speaker", sample["prompt"]], *sample["responses"].items()]
            rows = [[who, _shown(reply)] for who, reply in rows]
            text += f"\n#### {escape(sample['id'])} ({escape(sample['emotion'])})\n\n"
            text += table(["who", "text"], rows, left=2)
    return text


def _shown(text: str) -> str:
    """A text, cut where it would make a table unreadable."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def _explained(rule: str, seed: int) -> str:
    sentence = RULES.get(rule, escape(rule))
    return f"{sentence[0].upper()}{sentence[1:]}{f' {seed}' * (rule == 'random')}."
