"""Which exchanges are rated: the same number of every emotion, and a few more to the total."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from empo.metrics.shared_exchanges import HUMAN, human_of
from empo.records import Response, UserError, listed, read_responses, shown


def read_systems(files: Sequence[str | Path], *, human: bool) -> dict[str, list[Response]]:
    """System -> its responses, all of the same exchanges in the order of the first system.

    `human` adds the references as a system. Raises UserError naming file and field where a system
    stands in two files, has other ids than the first, or another dialogue or reference for an id.
    """
    systems: dict[str, list[Response]] = {}
    of_file: dict[str, str] = {}
    for file in map(str, files):
        found: dict[str, list[Response]] = {}
        for response in read_responses(file):
            found.setdefault(response.system, []).append(response)
        for name, responses in found.items():
            if name in systems:
                raise UserError(
                    f"{file}, field 'system': {shown(name)} is in {of_file[name]} already. Give the "
                    "responses of a system once."
                )
            systems[name], of_file[name] = responses, file
    first, *others = systems
    known = {response.id: response for response in systems[first]}
    for name in others:
        systems[name] = _in_order(name, systems[name], of_file[name], known, of_file[first])
    if human:
        if HUMAN in systems:
            raise UserError(
                f"{of_file[HUMAN]}, field 'system': {HUMAN!r} stands for the references, which are "
                "added by themselves. Leave the file out, or give --human false."
            )
        systems[HUMAN] = human_of(systems[first])
    return systems


def _in_order(
    name: str, responses: Sequence[Response], file: str, known: Mapping[str, Response], first: str
) -> list[Response]:
    by_id = {response.id: response for response in responses}
    for missing, where, other, of in (
        ([key for key in known if key not in by_id], file, first, len(known)),
        ([key for key in by_id if key not in known], first, file, len(by_id)),
    ):
        if missing:
            raise UserError(
                f"{where}, field 'id': {len(missing):,} of the {of:,} ids of {other} are missing "
                f"({listed(missing, 3)}). People compare systems on the same exchanges: generate "
                "what is missing, or give files with the same ids."
            )
    for key, there in known.items():
        for field in ("context", "reference"):
            if getattr(by_id[key], field) != getattr(there, field):
                raise UserError(
                    f"{file}, {key}, field {field!r}: system {shown(name)} has another one than "
                    f"{first}. The systems must answer the same exchanges."
                )
    return [by_id[key] for key in known]


def draw_items(
    emotions: Sequence[str], items: int, per_emotion: int | None, seed: int
) -> list[int]:
    """Draw exchanges by number: `per_emotion` of each emotion, the rest one by one over emotions.

    `emotions` are those of the exchanges. None takes as many per emotion as go into `items`. The
    order is shuffled, so that every batch mixes emotions. Raises UserError where an emotion has too
    few exchanges or all have too few.
    """
    rng = random.Random(seed)
    counts = Counter(emotions)
    if items > len(emotions):
        raise UserError(
            f"--items: {items:,} are asked for, but the responses are of {len(emotions):,} "
            "exchanges. Give responses to more exchanges, or lower --items."
        )
    each = items // len(counts) if per_emotion is None else per_emotion
    if each * len(counts) > items:
        raise UserError(
            f"--per-emotion: {each} of each of the {len(counts)} emotions are "
            f"{each * len(counts):,} exchanges, more than --items {items:,}. Lower it, or raise "
            "--items."
        )
    few = [f"{name} {count}" for name, count in sorted(counts.items()) if count < each]
    if few:
        raise UserError(
            f"the responses, field 'emotion': {each} exchanges of every emotion are needed, but "
            f"there are fewer of {listed(few)}. Give responses to more exchanges, or lower "
            "--per-emotion."
        )
    pools: dict[str, list[int]] = {name: [] for name in sorted(counts)}
    for number, emotion in enumerate(emotions):
        pools[emotion].append(number)
    for pool in pools.values():
        rng.shuffle(pool)
    drawn = [number for pool in pools.values() for number in pool[:each]]
    spare = {name: pool[each:] for name, pool in pools.items()}
    while len(drawn) < items:  # an emotion gives another one only when all that can have given one
        names = [name for name, pool in spare.items() if pool]
        drawn += [
            spare[name].pop() for name in rng.sample(names, min(len(names), items - len(drawn)))
        ]
    rng.shuffle(drawn)
    return drawn
