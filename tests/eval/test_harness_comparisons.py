"""Two systems on the same tasks, compared item by item."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest
from tiny_harness import items

from empo.metrics.statistics import holm
from empo.records import UserError, read_json, write_jsonl
from empo.reporting.harness_results import read_harness, write_harness


def test_two_systems_are_compared_on_their_items(run, tmp_path, capsys):
    assert run("tiny,empo_emotions,tiny_half", output="a") == 0
    compare = ["--compare", tmp_path / "a"]
    assert run("tiny,empo_emotions,tiny_half", *compare, model="two", output="b") == 0
    comparisons = read_harness(tmp_path / "b" / "harness.json")["comparisons"]
    by_task = {row["task"]: row for row in comparisons}
    assert list(by_task) == ["tiny_small", "tiny_large", "empo_emotions", "tiny_half", "tiny"]
    pairs = {
        task: [(x["metrics"]["acc"], y["metrics"]["acc"]) for x, y in zip(*both, strict=True)]
        for task in ("tiny_small", "tiny_large", "empo_emotions")
        for both in [(items(tmp_path / "b", task), items(tmp_path / "a", task))]
    }
    pairs["tiny"] = pairs["tiny_small"] + pairs["tiny_large"]
    for task, values in pairs.items():
        row = by_task[task]
        assert (row["a"], row["b"], row["n"]) == ("two", "one", len(values))
        assert row["only_a"] == values.count((1, 0)) and row["only_b"] == values.count((0, 1))
        assert row["difference"] == pytest.approx((row["only_a"] - row["only_b"]) / len(values))
    emotions = by_task["empo_emotions"]
    assert emotions["test"] == "McNemar, exact"
    assert min(emotions["only_a"], emotions["only_b"]) > 0
    exact = binomtest(emotions["only_a"], emotions["only_a"] + emotions["only_b"]).pvalue
    assert emotions["p"] == pytest.approx(exact)
    corrected = holm([row["p"] for row in comparisons])
    assert [row["p_holm"] for row in comparisons] == corrected
    half = by_task["tiny_half"]
    assert (half["difference"], half["p"], half["p_holm"], half["only_a"]) == (
        0.0,
        None,
        None,
        None,
    )
    assert half["reasons"]["p"] == "an item is not simply right or wrong in this metric."
    assert set(half["reasons"]) == {"p", "p_holm", "only_a", "only_b"}
    assert "against" in capsys.readouterr().out


def test_a_model_against_itself_shows_no_difference(run, tmp_path):
    assert run("tiny_large", "--system", "first", output="a") == 0
    assert run("tiny_large", "--system", "second", output="b") == 0
    capture = (tmp_path / "b" / "harness.json").read_text()
    # compared afterwards, without the model being asked again
    assert run("tiny_large", "--system", "second", "--compare", tmp_path / "a", output="b") == 0
    results = read_harness(tmp_path / "b" / "harness.json")
    (row,) = results["comparisons"]
    assert (row["difference"], row["only_a"], row["only_b"]) == (0.0, 0, 0)
    assert (row["p"], row["p_holm"], row["n"]) == (1.0, 1.0, 11)
    assert results["created"] == json.loads(capture)["created"]


def test_a_comparison_on_a_part_of_the_items_says_so(run, tmp_path, capsys):
    assert run("tiny,empo_emotions", "--limit", "4", output="a") == 0
    assert run("tiny,empo_emotions", "--compare", tmp_path / "a", model="two", output="b") == 0
    rows = read_harness(tmp_path / "b" / "harness.json")["comparisons"]
    told = {row["task"]: row["reasons"].get("n") for row in rows}
    assert told["tiny_small"] == "4 items are in both: of 5 of two and of 4 of one."
    assert told["tiny"] == "8 items are in both: of 16 of two and of 8 of one."
    said = capsys.readouterr().out.splitlines()
    assert "tiny against one: 8 items are in both: of 16 of two and of 8 of one." in said
    assert any(line.startswith("empo_emotions against one: 4 items are in both") for line in said)
    assert not any(line.startswith("tiny_small against") for line in said)


def test_systems_that_share_nothing_are_refused_and_nothing_is_lost(run, tmp_path):
    assert run("tiny_small", output="a") == 0
    changed = [{**row, "doc_hash": "other"} for row in items(tmp_path / "a", "tiny_small")]
    write_jsonl(tmp_path / "a" / "items" / "tiny_small.jsonl", changed)
    with pytest.raises(UserError, match="no item stands in"):
        run("tiny_small", "--compare", tmp_path / "a", model="two", output="b")
    assert read_harness(tmp_path / "b" / "harness.json")["tasks"]["tiny_small"]["n"] == 5
    with pytest.raises(UserError, match="that system is called 'one' too"):
        run("tiny_small", "--compare", tmp_path / "a", output="c")
    other = read_json(tmp_path / "a" / "harness.json")
    write_harness(tmp_path / "a" / "harness.json", {**other, "system": "x"})
    with pytest.raises(UserError, match="seed is 42 there and 3 here"):
        run("tiny_small", "--compare", tmp_path / "a", "--seed", "3", output="c")
    with pytest.raises(UserError, match="max_length is None there and 64 here"):
        run("tiny_small", "--compare", tmp_path / "a", "--max-length", "64", output="c")
    old = {**other, "system": "x", "versions": {**other["versions"], "lm_eval": "0.0"}}
    write_harness(tmp_path / "a" / "harness.json", old)
    with pytest.raises(UserError, match="lm_eval is '0.0' there and '"):
        run("tiny_small", "--compare", tmp_path / "a", output="c")
    assert not (tmp_path / "c").exists()
