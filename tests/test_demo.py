"""`empo demo`: every step of the flow by its real command, with what it promises kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from empo.corpora import load_corpus
from empo.records import Pair, read_json, read_jsonl, read_responses, sha256
from empo.reporting.markdown import escape

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
from tiny_runs import ROOT, command

SYSTEMS = ("baseline", "length-controlled", "sft", "dpo")


def demo(folder: Path) -> str:
    """Run the command; its standard output."""
    empo = "from empo.cli import main; main()"
    done = command([sys.executable, "-c", empo, "demo", "--output", folder], timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole demonstration."""
    folder = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    (folder.parent).mkdir()
    (folder.parent / "stdout.txt").write_text(demo(folder))
    return folder


@pytest.fixture(scope="session")
def results(folder: Path) -> dict[str, Any]:
    return read_json(folder / "results.json")


def test_all_that_is_promised_is_kept(folder: Path, results: dict[str, Any]) -> None:
    checks = results["demo"]["checks"]
    assert len(checks) == 7
    assert [check["promise"] for check in checks if not check["kept"]] == []
    out = (folder.parent / "stdout.txt").read_text()
    assert out.count("    kept  ") == 7 and "NOT KEPT" not in out
    report = (folder / "report.md").read_text()
    for check in checks:
        assert f"{escape(check['measured'])} | yes |" in report


def test_the_checks_say_what_the_numbers_say(results: dict[str, Any]) -> None:
    measured = results["demo"]["evaluations"]
    assert measured["base"]["last"]["eval_loss"] <= 0.70
    assert measured["sft"]["last"]["eval_loss"] <= 0.9 * measured["sft"]["first"]["eval_loss"]
    assert abs(measured["dpo"]["first"]["eval_rewards/margins"]) < 5e-6
    assert measured["dpo"]["last"]["eval_rewards/accuracies"] >= 0.80
    assert 0 < results["demo"]["fall_of_chosen_logp_per_token"] < 1
    assert min(results["demo"]["well_formed"].values()) >= 0.95
    share = {
        name: system["metrics"]["composed_emotion"]["mean"]
        for name, system in results["systems"].items()
    }
    assert share["baseline"] < share["dpo"] <= 1


def test_the_report_says_that_it_is_a_demonstration(folder: Path) -> None:
    report = (folder / "report.md").read_text()
    assert report.startswith("# EmPO demonstration\n\n**This is a demonstration on composed dia")
    assert "measures nothing about empathy" in report
    for name in (*SYSTEMS, "human"):
        assert name in report


def test_four_systems_and_the_human_stand_in_the_results(results: dict[str, Any]) -> None:
    assert results["schema"] == "empo.results/1"
    assert set(results["systems"]) == {*SYSTEMS, "human"}
    assert {system["n"] for system in results["systems"].values()} == {320}
    assert {"systems", "comparisons", "not_run", "versions", "seed", "created"} <= results.keys()
    assert results["seed"] == 42
    keys = {"a", "b", "metric", "difference", "interval", "p", "p_holm", "test", "n"}
    assert results["comparisons"] and all(keys <= row.keys() for row in results["comparisons"])
    for entry in results["not_run"]:
        assert entry["metric"] and entry["reason"]


def test_the_rater_measures_levels_of_all_systems_beside_two_controls(
    folder: Path, results: dict[str, Any]
) -> None:
    levels = {name: s["metrics"]["diff_epitome"] for name, s in results["systems"].items()}
    assert set(levels) == {*SYSTEMS, "human"} and levels["human"]["mean"] == 0
    for name in SYSTEMS:
        assert levels[name]["n"] == 320 and levels[name]["mean"] > 0
        assert {"always_level_0", "drawn_from_reference"} <= levels[name]["controls"].keys()
    report = (folder / "report.md").read_text()
    (warning,) = results["warnings"]
    assert warning.endswith("its levels measure that composer, not empathy.")
    assert report.count("measure that composer, not empathy") >= 2


def test_the_rater_lies_apart_with_its_evidence(folder: Path) -> None:
    assert [path.parent for path in folder.rglob("results.json")] == [folder]
    rater = read_json(folder / "raters" / "levels" / "rater.json")
    assert rater["schema"] == "empo.rater-results/1"
    for shown in rater["evidence"]["dimensions"].values():
        assert shown["constant"]["interval"][0] > 0 and shown["length"]["interval"][0] > 0


