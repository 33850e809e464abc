import copy
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from empo.raters.evaluation import aggregate, evaluate_predictions, paired
from empo.raters.predictions import Predictions
from empo.rating import Dimension
from empo.reporting.raters import grid_table, plain_summary, render_raters, write_rater_report

WARMTH = Dimension("warmth", 0, 3, "ordinal", (0.0, 1.0, 2.0, 3.0))
EVENT = Dimension("event", 0, 1, "interval")
N = 48


def predictions(share):
    """Held-out predictions in both dimensions of a rater that is right in a share of the inputs."""
    rng = np.random.default_rng(7)
    gold = np.column_stack([np.arange(N) % 4, (np.arange(N) % 5) / 4])
    right = rng.random(gold.shape) < share
    scores = np.where(right, gold, gold[::-1])
    top = np.where(rng.random(N) < 0.5, 0.9, 0.6)[:, None]
    levels = np.eye(4)[scores[:, 0].astype(int)]
    tables = levels * top + (1 - levels) * (1 - top) / 3
    return Predictions(
        gold,
        scores,
        groups=np.arange(N) // 2,
        lengths=rng.integers(5, 90, N),
        folds=np.arange(N) // 2 % 3,
        probabilities=[tables, None],
        baselines={"constant": np.full((N, 2), [0, 0.5]), "length": np.full((N, 2), [1, 0.4])},
        truncated=np.arange(N) == 0,
        response_truncated=np.zeros(N, bool),
    )


def entry(share, **further):
    found = evaluate_predictions(predictions(share), [WARMTH, EVENT], 3, resamples=200)
    return {"signature": "s@1 | x", "warnings": [], "evaluation": found} | further


CORPUS = {
    "source": "judged.jsonl",
    "schema": "examples",
    "examples": N,
    "groups": 24,
    "rejected": {"no label": 2},
    "files": [{"file": "judged.jsonl", "sha256": "ab" * 32}],
}


@pytest.fixture(scope="module")
def compared():
    """What eval/raters.py writes: two raters on one corpus."""
    return {
        "versions": {"empo": "0.1.0", "numpy": "9"},
        "input": CORPUS,
        "baseline_fit": "5-fold by group.",
        "baselines": {"constant": "the most frequent level"},
        "raters": {
            "good": entry(0.9),
            "poor": entry(0.2, warnings=["It is <b>no</b> measure."], unlabelled=["tact"]),
        },
        "comparisons": [
            {"a": "good", "b": "poor"}
            | paired(predictions(0.9), predictions(0.2), [WARMTH, EVENT], 3, resamples=200)
        ],
        "not_run": [{"rater": "poor", "dimension": "x", "reason": "the rater has no dimension x."}],
    }


@pytest.fixture(scope="module")
def trained():
    """What recipes/rater.py writes: one rater, three seeds."""
    parts = [
        evaluate_predictions(predictions(share), [WARMTH, EVENT], seed, resamples=200)
        for seed, share in enumerate((0.9, 0.8, 0.7))
    ]
    return {
        "versions": {"empo": "0.1.0"},
        "name": "ours",
        "raters": {"ours": "ours@1"},
        "data": [CORPUS],
        "split": {"group": "examples of one group stay together", "folds": 3},
        "evaluation": aggregate(parts),
        "warnings": ["Not shown."],
    }


def row(text, start):
    """The cells of the first table row that starts so."""
    line = next(line for line in text.split("\n") if line.startswith(start))
    return [cell.strip() for cell in line[1:-1].split(" | ")]


def test_warnings_come_first(compared, trained):
    text = render_raters(compared)
    title, warning = text.split("\n\n")[:2]
    assert title == "# Raters against human judgements"
    assert warning == "> **Warning.** poor: It is &lt;b&gt;no&lt;/b&gt; measure."
    assert "> **Warning.** ours: Not shown." in render_raters(trained)


def test_values_come_from_the_results(compared):
    changed = copy.deepcopy(compared)
    of = changed["raters"]["good"]["evaluation"]
    warmth, event = of["dimensions"].values()
    warmth["predictors"]["rater"]["macro_f1"] |= {"value": 0.1234, "interval": [0.0111, 0.2222]}
    warmth["predictors"]["rater"]["classes"]["3"] |= {"support": 4711}
    warmth["calibration"]["ece"]["value"] = 5.4321
    warmth["differences"]["length"]["macro_f1"] |= {"difference": -0.7654, "interval": [-0.8, -0.7]}
    event["severe"]["by_gold"]["0.25"]["errors"] = 815
    event["length_correlation"]["gold"]["spearman"]["value"] = 6.5678
    changed["comparisons"][0]["dimensions"]["event"]["mae"]["difference"] = 7.9753
    of["truncated"] = 39
    text = render_raters(changed)
    for shown in (
        "0.123 \\[0.011, 0.222\\]",
        "| 3 | 4,711 |",
        "5.432",
        "−0.765 \\[−0.800, −0.700\\] | no |",
        "| 815 |",
        "6.568",
        "7.975",
        "Truncated contexts: 39",
    ):
        assert shown in text
        assert shown not in render_raters(compared)


def test_every_section_is_there(compared):
    text = render_raters(compared, "figure.svg")
    for heading in (
        "## good",
        "### warmth",
        "### event",
        "### Against the baselines",
        "### Calibration",
        "### Correlation with the length of the text",
        "### Severe errors",
        "### Not computed",
        "## Raters in pairs",
        "## Reliability\n",
        "## Not run",
    ):
        assert heading in text
    assert "n = 48 inputs in 24 groups; seed 3; 200 resamples of the groups" in text
    assert "Without labels here: tact." in text
    assert "- event: the rater gives no probabilities of levels (calibration)" in text
    assert "48 examples in 24 groups, 2 left out; files: judged.jsonl abababababab" in text
    assert "Signature: s&#64;1 \\| x" in text


