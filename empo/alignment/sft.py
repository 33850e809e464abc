"""Masked-turn SFT: whole dialogues, loss on the listener's turns only, on trl's SFTTrainer.

Rows are padded to the longest of their batch, or packed: whole dialogues side by side in one row,
each with positions of its own and blind to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset, Value
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from empo.alignment.rows import TOKENS, Rows
from empo.alignment.run_trainer import ROWS, RunTrainer
from empo.alignment.training import length_facts
from empo.dialogues import Dialogue
from empo.prompts import ChatFormat
from empo.records import UserError

IGNORED = -100

_BY_MASK = ("sdpa", "eager", "flex_attention")
"""Attention that is told by a mask made from the positions where a dialogue begins; kernels of
flash attention are told by the lengths, and need no mask."""
_SEEN = 0.01
"""Relative change of a dialogue's logits with its neighbour above which it is seen. Where boundaries
are kept it is 0, or rounding in mixtures of experts (5e-7 in float32), whose products depend on how
many tokens an expert gets; where they are not, tenths in weights that have learnt anything."""


def sft_rows(
    dialogues: Sequence[Dialogue],
    chat: ChatFormat,
    max_length: int | None,
    loss_on: Literal["all", "replies"] = "replies",
) -> tuple[Dataset, dict[str, Any]]:
    """Rows of `input_ids` and `labels` (-100 where there is no loss), and what was done to them.

    A dialogue longer than `max_length` loses its oldest turns; one whose last exchange alone is
    too long is left out, and so is one in which no token carries a loss: both are named in the
    facts (`filtered`, `unsupervised`). `row` is the place. Raises UserError where nothing is left.
    """
    rows = Rows(
        {"id": Value("string"), "row": Value("int64"), "input_ids": TOKENS, "labels": TOKENS}
    )
    lengths: list[int] = []
    shortened, filtered, unsupervised, controls, supervised = 0, [], [], 0, 0
    for dialogue in dialogues:
        messages = dialogue.messages()
        controls += any(chat.contains_control_text(m["content"]) for m in messages)
        if max_length is None:
            encoded, dropped = chat.dialogue(messages), 0
        else:
            if messages[-1]["role"] == "user":
                messages = messages[:-1]  # nothing is learnt from a trailing speaker turn
            if not messages:
                unsupervised.append(dialogue.id)
                continue
            fitting, dropped = chat.fitting_dialogue(messages, max_length)
            if fitting is None:
                filtered.append(dialogue.id)
                continue
            encoded = fitting
        labels = [
            token if inside or loss_on == "all" else IGNORED
            for token, inside in zip(encoded.ids, encoded.mask, strict=True)
        ]
        learnt = sum(label != IGNORED for label in labels)
        if not learnt:
            unsupervised.append(dialogue.id)
            continue
        shortened += dropped > 0
        supervised += learnt
        row = {"id": dialogue.id, "row": len(lengths), "input_ids": encoded.ids, "labels": labels}
        rows.append(row)
        lengths.append(len(labels))
    if unsupervised and not lengths:
        raise UserError("no token carries a loss: the template marks no listener turn.")
    facts = length_facts(lengths, shortened, filtered)
    facts["unsupervised"], facts["unsupervised_ids"] = len(unsupervised), unsupervised
    facts["supervised_tokens"] = supervised
    facts["dialogues_with_control_text"] = controls
    return rows.dataset(), facts


def check_packing(args: SFTConfig, attention: str | None) -> None:
    """Refuse what contradicts packing, all at once and before a model is loaded.

    `attention` is the backend that is asked for (None: the model's own, sdpa or eager). Whether
    the model keeps dialogues apart on it shows when training begins: `DialoguesApart`.
    """
    problems = []
    if args.packing:
        if args.packing_strategy != "bfd":
            problems.append(
                f"packing_strategy: {args.packing_strategy} cuts dialogues; only bfd keeps them whole."
            )
        if args.max_length is None:
            problems.append("max_length: packing fills rows up to it; give a number of tokens.")
        if args.train_sampling_strategy not in ("random", "sequential"):
            problems.append(
                f"train_sampling_strategy: {args.train_sampling_strategy} and packing both save "
                "padding, and packed rows have none; set it to random, or packing to false."
            )
        if attention not in (None, *_BY_MASK) and "flash" not in attention:
            problems.append(
                f"attention: {attention} is not told where a dialogue ends in a packed row; set it "
                "to flash_attention_2 or sdpa, or packing to false."
            )
    elif args.eval_packing:
        problems.append(
            "eval_packing: without packing trl would let the dialogues of a row see each other; "
            "leave it out, or set packing to true."
        )
    elif args.padding_free and args.max_length is not None:
        problems.append(
            "padding_free: trl takes it without packing only where max_length is null; set packing "
            "to true, which has no padding either."
        )
    if problems:
        raise UserError(
            "these options cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def pack_rows(rows: Dataset, max_length: int) -> tuple[Dataset, dict[str, Any]]:
    """Put whole dialogues side by side in rows of at most `max_length` tokens (best fit decreasing).

    `seq_lengths` says where each begins; from it trl's collator makes positions that restart with
    every dialogue. The same rows are always packed alike. `rows` come from `sft_rows`, which cut
    nothing longer than `max_length`, so that no token is lost: that is counted. `id` of a packed row
    are those of its dialogues, `row` is its place.

    Returns the packed rows, and for run.json: `rows` (packed), `mean_dialogues` of a packed row,
    `fill` (share of `max_length` that holds a token, 0..1).
    """
    options = {"keep_in_memory": True, "desc": "packing dialogues"}
    names = rows["id"]
    places = [[place] * len(ids) for place, ids in enumerate(rows["input_ids"])]
    packed = pack_dataset(
        rows.select_columns(["input_ids", "labels"]).add_column("place", places),
        max_length,
        strategy="bfd",
        map_kwargs=options,
    )
    inside = [[names[place] for place in dict.fromkeys(row)] for row in packed["place"]]
    packed = packed.remove_columns("place").add_column("id", inside)
    packed = packed.add_column("row", range(len(packed)))
    before = sorted(map(len, rows["input_ids"]))
    after = sorted(length for row in packed["seq_lengths"] for length in row)
    if before != after:
        raise RuntimeError(
            f"packing changed {len(before):,} dialogues of {sum(before):,} tokens into "
            f"{len(after):,} of {sum(after):,}."
        )
    return packed, {
        "rows": len(packed),
        "mean_dialogues": round(len(after) / len(packed), 2),
        "fill": round(sum(after) / (len(packed) * max_length), 4),
    }


def describe_packing(args: SFTConfig, lengths: dict[str, Any], attention: str) -> str:
    """Lines for the screen: what a packed row is, what a step then holds, what keeps it apart.

    `lengths` are the facts of the training rows, with those of `pack_rows` as `packed`;
    `attention` is the backend that the model runs on.
    """
    packed = lengths["packed"]
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    lines = [
        f"packing: {lengths['rows']:,} dialogues in {packed['rows']:,} rows of at most "
        f"{args.max_length} tokens, {packed['mean_dialogues']:.2f} to a row, {packed['fill']:.0%} "
        f"filled. Batch sizes count packed rows: a step of {step} rows holds about "
        f"{step * packed['mean_dialogues']:.0f} dialogues."
    ]
    if attention in _BY_MASK:
        tokens = args.per_device_train_batch_size * args.max_length
        better = (
            "On a CPU padding is faster: set train_sampling_strategy to group_by_length instead."
            if args.device.type == "cpu"
            else "flash_attention_2 needs no such mask."
        )
        lines.append(
            f"packing: attention {attention} keeps dialogues apart by a mask over all pairs of the "
            f"up to {tokens:,} tokens of a batch. {better}"
        )
    return "\n".join(lines)


def change_with_neighbour(
    model: Callable[..., Any],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    device: torch.device,
) -> float:
    """Relative change of a dialogue's logits (0: none) when the one before it in a row changes.

    `collate` makes one row of two dialogues of 8 tokens, as in training; `model` is in evaluation
    mode, as it is distributed for training: all processes call this together.
    """
    dialogue = range(1, 9)

    def logits(neighbour: Sequence[int]) -> torch.Tensor:
        batch = collate([{"input_ids": list(ids)} for ids in (neighbour, dialogue)])
        del batch["labels"]
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        of_row = model(**batch, use_cache=False).logits[0]
        return of_row[len(neighbour) : len(neighbour) + len(dialogue)].float()

    with torch.no_grad():
        one, other = logits(range(9, 17)), logits(range(17, 25))
    return ((one - other).norm() / one.norm()).item()


class DialoguesApart(TrainerCallback):
    """Before the first step: refuses a model in which a dialogue sees its neighbour in the row.

    The attention backend alone does not decide that. Architectures that make their mask without the
    positions (in transformers 5 OPT, BLOOM, MPT, GPT-OSS) or that carry a state along the row (RWKV)
    mix dialogues on a backend that could keep them apart, and say nothing. So it is measured.
    """

    def __init__(self, trainer: SFTTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise UserError, on all processes, where a neighbour is seen."""
        model = self.trainer.model_wrapped
        training = model.training
        model.eval()
        change = change_with_neighbour(model, self.trainer.data_collator, args.device)
        model.train(training)
        if not change <= _SEEN:
            config = self.trainer.model.config
            raise UserError(
                "packing: in a packed row a dialogue sees its neighbour: its logits change by "
                f"{change:.0%} with it. The architecture {config.model_type} does not keep them "
                f"apart on attention {config._attn_implementation}. Set packing to false and "
                "train_sampling_strategy to group_by_length, or try attention flash_attention_2; "
                "and choose another output folder."
            )


@dataclass
class PlacedRows(DataCollatorForLanguageModeling):
    """trl's collator; the places of rows that know theirs are added under `rows`."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows of `sft_rows` or `pack_rows`."""
        batch = super().torch_call(examples)
        if "row" in examples[0]:
            batch[ROWS] = torch.tensor([row["row"] for row in examples])
        return batch


class MaskedTurnTrainer(RunTrainer, SFTTrainer):
    """trl's SFTTrainer on rows that are tokenised and masked already, and packed where that is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # trl makes its own, and takes none where rows are packed
        self.data_collator = PlacedRows(**vars(self.data_collator))
        if self.padding_free:
            self.add_callback(DialoguesApart(self))
