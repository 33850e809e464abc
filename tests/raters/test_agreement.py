"""Agreement tables: golden values, intervals that are a plain bootstrap, and the command itself."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empo import cli
from empo.raters.agreement import (
    AGREEMENT_SCHEMA,
    COEFFICIENTS,
    agreement,
    agreement_table,
    cell_agreement,
)
from empo.raters.coefficients import PAIRWISE, alpha, pair_coefficients
from empo.raters.judgements import Judgements, read_tidy
from empo.records import UserError, read_json

NAN = np.nan


def cell(values: Any) -> Judgements:
    values = np.asarray(values, dtype=float)
    items, raters = ([str(i) for i in range(n)] for n in values.shape)
    return Judgements("", "", "event", tuple(items), tuple(raters), values)


def tidy(path: Path, values: np.ndarray, aspect: str = "event") -> Path:
    """The values, shape (items, raters), as a tidy csv."""
    rows = ["item,rater,aspect,value\n"]
    for (i, j), value in np.ndenumerate(values):
        rows.append(f"i{i},r{j},{aspect},{'' if np.isnan(value) else value}\n")
    path.write_text("".join(rows))
    return path


def noisy(items: int, raters: int, noise: float, seed: int) -> np.ndarray:
    """Ratings 1..4 in steps of 0.5 around a common value of each item."""
    rng = np.random.default_rng(seed)
    common = rng.uniform(1, 4, (items, 1))
    return np.clip(np.round(2 * (common + rng.normal(0, noise, (items, raters)))) / 2, 1, 4)


def test_the_mean_is_over_pairs() -> None:
    # the third rater reverses the other two: correlations 1, -1, -1
    found = cell_agreement(cell([[1, 1, 3], [2, 2, 2], [3, 3, 1]]), 100, 0)
    assert found["coefficients"]["pearson"]["value"] == pytest.approx(-1 / 3, abs=1e-15)
    # equal classes: 3 of 3, 1 of 3, 1 of 3
    assert found["coefficients"]["agreement"]["value"] == pytest.approx(5 / 9, abs=1e-15)
    counts = {name: found[name] for name in ("items", "raters", "pairs", "ratings", "missing")}
    assert counts == {"items": 3, "raters": 3, "pairs": 3, "ratings": 9, "missing": 0}
    assert [pair["raters"] for pair in found["by_pair"]] == [["0", "1"], ["0", "2"], ["1", "2"]]


def test_perfect_agreement_is_1() -> None:
    values = noisy(30, 1, 0, seed=0) @ np.ones((1, 4))
    for name, entry in cell_agreement(cell(values), 200, 0)["coefficients"].items():
        assert entry["value"] == pytest.approx(1, abs=1e-12), name
        assert entry["interval"] == pytest.approx([1, 1], abs=1e-12), name


def test_random_ratings_agree_as_much_as_chance() -> None:
    values = np.random.default_rng(3).integers(1, 5, (400, 4))
    found = cell_agreement(cell(values), 500, 0)["coefficients"]
    for name in ("pearson", "spearman", "kappa", "alpha"):
        assert abs(found[name]["value"]) < 0.05, name
        low, high = found[name]["interval"]
        assert low < 0 < high, name
    assert found["agreement"]["value"] == pytest.approx(0.25, abs=0.03)


def test_a_pair_is_compared_on_the_items_that_both_rated() -> None:
    values = np.array([[1, 1, NAN], [2, 2, 4], [3, 4, 3], [NAN, 1, 1], [4, NAN, 2]])
    found = cell_agreement(cell(values), 100, 0)
    assert [pair["items"] for pair in found["by_pair"]] == [3, 3, 3]
    first, second = values[[1, 2, 4], 0], values[[1, 2, 4], 2]
    expected, _ = pair_coefficients(first, second)
    assert {name: found["by_pair"][1][name] for name in PAIRWISE} == expected
    assert (found["ratings"], found["missing"]) == (12, 3)


@pytest.mark.parametrize("missing", [0, 0.2])
def test_intervals_are_those_of_a_plain_bootstrap_with_the_libraries(missing: float) -> None:
    values = noisy(25, 3, 0.8, seed=1)
    values[np.random.default_rng(2).random(values.shape) < missing] = NAN
    resamples, seed = 100, 7
    found = cell_agreement(cell(values), resamples, seed)["coefficients"]
    draws: dict[str, list[float]] = {name: [] for name in COEFFICIENTS}
    for rows in np.random.default_rng(seed).integers(0, 25, (resamples, 25)):
        sample = values[rows]
        pairs = []
        for i, j in itertools.combinations(range(3), 2):
            both = np.isfinite(sample[:, [i, j]]).all(axis=1)
            pairs.append(pair_coefficients(sample[both, i], sample[both, j])[0])
        for name in PAIRWISE:
            draws[name].append(np.mean([pair[name] for pair in pairs]))
        draws["alpha"].append(alpha(sample)[0])
    for name, of in draws.items():
        expected = np.quantile(of, [0.025, 0.975])
        assert found[name]["interval"] == pytest.approx(expected.tolist(), abs=1e-12), name


def test_resampling_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = noisy(20, 3, 1, seed=4)
    whole = cell_agreement(cell(values), 101, 0)
    monkeypatch.setattr("empo.raters.agreement._CELLS", 20 * 7)
    parts = cell_agreement(cell(values), 101, 0)
    for name in COEFFICIENTS:
        assert parts["coefficients"][name]["interval"] == pytest.approx(
            whole["coefficients"][name]["interval"], abs=1e-12
        )


def test_the_seed_decides_the_interval_and_not_the_value() -> None:
    values = noisy(20, 2, 1, seed=5)
    first, again, other = (cell_agreement(cell(values), 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["coefficients"]["alpha"]["value"] == other["coefficients"]["alpha"]["value"]
    assert first["coefficients"]["alpha"]["interval"] != other["coefficients"]["alpha"]["interval"]


def test_the_order_of_rows_and_raters_means_nothing() -> None:
    values = noisy(20, 4, 1, seed=6)
    first = cell_agreement(cell(values), 100, 0)["coefficients"]
    second = cell_agreement(cell(values[::-1, [2, 0, 3, 1]]), 100, 0)["coefficients"]
    for name in COEFFICIENTS:
        assert first[name]["value"] == pytest.approx(second[name]["value"], abs=1e-12)


def test_pairs_without_a_coefficient_are_left_out_of_the_mean_and_named() -> None:
    values = np.array([[1, 1, 2, NAN], [2, 2, 2, 5], [3, 4, 2, NAN], [4, 3, 2, NAN]])
    found = cell_agreement(cell(values), 100, 0)
    pearson = found["coefficients"]["pearson"]
    assert (pearson["pairs"], found["coefficients"]["kappa"]["pairs"]) == (1, 3)
    assert pearson["value"] == found["by_pair"][0]["pearson"] == pytest.approx(0.8)
    _, _, notes = agreement_table(
        {
            "rows": [found],
            "bootstrap": {"interval": "percentile, 95%", "resamples": 100, "seed": 0},
        }
    )
    text = "\n".join(notes)
    assert (
        "event: no pearson, spearman for 0 with 2, 1 with 2: the second rater gives one value to "
        "all items rated by both." in text
    )
    assert (
        "event: no pearson, spearman, kappa, agreement for 0 with 3, 1 with 3, 2 with 3: fewer "
        "than 2 items rated by both." in text
    )


def test_an_interval_is_missing_where_many_resamples_define_nothing() -> None:
    # all three items alike in 3 of 27 draws: no correlation in 11 % of them
    found = cell_agreement(cell([[1, 1], [2, 2], [3, 4]]), 500, 0)["coefficients"]["pearson"]
    assert found["value"] is not None
    assert found["interval"] is None
    assert "of 500 resamples do not define the coefficient" in found["reasons"]["interval"]


def test_an_aspect_with_one_rater_has_dashes_and_the_reason(tmp_path: Path) -> None:
    path = tidy(tmp_path / "t.csv", noisy(10, 2, 1, seed=0))
    path.write_text(path.read_text() + "i0,ann,moral,1\ni1,ann,moral,2\n")
    result = agreement(read_tidy(path), resamples=100)
    headers, rows, notes = agreement_table(result)
    moral = [row for row in rows if row[0] == "moral"]
    assert len(moral) == len(COEFFICIENTS)
    column = headers.index("value")
    assert {tuple(row[column : column + 2]) for row in moral} == {("-", "-")}
    assert any("moral: no value of" in note and "one rater (ann)" in note for note in notes)


def test_one_rater_alone_is_refused(tmp_path: Path) -> None:
    path = tidy(tmp_path / "t.csv", noisy(5, 1, 1, seed=0))
    with pytest.raises(UserError, match=r"agreement needs two raters.*\(r0\).*column 'rater'"):
        agreement(read_tidy(path))


# --- the command ---


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["empo", "agreement", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_the_command_prints_four_decimals_and_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tidy(tmp_path / "t.csv", np.array([[1, 1], [1, 2], [2, 2], [2, NAN]]))
    output = tmp_path / "out"
    words = ("--input", str(path), "--output", str(output), "--resamples", "200", "--seed", "3")
    assert call(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "7 ratings of 4 items by 2 raters in 'event'; cells without a rating: 1" in printed
    line = next(line for line in printed.splitlines() if "Krippendorff" in line)
    assert line.split()[4] == "0.4444"  # 1 - (2 / 6) / (18 / 30)
    assert line.split()[-5:] == ["4", "2", "1", "7", "1"]
    assert "200 resamples of the items, seed 3" in printed

    result = read_json(output / "agreement.json")
    assert result["schema"] == AGREEMENT_SCHEMA
    (row,) = result["rows"]
    assert row["coefficients"]["alpha"]["value"] == pytest.approx(4 / 9, abs=1e-15)
    assert row["coefficients"]["pearson"]["pairs"] == 1
    assert result["bootstrap"]["resamples"] == 200
    text = (output / "agreement.md").read_text()
    assert "| event | Krippendorff's alpha (interval) | 0.4444 |" in text
    assert "cells without a rating: 1" in text


def test_groups_and_settings_have_columns_only_where_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["item,rater,aspect,value,group"]
    for group, second in (("experts", [1, 2, 3]), ("crowd", [3, 2, 1])):
        for item, (a, b) in enumerate(zip([1, 2, 3], second, strict=True)):
            rows += [f"{item},{group}1,event,{a},{group}", f"{item},{group}2,event,{b},{group}"]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    assert call(monkeypatch, "--input", str(path), "--resamples", "100") == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "coefficient " in line)
    assert header.split()[:2] == ["group", "aspect"]
    values = {line.split()[0]: line.split()[5] for line in lines if "pairwise Pearson  " in line}
    assert values == {"experts": "1.0000", "crowd": "-1.0000"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resamples", "10"), "--resamples: 10 is too few; at least 100 are needed"),
        (("--seed", "-1"), "--seed: -1 is negative"),
        (("--output", __file__), "is a file; a folder is needed"),
        (("--wide", "P_{rater}"), "no column is named like 'P_{rater}'"),
        ((), "field 'value': 'x' is no number"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("item,rater,aspect,value\ni,a,event,x\n")
    assert call(monkeypatch, "--input", str(path), *words) == 2
    assert message in capsys.readouterr().err


def test_the_two_raters_of_intents_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    definitions = tmp_path / "own.yaml"
    definitions.write_text("intents: {asks: The agent asks.}\nperceived: {warmth: Is warm.}\n")
    path = tmp_path / "own.csv"
    rows = ["dialogue_id,turn,role,text,asks_1,asks_2,warmth_1,warmth_2", "d,0,customer,Hi,,,,"]
    rows += [
        "d,1,agent,A,1,1,1,2",
        "d,2,agent,B,0,1,2,3",
        "d,3,agent,C,0,0,,",
        "d,4,agent,D,1,1,4,5",
    ]
    path.write_text("\n".join(rows) + "\n")
    words = ["--input", str(path), "--schema", "intents", "--resamples", "100"]
    own = ["--definitions", str(definitions)]
    assert call(monkeypatch, *words, *own, "--output", str(tmp_path / "out")) == 0
    result = read_json(tmp_path / "out" / "agreement.json")
    asks, warmth = result["rows"]
    assert (asks["aspect"], asks["items"], asks["raters"]) == ("asks", 4, 2)
    assert asks["coefficients"]["agreement"]["value"] == 0.75
    assert asks["coefficients"]["kappa"]["value"] == pytest.approx(0.5)  # (.75 - .5) / (1 - .5)
    assert (warmth["items"], warmth["coefficients"]["pearson"]["value"]) == (3, pytest.approx(1))
    assert call(monkeypatch, *words, "--wide", "{aspect}_{rater}") == 2
    assert "--wide: the columns of the schema intents are known" in capsys.readouterr().err
    assert call(monkeypatch, "--input", str(path), *own) == 2
    assert "--definitions: only --schema intents has them" in capsys.readouterr().err
    path.write_text(f"{rows[0]}\n{rows[1]}\n")
    assert call(monkeypatch, *words, *own) == 2
    assert f"{path}: nobody judged anything in it." in capsys.readouterr().err


def test_the_help_names_both_kinds_of_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert "item, rater, aspect, value" in text
    assert "--wide 'Person_{rater}_{aspect}_score'" in text


def test_four_people_on_the_urdu_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "EMPO_DATA" not in os.environ:
        pytest.skip("EMPO_DATA is not set, so the Urdu annotations are not there")
    pandas = pytest.importorskip("pandas")
    path = Path(os.environ["EMPO_DATA"]) / "urdu_pairs" / "Urdu_Dataset_Annotation.csv"
    words = ("--input", str(path), "--wide", "Person_{rater}_{aspect}_score")
    assert call(monkeypatch, *words, "--output", str(tmp_path)) == 0
    assert "columns not read: 'gpt_score', 'Event_AVG'" in capsys.readouterr().out
    result = read_json(tmp_path / "agreement.json")
    table = pandas.read_csv(path)
    upper = np.triu_indices(4, 1)
    for row in result["rows"]:
        columns = table[[f"Person_{k}_{row['aspect']}_score" for k in range(1, 5)]]
        for name in ("pearson", "spearman"):
            expected = columns.corr(method=name).to_numpy()[upper].mean()
            assert row["coefficients"][name]["value"] == pytest.approx(expected, abs=1e-12)
        assert (row["items"], row["raters"], row["pairs"], row["missing"]) == (291, 4, 6, 0)
    alphas = {row["aspect"]: row["coefficients"]["alpha"]["value"] for row in result["rows"]}
    assert alphas == pytest.approx(
        {"event": 0.2145, "emotion": 0.3161, "empathy": 0.3924}, abs=5e-5
    )
