"""Random states: they come back to the bit, each process its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import trainer_utils

from empo.alignment.sft import MaskedTurnTrainer
from empo.checkpoints.random_states import load_random_state, save_random_state

CPU = torch.device("cpu")


def draws() -> list[float]:
    """One of everything that may be asked of the four generators."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        *torch.randn(3).tolist(),
        *torch.nn.functional.dropout(torch.ones(8)).tolist(),
    ]


@pytest.mark.parametrize("used", [0, 1, 2, 1000])
def test_random_states_come_back_exactly(tmp_path: Path, used: int) -> None:
    """Also in the middle of a pair of normal numbers, of which Python and numpy keep the second."""
    trainer_utils.set_seed(7)
    for _ in range(used):
        draws()
    save_random_state(tmp_path / "state.safetensors", CPU)
    expected = [draws() for _ in range(700)]  # past the end of the words that are kept
    trainer_utils.set_seed(8)
    assert draws() != expected[0]
    load_random_state(tmp_path / "state.safetensors", CPU)
    assert [draws() for _ in range(700)] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_random_state_of_a_gpu_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cuda:0")
    save_random_state(tmp_path / "state.safetensors", device)
    expected = torch.randn(8, device=device)
    load_random_state(tmp_path / "state.safetensors", device)
    assert torch.equal(torch.randn(8, device=device), expected)
    save_random_state(tmp_path / "cpu.safetensors", CPU)
    load_random_state(tmp_path / "cpu.safetensors", device)
    assert "cpu.safetensors has no random state of a cuda" in caplog.text


def test_a_trainer_restores_the_state_of_its_own_process(
    done: MaskedTurnTrainer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert done._random_state(str(run)).name == "rng_state.safetensors"
    done._load_rng_state(None)
    done._load_rng_state(str(run / "checkpoint-2"))
    expected = draws()
    draws()
    done._load_rng_state(str(run / "checkpoint-2"))
    assert draws() == expected
    done._load_rng_state(str(run))
    assert f"{run}/rng_state.safetensors is not there: dropout goes on with other" in caplog.text
