"""What SFT and DPO share: trl's head on labelled positions only, the log, the facts of a run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.kernels.chunked_logprob
import trl.trainer.dpo_trainer
import trl.trainer.utils
from tiny_runs import Shelf, cut_corpus
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from empo import models
from empo.alignment.callbacks import LogFile
from empo.alignment.dpo import dpo_rows
from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator
from empo.alignment.run_trainer import score_labelled_positions_only
from empo.alignment.settings import SftSettings
from empo.alignment.sft import MaskedTurnTrainer, sft_rows
from empo.alignment.training import length_facts, start_run
from empo.corpora import load_corpus
from empo.emotions import OPPOSITES
from empo.models import ModelSource, load_model, load_tokenizer
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import UserError

CHANGED = "trl has changed {}: adapt empo.alignment, then this test and the version range."


# --- the head ---


def arguments(config: type, folder: Path, **changed: Any) -> Any:
    return config(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        per_device_train_batch_size=8,
        report_to="none",
        max_length=400,
        **changed,
    )


def sft_trainer(shelf: Shelf, folder: Path) -> MaskedTurnTrainer:
    tokenizer = load_tokenizer(ModelSource(str(shelf.base)))
    dialogues = load_corpus(shelf.corpus, "train").dialogues
    return MaskedTurnTrainer(
        model=load_model(ModelSource(str(shelf.base))),
        args=arguments(SFTConfig, folder, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=sft_rows(dialogues, ChatFormat(tokenizer), 400)[0],
        processing_class=tokenizer,
    )


def dpo_trainer(shelf: Shelf, folder: Path) -> RedrawnDPOTrainer:
    """Policy and reference differ, so that the loss and its gradients are not trivial."""
    tokenizer = load_tokenizer(ModelSource(str(shelf.base)))
    exchanges = load_corpus(shelf.corpus, "train").exchanges()
    draws = Draws(exchanges, OPPOSITES, seed=42)
    return RedrawnDPOTrainer(
        model=load_model(models.resolve(str(shelf.sft))),
        ref_model=load_model(ModelSource(str(shelf.base))),
        args=arguments(DPOConfig, folder),
        train_dataset=dpo_rows(exchanges, draws, ChatFormat(tokenizer), 400, 1)[0],
        processing_class=tokenizer,
        data_collator=EpochCollator(tokenizer.pad_token_id),
    )


def loss_and_gradients(trainer: Trainer, batch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("make", [sft_trainer, dpo_trainer])
def test_labelled_positions_alone_give_the_loss_and_gradients_of_all(
    shelf: Shelf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Shelf, Path], Trainer],
) -> None:
    trainer = make(shelf, tmp_path)
    own = trl.kernels.chunked_logprob._use_triton
    device = torch.device("cpu")
    assert trl.trainer.utils._use_triton(device) and not own(device)
    scored: list[int] = []
    kernel = trl.trainer.utils._ChunkedLogProbFunction

    class Counting(kernel):
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, *rest: Any) -> Any:
            scored.append(len(hidden))
            return kernel.forward(ctx, hidden, *rest)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Counting)
    for batch in list(trainer.get_train_dataloader())[:3]:
        scored.clear()
        loss, gradients = loss_and_gradients(trainer, batch)
        ours = scored.copy()
        with monkeypatch.context() as stock:
            stock.setattr(trl.trainer.utils, "_use_triton", own)
            stock_loss, stock_gradients = loss_and_gradients(trainer, batch)
        rows, width = batch["input_ids"].shape
        assert all(number == rows * (width - 1) for number in scored[len(ours) :])
        assert 0 < max(ours) < rows * (width - 1) / 2
        assert loss == pytest.approx(stock_loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, stock_gradients[name], rtol=1e-5, atol=1e-6)
            assert gradient.abs().max() > 1e-5, name


def test_the_head_is_patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.trainer.utils, "_use_triton", trl.kernels.chunked_logprob._use_triton)
    score_labelled_positions_only()
    once = trl.trainer.utils._use_triton
    score_labelled_positions_only()
    assert trl.trainer.utils._use_triton is once
    assert once(torch.device("cpu"))
    assert once(torch.device("meta")) == trl.kernels.chunked_logprob._use_triton(
        torch.device("meta")
    )


# --- private names of trl ---


def test_trls_head_still_asks_use_triton() -> None:
    assert hasattr(trl.trainer.utils, "_use_triton"), CHANGED.format("trainer.utils._use_triton")
    source = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "compact = _use_triton(hidden_states.device)" in source, CHANGED.format(
        "how add_fused_lm_head chooses the positions it scores"
    )


def test_trls_trainers_still_prepare_rows_where_we_leave_them() -> None:
    parameters = list(inspect.signature(DPOTrainer._prepare_dataset).parameters)
    assert parameters == ["self", "dataset", "processing_class", "args", "dataset_name"], (
        CHANGED.format("DPOTrainer._prepare_dataset")
    )
    assert "skip_prepare_dataset" in inspect.getsource(SFTTrainer.__init__), CHANGED.format(
        "the dataset_kwarg skip_prepare_dataset of SFTTrainer"
    )


def test_trls_preference_collator_still_takes_our_rows() -> None:
    stock = trl.trainer.dpo_trainer.DataCollatorForPreference
    assert [field.name for field in fields(stock)] == [
        "pad_token_id",
        "max_length",
        "truncation_mode",
        "pad_to_multiple_of",
        "return_tensors",
    ], CHANGED.format("the fields of DataCollatorForPreference")
    batch = stock(0)([{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2, 3, 0], [1, 2, 4, 5]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "completion_mask": [[0, 0, 1, 0], [0, 0, 1, 1]],
    }, CHANGED.format("what DataCollatorForPreference makes of a row")


@pytest.mark.parametrize("trainer", [SFTTrainer, DPOTrainer])
@pytest.mark.parametrize("method", ["create_model_card", "_save"])
def test_trls_trainers_still_save_through_the_methods_we_override(
    trainer: type, method: str
) -> None:
    assert callable(getattr(trainer, method, None)), CHANGED.format(f"{trainer.__name__}.{method}")


# --- the log ---


def test_the_log_starts_from_the_checkpoint(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    log = LogFile(str(tmp_path))
    state = TrainerState(log_history=[], is_world_process_zero=True)
    log.on_train_begin(args, state, TrainerControl())
    for step in (1, 2, 3):
        state.log_history.append({"loss": 1 / step, "step": step})
        log.on_log(args, state, TrainerControl())

    def steps() -> list[int]:
        return [json.loads(line)["step"] for line in log.path.read_text().splitlines()]

    assert steps() == [1, 2, 3]
    resumed = TrainerState(log_history=state.log_history[:2], is_world_process_zero=True)
    log.on_train_begin(args, resumed, TrainerControl())
    assert steps() == [1, 2]
    resumed.log_history.append({"loss": 0.25, "step": 3})
    log.on_log(args, resumed, TrainerControl())
    assert steps() == [1, 2, 3]


def test_only_the_main_process_writes_the_log(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    log = LogFile(str(tmp_path))
    state = TrainerState(log_history=[{"step": 1}], is_world_process_zero=False)
    log.on_train_begin(args, state, TrainerControl())
    log.on_log(args, state, TrainerControl())
    assert not log.path.exists()


def test_lengths_are_counted_by_hand() -> None:
    assert length_facts([3, 4, 4], 1, ["x", "y"]) == {
        "rows": 3,
        "mean_tokens": 3.7,
        "max_tokens": 4,
        "shortened": 1,
        "filtered": 2,
        "filtered_ids": ["x", "y"],
    }
    with pytest.raises(UserError, match=r"no row is left"):
        length_facts([], 0, ["x"])


# --- the run folder ---


@pytest.mark.parametrize("status", ["complete", "running"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_run_on_other_data_is_refused_also_where_it_is_complete(
    tmp_path: Path, status: str, split: str
) -> None:
    folder = tmp_path / "run"
    source = cut_corpus(tmp_path / "corpus", {"train": 1, "valid": 1})
    args = arguments(SFTConfig, folder)

    def start() -> tuple[Any, Any]:
        corpora = [load_corpus(source, name) for name in ("train", "valid")]
        settings = SftSettings(dialogues=str(source), model="m")
        given = {"output_dir": str(folder)}
        return start_run(args, "sft", settings, given, {}, corpora), corpora

    held, corpora = start()
    with held as run:
        run.check_identity({"data": [corpus.files for corpus in corpora]})
        run.save(status=status)
    (folder / "checkpoint-1").mkdir()
    with start()[0] as again:
        assert again.complete == (status == "complete")
    before = (folder / "run.json").read_bytes()
    path = source / f"{split}.csv"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(UserError) as error, start()[0]:
        pass
    lines = str(error.value).splitlines()
    assert lines[0] == (
        f"{folder}: this run was trained on other data: {path} ({split}) is not the file that it "
        "began with."
    )
    accept = "`--accept-changes` continues it all the same; its folder then says so. "
    assert lines[-1] == (
        f"Restore it. {accept if status == 'running' else ''}"
        "`--fresh` begins a new one in a folder beside it."
    )
    if status == "complete":
        assert (folder / "run.json").read_bytes() == before
