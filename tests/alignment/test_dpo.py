"""DPO: every epoch its own draw in every kind of worker, and a reference that is the SFT model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_runs import Shelf
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState
from transformers.trainer_utils import set_seed
from trl import DPOConfig

from empo import models
from empo.alignment.dpo import dpo_rows
from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator, SetEpoch
from empo.alignment.settings import DpoSettings
from empo.alignment.starting import hand_over, policy_and_reference
from empo.alignment.training import fresh_adapter
from empo.corpora import load_corpus
from empo.dialogues import Exchange
from empo.emotions import OPPOSITES
from empo.models import ModelSource, load_model, load_tokenizer
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError

EPOCHS = 3


@pytest.fixture(scope="module")
def chat(shelf: Shelf) -> ChatFormat:
    return ChatFormat(load_tokenizer(ModelSource(str(shelf.base))), system_message="Be kind.")


@pytest.fixture(scope="module")
def exchanges(shelf: Shelf) -> list[Exchange]:
    return load_corpus(shelf.corpus, "train").exchanges()


@pytest.fixture(scope="module")
def draws(exchanges: list[Exchange]) -> Draws:
    return Draws(exchanges, OPPOSITES, seed=42)


@pytest.fixture(scope="module")
def rows(exchanges: list[Exchange], draws: Draws, chat: ChatFormat) -> Dataset:
    return dpo_rows(exchanges, draws, chat, 400, EPOCHS)[0]


# --- rows ---


def test_a_row_has_one_prompt_the_human_reply_and_the_draw_of_every_epoch(
    rows: Dataset, exchanges: list[Exchange], draws: Draws, chat: ChatFormat
) -> None:
    assert [row["id"] for row in rows] == [exchange.id for exchange in exchanges]
    for row, exchange in zip(rows, exchanges, strict=True):
        drawn = [draws.draw(epoch, exchange.id) for epoch in range(EPOCHS)]
        assert row["rejected_ids_pool"] == [reply.id for reply in drawn]
        assert row["prompt_ids"] == chat.prompt(exchange.messages())
        assert row["prompt_ids"].count(chat.tokenizer.bos_token_id) == 1
        replies = [exchange.reply, *(reply.reply for reply in drawn)]
        for ids, reply in zip([row["chosen_ids"], *row["rejected_pool"]], replies, strict=True):
            assert chat.tokenizer.decode(ids) == reply + "</s>"
            assert ids.count(chat.eos) == 1
    assert any(len(set(row["rejected_ids_pool"])) == EPOCHS for row in rows)


def test_length_takes_old_turns_of_the_prompt_then_the_row_and_is_counted(
    exchanges: list[Exchange], draws: Draws, chat: ChatFormat, rows: Dataset
) -> None:
    def needed(row: dict[str, Any]) -> int:
        longest = max(len(row["chosen_ids"]), *map(len, row["rejected_pool"]))
        return len(row["prompt_ids"]) + longest

    limit = sorted(map(needed, rows))[len(rows) // 4]
    cut, facts = dpo_rows(exchanges, draws, chat, limit, EPOCHS)
    kept = {row["id"]: row for row in cut}
    assert all(needed(row) <= limit for row in cut)
    assert facts["max_tokens"] <= limit and facts["rows"] == len(cut)
    named = [row["id"] for row in rows if row["id"] not in kept]
    assert facts["filtered_ids"] == named and facts["filtered"] == len(named) > 0
    shortened = 0
    for whole in rows:
        if whole["id"] not in kept:
            assert needed(whole) > limit
            continue
        row = kept[whole["id"]]
        assert row["chosen_ids"] == whole["chosen_ids"]
        assert row["rejected_pool"] == whole["rejected_pool"]
        if row["prompt_ids"] != whole["prompt_ids"]:
            shortened += 1
            exchange = next(e for e in exchanges if e.id == row["id"])
            assert row["prompt_ids"] == chat.prompt(exchange.messages()[2:])
    assert facts["shortened"] == shortened > 0
    assert facts["mean_chosen_tokens"] == sum(len(r["chosen_ids"]) for r in cut) / len(cut)


def test_no_row_left_is_an_error(exchanges: list[Exchange], draws: Draws, chat: ChatFormat) -> None:
    with pytest.raises(UserError, match=r"no row is left: .* Raise max_length\."):
        dpo_rows(exchanges, draws, chat, 3, EPOCHS)


# --- the epoch's draw ---


def seen(loader: DataLoader[Any], row_of: dict[tuple[int, ...], dict[str, Any]]) -> list[int]:
    """For every row of one pass, the number of the draw it came with."""
    numbers = []
    for batch in loader:
        half = len(batch["input_ids"]) // 2
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True):
            ids, mask = ids.tolist(), mask.bool().tolist()
            completion = [t for t, inside in zip(ids, mask, strict=True) if inside]
            prompt = tuple(ids[: mask.index(True)])
            if len(numbers) % (2 * half) < half:
                assert completion == row_of[prompt]["chosen_ids"]
                numbers.append(-1)
            else:
                numbers.append(row_of[prompt]["rejected_pool"].index(completion))
    return [number for number in numbers if number >= 0]


@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 0},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
    ],
    ids=["plain", "workers", "persistent", "spawned"],
)
def test_every_epoch_sees_its_own_draw(rows: Dataset, workers: dict[str, Any]) -> None:
    different = [
        row for row in rows.to_list() if len({tuple(ids) for ids in row["rejected_pool"]}) == EPOCHS
    ]
    row_of = {tuple(row["prompt_ids"]): row for row in different}
    chosen = list(row_of.values())[:12]
    assert len(chosen) == 12
    collator = EpochCollator(0)
    loader = DataLoader(chosen, batch_size=4, collate_fn=collator, **workers)
    callback = SetEpoch(collator)
    for epoch in range(EPOCHS):
        state = TrainerState(epoch=float(epoch))
        callback.on_epoch_begin(None, state, TrainerControl())
        assert seen(loader, row_of) == [epoch] * 12


def test_after_a_resume_the_epoch_is_the_one_it_stopped_in() -> None:
    collator = EpochCollator(0)
    row = {
        "id": "a",
        "row": 0,
        "prompt_ids": [1],
        "chosen_ids": [2],
        "rejected_pool": [[10], [11], [12]],
    }
    for epoch, expected in [(1.43, 11), (2.0, 12), (None, 10), (3.2, 10)]:
        SetEpoch(collator).on_epoch_begin(None, TrainerState(epoch=epoch), TrainerControl())
        assert collator([row])["input_ids"].tolist() == [[1, 2], [1, expected]]


def test_rows_with_one_reply_keep_it_in_every_epoch() -> None:
    collator = EpochCollator(0)
    collator.set_epoch(2)
    row = {"id": "a", "row": 0, "prompt_ids": [1], "chosen_ids": [2], "rejected_pool": [[10]]}
    assert collator([row])["input_ids"].tolist() == [[1, 2], [1, 10]]


# --- policy and reference ---


def settings(model: Path, **changed: Any) -> DpoSettings:
    return DpoSettings(dialogues="-", model=str(model), lora_r=8, lora_alpha=16, **changed)


def arguments(folder: Path, **changed: Any) -> DPOConfig:
    plain: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": 400,
    }
    return DPOConfig(**{**plain, **changed})


@pytest.fixture
def trainer_of(
    shelf: Shelf, tmp_path: Path, rows: Dataset
) -> Callable[[DpoSettings], RedrawnDPOTrainer]:
    """A trainer put together as recipes/dpo.py does."""

    def make(given: DpoSettings) -> RedrawnDPOTrainer:
        args = arguments(tmp_path / "run")
        source = hand_over(given)
        set_seed(42)
        policy, reference, _ = policy_and_reference(given, source, args)
        tokenizer = load_tokenizer(source)
        return RedrawnDPOTrainer(
            model=policy,
            ref_model=reference,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=None if source.adapters else fresh_adapter(given),
            data_collator=EpochCollator(tokenizer.pad_token_id),
        )

    return make


WAYS = {
    "merge": {"sft_adapter": "merge"},
    "keep": {"sft_adapter": "keep"},
    "full": {"full_training": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_reference_is_exactly_the_sft_model(
    shelf: Shelf, trainer_of: Callable[[DpoSettings], RedrawnDPOTrainer], way: str
) -> None:
    trainer = trainer_of(settings(shelf.sft, **WAYS[way]))
    assert (trainer.ref_model is None) == (way != "full")
    trainer.model.train()
    for batch in trainer.get_train_dataloader():
        trainer.compute_loss(trainer.model, batch)
    measured = trainer._metrics["train"]
    for name in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
        assert len(measured[name]) == 8 and set(measured[name]) == {0.0}

    sft = load_model(models.resolve(str(shelf.sft), merged=way != "keep")).eval()
    ids = batch["input_ids"][:1]
    with torch.inference_mode():
        expected = sft(ids).logits
        torch.testing.assert_close(trainer.model.eval()(ids).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_trained_moves_and_the_rest_stays(
    shelf: Shelf, trainer_of: Callable[[DpoSettings], RedrawnDPOTrainer], way: str
) -> None:
    trainer = trainer_of(settings(shelf.sft, **WAYS[way]))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    kind = {name: p.requires_grad for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name: not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters()}
    assert moved == kind
    trained = [name for name, grad in kind.items() if grad]
    if way == "full":
        assert len(trained) == len(kind)
        for name, parameter in trainer.ref_model.named_parameters():
            assert torch.equal(parameter, before[name])
    else:
        assert all("lora_" in name and ".ref." not in name for name in trained)
        assert len(trained) == 2 * 7  # A and B on the seven linear layers of one block
        base = [name for name in kind if "lora_" not in name]
        assert len(base) == len(list(load_model(ModelSource(str(shelf.base))).parameters()))


def test_the_merged_folder_says_what_the_adapter_says(shelf: Shelf) -> None:
    ids = torch.tensor([[1, 7, 20, 33, 5, 90, 2]])
    adapted = models.resolve(str(shelf.sft), merged=False)
    merged = models.resolve(str(shelf.sft))
    assert adapted.adapters and not merged.adapters
    with torch.inference_mode():
        with_adapter = load_model(adapted).eval()(ids).logits
        torch.testing.assert_close(load_model(merged).eval()(ids).logits, with_adapter)
        base = load_model(ModelSource(str(shelf.base))).eval()(ids).logits
    assert (with_adapter - base).abs().max() > 0.1


# --- hand-over ---


def test_an_adapter_that_is_not_merged_is_refused_with_the_remedy(
    shelf: Shelf, tmp_path: Path
) -> None:
    run = shelf.run("sft", tmp_path / "sft", "--num_train_epochs", "1", "--merge_adapter", "false")
    with pytest.raises(UserError, match=r"not merged\. Run `empo merge --model .*` first"):
        hand_over(settings(run))
    models.merge(models.resolve(str(run)), run / models.MERGED)
    assert hand_over(settings(run)).base == str(run / models.MERGED)


def test_merged_weights_and_plain_models_are_taken_as_they_are(
    shelf: Shelf, tmp_path: Path
) -> None:
    assert hand_over(settings(shelf.sft)).base == str(shelf.sft / "merged")
    assert hand_over(settings(shelf.base)).base == str(shelf.base)
    kept = hand_over(settings(shelf.sft, sft_adapter="keep"))
    assert kept.adapters == (str(shelf.sft),)
    assert not (tmp_path / "dpo").exists()


def test_keep_needs_an_adapter(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        hand_over(settings(shelf.base, sft_adapter="keep"))
    assert str(error.value) == (
        f"{shelf.base}: sft_adapter: keep needs an adapter, this is a model."
    )


def test_the_reference_is_told_in_words(shelf: Shelf, tmp_path: Path) -> None:
    def words(given: DpoSettings) -> str:
        return policy_and_reference(given, hand_over(given), arguments(tmp_path))[2]

    assert words(settings(shelf.sft, full_training=True)) == (
        f"a frozen copy of {shelf.sft / 'merged'}"
    )
    assert words(settings(shelf.sft, sft_adapter="keep")) == (
        f"a frozen copy of the adapter {shelf.sft}"
    )
    assert words(settings(shelf.sft)) == f"{shelf.sft / 'merged'} without the adapter"


def test_the_replies_of_an_epoch_are_different_ones(
    exchanges: list[Exchange], draws: Draws, chat: ChatFormat
) -> None:
    """Pools of 16: five epochs of seven go round them more than twice."""
    several = dpo_rows(exchanges, draws, chat, 400, 5, 7)[0]
    for row in several:
        names = row["rejected_ids_pool"]
        assert len(names) == len(row["rejected_pool"]) == 35
        for epoch in range(5):
            assert len(set(names[7 * epoch : 7 * epoch + 7])) == 7
    first = several[0]
    of_an_epoch = [sum(map(len, first["rejected_pool"][7 * e : 7 * e + 7])) for e in range(5)]
    assert first["length"] == (
        len(first["prompt_ids"]) + len(first["chosen_ids"]) + max(of_an_epoch)
    )
    one = dpo_rows(exchanges, draws, chat, 400, 3, 1)[0]
    assert [row["rejected_ids_pool"] for row in one] == [
        [draws.draw(epoch, exchange.id).id for epoch in range(3)] for exchange in exchanges
    ]


def test_more_replies_than_there_are_is_an_error(
    exchanges: list[Exchange], draws: Draws, chat: ChatFormat
) -> None:
    with pytest.raises(UserError, match="rejected_per_prompt: 40 different replies are needed"):
        dpo_rows(exchanges, draws, chat, 400, 1, 40)
    few = [e for e in exchanges if e.emotion == "surprised"][:2]
    few += [e for e in exchanges if e.emotion == "anticipating"][:2]
    few[0] = replace(few[0], reply=few[2].reply)
    with pytest.raises(UserError, match=r"has only 1 different replies .* 2 are needed"):
        dpo_rows(few, Draws(few, OPPOSITES, seed=1), chat, 400, 1, 2)
