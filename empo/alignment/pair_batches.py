"""Batches of preference pairs: the rejected replies of the current epoch, laid out for the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.layouts import pack_pairs
from empo.alignment.run_trainer import ROWS
from empo.alignment.shared_prefix import NAME


@dataclass
class EpochCollator(DataCollatorForPreference):
    """trl's collator on the rejected replies of the current epoch.

    A row of `dpo_rows` becomes `rejected_per_prompt` pairs, side by side. The rows' own places are
    added under `rows`, and the layout of the step under `shared_prefix` where `shared` is true.
    """

    rejected_per_prompt: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        # in shared memory, so that persistent workers see it too
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of `epoch` (0-based) from now on, in every worker."""
        self._epoch.fill_(epoch)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows of `dpo_rows`."""
        pairs = [pair for row in examples for pair in self._pairs(row)]
        batch = super().torch_call(pairs)
        if self.shared:
            names = [row["id"] for row in examples]
            rejected = [self.rejected_per_prompt] * len(names)
            batch[NAME] = pack_pairs(batch, names, rejected, self.pad_to_multiple_of)
        batch[ROWS] = torch.tensor([row["row"] for row in examples])
        return batch

    def _pairs(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        first = int(self._epoch) * self.rejected_per_prompt
        pairs = []
        for number in range(first, first + self.rejected_per_prompt):
            draw = number % len(row["rejected_pool"])
            pair = {
                "prompt_ids": row["prompt_ids"],
                "chosen_ids": row["chosen_ids"],
                "rejected_ids": row["rejected_pool"][draw],
            }
            if "ref_rejected_pool" in row:
                pair["ref_chosen_logps"] = row["ref_chosen_logp"]
                pair["ref_rejected_logps"] = row["ref_rejected_pool"][draw]
            pairs.append(pair)
        return pairs


class FollowsEpochs(Protocol):
    """A collator or sampler that does something else in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Prepare for `epoch` (0-based)."""


class SetEpoch(TrainerCallback):
    """Tells collator and sampler which epoch begins."""

    def __init__(self, *followers: FollowsEpochs) -> None:
        self.followers = followers

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set before the first batch is asked for; `state.epoch` is fractional after a resume."""
        for follower in self.followers:
            follower.set_epoch(int(state.epoch or 0))
