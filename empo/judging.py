"""Who chooses by scores, as the options of a command say: `empo pairs`, `recipes/generate.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from empo.choosing import Judge, Value
from empo.dialogues import Exchange
from empo.length_effect import LengthEffect
from empo.records import UserError


def load_judge(
    folders: Sequence[str],
    dimensions: Sequence[str] | None,
    value: Value,
    exchanges: Sequence[Exchange],
    *,
    length_residual: bool,
    cache: str | Path | None,
    device: str | None,
    batch_size: int = 32,
) -> tuple[Judge, list[dict[str, str]], LengthEffect | None]:
    """The judge, the raters behind it, and how its number goes with the length of human replies.

    With `length_residual` that is taken out of the number; without it a warning is printed where the
    number goes with length. Raises UserError where the rater scores no human reply, or where nothing
    is left beside the length.
    """
    from empo.raters.combined import CachedRater
    from empo.raters.identity import identities
    from empo.raters.loading import load_raters
    from empo.raters.rating_store import default_store

    rater = CachedRater(load_raters(folders, device), cache or default_store())
    judge = Judge(rater, tuple(dimensions or ()), value, batch_size)
    effect = judge.length_effect(exchanges)
    told = list(rater.warnings)
    if length_residual:
        if effect is None:
            raise UserError(
                "length_residual: fewer than three human replies have a score; the effect of their "
                "length cannot be measured. Give more dialogues."
            )
        effect.require_rest()
        judge = replace(judge, length=effect)
    elif effect is not None and effect.warning:
        told.append(effect.warning)
    for warning in told:
        print(f"warning: {warning}", file=sys.stderr)
    return judge, identities(folders), effect
