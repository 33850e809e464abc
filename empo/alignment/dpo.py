"""DPO whose rejected replies are drawn anew in every epoch, on trl's DPOTrainer.

Every row carries the rejected replies of all epochs, drawn ahead by `empo.preferences`; the
collator takes the one of the current epoch. The epoch lies in shared memory, so that persistent
workers see it too, and is set before an epoch's first batch, also after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.settings import DpoSettings
from empo.alignment.training import RunTrainer, length_facts
from empo.dialogues import Exchange
from empo.models import ModelSource, load_model, resolve
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError


def dpo_rows(
    exchanges: Sequence[Exchange], draws: Draws, chat: ChatFormat, max_length: int, epochs: int
) -> tuple[Dataset, dict[str, Any]]:
    """Rows with `prompt_ids`, `chosen_ids` and `rejected_pool` (one reply per epoch).

    Replies end on the end-of-text token and are never cut. A prompt gives up its oldest turns until
    it fits with the longest of the row's replies; where even the last turn does not fit, the row is
    left out and named in the facts.
    """
    rows: list[dict[str, Any]] = []
    lengths: list[int] = []
    shortened, filtered, chosen_tokens = 0, [], 0
    for exchange in exchanges:
        chosen = list(chat.completion(exchange.reply))
        rejected = [draws.draw(epoch, exchange.id) for epoch in range(epochs)]
        pool = [list(chat.completion(reply.reply)) for reply in rejected]
        longest = max(len(chosen), *map(len, pool))
        prompt, dropped = chat.fitting_prompt(exchange.messages(), max_length - longest)
        if prompt is None:
            filtered.append(exchange.id)
            continue
        shortened += dropped > 0
        chosen_tokens += len(chosen)
        lengths.append(len(prompt) + longest)
        rows.append(
            {
                "id": exchange.id,
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_pool": pool,
                "rejected_ids_pool": [reply.id for reply in rejected],
            }
        )
    facts = length_facts(lengths, shortened, filtered)
    facts["mean_chosen_tokens"] = chosen_tokens / len(rows)
    return Dataset.from_list(rows), facts


def hand_over(settings: DpoSettings) -> ModelSource:
    """Where policy and reference start: the merged SFT weights, or base and SFT adapter.

    Raises UserError where the SFT model is not there in the form that `sft_adapter` asks for: with
    `merge` base, reference and the system `sft` have to be the same weights.
    """
    merged = settings.sft_adapter == "merge"
    source = resolve(settings.model, revision=settings.revision, merged=merged)
    if not merged and not source.adapters:
        raise UserError(f"{settings.model}: sft_adapter: keep needs an adapter, this is a model.")
    if merged and source.adapters:
        raise UserError(
            f"{settings.model}: the adapter is not merged. Run `empo merge --model "
            f"{settings.model}` first, or set `sft_adapter: keep`."
        )
    return source


def check_prompts(chat: ChatFormat, source: ModelSource) -> None:
    """Refuse to align a model under other prompts than it was fine-tuned with."""
    trained = source.run.get("template_sha256")
    if trained is not None and trained != chat.sha256:
        raise UserError(
            f"{source.base}: SFT used the system message {source.run.get('system_message')!r} and "
            f"its chat template; here it is {chat.system_message!r}. Set system_message and "
            "chat_template as in SFT."
        )


def epochs_drawn(args: DPOConfig, rows: int) -> int:
    """Number of epochs for which replies have to be drawn ahead."""
    if args.max_steps <= 0:
        return math.ceil(args.num_train_epochs)
    batch = args.per_device_train_batch_size * args.world_size
    steps = math.ceil(math.ceil(rows / batch) / args.gradient_accumulation_steps)
    return math.ceil(args.max_steps / steps)


def policy_and_reference(
    settings: DpoSettings, source: ModelSource
) -> tuple[PreTrainedModel, PreTrainedModel | None, str]:
    """The policy, the reference model where one is needed beside it, and the reference in words.

    With adapters there is one set of base weights: the reference is the base without the fresh
    adapter, or with the frozen copy of the SFT adapter that trl makes.
    """

    def load() -> PreTrainedModel:
        return load_model(
            source, settings.dtype, settings.attention, settings.load_in_4bit, trainable=True
        )

    if settings.full_training:
        return load(), load(), f"a frozen copy of {source.base}"
    if source.adapters:
        return load(), None, f"a frozen copy of the adapter {source.adapters[-1]}"
    return load(), None, f"{source.base} without the adapter"


@dataclass
class EpochCollator(DataCollatorForPreference):
    """trl's collator on the rejected reply of the current epoch; rows with one reply keep it."""

    def __post_init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of `epoch` (0-based) from now on, in every worker."""
        self._epoch.fill_(epoch)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows of `dpo_rows`."""
        epoch = int(self._epoch)
        return super().torch_call(
            [
                {
                    "prompt_ids": row["prompt_ids"],
                    "chosen_ids": row["chosen_ids"],
                    "rejected_ids": row["rejected_pool"][epoch % len(row["rejected_pool"])],
                }
                for row in examples
            ]
        )


class SetEpoch(TrainerCallback):
    """Tells the collator which epoch begins."""

    def __init__(self, collator: EpochCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set before the first batch is asked for; `state.epoch` is fractional after a resume."""
        self.collator.set_epoch(int(state.epoch or 0))


class RedrawnDPOTrainer(RunTrainer, DPOTrainer):
    """trl's DPOTrainer on tokenised rows whose rejected reply changes with the epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(SetEpoch(self.data_collator))

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # the rows are tokenised; trl would filter long ones without a word
