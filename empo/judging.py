"""Who chooses by scores, and its options: `empo pairs`, `recipes/generate.py`, `recipes/rounds.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from empo.choosing import Judge, Value
from empo.dialogues import Exchange
from empo.length_effect import LengthEffect
from empo.records import UserError
from empo.settings import option


@dataclass(kw_only=True)
class JudgeSettings:
    """Raters that choose, and how their scores become one number."""

    rater: list[str] | None = option(
        None, help="rater folders that score replies to the context; not those that will measure"
    )
    rater_dimension: list[str] | None = option(
        None, help="dimensions of the score (default: the mean of all, each scaled by its range)"
    )
    rater_value: Value = option(
        "score", help="of a dimension: its score, or the mean of its levels by their probabilities"
    )
    length_residual: bool = option(
        False, help="score at equal length: what the score has beside the length of the reply"
    )
    rater_cache: str | None = option(
        None, help="SQLite file with earlier ratings (default: in the user's cache folder)"
    )

    def needless(self, without: str) -> list[str]:
        """Options that do nothing, where nobody chooses `without` the option that is named."""
        return [
            f"--{name.replace('_', '-')}: nothing is rated without {without}."
            for name in ("rater_dimension", "length_residual", "rater_cache")
            if getattr(self, name)
        ]


def load_judge(
    settings: JudgeSettings,
    folders: Sequence[str],
    exchanges: Sequence[Exchange],
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

    rater = CachedRater(load_raters(folders, device), settings.rater_cache or default_store())
    judge = Judge(rater, tuple(settings.rater_dimension or ()), settings.rater_value, batch_size)
    effect = judge.length_effect(exchanges)
    told = list(rater.warnings)
    if settings.length_residual:
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