def test_the_better_of_two_raters_is_named(compared):
    pair = row(render_raters(compared), "| good against poor | warmth | macro F1 |")
    assert pair[-2:] == ["48", "good"]
    turned = copy.deepcopy(compared)
    of = turned["comparisons"][0]["dimensions"]["warmth"]["macro_f1"]
    for bounds, named in (([-0.3, -0.1], "poor"), ([-0.1, 0.1], "not shown"), (None, "—")):
        of["interval"] = bounds
        text = render_raters(turned)
        assert row(text, "| good against poor | warmth | macro F1 |")[-1] == named


def test_several_seeds_show_their_spread(trained):
    text = render_raters(trained)
    accuracy = trained["evaluation"]["dimensions"]["warmth"]["predictors"]["rater"]["accuracy"]
    low, high = accuracy["interval"]
    shown = f"{accuracy['value']:.3f} ± {accuracy['sd_seeds']:.3f} \\[{low:.3f}, {high:.3f}\\]"
    assert row(text, "| accuracy |")[1] == shown
    assert "seeds 0, 1, 2;" in text
    assert "cross-validated over 3 folds" in text
    assert "Counts of all seeds together." in text


def test_report_and_figure_lie_side_by_side(compared, trained, tmp_path):
    for results in (compared, trained):
        report = write_rater_report(results, tmp_path)
        assert report == tmp_path / "rater.md"
        assert "](rater-reliability.svg)" in report.read_text("utf-8")
        first = (tmp_path / "rater-reliability.svg").read_bytes()
        write_rater_report(results, tmp_path)
        assert (tmp_path / "rater-reliability.svg").read_bytes() == first
    ids = [e.get("id", "") for e in ET.parse(tmp_path / "rater-reliability.svg").iter()]
    assert sum(name.startswith("axes_") for name in ids) == 1  # event has no probabilities


def test_without_probabilities_there_is_no_figure(compared, tmp_path):
    alone = copy.deepcopy(compared)
    for rater in alone["raters"].values():
        rater["evaluation"]["dimensions"]["warmth"]["calibration"] = None
    text = write_rater_report(alone, tmp_path).read_text("utf-8")
    assert "## Reliability" not in text
    assert "### Calibration" not in text
    assert not list(tmp_path.glob("*.svg"))


def test_summary_has_the_baselines_beside_everything(compared, trained):
    lines = plain_summary(compared).split("\n")
    assert len(lines) == 1 + 2 * 2 * 3
    assert [line.split()[2] for line in lines[1:4]] == ["rater", "constant", "length"]
    assert "macro F1" in lines[0]
    assert "MSE" in lines[0]
    assert "±" in plain_summary(trained)


def grid(trained, **low_high):
    changed = copy.deepcopy(trained["evaluation"])
    changed["dimensions"]["event"] |= low_high
    return [
        {"architecture": "bi_encoder", "loss": "focal", "evaluation": changed},
        {"architecture": "cross_encoder", "loss": "mse", "evaluation": copy.deepcopy(changed)},
    ]


def test_grid(trained):
    text = grid_table(
        grid(trained),
        [{"architecture": "cross_encoder", "loss": "cosine", "reason": "no | cosine"}],
    )
    of = trained["evaluation"]["dimensions"]["warmth"]["predictors"]["rater"]["macro_f1"]
    low, high = of["interval"]
    cells = row(text, "| bi\\_encoder | focal |")
    assert cells[3] == f"{of['value']:.3f} ± {of['sd_seeds']:.3f} \\[{low:.3f}, {high:.3f}\\]"
    assert cells[-2:] == ["48", "0, 1, 2"]
    assert text.count("| constant | baseline |") == 2  # equal ones stand there once per table
    assert "published (Shayan)" not in text
    assert "`python eval/raters.py --held-out RUN RUN`" in text
    assert "| cross\\_encoder | cosine | no \\| cosine |" in text


def renamed(trained, **low_high):
    """The grid with `warmth` called `empathy`, or `event` if there are bounds for it."""
    entries = grid(trained, **low_high)
    for each in entries:
        dimensions = each["evaluation"]["dimensions"]
        each["evaluation"]["dimensions"] = {
            "empathy": dimensions["event" if low_high else "warmth"]
        }
    return entries


def test_published_rows_stand_only_beside_their_own_data(trained):
    text = grid_table(renamed(trained), schema="epitome")
    assert row(text, "| cross-encoder | all losses, published (Shayan)")[2] == ".565 to .584"
    assert ".0946" not in text
    text = grid_table(renamed(trained, low=0.0, high=1.0), schema="stories")
    assert row(text, "| bi-encoder | mse, published (Shayan)")[2] == ".0946"
    assert row(text, "| constant | —, published (Shayan)")[2] == ".0988"
    assert ".653" not in text
    for entries, schema in (
        (renamed(trained), "examples"),
        (renamed(trained), "stories"),
        (renamed(trained, low=0.0, high=1.0), "epitome"),
        (renamed(trained, low=1.0, high=4.0), "stories"),  # another scale
        (grid(trained), "epitome"),  # another dimension
    ):
        assert "published (Shayan)" not in grid_table(entries, schema=schema)


def test_one_seed_has_no_counts_of_all_seeds(trained):
    one = copy.deepcopy(trained)
    found = evaluate_predictions(predictions(0.9), [WARMTH, EVENT], 4, resamples=200)
    one["evaluation"] = aggregate([found])
    assert "Counts of all seeds together." not in render_raters(one)