def test_every_file_of_the_contract_is_there(folder: Path) -> None:
    for run in ("base", "sft", "dpo"):
        facts = read_json(folder / run / "run.json")
        assert (facts["status"], facts["command"]) == ("complete", run)
        steps = [row["step"] for _, row in read_jsonl(folder / run / "log.jsonl")]
        assert steps == sorted(steps) and steps[-1] == facts["steps"]
    test = [e.id for e in load_corpus(ROOT / "data/sample", "test").exchanges()]
    for name in SYSTEMS:
        path = folder / "responses" / f"{name}.jsonl"
        responses = read_responses(path)
        assert [response.id for response in responses] == test
        assert {response.system for response in responses} == {name}
        assert read_json(f"{path}.manifest.json")["sha256"] == sha256(path)
    train = {e.id: e for e in load_corpus(ROOT / "data/sample", "train").exchanges()}
    assert len(read_json(folder / "pairs" / "manifest.json")["files"]) == 3
    for epoch in range(3):
        rows = [row for _, row in read_jsonl(folder / "pairs" / f"epoch-{epoch}.jsonl")]
        pairs = [Pair.model_validate(row) for row in rows]
        assert [pair.id for pair in pairs] == list(train)
        for pair in pairs:
            assert train[pair.rejected_id].emotion == pair.opposite
            assert train[pair.rejected_id].reply == pair.rejected[0].content
    assert not list(folder.rglob("*.partial"))


def test_no_file_holds_nan(folder: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for path in [*folder.glob("*.json"), *folder.glob("*/run.json")]:
        json.loads(path.read_text(), parse_constant=refuse)


def test_a_second_run_does_only_what_is_missing(folder: Path) -> None:
    kept = [*folder.glob("*/*.safetensors"), *folder.glob("*/log.jsonl")]
    kept += folder.glob("responses/*.jsonl")
    dpo = folder / "responses" / "dpo.jsonl"
    kept.remove(dpo)
    assert len(kept) == 9
    before = {path: path.stat().st_mtime_ns for path in kept}
    digest = sha256(dpo)
    dpo.unlink()
    out = demo(folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert out.count("this run is complete.") == 4
    assert sha256(dpo) == digest


@pytest.mark.slow
def test_the_same_seed_elsewhere_gives_the_same_replies(folder: Path, tmp_path: Path) -> None:
    demo(tmp_path / "elsewhere")
    for name in SYSTEMS:
        again = tmp_path / "elsewhere" / "responses" / f"{name}.jsonl"
        assert again.read_bytes() == (folder / "responses" / f"{name}.jsonl").read_bytes()
    ours, theirs = (read_json(f / "results.json") for f in (tmp_path / "elsewhere", folder))
    scores = [
        {name: s["metrics"].pop("bertscore", {}).get("f1") for name, s in of["systems"].items()}
        for of in (ours, theirs)
    ]
    assert scores[0] == pytest.approx(
        scores[1], abs=1e-6
    )  # its batches follow the process's hashes
    assert ours["systems"] == theirs["systems"]
    for ours_row, theirs_row in zip(ours["comparisons"], theirs["comparisons"], strict=True):
        if ours_row["metric"] != "bertscore":
            assert ours_row | {"p_holm": 0} == theirs_row | {"p_holm": 0}


def test_every_metric_and_what_the_models_know(folder: Path, results: dict[str, Any]) -> None:
    # the lexicons of iva may not be shipped
    assert [entry["metric"] for entry in results["not_run"]] == ["iva"]
    assert 0 < results["systems"]["dpo"]["metrics"]["bertscore"]["f1"] < 1
    report = (folder / "report.md").read_text()
    for section in ("At a glance", "Language understanding", "Diversity", "Comparisons"):
        assert f"\n## {section}\n" in report
    for system in ("baseline", "sft", "dpo"):
        score = read_json(folder / "harness" / system / "harness.json")["tasks"]["empo_emotions"]
        assert f"| {system} | {score['value']:.3f} ± {score['stderr']:.3f} |" in report
