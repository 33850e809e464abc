"""Rows whose log-probabilities a person can compute, a model that gives some, and their pass."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from empo.alignment.reference_logps import FILE, with_reference

IDENTITY = {"weights": ["a1b2"], "dtype": "float32", "load_in_4bit": False, "template": "c3"}
TOLERANCE = 1e-4
VOCABULARY = 50


def dataset(*rows: tuple[list[int], list[int], list[list[int]]]) -> Dataset:
    """Rows of prompt, chosen and pool; their ids are r0, r1, ..."""
    return Dataset.from_list(
        [
            {
                "id": f"r{i}",
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_pool": pool,
                "rejected_ids_pool": [f"d{j}" for j in range(len(pool))],
            }
            for i, (prompt, chosen, pool) in enumerate(rows)
        ]
    )


def many(number: int, draws: int = 2) -> Dataset:
    """Rows of which no two have the same length or a completion in common."""
    return dataset(
        *(
            ([1, *range(i)], [5, i, 2], [[6 + draw, i, 2] for draw in range(draws)])
            for i in range(number)
        )
    )


def pure(prompt: list[int], completion: list[int]) -> float:
    """A number of no short decimal form that depends on every token and its place."""
    return -sum((i + 1) * math.sqrt(t + 1) for i, t in enumerate([*prompt, 0, *completion]))


class Counted:
    """`pure` as a score that keeps what it was asked, and may end or change."""

    def __init__(self, stop_at: int = 0, shift: float = 0.0) -> None:
        self.calls: list[list[tuple[list[int], list[list[int]]]]] = []
        self.stop_at, self.shift = stop_at, shift

    def __call__(
        self, prompts: list[list[int]], completions: list[list[list[int]]]
    ) -> list[list[float]]:
        self.calls.append(list(zip(prompts, completions, strict=True)))
        if len(self.calls) == self.stop_at:
            raise MemoryError("stopped")
        return [[pure(p, c) + self.shift for c in of_row] for p, of_row in self.calls[-1]]

    @property
    def asked(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Prompt and completion of everything that was scored, in that order."""
        return [
            (tuple(prompt), tuple(completion))
            for call in self.calls
            for prompt, of_row in call
            for completion in of_row
        ]


def run(
    rows: Dataset,
    folder: Path,
    score: Callable[..., Any],
    identity: dict[str, Any] = IDENTITY,
    batch_size: int = 2,
    tolerance: float = TOLERANCE,
    name: str = "train",
) -> tuple[Dataset, dict[str, Any]]:
    """`with_reference` in this process."""
    accelerator = Accelerator(cpu=True)
    return with_reference(rows, name, score, folder, identity, accelerator, batch_size, tolerance)


def assert_columns(rows: Dataset, of: Callable[[list[int], list[int]], float] = pure) -> None:
    """Every value, to the last bit, is that of its own row and completion."""
    for row in rows:
        assert row["ref_chosen_logp"] == of(row["prompt_ids"], row["chosen_ids"])
        assert row["ref_rejected_pool"] == [of(row["prompt_ids"], c) for c in row["rejected_pool"]]


def stored(folder: Path) -> dict[bytes, float]:
    with sqlite3.connect(folder / FILE) as database:
        return dict(database.execute("SELECT key, logp FROM logps"))


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def padded(
    model: LlamaForCausalLM, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[list[float]]:
    """A whole batch in one forward, every completion padded on the right behind its prompt."""
    whole = [(p, c) for p, of_row in zip(prompts, completions, strict=True) for c in of_row]
    width = max(len(p) + len(c) for p, c in whole)
    ids = torch.tensor([[*p, *c, *[0] * (width - len(p) - len(c))] for p, c in whole])
    mask = torch.tensor([[i < len(p) + len(c) for i in range(width)] for p, c in whole])
    logps = model(ids, attention_mask=mask.long()).logits.double().log_softmax(-1)
    sums = [
        sum(logps[i, len(p) - 1 + k, token].item() for k, token in enumerate(c))
        for i, (p, c) in enumerate(whole)
    ]
    taken = iter(sums)
    return [[next(taken) for _ in of_row] for of_row in completions]


def random_rows(number: int) -> Dataset:
    """Rows of random lengths; the completions of a row end on tokens of their own."""
    generator = torch.Generator().manual_seed(7)

    def ids(longest: int) -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()

    return dataset(
        *((ids(12), [*ids(5), 0], [[*ids(5), last] for last in (1, 2, 3)]) for _ in range(number))
    )
