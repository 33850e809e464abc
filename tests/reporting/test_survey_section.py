"""The survey in a report: every number from survey.json, the paper's Table 7 beside ours."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest

from empo.records import UserError
from empo.reporting.published import SURVEY_ASPECTS
from empo.reporting.survey_figures import draw_survey
from empo.reporting.survey_results import read_survey, write_survey
from empo.reporting.survey_section import survey_report, survey_section

SYSTEMS = ("sft", "dpo", "human|x")


def described(mean: float) -> dict[str, Any]:
    return {
        "n": 9, "mean": mean, "sd": 5.0, "length_correlation": 0.25,
        "mixed": {"mean": mean + 0.5, "stderr": 0.5, "interval": [mean - 0.5, mean + 1.5]},
        "quantiles": [mean - 9, mean - 4, mean, mean + 4, mean + 9], "ratings": 27, "fewest": 3,
    }  # fmt: skip


def compared(a: str, b: str, aspect: str, d: float, p: float) -> dict[str, Any]:
    return {
        "a": a, "b": b, "metric": aspect, "difference": 10 * d, "interval": [0.0, 20 * d], "p": p / 2,
        "p_holm": p, "test": "a test", "n": 9,
        "d": {"paired": 2 * d, "pooled": d, "pooled_interval": [d - 1, d + 1]},
        "length_controlled": {"intercept": 1.5, "interval": [1.0, 2.0], "slope": 0.1,
                              "share_longer": 1.0, "share_shorter": 0.0},
        "reasons": {},
        "mixed": {"difference": 9 * d, "stderr": 1.0, "interval": [0.0, 1.0], "p": p / 3, "p_holm": p / 2},
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    aspects = list(SURVEY_ASPECTS)
    icc = {"items": 9, "ratings": 27, "per_item": 3.0, "single": 0.2, "single_interval": [0.1, 0.3],
           "mean": 0.5, "mean_interval": [0.4, 0.6]}  # fmt: skip
    found = {
        "raters": 9,
        "ratings": 108,
        "exchanges": 9,
        "systems": {
            name: {aspect: described(50.0 + i) for aspect in aspects}
            for i, name in enumerate(SYSTEMS)
        },
        "agreement": dict.fromkeys(aspects, icc),
        "variances": {aspect: {"reply": 4.0, "rater": 9.0, "residual": 16.0} for aspect in aspects},
        "comparisons": [
            compared(a, b, aspect, 0.5, 0.00004 if aspect == aspects[0] else 0.5)
            for aspect in aspects
            for a, b in itertools.combinations(SYSTEMS, 2)
        ],
    }
    return {
        "schema": "empo.survey/2", "created": "2026-01-01", "versions": {"python": "3"}, "seed": 0,
        "resamples": 999, "command": "empo survey analyse x", "inputs": [], "aspects": aspects,
        "statements": {}, "missing": 2, "replaced": 3, "rules": {"straight_share": 0.8, "fast_seconds": 5.0},
        "flagged": [], "all": found, "without_flagged": None,
    }  # fmt: skip


def test_it_is_written_and_read(results: dict[str, Any], tmp_path: Path) -> None:
    write_survey(tmp_path / "survey.json", results)
    assert read_survey(tmp_path / "survey.json") == results
    del results["all"]["raters"]
    (tmp_path / "survey.json").write_text(__import__("json").dumps(results))
    with pytest.raises(UserError, match=r"survey.json, field 'all.raters': Field required"):
        read_survey(tmp_path / "survey.json")


def test_means_tests_and_agreement(results: dict[str, Any]) -> None:
    text = survey_section(results, {"A figure": "f.svg"})
    assert text.startswith("## Human survey\n") and "![A figure](f.svg)" in text
    assert "9 raters, 108 ratings, 9 exchanges, 3 systems" in text
    assert "Ratings without a value, left out: 2" in text
    assert "Replies rated by links that were replaced, left out: 3" in text
    assert "| sft | 50.50 \\[49.50, 51.50\\] |" in text
    assert (
        "| emotion understanding | sft − dpo | 5.00 \\[0.00, 10.00\\] | &lt; 0.0001 \\*\\*\\* | "
        "4.50 \\[0.00, 1.00\\] | &lt; 0.0001 \\*\\*\\* | 0.50 \\[−0.50, 1.50\\] | 9 |"
    ) in text
    assert "random intercepts of reply, rater;" in text and "over the 12 tests" in text
    assert "a paired p after it is no smaller than 0.012." in text
    assert (
        "| emotion understanding | 0.200 \\[0.100, 0.300\\] | 0.500 \\[0.400, 0.600\\] | 3.00 | 4.00 | 9.00 | 16.00 |"
        in text
    )
    assert "1.5000 \\[1.0000, 2.0000\\] †" in text
    assert "human\\|x" in text, "names are escaped"


def test_the_published_table_stands_beside_systems_of_its_names(results: dict[str, Any]) -> None:
    text = survey_section(results)
    assert "| dpo over sft | −0.50 | −0.50 | −0.50 | −0.50 |" in text, "turned round as printed"
    assert "| dpo over sft, published | .20 | .00 | .25 | .22 |" in text
    assert "over human" not in text, "there is no system of that name"
    for row in results["all"]["comparisons"]:
        row["a"] = row["a"].replace("sft", "other")
    assert "published" not in survey_section(results)


def test_what_flagged_raters_change(results: dict[str, Any]) -> None:
    results["flagged"] = [
        {
            "rater": "r|7",
            "items": 5,
            "straight": 1.0,
            "median_seconds": 1.25,
            "reasons": ["too fast"],
        }
    ]
    without = copy.deepcopy(results["all"])
    text = survey_section(results | {"without_flagged": without})
    assert "| r\\|7 | too fast | 1.00 | 1.2 | 5 |" in text
    assert "no mark of the mixed model changes" in text
    without["comparisons"][0]["mixed"]["p_holm"] = 0.5
    text = survey_section(results | {"without_flagged": without})
    assert (
        "these marks of the mixed model change: emotion understanding sft − dpo (\\*\\*\\* to none)."
        in text
    )
    assert "nothing is left to compare" in survey_section(results)


def test_the_report_alone_says_how(results: dict[str, Any]) -> None:
    text = survey_report(results, {})
    assert text.startswith("# Human survey\n") and "empo survey analyse x" in text
    assert "Seed 0, 999 resamples" in text


def test_figures_are_the_same_every_time(results: dict[str, Any], tmp_path: Path) -> None:
    figures = draw_survey(results, tmp_path, "s")
    assert list(figures.values()) == ["s.svg", "s-comparisons.svg"]
    first = [(tmp_path / name).read_bytes() for name in figures.values()]
    draw_survey(results, tmp_path, "s")
    assert first == [(tmp_path / name).read_bytes() for name in figures.values()]
    results["all"]["systems"]["sft"]["emotion_understanding"] |= {"quantiles": None}
    draw_survey(results, tmp_path, "s")
    assert first[0] != (tmp_path / "s.svg").read_bytes()
