"""The DPO trainer: a step is the same however it is cut, the reference ahead, non-finite stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_runs import Shelf
from transformers.trainer_utils import set_seed
from trl import DPOConfig

from empo import models
from empo.alignment.dpo import dpo_rows
from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator
from empo.corpora import load_corpus
from empo.emotions import OPPOSITES
from empo.models import ModelSource, load_model, load_tokenizer, lora_config
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError, read_json

MEASURED = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
Make = Callable[..., RedrawnDPOTrainer]


@pytest.fixture(scope="module")
def rows(shelf: Shelf) -> Dataset:
    """21 rows, so that the last step of an epoch is smaller; two epochs of up to three draws."""
    chat = ChatFormat(load_tokenizer(ModelSource(str(shelf.base))), system_message="Be kind.")
    exchanges = load_corpus(shelf.corpus, "train").exchanges()
    draws = Draws(exchanges, OPPOSITES, seed=42)
    return dpo_rows(exchanges, draws, chat, 400, 2, 3)[0].select(range(21))


@pytest.fixture
def make(shelf: Shelf, tmp_path: Path, rows: Dataset) -> Make:
    """A trainer put together as recipes/dpo.py does; `changed` goes to trl's settings."""

    def trainer(
        rejected_per_prompt: int = 1, tokens_per_batch: int | None = None, **changed: Any
    ) -> RedrawnDPOTrainer:
        plain: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "max_length": 400,
            "precompute_ref_log_probs": True,
        }
        source = models.resolve(str(shelf.sft))
        tokenizer = load_tokenizer(source)
        set_seed(42)
        return RedrawnDPOTrainer(
            model=load_model(source),
            args=DPOConfig(**{**plain, **changed}),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora_config(8, 16, 0.0, ["q_proj", "v_proj", "down_proj"]),
            data_collator=EpochCollator(
                tokenizer.pad_token_id, rejected_per_prompt=rejected_per_prompt, shared=True
            ),
            tokens_per_batch=tokens_per_batch,
            reference_folder=tmp_path / "reference",
        )

    return trainer


def steps(trainer: RedrawnDPOTrainer) -> list[dict[str, float]]:
    """Train; what was logged at every step."""
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: entry[name] for name in MEASURED} for entry in logged]


def trained(trainer: RedrawnDPOTrainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rejected", [1, 3])
def test_a_step_is_the_same_however_its_batches_are_cut(make: Make, rejected: int) -> None:
    """8 x 1, 4 x 2 and 1 x 8: 21 rows leave 5 for the last step of an epoch."""
    whole = make(rejected)
    expected = steps(whole)
    assert len(expected) == 2 * 3
    assert max(abs(step["rewards/margins"]) for step in expected) > 0.005
    for size, accumulated in ((4, 2), (1, 8)):
        cut = make(
            rejected, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated
        )
        for step, other in zip(steps(cut), expected, strict=True):
            for name in ("loss", "grad_norm"):
                assert step[name] == pytest.approx(other[name], rel=2e-4, abs=1e-6), name
        for name, weight in trained(cut).items():
            # Adam's first steps amplify rounding where a gradient is almost 0
            torch.testing.assert_close(weight, trained(whole)[name], rtol=1e-3, atol=2e-4)


def test_every_pair_of_a_step_weighs_the_same_in_batches_of_unequal_size(
    make: Make, rows: Dataset
) -> None:
    budget = 2 * max(rows["length"])
    trainer = make(tokens_per_batch=budget, gradient_accumulation_steps=100, num_train_epochs=1)
    batches = list(trainer.get_train_dataloader())
    sizes = [len(batch["rows"]) for batch in batches]
    assert len(set(sizes)) > 1
    assert all(
        sum(rows[int(row)]["length"] for row in batch["rows"]) <= budget for batch in batches
    )
    assert sorted(int(row) for batch in batches for row in batch["rows"]) == list(range(21))

    cut = steps(trainer)
    whole = make(per_device_train_batch_size=21, num_train_epochs=1)
    expected = steps(whole)
    assert len(cut) == len(expected) == 1
    assert cut[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-5)
    assert cut[0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-4)


def test_the_reference_ahead_is_the_reference_in_the_step(make: Make) -> None:
    ahead = make(2)
    assert ahead.reference_facts["train"]["computed"] > 0
    again = make(2)
    assert again.reference_facts["train"]["computed"] == 0
    in_step = make(2, precompute_ref_log_probs=False)
    assert in_step.reference_facts == {}
    for step, other in zip(steps(ahead), steps(in_step), strict=True):
        assert step == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_step_that_is_not_finite_stops_and_names_its_rows(
    make: Make, rows: Dataset, tmp_path: Path
) -> None:
    trainer = make(learning_rate=1e30, gradient_accumulation_steps=2)
    (tmp_path / "run").mkdir(exist_ok=True)
    with pytest.raises(UserError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("step 2: loss or gradient is not finite")
    assert "non_finite.json" in message and "in another output_dir a lower learning_rate" in message
    written = read_json(tmp_path / "run" / "non_finite.json")
    assert written["step"] == 2
    named = [name for batch in written["batches"] for name in batch["ids"]]
    assert len(named) == 5 and set(named) <= set(rows["id"])
    assert written["gradient_norm"] is None


def test_a_loss_that_trl_does_not_know_is_told_with_those_it_knows(make: Make) -> None:
    with pytest.raises(UserError, match=r"^loss_type: Unknown loss type: foo\. Should be one of"):
        make(loss_type=["foo"]).train()
