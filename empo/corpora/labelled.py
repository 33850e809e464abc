"""Corpora with human judgements: what every reader of one returns."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from empo.corpora import Rejection
from empo.rating import Dimension, RatingInput


def group_of(texts: Iterable[str]) -> str:
    """Name of a group by what it says, so that the same dialogue has one name in every file."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Example:
    """One judged input.

    Examples of one `group` (a seeker post, a dialogue, a story) stay together in every split.
    `labels` maps the name of a dimension to the label in native units; a dimension without a label
    is not in it. `rationales` maps a dimension to the parts of the response that justify its label.
    """

    id: str
    group: str
    input: RatingInput
    labels: Mapping[str, float]
    rationales: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledCorpus:
    """A judged corpus as read; `counts` says what was merged, settled or derived on the way.

    `symmetric`: context and response of an example are alike (two stories). `derived` names the
    dimensions that are computed from others, which nobody annotated.
    """

    source: str
    schema: str
    dimensions: tuple[Dimension, ...]
    examples: list[Example]
    rejected: list[Rejection]
    rows: int
    files: list[dict[str, Any]]
    counts: Mapping[str, int] = field(default_factory=dict)
    symmetric: bool = False
    derived: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Counts and digests for manifests and cards."""
        return {
            "source": self.source,
            "schema": self.schema,
            "files": self.files,
            "rows": self.rows,
            "examples": len(self.examples),
            "groups": len({example.group for example in self.examples}),
            "counts": dict(self.counts),
            "rejected": dict(Counter(rejection.reason for rejection in self.rejected)),
            "labels": {
                dimension.name: {
                    f"{value:g}": count
                    for value, count in sorted(
                        Counter(
                            example.labels[dimension.name]
                            for example in self.examples
                            if dimension.name in example.labels
                        ).items()
                    )
                }
                for dimension in self.dimensions
            },
        }

    def summary(self, shown: int = 5) -> str:
        """What was read, merged and left out, for a person; at most `shown` ids per reason."""
        facts = self.facts()
        lines = [
            f"{self.source} [{self.schema}]: {self.rows:,} rows, {len(self.examples):,} examples in "
            f"{facts['groups']:,} groups, {len(self.rejected):,} left out"
        ]
        lines += [f"  {name}: {count:,}" for name, count in self.counts.items()]
        for reason, count in facts["rejected"].items():
            named = [f"{r.id} ({r.detail})" for r in self.rejected if r.reason == reason]
            more = f", and {count - shown} more" if count > shown else ""
            lines.append(f"  {count} x {reason}: {', '.join(named[:shown])}{more}")
        for name, values in facts["labels"].items():
            table = ", ".join(f"{value}: {count:,}" for value, count in values.items())
            lines.append(f"  {name} = {table}")
        return "\n".join(lines)
