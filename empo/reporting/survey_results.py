"""survey.json: its schema, written by `empo survey analyse` and read by whatever reports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.records import read_typed, write_json
from empo.reporting.results import PairedDifference

SURVEY_SCHEMA = "empo.survey/2"
SURVEY_FILE = "survey.json"
"""Its name in an output folder."""


class MixedMean(TypedDict):
    """A system's mean in the mixed model, whose interval speaks of other raters and exchanges too."""

    mean: float | None
    stderr: float | None
    interval: tuple[float, float] | None
    reasons: NotRequired[dict[str, str]]


class ItemMeans(TypedDict):
    """Item means of one system in one aspect: n exchanges, each the mean of at least `fewest` ratings.

    `quantiles` are those of .05, .25, .5, .75, .95; `reasons` has a sentence for every None.
    """

    n: int
    mean: float | None
    sd: float | None
    mixed: MixedMean
    length_correlation: float | None
    quantiles: tuple[float, float, float, float, float] | None
    ratings: int
    fewest: int
    reasons: NotRequired[dict[str, str]]


class SurveyEffect(TypedDict):
    """Cohen's d: item means over the spread of their differences; the mixed model's over both spreads."""

    paired: float | None
    pooled: float | None
    pooled_interval: tuple[float, float] | None
    reasons: NotRequired[dict[str, str]]


class MixedComparison(TypedDict):
    """The same pair in the mixed model."""

    difference: float | None
    stderr: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    reasons: NotRequired[dict[str, str]]


class SurveyComparison(PairedDifference):
    """Two systems in one aspect.

    The interval and p beside `mixed` take item means for independent, which they are not.
    """

    d: SurveyEffect
    mixed: MixedComparison


class Agreement(TypedDict):
    """ICC(1) of a single rating, ICC(k) of an item's mean; `per_item` is the k."""

    items: int
    ratings: int
    per_item: float | None
    single: float | None
    single_interval: tuple[float, float] | None
    mean: float | None
    mean_interval: tuple[float, float] | None
    reasons: NotRequired[dict[str, str]]


class SurveyAnalysis(TypedDict):
    """What one set of raters says; `systems` and `agreement` by aspect, `variances` of the model."""

    raters: int
    ratings: int
    exchanges: int
    systems: dict[str, dict[str, ItemMeans]]
    agreement: dict[str, Agreement]
    variances: dict[str, dict[str, Any]]
    comparisons: list[SurveyComparison]


class Flagged(TypedDict):
    """A rater to look at."""

    rater: str
    items: int
    straight: float | None
    median_seconds: float | None
    reasons: list[str]


@with_config(extra="allow")
class SurveyResults(TypedDict):
    """The whole file; further keys are allowed and kept.

    `statements` are the words behind the aspects, where they are known. Left out are `missing` ratings
    without a value, and `replaced` replies, rated by links that were replaced. `rules` say from when a
    rater is flagged; `without_flagged` is null where nobody is, or nothing would be left.
    """

    schema: Literal["empo.survey/2"]
    created: str
    versions: dict[str, str]
    seed: int
    resamples: int
    command: str
    inputs: list[dict[str, Any]]
    aspects: list[str]
    statements: dict[str, str]
    missing: int
    replaced: int
    rules: dict[str, float]
    flagged: list[Flagged]
    all: SurveyAnalysis
    without_flagged: SurveyAnalysis | None


_SURVEY = TypeAdapter(SurveyResults)


def write_survey(path: str | Path, results: Mapping[str, Any]) -> None:
    """Check against the schema and write; a ValidationError here is a fault of EmPO."""
    _SURVEY.validate_python(results)
    write_json(path, results)


def read_survey(path: str | Path) -> dict[str, Any]:
    """Read survey.json; UserError names the field that does not fit the schema."""
    remedy = "Analyse the ratings again with `empo survey analyse`."
    return read_typed(path, SURVEY_SCHEMA, _SURVEY, remedy)
