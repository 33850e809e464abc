"""One process: the step is trl's, a run that was killed ends as one that was not, a seed is a run."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trl.kernels.chunked_logprob
import trl.trainer.utils
from datasets import Dataset
from tiny_runs import ROOT, Shelf, command
from transformers.trainer_utils import set_seed
from trl import DPOConfig, DPOTrainer

from empo import models
from empo.alignment.dpo import dpo_rows
from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator
from empo.corpora import load_corpus
from empo.emotions import OPPOSITES
from empo.models import load_model, load_tokenizer, lora_config
from empo.preferences import Draws
from empo.prompts import ChatFormat
from empo.records import read_json, read_jsonl, sha256

INTERRUPTED = Path(__file__).with_name("interrupted.py")
MEASURED = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
UNEQUAL = ("runtime", "per_second", "num_tokens")
"""Ends of keys that depend on the clock; trl counts tokens since the last start."""


def log(run: Path) -> list[dict[str, Any]]:
    """log.jsonl without what may be unequal."""
    return [
        {key: value for key, value in row.items() if not key.endswith(UNEQUAL)}
        for _, row in read_jsonl(run / "log.jsonl")
    ]


def test_on_fixed_pairs_every_step_is_trls(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl tokenises the same pairs itself, scores all positions and trains in the same order."""
    source = models.resolve(str(shelf.sft))
    tokenizer = load_tokenizer(source)
    chat = ChatFormat(tokenizer, system_message="Be kind.")
    exchanges = load_corpus(shelf.corpus, "train").exchanges()
    draws = Draws(exchanges, OPPOSITES, seed=42)
    rows = dpo_rows(exchanges, draws, chat, 400, 1)[0]
    pairs = Dataset.from_list(
        [
            {
                "prompt": chat.render(exchange.messages(), generation_prompt=True),
                "chosen": exchange.reply,
                "rejected": draws.draw(0, exchange.id).reply,
            }
            for exchange in exchanges
        ]
    )

    def losses(cls: type, data: Dataset, **more: Any) -> tuple[list[dict[str, float]], Any]:
        args = DPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            per_device_train_batch_size=8,
            num_train_epochs=2,
            learning_rate=1e-2,
            beta=0.05,
            max_length=400,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        set_seed(42)
        trainer = cls(
            model=load_model(source),
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=lora_config(8, 16, 0.0, ["q_proj", "v_proj", "down_proj"]),
            **more,
        )
        trainer.train()
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        return [{name: entry[name] for name in MEASURED} for entry in steps], trainer

    collator = EpochCollator(tokenizer.pad_token_id)
    ours, _ = losses(RedrawnDPOTrainer, rows, data_collator=collator)
    own = trl.kernels.chunked_logprob._use_triton
    monkeypatch.setattr(trl.trainer.utils, "_use_triton", own)
    stock, trainer = losses(DPOTrainer, pairs)
    for row, theirs in zip(rows, trainer.train_dataset, strict=True):
        assert row["prompt_ids"] == theirs["prompt_ids"]
        assert row["chosen_ids"] == theirs["chosen_ids"]
        assert row["rejected_pool"] == [theirs["rejected_ids"]]
    assert len(ours) == len(stock) == 16
    assert ours[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert max(abs(step["rewards/margins"]) for step in ours) > 0.005
    for step, other in zip(ours, stock, strict=True):
        assert step == pytest.approx(other, rel=1e-4, abs=1e-5)
        assert step["loss"] == pytest.approx(other["loss"], abs=2e-6)


def test_the_same_seed_twice_is_the_same_run(shelf: Shelf, tmp_path: Path) -> None:
    again = shelf.run("dpo", tmp_path / "again", "--num_train_epochs", "2")
    assert log(again) == log(shelf.dpo)
    weights = [sha256(run / "adapter_model.safetensors") for run in (again, shelf.dpo)]
    assert weights[0] == weights[1]
    other = shelf.run("dpo", tmp_path / "other", "--num_train_epochs", "2", "--seed", "43")
    assert sha256(other / "adapter_model.safetensors") not in weights


STOPPED = ["--num_train_epochs", "3", "--save_strategy", "steps", "--save_steps", "3"]
"""8 steps an epoch; checkpoints after 3, 6, 9, 12; the run is killed in step 14, in epoch two."""


def stop_and_go_on(shelf: Shelf, folder: Path, name: str, *more: str) -> tuple[Path, Path]:
    """A run that was not stopped, and the same run killed in step 14 and started again."""
    whole = shelf.run(name, folder / "whole", *more)
    stopped = folder / "stopped"
    arguments = shelf.arguments(name, stopped, *more)
    killed = command([sys.executable, INTERRUPTED, 14, ROOT / f"recipes/{name}.py", *arguments])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_json(stopped / "run.json")["status"] == "running"
    assert [row["step"] for row in log(stopped) if "loss" in row] == list(range(1, 15))
    assert not (stopped / "adapter_model.safetensors").exists()
    shelf.run(name, stopped, *more)
    return whole, stopped


@pytest.fixture(scope="module")
def dpo(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """DPO that was not stopped, and that was."""
    return stop_and_go_on(shelf, tmp_path_factory.mktemp("killed"), "dpo", *STOPPED)


def check_equal(whole: Path, stopped: Path, checkpoint: int) -> None:
    """The same steps, weights and facts."""
    ours, theirs = ([row for row in log(run) if "loss" in row] for run in (stopped, whole))
    assert [row["step"] for row in ours] == list(range(1, 25))
    assert ours[:checkpoint] == theirs[:checkpoint]
    assert ours == theirs
    for file in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert sha256(stopped / file) == sha256(whole / file), file
    done, expected = (read_json(run / "run.json") for run in (stopped, whole))
    assert done["status"] == "complete"
    for key in ("settings", "data", "lengths", "steps", "epochs", "base_model"):
        assert done[key] == expected[key], key


def test_dpo_that_was_killed_ends_as_if_it_was_not(dpo: tuple[Path, Path]) -> None:
    check_equal(*dpo, checkpoint=12)


def test_the_log_of_a_run_that_was_killed_has_the_rows_of_one_that_was_not(
    dpo: tuple[Path, Path],
) -> None:
    ours, theirs = ([row["step"] for row in log(run)] for run in dpo)
    assert ours == theirs


@pytest.mark.parametrize(
    ("more", "checkpoint"),
    [
        ([*STOPPED, "--train_sampling_strategy", "random"], 12),
        (["--num_train_epochs", "3"], 8),
        pytest.param(
            STOPPED,
            12,
        ),
    ],
    ids=["within an epoch", "at the end of an epoch", "grouped by length"],
)
def test_sft_that_was_killed_ends_as_if_it_was_not(
    shelf: Shelf, tmp_path: Path, more: list[str], checkpoint: int
) -> None:
    check_equal(*stop_and_go_on(shelf, tmp_path, "sft", *more), checkpoint)


def test_the_draws_change_with_the_epoch_in_a_real_run(shelf: Shelf, tmp_path: Path) -> None:
    """At a learning rate of 0 the policy stands still, so what changes is the rejected replies.

    Of 40 rows the emotions are unequal in number, so that an epoch leaves some replies out.
    """
    still = ["--learning_rate", "0", "--num_train_epochs", "2", "--eval_strategy", "no"]
    still += ["--eval_on_start", "false", "--per_device_train_batch_size", "40", "--limit", "40"]
    first, second = (
        row for row in log(shelf.run("dpo", tmp_path / "run", *still)) if "loss" in row
    )
    assert first["logps/chosen"] == pytest.approx(second["logps/chosen"], rel=1e-5)
    assert abs(first["logps/rejected"] - second["logps/rejected"]) > 0.1
