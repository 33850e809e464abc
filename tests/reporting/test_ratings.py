"""Ratings over runs: read once, as a table and as a picture."""

import copy
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from markdown_it import MarkdownIt

from empo.metrics.evaluation import evaluate
from empo.metrics.ratings import ratings
from empo.rating import Dimension, Ratings
from empo.records import Response
from empo.reporting.over_runs import combine
from empo.reporting.ratings import rated, ratings_over_runs
from empo.reporting.ratings_figure import ratings_figure
from empo.reporting.run_figures import draw_figures
from empo.reporting.runs_report import render_runs

PAID, FAR = "pa.id|$x$", "_an independent rater with a long name"
SYSTEM = "hard|est $a^{"


class Words:
    """As many points as the response has words, in one dimension after another."""

    def __init__(self, *dimensions):
        self.dimensions = dimensions

    def score(self, pairs, *, batch_size=32):
        counts = np.array([len(pair.response.split()) for pair in pairs], float)
        return Ratings.of(self.dimensions, np.stack([counts] * len(self.dimensions), 1), "words")


WARM, LONG = Dimension("warm_words", 0, 4, "interval"), Dimension("long", 0, 9, "interval")
RATERS = {PAID: Words(WARM, LONG), FAR: Words(Dimension("warm_words", 1, 7, "interval"), LONG)}


def run(seed, raters):
    """Replies of one and of three words by `sft`; SYSTEM has two words per reply, or 2.5 on average."""
    replies = {"sft": ["so", "so it is"], SYSTEM: ["it is", "it is" + " so" * (seed - 1)]}
    systems = {
        name: [
            Response(
                id=f"e{i}",
                emotion="sad",
                context=[{"role": "user", "content": "hello"}],
                reference="it is so sad",
                response=text,
                system=name,
            )
            for i, text in enumerate(texts)
        ]
        for name, texts in replies.items()
    }
    extra = {"ratings": lambda of: ratings(of, raters)}
    results = evaluate(systems, metrics=["length"], extra=extra, resamples=99)
    results["rating_weights"] = {name: [f"weights of {name}"] for name in raters}
    for name, of in results["systems"].items():
        of["trained"] = {"command": "dpo", "seed": 7 if name == "sft" else seed, "settings": {}}
    results["systems"][SYSTEM]["reward"] = [{"name": "x", "weights": f"weights of {PAID}"}]
    per_response = {}
    for row in results.pop("per_response"):
        per_response.setdefault(row["system"], {})[row["id"]] = row["values"]
    return {"folder": f"{seed}", "results": results, "per_response": per_response, "harness": {}}


@pytest.fixture(scope="module")
def report():
    """Two runs, in both of which both raters were asked."""
    return combine([run(1, RATERS), run(2, RATERS)])


