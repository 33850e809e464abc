from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from empo.records import UserError, read_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import dpo_figures  # noqa: E402
import dpo_modes  # noqa: E402
import dpo_step  # noqa: E402

TINY = ["--device", "cpu", "--shape", "tiny", "--rounds", "2", "--grouped-rounds", "1"]
TINY += ["--seldom-rounds", "1"]


@pytest.fixture(scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, threads: None) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("benchmark") / "dpo_step.json"
    assert dpo_step.main([*TINY, "--output", str(path)]) == 0
    return read_json(path)


def test_the_file_has_what_readers_look_for(result: dict[str, Any]) -> None:
    assert result["command"][1:-2] == ["benchmarks/dpo_step.py", *TINY]
    assert result["versions"].keys() >= {"torch", "transformers", "trl", "peft"}
    assert result["machine"]["device"] == "cpu" and result["machine"]["threads"] == 1
    assert len(result["machine"]["load_average"]) == 2
    assert result["shape"]["name"] == "tiny" and result["seed"] == 0 and result["pairs"] == 8
    (measured,) = result["measurements"]
    assert measured["lora_r"] == 8
    rounds = dict.fromkeys(dpo_figures.RATIOS, 2)
    rounds |= {"ratio_vs_trl_defaults": 1, "ratio_with_checkpointing": 1}
    for name, number in rounds.items():
        assert result[name] == measured[name]
        assert result[name].keys() == {"median", "low", "high", "n"} and result[name]["n"] == number
        assert 0 < result[name]["low"] <= result[name]["median"] <= result[name]["high"]


def test_ratios_are_those_of_the_same_round(result: dict[str, Any]) -> None:
    modes = result["measurements"][0]["random"]["modes"]
    seconds = {name: mode["per_round"] for name, mode in modes.items()}
    first, second = (
        stock / ours
        for stock, ours in zip(seconds["trl best"], seconds["shared prefix"], strict=True)
    )
    ratio = result["ratio_vs_trl_best"]
    assert ratio["median"] == pytest.approx((first + second) / 2)
    assert ratio["high"] - ratio["low"] == pytest.approx(abs(first - second) / 2)
    assert seconds["trl defaults"][1] is None
    defaults = seconds["trl defaults"][0] / seconds["shared prefix"][0]
    assert result["ratio_vs_trl_defaults"]["median"] == pytest.approx(defaults)


@pytest.mark.parametrize("kind", ["random", "length_grouped"])
def test_both_sides_agree_on_the_loss(result: dict[str, Any], kind: str) -> None:
    modes = result["measurements"][0][kind]["modes"]
    expected = dpo_step.GROUPED if kind == "length_grouped" else dpo_step.MODES
    assert set(modes) == set(expected)
    ours = modes["shared prefix"]["losses"]
    assert len(set(ours)) == len(ours) == (2 if kind == "random" else 1)
    assert all(abs(loss - 0.6931) > 1e-4 for loss in ours)  # policy and reference differ
    for name, mode in modes.items():
        for loss, of_ours in zip(mode["losses"], ours, strict=True):
            if name == "shared prefix, K=3":
                assert loss != of_ours
            elif loss is not None:
                assert loss == pytest.approx(of_ours, abs=1e-5)
    assert result["measurements"][0]["largest_loss_difference"] < 1e-5


def test_tokens_are_those_of_the_layouts(tmp_path: Path) -> None:
    """Prompts of 10 and 6, replies of 3, 5, 1, 2 and 2, 2, 4, 1; trl pads all to 15."""
    rows = dpo_modes.token_rows([[10, 3, 5, 1, 2], [6, 2, 2, 4, 1]], random.Random(0), 512)
    base = dpo_modes.base_model(dpo_modes.SHAPES["tiny"], torch.device("cpu"))
    trainers = dpo_modes.Trainers(base, 4, torch.device("cpu"), str(tmp_path))
    modes = ["trl best", "shared prefix", "shared prefix, K=3"]
    steps = trainers.round(rows, modes, random.Random(0))["steps"]
    found = {
        name: (of["tokens_per_pair"], of["real_tokens_per_pair"]) for name, of in steps.items()
    }
    assert found == {
        "trl best": (4 * 15 / 2, (13 + 15 + 8 + 8) / 2),
        "shared prefix": ((10 + 2 + 4 + 6 + 1 + 1) / 2,) * 2,
        "shared prefix, K=3": ((10 + 2 + 4 + 0 + 1 + 6 + 1 + 1 + 3 + 0) / 6,) * 2,
    }
    q_and_o, k_and_v, gate_up_and_down = 2 * (64 + 64), 2 * (64 + 32), 3 * (64 + 128)
    assert trainers.parameters["adapters"] == 2 * 4 * (q_and_o + k_and_v + gate_up_and_down)


