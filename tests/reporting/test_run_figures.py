import re
import xml.etree.ElementTree as ET

import pytest

from empo.rating import MECHANISMS
from empo.reporting.figures import wide_enough
from empo.reporting.run_figures import (
    draw_figures,
    panel_values,
    plane_axes,
    plane_figure,
    stability_figure,
    sweep_figure,
)

HOSTILE = "_a long $name^{ of a system | that nobody would choose"


def value(*values):
    return {"runs": dict(enumerate(values))}


def report(systems, sweeps=(), scores=None, shown=("mmlu",)):
    """As much of a report as figures need: system -> metric.value -> values of its runs."""
    understanding = scores and {
        "shown": list(shown),
        "systems": {n: {t: value(*v) for t, v in of.items()} for n, of in scores.items()},
    }
    return {
        "runs": [{}, {}],
        "systems": {
            n: {"values": {k: value(*v) for k, v in of.items()}, "counts": {}}
            for n, of in systems.items()
        },
        "sweeps": list(sweeps),
        "language_understanding": understanding,
        "surveys": {},
    }


ALPHAS = (16, 64, 1024)
SWEEP = {"setting": "lora_alpha", "lines": {"sft": [[a, f"sft-{a}"] for a in ALPHAS]}}


@pytest.fixture
def swept():
    systems = {
        f"sft-{a}": {"diff_epitome.mean": [a / 2048, a / 1024], "nidf.mean": [0.3, 0.31]}
        for a in ALPHAS
    }
    systems["baseline"] = {"diff_epitome.mean": [0.9], "nidf.mean": [0.2]}
    systems["human"] = {"diff_epitome.mean": [0.0], "nidf.mean": [0.35]}
    scores = {f"sft-{a}": {"mmlu": [0.6 - a / 9999]} for a in ALPHAS} | {
        "baseline": {"mmlu": [0.6]}
    }
    return report(systems, [SWEEP], scores)


def axes_of(path):
    """Number of axes in an SVG file."""
    ids = [element.get("id", "") for element in ET.parse(path).iter()]
    return sum(name.startswith("axes_") for name in ids)


