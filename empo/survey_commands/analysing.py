"""`empo survey analyse`: what the ratings of a survey, or of a table from anywhere, say."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.records import UserError
from empo.redaction import redacted
from empo.settings import option, parse
from empo.survey_commands.serving import with_option


@dataclass
class AnalyseSettings:
    """Settings of `empo survey analyse`."""

    output: str = option(help="folder for survey.json, survey.md and figures")
    survey: str | None = option(
        None, help="folder of the survey; the option's name can be left out"
    )
    input: str | None = option(
        None, help="instead: tidy csv from anywhere; columns item, rater, aspect, value, system"
    )
    straight_share: float = option(
        0.8, help="share of items with all sliders equal from which a rater is flagged"
    )
    fast_seconds: float = option(5.0, help="median seconds per item below which a rater is flagged")
    resamples: int = option(
        99_999, help="resamples of tests and intervals; p is no smaller than 1 / (this + 1)"
    )
    seed: int = option(0, help="seed of the resampling")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if (self.survey is None) == (self.input is None):
            found.append("give the folder of a survey, or --input with a tidy csv.")
        if not 0 < self.straight_share <= 1:
            found.append(f"--straight-share: {self.straight_share:g} is not between 0 and 1.")
        if self.fast_seconds < 0:
            found.append(f"--fast-seconds: {self.fast_seconds:g} is negative.")
        if self.resamples < 199:
            found.append(f"--resamples: {self.resamples} is too few; at least 199 are needed.")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is negative; 0 or more is needed.")
        return found


def analyse_command(argv: Sequence[str]) -> int:
    """Compare systems by people's ratings: means, tests, effects, agreement, a mixed model.

    Of a survey's folder, or of a tidy csv (item, rater, aspect, value, system; optional: exchange, by
    which systems are paired, seconds, characters). Two-sided paired tests on item means, a mixed model
    with raters and items, both with Holm's correction; Cohen's d, ICC(1) and ICC(k) with 95 %
    intervals; correlation with the length of the reply. Raters who set all sliders to the same place
    or answer faster than one can read are flagged, and everything is computed with and without them.
    eval/report.py takes the folder like any other results folder.

    Example: empo survey analyse survey --output results
             empo survey analyse --input tidy.csv --output results
    """
    (settings,) = parse(
        with_option(argv, "--survey"),
        AnalyseSettings,
        prog="empo survey analyse",
        description=analyse_command.__doc__ or "",
    )
    from empo.records import write_text
    from empo.reporting.survey_figures import draw_survey
    from empo.reporting.survey_results import SURVEY_FILE, SURVEY_SCHEMA, write_survey
    from empo.reporting.survey_section import survey_report
    from empo.runs import now, versions
    from empo.survey.attention import flagged_raters

    ratings, systems, statements, missing, replaced, inputs = _ratings(settings)
    rules = {"straight_share": settings.straight_share, "fast_seconds": settings.fast_seconds}
    flagged = flagged_raters(ratings, **rules)
    found, without = _analyses(settings, ratings, systems, {row["rater"] for row in flagged})
    results = {
        "schema": SURVEY_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": settings.seed,
        "resamples": settings.resamples,
        "command": redacted(shlex.join(["empo", "survey", "analyse", *argv])),
        "inputs": inputs,
        "aspects": list(found["agreement"]),
        "statements": statements,
        "missing": missing,
        "replaced": replaced,
        "rules": rules,
        "flagged": flagged,
        "all": found,
        "without_flagged": without,
    }
    folder = Path(settings.output)
    write_survey(folder / SURVEY_FILE, results)
    figures = draw_survey(results, folder, "survey")
    write_text(folder / "survey.md", survey_report(results, figures))
    print(
        f"{found['ratings']:,} ratings by {found['raters']:,} raters ({len(flagged)} flagged): "
        f"{folder / 'survey.md'}, {folder / SURVEY_FILE}"
    )
    return 0


def _ratings(
    settings: AnalyseSettings,
) -> tuple[Any, list[str], dict[str, str], int, int, list[dict[str, Any]]]:
    """Ratings, systems in the order of the comparisons, words of the aspects, what is left out, inputs.

    Left out are rows without a value, and replies rated by links that were replaced.
    """
    from empo.records import file_facts
    from empo.survey.plan import PLAN, TEXTS, open_answers, read_plan
    from empo.survey.ratings import (
        rating_rows,
        ratings_of,
        read_ratings_table,
        replaced_answers,
        tidy_facts,
    )
    from empo.survey.texts import load_texts

    if settings.input is not None:
        ratings, missing = read_ratings_table(settings.input)
        systems = sorted(dict.fromkeys(ratings.system), key="human".__eq__)
        return ratings, systems, {}, missing, 0, [file_facts(settings.input)]
    folder = Path(settings.survey or "")
    plan = read_plan(folder)
    store = open_answers(folder, plan)
    rows = list(rating_rows(plan, store))
    if not rows:
        raise UserError(f"{folder}: nobody has answered yet.")
    texts = load_texts(folder / TEXTS)
    there = {row["system"] for row in rows}
    systems = [name for name in plan["systems"] if name in there]
    words = {**texts.statements, **texts.checkbox}
    inputs = [file_facts(folder / PLAN), tidy_facts(rows)]
    return ratings_of(rows), systems, words, 0, replaced_answers(store), inputs


def _analyses(
    settings: AnalyseSettings, ratings: Any, systems: Sequence[str], flagged: set[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The analysis of all ratings, and of those by raters who are not flagged, where some are left."""
    import numpy as np

    from empo.survey.analysis import analyse

    options = {"seed": settings.seed, "resamples": settings.resamples}
    found = analyse(ratings, systems, **options)
    kept = ratings.where(np.array([rater not in flagged for rater in ratings.rater]))
    left = [name for name in systems if name in set(kept.system)]
    if not flagged or len(left) < 2:
        return found, None
    try:
        return found, analyse(kept, left, **options)
    except UserError:  # no exchange is left under two systems
        return found, None
