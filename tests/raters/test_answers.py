"""Log-likelihoods of answers: against one answer at a time, whatever the batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

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


def test_the_likelihood_of_an_answer_is_that_of_its_tokens() -> None:
    tokenizer = write_tokenizer()
    model = untrained(tokenizer)
    expected = [[one_by_one(model, tokenizer, p, a) for a in ANSWERS] for p in PROMPTS]
    for batch_size in (1, 3, 64):
        found = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, batch_size)
        assert found.dtype == np.float64 and found.shape == (3, 5)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 1  # the answers are not all alike
    assert answer_log_probs(model, tokenizer, [], ANSWERS).shape == (0, 5)
