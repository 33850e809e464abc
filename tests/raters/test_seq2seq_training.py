"""An encoder-decoder that learns a rule by rank classification, with every loss and setting."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from empo import small_models
from empo.corpora.labelled import Example
from empo.raters.seq2seq_rater import Seq2SeqRater
from empo.raters.seq2seq_training import train_seq2seq
from empo.raters.settings import RaterSettings
from empo.raters.training_task import TrainingTask
from empo.rating import Dimension, RatingInput
from empo.records import UserError
from empo.runs import Run

MOOD = Dimension("mood", 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0))
ASKS = Dimension("asks", 0.0, 1.0, "binary", (0.0, 1.0))
WORDS = ("awful", "okay", "great")
INSTRUCTIONS = """
dimensions:
  mood: {task: "Mood?", options: {0: bad, 1: fair, 2: good}}
  asks: {task: "Asked?", options: {0: "No", 1: "Yes"}}
"""
ARGUMENTS: dict[str, Any] = {"use_cpu": True, "learning_rate": 3e-3, "num_train_epochs": 20}
ARGUMENTS |= {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 32}
ARGUMENTS |= {"lr_scheduler_type": "constant", "disable_tqdm": True, "logging_strategy": "no"}
ARGUMENTS |= {"report_to": "none", "save_total_limit": 1, "max_grad_norm": 1.0}
RUN = Run(Path("run"), {"command": "rater", "settings": {"loss": "cross_entropy"}})
Train = Callable[..., tuple[Seq2SeqRater, dict[str, Any]]]


def examples(n: int, seed: int = 0) -> list[Example]:
    """A word decides the mood, a question mark whether something is asked."""
    chance = random.Random(seed)
    found = []
    for i in range(n):
        words = [*chance.choices(["the", "day", "was"], k=chance.randrange(3)), WORDS[i % 3]]
        asks = chance.random() < 0.5
        pair = RatingInput("my dog", " ".join(words) + " ?" * asks)
        labels = {"mood": float(i % 3), "asks": float(asks)}
        found.append(Example(f"e{i}", f"g{i}", pair, labels))
    return found


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train a small T5 on 120 examples of the rule; settings by name."""
    (tmp_path / "own.yaml").write_text(INSTRUCTIONS)

    def run(
        folder: str = "run", dimensions: Sequence[Dimension] = (MOOD,), **given: Any
    ) -> tuple[Seq2SeqRater, dict[str, Any]]:
        more = {*ARGUMENTS, "gradient_accumulation_steps", "optim"}
        arguments = {name: given.pop(name) for name in set(given) & more}
        own: dict[str, Any] = {"architecture": "seq2seq", "encoder": "scratch", "patience": 9}
        own |= {"instructions": str(tmp_path / "own.yaml"), "hidden_size": 32, "layers": 1}
        own |= {"heads": 2, "vocab_size": 330, "max_length": 40} | given
        settings = RaterSettings(data="composed", **own)
        assert settings.problems() == []
        data, judged = given.pop("data", examples(120)), examples(24, seed=1)
        task = TrainingTask(
            train=data,
            validation=judged,
            dimensions=dimensions,
            settings=settings,
            arguments=ARGUMENTS | arguments,
            folder=tmp_path / folder,
            run=RUN,
            seed=1,
            name="t",
        )
        return train_seq2seq(task)

    return run


def right(rater: Seq2SeqRater, dimension: str) -> float:
    """Share of new examples that get their level."""
    new = examples(60, seed=2)
    ratings = rater.score([example.input for example in new])
    gold = np.array([example.labels[dimension] for example in new])
    return float((ratings.scores[:, ratings.column(dimension)] == gold).mean())


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"loss": "focal", "label_tokens": True},
        {"loss": "ldam", "ldam_scale": 4.0, "instruct": False},
    ],
)
def test_a_rule_is_learnt(train: Train, how: dict[str, Any]) -> None:
    rater, facts = train(**how)
    assert right(rater, "mood") > 0.9
    assert facts["train"] == 120 and facts["validation"] == 24 and facts["unread"] == 0
    assert facts["validation_macro_f1"] > 0.9
    endless = rater.score([RatingInput("", "great " * 600)])
    assert np.isnan(endless.scores).all()  # no room beside the instruction


def test_one_model_learns_two_dimensions_by_their_instructions(train: Train) -> None:
    rater, facts = train(dimensions=(MOOD, ASKS))
    assert right(rater, "mood") > 0.8 and right(rater, "asks") > 0.8
    assert facts["train"] == 240
    with pytest.raises(UserError, match="instruct: without an instruction one model cannot tell 2"):
        train(dimensions=(MOOD, ASKS), instruct=False)


def test_a_stopped_training_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    whole, _ = train("whole", num_train_epochs=3)
    train("parts", num_train_epochs=2)
    assert list((tmp_path / "parts").glob("checkpoint-16"))
    again, facts = train("parts", num_train_epochs=3)
    assert facts["epochs"] == 3.0
    for (name, kept), (_, found) in zip(
        whole.model.state_dict().items(), again.model.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(kept, found, rtol=0, atol=0, msg=name)


def test_accumulated_batches_are_one_batch(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, whose draws differ; plain gradients, since Adam forgets their size."""
    made = small_models.small_seq2seq

    def without_dropout(*shape: Any) -> Any:
        model = made(*shape)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        return model

    monkeypatch.setattr(small_models, "small_seq2seq", without_dropout)
    weights = []
    for name, size, steps in (("one", 16, 1), ("four", 4, 4)):
        how: dict[str, Any] = {"per_device_train_batch_size": size}
        how |= {"gradient_accumulation_steps": steps}
        how |= {"optim": "sgd", "learning_rate": 0.02, "max_grad_norm": 0.0}
        rater, _ = train(name, num_train_epochs=1, **how)
        weights.append(rater.model.state_dict())
    for key, one in weights[0].items():
        torch.testing.assert_close(one, weights[1][key], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "seq2seq", "encoder": "minilm"}, "encoder: minilm has no decoder"),
        (
            {"architecture": "seq2seq", "encoder": "scratch", "loss": "mse"},
            "mse is not for seq2seq",
        ),
        (
            {"architecture": "seq2seq", "encoder": "scratch", "pooling": "mean"},
            "pooling: seq2seq has",
        ),
        ({"instruct": False}, "instruct: only the architecture seq2seq has this"),
        ({"encoder": "scratch"}, "encoder scratch: only language models are made from scratch"),
        ({"vocab_size": 900}, "vocab_size: only the encoder scratch has this"),
        (
            {"architecture": "seq2seq", "encoder": "scratch", "vocab_size": 99},
            "vocab_size: 99 is too few",
        ),
        ({"following": 2}, "following: only window and seq2seq read turns after"),
    ],
)
def test_settings_that_cannot_work(given: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in RaterSettings(data="x", **given).problems())


def test_a_model_without_a_decoder_is_refused(train: Train, tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from tiny_encoders import write_encoders

    encoder = write_encoders(tmp_path / "encoders")["bert"]
    with pytest.raises(UserError, match=r"this model \(bert\) has no decoder.*flan-t5-small"):
        train(encoder=str(encoder), hidden_size=128, layers=2, heads=4, vocab_size=2000)
