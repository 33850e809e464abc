"""What is refused before training: options that cannot work, other prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny_runs import Shelf
from trl import DPOConfig, SFTConfig

from empo.alignment.batches import TokenBudgetBatches
from empo.alignment.dpo import training_rows
from empo.alignment.launching import check_options
from empo.alignment.settings import DpoSettings
from empo.alignment.starting import check_prompts
from empo.corpora import load_corpus
from empo.emotions import OPPOSITES
from empo.models import load_tokenizer, resolve
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError


def arguments(config: type, folder: Path, **changed: Any) -> Any:
    plain: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none"}
    plain["remove_unused_columns"] = False
    return config(output_dir=str(folder), **{**plain, "max_length": 400, **changed})


@pytest.mark.parametrize("config", [SFTConfig, DPOConfig])
def test_plain_options_pass(tmp_path: Path, config: type) -> None:
    check_options(arguments(config, tmp_path))


@pytest.mark.parametrize(
    ("config", "given", "told"),
    [
        (SFTConfig, {"hub_token": "x"}, "hub_token: it would be written down"),
        (SFTConfig, {"remove_unused_columns": True}, "remove_unused_columns: the columns are"),
        (SFTConfig, {"auto_find_batch_size": True}, "auto_find_batch_size: the batch is part of"),
        (DPOConfig, {"sync_ref_model": True}, "sync_ref_model: the reference is the SFT model"),
        (DPOConfig, {"disable_dropout": False}, "disable_dropout: policy and reference are"),
        (SFTConfig, {"save_only_model": True}, "save_only_model: a run could not be continued"),
        (SFTConfig, {"save_on_each_node": True}, "save_on_each_node: a run has one folder, which"),
        (SFTConfig, {"enable_jit_checkpoint": True}, "enable_jit_checkpoint: a run that it stops"),
        (
            SFTConfig,
            {"push_to_hub": True, "hub_strategy": "every_save"},
            "hub_strategy: a run is published when it is complete; set `end`.",
        ),
        (
            DPOConfig,
            {"precompute_ref_log_probs": True, "ld_alpha": 0.5},
            "ld_alpha: it needs the reference token by token",
        ),
        (DPOConfig, {"precompute_ref_batch_size": 0}, "precompute_ref_batch_size: at least 1 row"),
        (DPOConfig, {"max_length": None}, "max_length: DPO needs a number of tokens"),
    ],
)
def test_an_option_that_cannot_work_is_refused(
    tmp_path: Path, config: type, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as error:
        check_options(arguments(config, tmp_path, **given))
    head, line = str(error.value).split("\n")
    assert head == "these options cannot be used:"
    assert line.startswith(f"  - {told}")
    assert given.get("hub_token", "no token") not in line.split(": ", 1)[1].split()


def test_all_options_that_cannot_work_are_told_at_once(tmp_path: Path) -> None:
    given = {"save_only_model": True, "max_length": None, "precompute_ref_log_probs": True}
    given["ld_alpha"] = 0.5
    with pytest.raises(UserError) as error:
        check_options(arguments(DPOConfig, tmp_path, **given))
    assert str(error.value).count("\n  - ") == 3


def test_other_prompts_than_those_of_sft_are_refused(shelf: Shelf) -> None:
    source = resolve(str(shelf.sft))
    tokenizer = load_tokenizer(source)
    check_prompts(ChatFormat(tokenizer, "zephyr", "You are a kind listener."), source)
    with pytest.raises(UserError) as error:
        check_prompts(ChatFormat(tokenizer, "zephyr", "Be rude."), source)
    assert str(error.value) == (
        f"{shelf.sft / 'merged'}: SFT used the system message 'You are a kind listener.' and its "
        "chat template; here it is 'Be rude.'. Set system_message and chat_template as in SFT."
    )


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({"num_train_epochs": 3}, 3),
        ({"num_train_epochs": 1.5}, 2),
        ({"max_steps": 8}, 1),
        ({"max_steps": 9}, 2),
        ({"max_steps": 9, "gradient_accumulation_steps": 3}, 3),
        ({"max_steps": 9, "per_device_train_batch_size": 40, "dataloader_drop_last": True}, 9),
        ({"max_steps": 9, "per_device_train_batch_size": 40}, 5),
    ],
)
def test_replies_are_drawn_for_every_epoch_that_is_begun(
    shelf: Shelf, tmp_path: Path, given: dict[str, Any], epochs: int
) -> None:
    """64 rows in batches of 8 are 8 steps an epoch, and 3 where three batches make a step."""
    args = arguments(
        DPOConfig, tmp_path, **{"per_device_train_batch_size": 8, "max_length": 400, **given}
    )
    assert len(drawn(shelf, args)[0]["rejected_pool"]) == epochs


def test_rows_that_are_left_out_and_batches_by_tokens_make_epochs_shorter(
    shelf: Shelf, tmp_path: Path
) -> None:
    args = arguments(DPOConfig, tmp_path, per_device_train_batch_size=8, max_length=400)
    rows = drawn(shelf, args)
    lengths = sorted(rows["length"])
    needed = sorted(
        len(row["prompt_ids"]) + max(map(len, [row["chosen_ids"], *row["rejected_pool"]]))
        for row in rows
    )
    args.max_length, args.max_steps = needed[16], 15  # two epochs of 64 rows
    rows = drawn(shelf, args)
    assert len(rows) <= 56
    assert len(rows[0]["rejected_pool"]) == math.ceil(15 / math.ceil(len(rows) / 8)) > 2
    args.max_length, args.max_steps = 400, 9
    rows = drawn(shelf, args, tokens_per_batch=lengths[-1])
    batches = len(TokenBudgetBatches(rows["length"], lengths[-1], 8, args.seed))
    assert batches > 9 and len(rows[0]["rejected_pool"]) == 1


def drawn(shelf: Shelf, args: DPOConfig, tokens_per_batch: int | None = None) -> Dataset:
    """The rows of the cut corpus for a training with `args`."""
    chat = ChatFormat(load_tokenizer(resolve(str(shelf.base))), "zephyr", "Be kind.")
    exchanges = load_corpus(shelf.corpus, "train").exchanges()
    settings = DpoSettings(dialogues="-", model="-", tokens_per_batch=tokens_per_batch)
    return training_rows(exchanges, Draws(exchanges, OPPOSITES, 42), chat, settings, args)[0]