def texts_of(path):
    """What is written in an SVG file (matplotlib leaves it as comments beside the glyphs)."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))


def test_panels_are_of_what_somebody_has(swept):
    series = panel_values(swept)
    assert list(series) == ["DIFF-EPITOME", "NIDF", "mmlu"]
    assert series["NIDF"]["sft-16"] == [0.3, 0.31]
    assert "human" not in series["DIFF-EPITOME"]
    assert "human" in series["NIDF"]
    swept["systems"]["sft-16"]["values"]["nidf.mean"]["runs"][1] = None
    assert panel_values(swept)["NIDF"]["sft-16"] == [0.3]


def test_a_sweep_makes_three_figures_with_the_name_of_the_report(swept, tmp_path):
    figures = draw_figures(swept, tmp_path / "all.md")
    assert list(figures.values()) == [
        "all-sweep-lora_alpha.svg",
        "all-plane-lora_alpha.svg",
        "all-stability.svg",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(figures.values())
    assert axes_of(tmp_path / "all-sweep-lora_alpha.svg") == 3
    assert axes_of(tmp_path / "all-plane-lora_alpha.svg") == 1
    assert axes_of(tmp_path / "all-stability.svg") == 3


def test_ticks_are_the_values_of_the_setting_and_lines_are_named(swept, tmp_path):
    sweep_figure(SWEEP, panel_values(swept), tmp_path / "s.svg")
    texts = texts_of(tmp_path / "s.svg")
    for tick in ("16", "64", "1024"):
        assert texts.count(tick) == 3  # one per panel
    assert texts.count("sft") == texts.count("baseline") == texts.count("human") == 1
    assert texts.count("lora_alpha") == 3


def test_the_plane_names_every_point(swept, tmp_path):
    series = panel_values(swept)
    axes = plane_axes(SWEEP, series, swept["language_understanding"])
    assert axes == ("mmlu", "DIFF-EPITOME")
    plane_figure(SWEEP, series, axes, tmp_path / "p.svg")
    texts = texts_of(tmp_path / "p.svg")
    for name in ("16", "64", "1024", "baseline", "mmlu", "DIFF-EPITOME"):
        assert texts.count(name) == 1


def test_the_plane_takes_mmlu_and_the_first_metric_there_is(swept):
    for system in swept["systems"].values():
        del system["values"]["diff_epitome.mean"]
    understanding = swept["language_understanding"]
    understanding["shown"] = ["arc", "mmlu"]
    for of in understanding["systems"].values():
        of["arc"] = of["mmlu"]
    assert plane_axes(SWEEP, panel_values(swept), understanding) == ("mmlu", "NIDF")
    assert plane_axes(SWEEP, panel_values(swept), None) is None


def test_the_same_report_gives_the_same_bytes(swept, tmp_path):
    for name in ("a", "b"):
        draw_figures(swept, tmp_path / name / "r.md")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_stability_has_a_dot_per_run_and_a_line_at_the_mean(tmp_path):
    series = {"NIDF": {"a": [0.1, 0.2, 0.4], "b": [0.5], "human": [0.3]}}
    stability_figure(series, tmp_path / "s.svg")
    groups = {
        element.get("id"): [child.tag.split("}")[1] for child in element.iter()]
        for element in ET.parse(tmp_path / "s.svg").iter()
        if re.match(r"(Path|Line)Collection", element.get("id", ""))
    }
    dots = [tags.count("use") for name, tags in groups.items() if name.startswith("Path")]
    assert dots == [3, 1, 1]
    assert sum(name.startswith("Line") for name in groups) == 3


@pytest.mark.parametrize(
    "values, limits, expected",
    [
        ([0.5, 0.501], (0.4999, 0.5011), (0.475475, 0.525525)),  # a tenth of the mean .5005
        ([0.2, 0.4], (0.19, 0.41), (0.19, 0.41)),
        ([-10, -10.1], (-10.11, -9.99), (-10.5525, -9.5475)),
        ([0, 0], (-0.05, 0.05), (-0.05, 0.05)),
    ],
)
def test_an_axis_spans_a_tenth_of_the_mean(values, limits, expected):
    assert wide_enough(limits, {"a": values[:1], "b": values[1:]}) == pytest.approx(expected)


def test_every_panel_is_wide_enough(swept, tmp_path):
    for system in swept["systems"].values():
        system["values"] = {"nidf.mean": value(0.5, 0.501)}
    series = panel_values(swept)
    sweep_figure(SWEEP, series, tmp_path / "sweep.svg")
    stability_figure(series, tmp_path / "stability.svg")
    for name in ("sweep", "stability"):
        ticks = [text for text in texts_of(tmp_path / f"{name}.svg") if text.startswith("0.")]
        assert min(ticks) <= "0.48" and max(ticks) >= "0.52"


def test_a_point_of_one_run_has_no_bar(swept, tmp_path):
    def bars(path):
        found = [e.get("id", "") for e in ET.parse(path).iter()]
        return sum(name.startswith("LineCollection") for name in found)

    sweep_figure(SWEEP, panel_values(swept), tmp_path / "two.svg")
    assert bars(tmp_path / "two.svg") == 2  # mmlu has one run of each
    for system in swept["systems"].values():
        for of in system["values"].values():
            of["runs"] = {0: of["runs"][0]}
    sweep_figure(SWEEP, panel_values(swept), tmp_path / "one.svg")
    assert bars(tmp_path / "one.svg") == 0


def test_captions_explain_the_bars(swept, tmp_path):
    captions = list(draw_figures(swept, tmp_path / "r.md"))
    bars = "; bars: ± standard deviation over runs"
    assert captions == [
        f"Values over lora_alpha: a point per run, the line through their means{bars}",
        f"DIFF-EPITOME against mmlu: a point per lora_alpha, mean over runs{bars}",
        "Stability over runs: a dot per run, a line at their mean, no bars",
    ]
    for system in swept["systems"].values():
        for of in system["values"].values():
            of["runs"] = {0: of["runs"][0]}
    assert not any("bars" in caption for caption in draw_figures(swept, tmp_path / "r.md"))


def counted():
    levels = {"levels": [1, 2, 3], "confusion": [[1, 0, 0]] * 3}
    return {
        "nidf": {"histogram": [4, 6]},
        "iva": {name: {"histogram": [1, 9]} for name in ("intensity", "valence", "arousal")},
        "diff_epitome": {"mechanisms": dict.fromkeys(MECHANISMS, levels)},
    }


def test_distributions_of_all_runs_are_drawn_under_the_name_of_the_report(tmp_path):
    runs = report({"a": {"nidf.mean": [0.1, 0.2]}, "b": {}})
    runs["systems"]["a"]["counts"] = counted()
    runs["systems"]["b"]["counts"] = counted() | {"nidf": {}}
    figures = draw_figures(runs, tmp_path / "all.md")
    assert list(figures.values())[1:] == ["all-epitome.svg", "all-nidf.svg", "all-iva.svg"]
    assert all("all runs that count together" in caption for caption in list(figures)[1:])
    assert {"a", "b"} <= set(texts_of(tmp_path / "all-epitome.svg"))
    assert "b" not in texts_of(tmp_path / "all-nidf.svg")
    runs["runs"] = [{}]  # its own report has them
    assert list(draw_figures(runs, tmp_path / "one.md").values()) == ["one-stability.svg"]


def test_one_run_has_no_stability_and_nothing_is_drawn(tmp_path):
    alone = report({"a": {"nidf.mean": [0.1]}, "b": {"nidf.mean": [0.2]}})
    assert draw_figures(alone, tmp_path / "r.md") == {}
    assert draw_figures(report({"a": {}}), tmp_path / "r.md") == {}
    assert list(tmp_path.iterdir()) == []


def test_hostile_and_long_names_are_no_formula_and_fit(tmp_path):
    lines = {"$dpo_{": [[0.1, HOSTILE], [0.2, "$x$"]]}
    sweep = {"setting": "beta", "lines": lines}
    systems = {
        name: {"nidf.mean": [0.1 * i, 0.3], "diff_epitome.mean": [1.0]}
        for i, name in enumerate((HOSTILE, "$x$", "line\nbreak", "human"))
    }
    scores = {name: {"mmlu": [0.5 + i / 100]} for i, name in enumerate(systems)}
    figures = draw_figures(report(systems, [sweep], scores), tmp_path / "r.md")
    assert len(figures) == 3
    texts = texts_of(tmp_path / "r-stability.svg")
    assert "line break" in texts
    assert "$x$" in texts
    (short,) = {text for text in texts if "…" in text}
    assert short.startswith(" _a long")
    assert len(short) < 30


def test_a_metric_without_swept_systems_has_no_panel(swept, tmp_path):
    for name, system in swept["systems"].items():
        if name.startswith("sft"):
            del system["values"]["nidf.mean"]
    sweep_figure(SWEEP, panel_values(swept), tmp_path / "s.svg")
    assert axes_of(tmp_path / "s.svg") == 2


def test_values_that_do_not_span_a_factor_of_ten_are_drawn_evenly(swept, tmp_path):
    near = {"setting": "lora_alpha", "lines": {"sft": [[0, "sft-16"], [2, "sft-64"]]}}
    sweep_figure(near, panel_values(swept), tmp_path / "s.svg")
    assert {"0", "2"} <= set(texts_of(tmp_path / "s.svg"))


def test_a_setting_is_no_path(swept, tmp_path):
    swept["sweeps"] = [SWEEP | {"setting": "../a b"}]
    files = draw_figures(swept, tmp_path / "r.md").values()
    assert "r-sweep-a-b-2c2c791a.svg" in files
    assert all((tmp_path / file).is_file() for file in files)
