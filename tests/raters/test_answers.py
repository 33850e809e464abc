"""Log-likelihoods of answers: against one answer at a time, whatever the batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language_models import untrained, write_tokenizer

from empo.raters.answers import answer_log_probs

PROMPTS = ["How was it?", "The day was awful, I lost my job today. How was it? mood", "poor"]
ANSWERS = ["0", "1", "10", "great", "okay, fine"]


def one_by_one(model: torch.nn.Module, tokenizer: object, prompt: str, answer: str) -> float:
    start = tokenizer(prompt).input_ids
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([start + ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, dim=-1)
    return sum(log_probs[len(start) + k - 1, token].item() for k, token in enumerate(ids))


def counting_positions(tokenizer: object) -> torch.nn.Module:
    """A model to which absolute positions matter, unlike to one with rotary embeddings."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("make", [untrained, counting_positions])
def test_the_likelihood_of_an_answer_is_that_of_its_tokens(make: Callable[..., Any]) -> None:
    tokenizer = write_tokenizer()
    model = make(tokenizer)
    expected = [[one_by_one(model, tokenizer, p, a) for a in ANSWERS] for p in PROMPTS]
    for batch_size in (1, 3, 64):
        found = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, batch_size)
        assert found.dtype == np.float64 and found.shape == (3, 5)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 1  # the answers are not all alike
    assert answer_log_probs(model, tokenizer, [], ANSWERS).shape == (0, 5)
