"""Sampled replies that belong to their exchange: neither batch, order nor a restart changes them.

`generate` draws all rows of a batch from one stream of random numbers. Here every reply has its own
numbers, one per token, and a token is found by inverting the distribution at its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)


def numbers_of(seed: int, exchange_id: str, reply: int, tokens: int) -> torch.Tensor:
    """Random numbers in [0, 1) for the tokens of one reply of an exchange, shape (tokens,)."""
    digest = hashlib.sha256(f"{seed}/{reply}/{exchange_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(tokens, generator=generator, dtype=torch.float64)


def drawn_tokens(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Of every row of scores, (rows, vocabulary), the token at its number in [0, 1); shape (rows,).

    Token t is drawn where the probabilities up to t exceed the number: with the probability
    softmax(scores)[t] over uniform numbers. One of probability 0 is never drawn.
    """
    reached = scores.double().softmax(dim=-1).cumsum(dim=-1)
    aimed = (numbers.to(reached) * reached[:, -1]).unsqueeze(-1)
    return torch.searchsorted(reached, aimed, right=True).squeeze(-1)


class OwnNumbers(LogitsProcessor):
    """Leaves of every row's scores only the token at the row's next number.

    `numbers` has shape (rows, tokens). For `generate` without sampling, which takes the highest.
    """

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape (rows, vocabulary): 0 for the drawn token, -inf for the others."""
        drawn = drawn_tokens(scores, self.numbers[:, self.step])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn.unsqueeze(-1), 0.0)


def own_sampling(
    numbers: Sequence[torch.Tensor], temperature: float, top_p: float
) -> LogitsProcessorList:
    """Temperature, nucleus and the drawing of one batch, a row of numbers per reply."""
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)]
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList([*warpers, OwnNumbers(torch.stack(list(numbers)))])
