"""On-policy training with a reward: replies sampled from the policy itself, on trl's GRPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOTrainer

from empo.alignment.run_trainer import Batch, RunTrainer
from empo.alignment.training import length_facts
from empo.dialogues import Exchange
from empo.prompts import ChatFormat


def prompt_rows(
    exchanges: Sequence[Exchange], chat: ChatFormat, max_length: int
) -> tuple[Dataset, dict[str, Any]]:
    """Rows with `id`, `row` (its place), `prompt` and `context` (messages), and facts of their lengths.

    A prompt gives up its oldest turns until it has at most `max_length` tokens; one whose last turn
    does not fit is left out and named in the facts. The rater reads the whole context.
    """
    rows: list[dict[str, Any]] = []
    lengths: list[int] = []
    shortened, filtered = 0, []
    for exchange in exchanges:
        messages = exchange.messages()
        ids, dropped = chat.fitting_prompt(messages, max_length)
        if ids is None:
            filtered.append(exchange.id)
            continue
        shortened += dropped > 0
        row = {"id": exchange.id, "row": len(rows), "emotion": exchange.emotion}
        rows.append(row | {"prompt": messages[dropped:], "context": messages})
        lengths.append(len(ids))
    facts = length_facts(lengths, shortened, filtered)
    return Dataset.from_list(rows), facts


class RewardTrainer(RunTrainer, GRPOTrainer):
    """GRPO on prompts that are those of SFT, DPO and generation, to the token."""

    def __init__(self, *, chat: ChatFormat, **kwargs: Any) -> None:
        self.chat = chat
        super().__init__(**kwargs)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Ids of the prompts; trl would render them itself, without our system message and checks."""
        return [self.chat.prompt(messages) for messages in prompts], None, {}

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: Any,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The trainer's step; its prompts are remembered until the gradient is known to be finite."""
        rows = torch.tensor([row["row"] for row in inputs])
        loss = GRPOTrainer.training_step(self, model, inputs, num_items_in_batch)
        self._step_batches.append(Batch(rows, rows, loss))
        return loss

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The trainer's: its inputs are rows of the data."""
        return GRPOTrainer.prediction_step(self, model, inputs, *args, **kwargs)
