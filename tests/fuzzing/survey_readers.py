"""Readers of a survey: its words, plan, links and answers, ratings of others, what was analysed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from inputs import Sample
from light_readers import Reader, on

from empo.reporting import survey_results
from empo.survey import plan, ratings, texts
from empo.survey.store import Answer, Store

TEXTS = texts.DEFAULT.read_text("utf-8")
MESSAGE = {"role": "user", "content": "I lost my keys."}
ITEMS = [
    {"id": f"e{i}", "emotion": "sad", "context": [MESSAGE], "responses": {"a": "Oh.", "b": "No."}}
    for i in range(2)
]
BATCHES = [
    {"number": i + 1, "group": 0, "round": i, "kind": "mixed", "order": [x, y],
     "places": [[0, x], [1, y]]}
    for i, (x, y) in enumerate(("ab", "ba"))
]  # fmt: skip
PLAN = {
    "schema": "empo.survey-plan/1", "created": "2026-01-01", "versions": {}, "command": "empo", "seed": 1,
    "design": {}, "inputs": [], "texts_sha256": hashlib.sha256(TEXTS.encode()).hexdigest(),
    "contact": "us", "url": "http://127.0.0.1:8000", "systems": ["a", "b"], "items": ITEMS,
    "batches": BATCHES, "balance": plan.balance_of(BATCHES),
}  # fmt: skip
TIDY = [
    ["item", "rater", "aspect", "value", "system", "exchange", "seconds", "characters"],
    ["e0/a", "r1", "warm", "40", "a", "e0", "12.5", "60"],
    ["e0/b", "r1", "warm", "", "b", "e0", "", "61"],
]
EFFECT = {"paired": 0.5, "pooled": 0.5, "pooled_interval": None}
ANALYSIS = {
    "raters": 2, "ratings": 4, "exchanges": 2,
    "systems": {name: {"warm": {
        "n": 2, "mean": 5.0, "sd": None, "length_correlation": None,
        "mixed": {"mean": 5.0, "stderr": 1.0, "interval": [3.0, 7.0]},
        "quantiles": [1.0, 2.0, 3.0, 4.0, 5.0], "ratings": 2, "fewest": 1}} for name in "ab"},
    "agreement": {"warm": {"items": 2, "ratings": 4, "per_item": 2.0, "single": 0.5,
                           "single_interval": [0.1, 0.9], "mean": None, "mean_interval": None}},
    "variances": {"warm": {"rater": 1.0, "residual": 2.0}},
    "comparisons": [{
        "a": "a", "b": "b", "metric": "warm", "difference": 1.0, "interval": [0.0, 2.0], "p": 0.5,
        "p_holm": 0.5, "test": "t", "n": 2, "d": EFFECT, "length_controlled": None, "reasons": {},
        "mixed": {"difference": 1.0, "stderr": 1.0, "interval": [0.0, 2.0], "p": 0.3, "p_holm": 0.3}}],
}  # fmt: skip
SURVEY = {
    "schema": "empo.survey/2", "created": "2026-01-01", "versions": {}, "seed": 0, "resamples": 199,
    "command": "empo", "inputs": [], "aspects": ["warm"], "statements": {"warm": "It is warm."},
    "missing": 0, "replaced": 0, "rules": {"straight_share": 0.8, "fast_seconds": 5.0},
    "flagged": [{"rater": "r1", "items": 2, "straight": None, "median_seconds": 1.0, "reasons": ["x"]}],
    "all": ANALYSIS, "without_flagged": None,
}  # fmt: skip


def _answers() -> bytes:
    """A file of answers, written whole."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "a.sqlite")
        store.add_links([1, 2])
        store.consent(1, "mine")
        store.keep(1, Answer(0, {"warm": 40}, 12.5))
        store.bind(hashlib.sha256(Sample("json", PLAN).data).hexdigest())
        store.close()
        return (Path(folder) / "a.sqlite").read_bytes()


def _exported(folder: Path) -> object:
    """All ratings of the answers in a folder."""
    content = plan.read_plan(folder)
    store = plan.open_answers(folder, content)
    try:
        return list(ratings.rating_rows(content, store))
    finally:
        store.close()


def _linked(folder: Path) -> None:
    before = os.umask(0o077)
    plan.append_links(folder / "links.csv", "http://127.0.0.1:8000", [1], ["x" * 32])
    os.umask(before)


READERS = [
    Reader("survey: texts", {"texts.yaml": Sample("text", TEXTS)}, on("texts.yaml", texts.load_texts), ("survey.texts.load_texts",)),
    Reader(
        "survey: plan", {"plan.json": Sample("json", PLAN), "texts.yaml": Sample("text", TEXTS)},
        plan.read_plan, ("survey.plan.read_plan",),
    ),
    Reader("survey: links", {"links.csv": Sample("text", "batch,link\n1,http://x/s/y\n")}, _linked, ("survey.plan.append_links",)),
    Reader(
        "survey: answers",
        {"answers.sqlite": Sample("binary", _answers()), "plan.json": Sample("json", PLAN),
         "texts.yaml": Sample("text", TEXTS)},
        _exported, ("survey.store.Store._open", "survey.plan.read_plan"),
    ),
    Reader("survey: ratings of others", {"tidy.csv": Sample("csv", TIDY)}, on("tidy.csv", ratings.read_ratings_table), ("survey.ratings.read_ratings_table",)),
    Reader("survey.json", {"survey.json": Sample("json", SURVEY)}, on("survey.json", survey_results.read_survey), ("reporting.survey_results.read_survey",)),
]  # fmt: skip
