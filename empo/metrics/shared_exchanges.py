"""The exchanges that every system answered, and the human references as one more system."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from empo.dialogues import Exchange
from empo.records import Response, UserError

HUMAN = "human"
"""The name under which the human references stand beside the systems."""

MINIMUM_SHARED = 0.5
"""Least share of every system's responses that must belong to exchanges which all have answered."""


def human_responses(exchanges: Iterable[Exchange]) -> list[Response]:
    """The human replies of a corpus as the responses of the system `human`."""
    return [
        Response(
            id=exchange.id,
            emotion=exchange.emotion,
            context=exchange.messages(),
            reference=exchange.reply,
            response=exchange.reply,
            system=HUMAN,
        )
        for exchange in exchanges
    ]


def align(
    systems: Mapping[str, Sequence[Response]], minimum_shared: float = MINIMUM_SHARED
) -> tuple[dict[str, list[Response]], dict[str, int]]:
    """The exchanges that all systems share, in the order of the first, and `human` beside them.

    Returns system -> responses, with `human` last, and system -> number of its responses left out.
    Raises UserError where less than `minimum_shared` of a system's responses are shared, or where
    two systems do not mean the same exchange by an id.
    """
    by_id = {name: {r.id: r for r in responses} for name, responses in systems.items()}
    first, *others = by_id
    ids = [key for key in by_id[first] if all(key in by_id[name] for name in others)]
    if not ids:
        raise UserError(f"no exchange has a response of every system ({', '.join(by_id)}).")
    for name, responses in by_id.items():
        if name != HUMAN and len(ids) < minimum_shared * len(responses):
            counts = ", ".join(f"{system} {len(of)}" for system, of in by_id.items())
            raise UserError(
                f"only {len(ids)} of the {len(responses)} responses of {name!r} belong to exchanges "
                f"that every system answered ({counts}); at least {minimum_shared:.0%} have to. "
                "Generate what is missing, leave a system out, or lower --minimum-shared."
            )
    for name in others:
        for key in ids:
            for field in ("reference", "prompt"):
                here, there = (getattr(by_id[system][key], field) for system in (first, name))
                if here != there:
                    where = "context" if field == "prompt" else field
                    raise UserError(
                        f"{key}, field {where!r}: {here[:60]!r} for {first!r} but {there[:60]!r} "
                        f"for {name!r}. The systems must answer the same exchanges."
                    )
    aligned = {name: [by_id[name][key] for key in ids] for name in by_id}
    references = human_of(aligned[first])
    if HUMAN in aligned and [r.response for r in aligned.pop(HUMAN)] != [
        r.response for r in references
    ]:
        raise UserError(
            f"the system name {HUMAN!r} stands for the human references, but its responses are "
            "others. Rename the system."
        )
    aligned[HUMAN] = references
    return aligned, {name: len(by_id[name]) - len(ids) for name in by_id}


def human_of(responses: Iterable[Response]) -> list[Response]:
    """The references of a system's responses as the responses of the system `human`."""
    return [
        Response(
            id=r.id,
            emotion=r.emotion,
            context=r.context,
            reference=r.reference,
            response=r.reference,
            system=HUMAN,
        )
        for r in responses  # without further keys: they are of the system's replies
    ]


def digest(responses: Iterable[Response]) -> str:
    """SHA-256 of the ids and texts of responses, whatever their order."""
    texts = sorted((response.id, response.response) for response in responses)
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
