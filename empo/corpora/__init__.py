"""Readers of dialogue corpora: rows in, `Dialogue` out, every rejected dialogue kept with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.corpora.empathetic_dialogues import MAPPING, published_ids, published_subset
from empo.corpora.mapping import Mapping, load_mapping
from empo.corpora.tables import read_rows
from empo.dialogues import Dialogue, Exchange, Turn, exchanges
from empo.emotions import LABELS
from empo.records import UserError, listed, shown

__all__ = ["Corpus", "Rejection", "load_corpus", "published_ids", "published_subset"]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A dialogue that is not used, and why; `detail` says where in the source."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus as read."""

    source: str
    split: str
    dialogues: list[Dialogue]
    rejected: list[Rejection]
    rows: int
    files: list[dict[str, Any]]
    beyond_limit: int = 0

    def exchanges(self) -> list[Exchange]:
        """One exchange per dialogue, in corpus order."""
        return exchanges(self.dialogues)

    def facts(self) -> dict[str, Any]:
        """Counts and digests for a run's manifest."""
        return {
            "source": self.source,
            "split": self.split,
            "files": self.files,
            "rows": self.rows,
            "dialogues": len(self.dialogues),
            "beyond_limit": self.beyond_limit,
            "rejected": dict(Counter(rejection.reason for rejection in self.rejected)),
            "rejected_dialogues": [
                {"id": r.id, "reason": r.reason, "detail": r.detail} for r in self.rejected
            ],
        }

    def summary(self, shown: int = 5) -> str:
        """What was read and what was left out, for a person; at most `shown` ids per reason."""
        lines = [
            f"{self.source} [{self.split}]: {self.rows:,} rows, {len(self.dialogues):,} dialogues "
            f"used, {len(self.rejected):,} left out"
            + (f", {self.beyond_limit:,} beyond the limit" if self.beyond_limit else "")
        ]
        of_reason: dict[str, list[Rejection]] = {}
        for rejection in self.rejected:
            of_reason.setdefault(rejection.reason, []).append(rejection)
        for reason, of in sorted(of_reason.items(), key=lambda item: -len(item[1])):
            named = ", ".join(f"{listed([r.id])} ({listed([r.detail])})" for r in of[:shown])
            more = f", and {len(of) - shown} more" if len(of) > shown else ""
            lines.append(f"  {len(of)} x {reason}: {named}{more}")
        return "\n".join(lines)


def load_corpus(
    source: str | Path,
    split: str = "train",
    mapping: str | Path | None = None,
    labels: Collection[str] | None = LABELS,
    limit: int | None = None,
) -> Corpus:
    """Read one split of a corpus.

    `source` is a csv, tsv, jsonl or parquet file, a folder with one such file per split, or
    `hub:owner/name`. Without `mapping` the schema is that of EmpatheticDialogues; `mapping` is a
    YAML file with the column names of another corpus. `labels` are the emotions allowed (the 32
    by default), None for any. `limit` keeps the first N good dialogues.

    Raises UserError where nothing can be read: no such file, a missing column, wrong quoting, bad
    UTF-8, no usable dialogue. Single bad dialogues are rejected and kept in `Corpus.rejected`.
    """
    schema = load_mapping(mapping) if mapping is not None else MAPPING
    allowed = None if labels is None else frozenset(labels)
    table = read_rows(source, split, schema)
    dialogues: list[Dialogue] = []
    rejected: list[Rejection] = []
    for dialogue_id in list(table.dialogues):
        rows = table.dialogues.pop(dialogue_id)  # the corpus is never there twice
        detail = table.where(rows)
        if dialogue_id in table.broken:
            rejected.append(Rejection(dialogue_id, table.broken[dialogue_id], detail))
            continue
        dialogue = _dialogue(dialogue_id, rows, schema, allowed)
        if isinstance(dialogue, Dialogue):
            dialogues.append(dialogue)
        else:
            rejected.append(Rejection(dialogue_id, dialogue, detail))
    beyond = 0 if limit is None else max(0, len(dialogues) - limit)
    del dialogues[len(dialogues) - beyond :]
    if Path(source).is_file():
        split = Path(source).stem
    corpus = Corpus(str(source), split, dialogues, rejected, table.rows, table.files, beyond)
    if not dialogues:
        hint = ""
        if any(r.reason.startswith("unknown emotion") for r in rejected):
            hint = " Map the labels with `label_map` in a mapping file, or give your own table of opposites."
        raise UserError(f"{source}: no usable dialogue.\n{corpus.summary()}{hint}")
    return corpus


def _dialogue(
    dialogue_id: str, rows: list[dict[str, Any]], schema: Mapping, labels: frozenset[str] | None
) -> Dialogue | str:
    """The dialogue of these rows, or the reason why it is rejected."""
    turns: list[tuple[float, Turn]] = []
    emotions = {schema.label_of(row) for row in rows}
    for row in rows:
        order = schema.order_of(row)
        if order is None:
            return "turn number is no number"
        role = schema.role_of(row, order)
        if role is None:
            return f"unknown role {shown(row.get(schema.role))} (see role_map)"
        text = schema.text_of(row, schema.utterance)
        if not text:
            return "empty utterance"
        if "hit:" in text and "conv:" in text:
            return "utterance contains a raw row id"
        turns.append((order, Turn(role, text)))
    if len(emotions) > 1:
        return "several emotion labels"
    emotion = emotions.pop()
    if labels is not None and emotion not in labels:
        return f"unknown emotion {shown(emotion)}"
    turns.sort(key=lambda turn: turn[0])
    sequence = tuple(turn for _, turn in turns)
    expected = ("user", "assistant")
    if any(turn.role != expected[i % 2] for i, turn in enumerate(sequence)):
        return "roles do not alternate, beginning with the speaker"
    numbers = [number for number, _ in turns]
    if schema.role is None and numbers != [numbers[0] + i for i in range(len(numbers))]:
        return "turn numbers have a gap"
    if len(sequence) < 2:
        return "fewer than 2 turns"
    situation = schema.text_of(rows[0], schema.situation)
    return Dialogue(dialogue_id, emotion, situation, sequence)
