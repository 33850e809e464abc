"""Masked-turn SFT: whole dialogues, loss on the listener's turns only, on trl's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from datasets import Dataset
from trl import SFTTrainer

from empo.alignment.training import RunTrainer, length_facts
from empo.dialogues import Dialogue
from empo.prompts import ChatFormat
from empo.records import UserError

IGNORED = -100


def sft_rows(
    dialogues: Sequence[Dialogue],
    chat: ChatFormat,
    max_length: int | None,
    loss_on: Literal["all", "replies"] = "replies",
) -> tuple[Dataset, dict[str, Any]]:
    """Rows of `input_ids` and `labels` (-100 where there is no loss), and what length did to them.

    A dialogue longer than `max_length` loses its oldest turns; one whose last exchange alone is
    too long is left out, and named in the facts. Raises UserError where no token carries a loss.
    """
    rows: list[dict[str, list[int]]] = []
    shortened, filtered, controls = 0, [], 0
    for dialogue in dialogues:
        messages = dialogue.messages()
        controls += any(chat.contains_control_text(m["content"]) for m in messages)
        if max_length is None:
            encoded, dropped = chat.dialogue(messages), 0
        else:
            if messages[-1]["role"] == "user":
                messages = messages[:-1]  # nothing is learnt from a trailing speaker turn
            fitting, dropped = chat.fitting_dialogue(messages, max_length)
            if fitting is None:
                filtered.append(dialogue.id)
                continue
            encoded = fitting
        shortened += dropped > 0
        labels = [
            token if inside or loss_on == "all" else IGNORED
            for token, inside in zip(encoded.ids, encoded.mask, strict=True)
        ]
        rows.append({"input_ids": encoded.ids, "labels": labels})
    facts = length_facts([len(row["input_ids"]) for row in rows], shortened, filtered)
    facts["supervised_tokens"] = sum(t != IGNORED for row in rows for t in row["labels"])
    facts["dialogues_with_control_text"] = controls
    if not facts["supervised_tokens"]:
        raise UserError("no token carries a loss: the template marks no listener turn.")
    return Dataset.from_list(rows), facts


class MaskedTurnTrainer(RunTrainer, SFTTrainer):
    """trl's SFTTrainer on rows that are tokenised and masked already."""
