"""EmpatheticDialogues (Rashkin et al., ACL 2019): its csv schema and the published test subset."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from empo.corpora.mapping import Mapping
from empo.dialogues import Exchange

MAPPING = Mapping(
    dialogue_id="conv_id",
    turn="utterance_idx",
    emotion="context",
    situation="prompt",
    utterance="utterance",
    quoting="none",
    unescape={"_comma_": ","},
)
"""Odd turn numbers are the speaker's; fields are not quoted, a comma in a field is `_comma_`."""

_MISSING = frozenset({5607, 5624, 19297, 19299, 19303, 19315, 19323})
_LAST_TURN_ONLY = frozenset({5545, 5546, 5627})


def published_ids(ids: Iterable[str]) -> set[str]:
    """Those of the given test ids that the published evaluation contains (2,540 of 2,547)."""
    return {name for name in ids if _number(name) not in _MISSING}


def published_subset(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The published 2,540 test exchanges: 7 are lost, 3 have only their last speaker turn."""
    kept: Collection[str] = published_ids(exchange.id for exchange in exchanges)
    return [
        Exchange(exchange.id, exchange.emotion, exchange.context[-1:], exchange.reply)
        if _number(exchange.id) in _LAST_TURN_ONLY
        else exchange
        for exchange in exchanges
        if exchange.id in kept
    ]


def _number(conv_id: str) -> int | None:
    """The number behind `conv:` in an id like `hit:2772_conv:5545`."""
    tail = conv_id.rpartition("conv:")[2]
    return int(tail) if tail.isdigit() else None
