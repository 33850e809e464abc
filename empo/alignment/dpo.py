"""What DPO trains on and starts from: rows with the draws of all epochs, policy and reference."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, List, Value
from trl import DPOConfig

from empo.alignment.batches import TokenBudgetBatches
from empo.alignment.rows import TOKENS, Rows
from empo.alignment.settings import DpoSettings
from empo.alignment.shared_prefix import refusal
from empo.alignment.training import length_facts
from empo.dialogues import Exchange
from empo.models import ModelSource, load_config
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError, read_object

logger = logging.getLogger(__name__)

_NOT_THE_MODEL = {
    "_name_or_path",
    "base_model_name_or_path",
    "peft_version",
    "revision",
    "transformers_version",
}
"""Keys of a configuration that can change while the model stays the same."""


_FEATURES = {
    "id": Value("string"),
    "row": Value("int64"),
    "length": Value("int64"),
    "prompt_ids": TOKENS,
    "chosen_ids": TOKENS,
    "rejected_pool": List(TOKENS),
    "rejected_ids_pool": List(Value("string")),
}


def dpo_rows(
    exchanges: Sequence[Exchange],
    draws: Draws,
    chat: ChatFormat,
    max_length: int,
    epochs: int,
    rejected_per_prompt: int = 1,
) -> tuple[Dataset, dict[str, Any]]:
    """Rows with `prompt_ids`, `chosen_ids` and `rejected_pool` (K replies for every epoch in turn).

    `length` is the number of tokens of the row in its largest epoch, the prompt counted once; `row`
    its place. The K replies of an epoch are K draws that follow each other; one that comes twice in an
    epoch is passed over.

    Replies end on the end-of-text token and are never cut. A prompt gives up its oldest turns until
    it fits with the longest of the row's replies; where even the last turn does not fit, the row is
    left out and named in the facts.
    """
    several = rejected_per_prompt
    if small := {e: n for e, n in draws.pool_sizes().items() if n < several}:
        raise UserError(
            f"rejected_per_prompt: {several} different replies are needed, but there are fewer of "
            + ", ".join(f"{emotion!r} ({number})" for emotion, number in small.items())
            + f". At most {min(small.values())} can be; give more dialogues, or raise limit."
        )
    rows = Rows(_FEATURES)
    lengths: list[int] = []
    shortened, filtered, chosen_tokens = 0, [], 0
    for exchange in exchanges:
        chosen = list(chat.completion(exchange.reply))
        rejected = _drawn(draws, exchange, epochs, several)
        pool = [list(chat.completion(reply.reply)) for reply in rejected]
        longest = max(len(chosen), *map(len, pool))
        prompt, dropped = chat.fitting_prompt(exchange.messages(), max_length - longest)
        if prompt is None:
            filtered.append(exchange.id)
            continue
        shortened += dropped > 0
        chosen_tokens += len(chosen)
        lengths.append(len(prompt) + longest)
        drawn = [len(reply) for reply in pool]
        of_an_epoch = [sum(drawn[e * several : (e + 1) * several]) for e in range(epochs)]
        rows.append(
            {
                "id": exchange.id,
                "row": len(lengths) - 1,
                "length": len(prompt) + len(chosen) + max(of_an_epoch),
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_pool": pool,
                "rejected_ids_pool": [reply.id for reply in rejected],
            }
        )
    facts = length_facts(lengths, shortened, filtered)
    facts["mean_chosen_tokens"] = chosen_tokens / len(lengths)
    return rows.dataset(), facts


def _drawn(draws: Draws, exchange: Exchange, epochs: int, several: int) -> list[Exchange]:
    """The replies of all epochs in turn, those of an epoch all different."""
    pool = draws.pool_sizes()[draws.opposite(exchange)]
    chosen: list[Exchange] = []
    draw = 0
    for _ in range(epochs):
        epoch: dict[str, Exchange] = {}
        last = draw + 2 * pool  # each reply of the pool is met at least once
        while len(epoch) < several:
            if draw > last:
                raise UserError(
                    f"rejected_per_prompt: {exchange.id!r} has only {len(epoch)} different replies "
                    f"of the emotion {draws.opposite(exchange)!r} to be compared with; {several} "
                    "are needed."
                )
            reply = draws.draw(draw, exchange.id)
            epoch.setdefault(reply.reply, reply)
            draw += 1
        chosen += epoch.values()
    return chosen


def training_rows(
    exchanges: Sequence[Exchange],
    draws: Draws,
    chat: ChatFormat,
    settings: DpoSettings,
    args: DPOConfig,
    processes: int = 1,
) -> tuple[Dataset, dict[str, Any]]:
    """`dpo_rows` with the draws of as many epochs as the training has."""
    epochs = math.ceil(args.num_train_epochs) if args.max_steps <= 0 else 1
    while True:
        rows, facts = dpo_rows(
            exchanges, draws, chat, args.max_length, epochs, settings.rejected_per_prompt
        )
        if args.max_steps <= 0:
            return rows, facts
        needed = math.ceil(args.max_steps / _steps_per_epoch(rows, settings, args, processes))
        if needed <= epochs:
            return rows, facts
        epochs = needed  # more draws may have a longer reply, and leave out more rows


def _steps_per_epoch(rows: Dataset, settings: DpoSettings, args: DPOConfig, processes: int) -> int:
    size = args.per_device_train_batch_size
    if settings.tokens_per_batch is not None:
        sampler = TokenBudgetBatches(
            rows["length"], settings.tokens_per_batch, size, args.seed, processes
        )
        batches = len(sampler) // processes
    else:
        divide = math.floor if args.dataloader_drop_last else math.ceil
        batches = divide(len(rows) / (size * processes))
    return max(1, math.ceil(batches / args.gradient_accumulation_steps))


def check_batches(settings: DpoSettings, args: DPOConfig) -> None:
    """Refuse ways of making batches that contradict `tokens_per_batch`."""
    if settings.tokens_per_batch is None:
        return
    config = args.accelerator_config
    problems = []
    if args.train_sampling_strategy != "random":
        problems.append(f"train_sampling_strategy: {args.train_sampling_strategy}")
    if args.dataloader_drop_last:
        problems.append("dataloader_drop_last: true")
    problems += [
        f"accelerator_config: {name}: true"
        for name in ("split_batches", "dispatch_batches")
        if getattr(config, name)
    ]
    if problems:
        raise UserError(
            "tokens_per_batch makes the batches, rows of like length together; leave out "
            + ", ".join(problems)
        )


def shares_prefix(settings: DpoSettings, args: DPOConfig, source: ModelSource) -> bool:
    """Whether prompts are computed once: as set, and where nothing is set wherever it can be.

    Raises UserError with the reason where it was asked for and cannot be.
    """
    reason = None
    if settings.shared_prefix is not False:
        config = load_config(source)
        reason = refusal(config, settings.attention, args.max_length)
        if reason is None and args.accelerator_config.dispatch_batches:
            reason = "dispatch_batches would cut its layout into pieces"
        if reason is None:
            return True
    if settings.shared_prefix:
        raise UserError(f"shared_prefix: {reason}. Set it to false.")
    if settings.tokens_per_batch is not None:
        raise UserError(
            "tokens_per_batch: it counts a prompt once, and prompts are not shared here "
            f"({reason or 'shared_prefix: false'}). Leave it out; group_by_length saves padding."
        )
    if reason is not None:
        logger.warning("prompts are not shared between their replies: %s", reason)
    return False


def reference_identity(
    settings: DpoSettings, source: ModelSource, chat: ChatFormat
) -> dict[str, Any]:
    """What the reference's log-probabilities depend on beside the tokens and the precision.

    Of a local model the digest of its weights and what its configuration says, of a hub model name
    and commit.
    """
    start = source.facts()
    parts = []
    for part in (start["base"], *start["adapters"]):
        folder = Path(part["name"])
        if "sha256" in part:
            part = {"sha256": part["sha256"]}
            for name in ("config.json", "adapter_config.json"):
                if (folder / name).is_file():
                    said = read_object(folder / name)
                    part[name] = {k: v for k, v in said.items() if k not in _NOT_THE_MODEL}
        parts.append(part)
    return {
        "weights": parts,
        "dtype": settings.dtype,
        "load_in_4bit": settings.load_in_4bit,
        "template_sha256": chat.sha256,
    }