def test_only_trl_defaults_score_every_position(result: dict[str, Any]) -> None:
    import trl.trainer.utils

    before = trl.trainer.utils._use_triton
    assert before(torch.device("cpu"))  # also after the steps of `result`
    with dpo_modes._trls_own_head():
        assert not trl.trainer.utils._use_triton(torch.device("cpu"))
    assert trl.trainer.utils._use_triton is before
    assert [name for name, mode in dpo_modes.MODES.items() if mode.own_head] == ["trl defaults"]


def test_grouped_pairs_are_neighbours_in_length() -> None:
    lengths = [[10 * i, 1 + i % 7, 1 + i % 5, 1, 1] for i in range(1, 41)]
    widths = sorted(row[0] + max(row[1], row[2]) for row in lengths)
    drawn = dpo_step.draw(random.Random(3), lengths, 8, grouped=True)
    found = [row[0] + max(row[1], row[2]) for row in drawn]
    assert any(found == widths[begin : begin + 8] for begin in range(0, 40, 8))


def test_what_was_not_run_has_a_reason() -> None:
    step = {"steps": {"trl best": {"seconds": 6.0}, "shared prefix": {"seconds": 2.0}}}
    step["reference_pass"] = 3.0
    assert dpo_figures.ratio([step], "trl best", "shared prefix")["median"] == 3.0
    assert dpo_figures.ratio([step], "trl best", "shared prefix", amortised=True)["median"] == 2.0
    assert dpo_figures.ratio([step], "trl defaults", "shared prefix") == {
        "median": None,
        "low": None,
        "high": None,
        "n": 0,
        "reasons": {"median": "no round has both trl defaults and shared prefix"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("prompt,chosen\n", "columns are 'prompt,chosen'; 'prompt,chosen,rejected_1,rejected_2,"),
        ("{}9,8,7,6\n", r"line 2: '9,8,7,6'; 5 numbers of tokens, each at least 1, are expected"),
        ("{}9,8,7,6,5\n9,8,0,6,5\n", r"line 3: '9,8,0,6,5'; 5 numbers"),
        ("{}9,8,7,6,5\n", r"1 rows are fewer than the 2 of --pairs"),
    ],
)
def test_lengths_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text(text.format(",".join(dpo_step.COLUMNS) + "\n"))
    with pytest.raises(UserError, match=f"lengths.csv.*{message}"):
        dpo_step.read_lengths(str(path), 2)


def test_settings_that_cannot_work_are_named_at_once() -> None:
    words = ["--shape", "huge", "--device", "tpu", "--rounds", "0", "--lora-r", "8", "0"]
    with pytest.raises(UserError) as caught:
        dpo_step.main(words)
    assert "shape: huge is none of tiny, small, 7b." in str(caught.value)
    assert "device: tpu is neither cpu nor cuda." in str(caught.value)
    assert "rounds: 0 is less than 1." in str(caught.value)
    assert "lora_r: [8, 0] are not ranks of at least 1." in str(caught.value)


def test_the_shipped_lengths_are_whole() -> None:
    lengths = dpo_step.read_lengths(str(ROOT / "benchmarks" / "ed_lengths.csv"), 8)
    assert len(lengths) == 2_000
    assert sum(row[0] for row in lengths) / 2_000 == pytest.approx(121.7, abs=0.05)