def rows_of(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    cells = [
        tokens[i + 1].content for i, t in enumerate(tokens) if t.type in ("td_open", "th_open")
    ]
    width = sum(token.type == "th_open" for token in tokens)
    return [cells[i : i + width] for i in range(0, len(cells), width)]


def test_every_rating_is_read_with_its_runs_and_who_was_rewarded(report):
    found = rated(report)
    assert [one.system for one in found] == ["sft"] * 4 + [SYSTEM] * 4 + ["human"] * 4
    places = [(one.rater, one.dimension, one.ends) for one in found[:4]]
    assert sorted(places) == sorted(
        [
            (PAID, "warm_words", "0 to 4"),
            (PAID, "long", "0 to 9"),
            (FAR, "warm_words", "1 to 7"),
            (FAR, "long", "0 to 9"),
        ]
    )
    assert list(found[0].value["runs"].values()) == [2.0]
    assert list(found[4].value["runs"].values()) == [2.0, 2.5]
    assert {(one.rater, one.system) for one in found if one.rewarded} == {(PAID, SYSTEM)}


def test_a_rating_that_nobody_has_is_left_out(report):
    changed = copy.deepcopy(report)
    changed["systems"]["sft"]["values"]["ratings.raters.pa.id|$x$.long.mean"]["mean"] = None
    assert len(rated(changed)) == 11
    for system in changed["systems"].values():
        system["values"] = {k: v for k, v in system["values"].items() if "ratings" not in k}
    assert rated(changed) == [] and ratings_over_runs(changed) == ""


def test_the_table_has_a_column_per_rater_and_a_row_per_system_and_scale(report):
    text = ratings_over_runs(report)
    paid, far = "pa.id|\\$x\\$", "\\_an independent rater with a long name"
    warm, system = "warm\\_words", "hard|est \\$a^{"
    assert rows_of(text) == [
        ["dimension", "system", paid, far, "runs"],
        ["long, 0 to 9", "sft", "2.000", "2.000", "1"],
        ["long, 0 to 9", system, "2.250 ± 0.354 †", "2.250 ± 0.354", "2"],
        ["long, 0 to 9", "human", "4.000", "4.000", "1"],
        [f"{warm}, 0 to 4", "sft", "2.000", "—", "1"],
        [f"{warm}, 0 to 4", system, "2.250 ± 0.354 †", "—", "2"],
        [f"{warm}, 0 to 4", "human", "4.000", "—", "1"],
        [f"{warm}, 1 to 7", "sft", "—", "2.000", "1"],
        [f"{warm}, 1 to 7", system, "—", "2.250 ± 0.354", "2"],
        [f"{warm}, 1 to 7", "human", "—", "4.000", "1"],
    ]
    assert "†: this rater chose the replies of the system, or rewarded its training" in text
    assert text in render_runs(report)
    changed = copy.deepcopy(report)
    changed["systems"][SYSTEM]["rewarded_by"] = []
    assert "†" not in ratings_over_runs(changed)


def test_raters_that_were_asked_in_other_runs_have_their_own_number_of_runs():
    one, two = run(1, RATERS), run(2, {PAID: RATERS[PAID]})
    rows = rows_of(ratings_over_runs(combine([one, two])))
    (row,) = [row for row in rows if row[0].startswith("long") and row[1].startswith("hard")]
    assert row[2:] == ["2.250 ± 0.354 †", "2.000", "2, 1"]


def texts_of(path):
    """What is written in an SVG file (matplotlib leaves it as comments beside the glyphs)."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))


def test_the_figure_has_a_panel_per_scale_and_a_mark_per_run(report, tmp_path):
    path = tmp_path / "ratings.svg"
    ratings_figure(rated(report), list(report["systems"]), path)
    texts = texts_of(path)
    for label in ("warm words", "0 to 4", "1 to 7", "long", "0 to 9"):
        assert label in texts
    assert texts.index("sft") < texts.index("human")
    legend = [text for text in texts if "pa.id" in text or "independ" in text or "an ind" in text]
    assert len(legend) == 3 and sum("(reward)" in text for text in legend) == 1
    marks, hollow = marks_of(path)
    # a panel of two raters, two of one; sft has 1 mark, SYSTEM 2, human 1
    assert len(marks) == (2 + 1 + 1) * 4
    assert len(hollow) == 2 * 2  # runs of SYSTEM by the rewarded rater, in its two dimensions


def marks_of(path):
    """Styles of all marks in the panels of an SVG file, and of those that are not filled."""
    of = "{http://www.w3.org/2000/svg}"
    panels = [g for g in ET.parse(path).iter(f"{of}g") if g.get("id", "").startswith("axes_")]
    groups = [g for panel in panels for g in panel if g.get("id", "").startswith("PathColl")]
    marks = [use.get("style", "") for group in groups for use in group.iter(f"{of}use")]
    return marks, [style for style in marks if "fill: none" in style]


def test_little_noise_does_not_fill_a_panel(report, tmp_path):
    changed = copy.deepcopy(report)
    for system in changed["systems"].values():
        for key, value in system["values"].items():
            if key.startswith("ratings.") and key.endswith(".mean"):
                value["runs"] = {label: 2.0 + i / 1000 for i, label in enumerate(value["runs"])}
    path = tmp_path / "ratings.svg"
    ratings_figure(rated(changed), list(changed["systems"]), path)
    ticks = [float(text) for text in texts_of(path) if re.fullmatch(r"\d\.\d+", text)]
    assert max(ticks) - min(ticks) > 0.1


def test_the_same_report_gives_the_same_bytes(report, tmp_path):
    for name in ("one.svg", "two.svg"):
        ratings_figure(rated(report), list(report["systems"]), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_it_stands_among_the_figures_of_the_report(report, tmp_path):
    figures = draw_figures(report, tmp_path / "report.md")
    (caption,) = [text for text in figures if text.startswith("Ratings: a mark per run; hollow")]
    assert (tmp_path / figures[caption]).name == "report-ratings.svg"
    none = {**report, "systems": {n: s | {"values": {}} for n, s in report["systems"].items()}}
    assert not any(text.startswith("Ratings") for text in draw_figures(none, tmp_path / "b.md"))
