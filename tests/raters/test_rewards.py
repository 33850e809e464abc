"""Raters as rewards: transforms by hand, both shapes of prompts, and the trainers of trl that call them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language_models import untrained, write_tokenizer

from empo.dialogues import Turn
from empo.length_effect import LengthEffect
from empo.raters.rewards import (
    MOST_LOGIT,
    as_reward,
)
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError

WARM = Dimension("warm", 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0))
LONG = Dimension("long", 0.0, 100.0, "interval")


class Counting:
    """Warm is the number of a's up to 2, with probabilities; long the number of words; `?` has none."""

    dimensions = (WARM, LONG)

    def __init__(self) -> None:
        self.seen: list[RatingInput] = []

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        self.seen += pairs
        odd = np.array(["?" in pair.response for pair in pairs])
        level = np.array([min(2, pair.response.count("a")) for pair in pairs], dtype=float)
        words = np.array([len(pair.response.split()) for pair in pairs], dtype=float)
        scores = np.where(odd[:, None], np.nan, np.stack([level, words], axis=1))
        table = np.full((len(pairs), 3), 0.1)
        table[np.arange(len(pairs)), level.astype(int)] = 0.8
        table[odd] = np.nan
        return Ratings.of(self.dimensions, scores, "counting", probabilities=[table, None])


REPLIES = ["b", "a b", "a a", "a ?", " "]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"transform": "score"}, [0.0, 1.0, 2.0, None, 0.0]),
        ({"transform": "expected"}, [0.3, 1.0, 1.7, None, 0.0]),
        ({"transform": "probability"}, [0.1, 0.1, 0.8, None, 0.0]),
        ({"transform": "probability", "level": 1.0}, [0.2, 0.9, 0.9, None, 0.0]),
        (
            {"transform": "logit"},
            [math.log(1 / 9), math.log(1 / 9), math.log(4), None, -MOST_LOGIT],
        ),
    ],
)
def test_the_reward_is_what_the_transform_makes_of_the_rating(
    how: dict[str, Any], expected: list[float | None]
) -> None:
    reward = as_reward(Counting(), "warm", **how)
    assert reward.__name__ == "warm"
    found = reward(["p"] * 5, REPLIES)
    assert [v is None for v in found] == [v is None for v in expected]
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    assert [f for f, _ in pairs] == pytest.approx([e for _, e in pairs])


def test_weights_add_dimensions_and_one_without_a_score_is_none() -> None:
    reward = as_reward(Counting(), {"warm": 1.0, "long": -0.5}, "score")
    assert reward.__name__ == "warm+long"
    assert reward(["p"] * 3, ["b", "a a", "?"]) == [-0.5, 1.0, None]


def test_plain_and_conversational_prompts_are_rated_alike() -> None:
    rater = Counting()
    reward = as_reward(rater, "warm")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "sad"},
    ]
    told = reward([messages], [[{"role": "assistant", "content": "a a"}]])
    assert told == reward(["sad"], ["a a"]) == pytest.approx([1.7])
    turns = (Turn("user", "hello"), Turn("assistant", "hi"), Turn("user", "sad"))
    assert [pair.context for pair in rater.seen] == [turns, "sad"]
    assert [pair.response for pair in rater.seen] == ["a a", "a a"]
    reward(["<|user|>sad<|assistant|>"], ["a"], context=[[{"role": "user", "content": "sad"}]])
    assert rater.seen[-1].context == (Turn("user", "sad"),)


def test_the_length_of_replies_is_measured_and_taken_out() -> None:
    replies = ["a" * n for n in (2, 4, 6, 8)]
    effect = LengthEffect.fit([1.0, 2.0, 3.0, 4.0], replies)
    assert (effect.slope, effect.mean, effect.n) == (pytest.approx(0.5), 5.0, 4)
    assert effect.correlation == pytest.approx(1.0)
    assert "correlation 1.00 on 4 replies" in effect.warning and "longer replies" in effect.warning
    assert (np.array([1.0, 4.0]) - effect.of(["aa", "a" * 8])).tolist() == pytest.approx([2.5, 2.5])
    assert "shorter replies" in LengthEffect.fit([4.0, 3.0, 2.0, 1.0], replies).warning
    flat = LengthEffect.fit([1.0, 1.0, None, 1.0], replies)
    assert (flat.slope, flat.correlation, flat.n, flat.warning) == (0.0, None, 3, None)
    weak = LengthEffect.fit([1.0, 3.0, 1.0, 2.5], replies)
    assert weak.warning is None and abs(weak.correlation) < 0.5
    reward = as_reward(Counting(), "long", "score", length=LengthEffect(2.0, 3.0, 0.9, 9))
    assert reward([""] * 2, ["x x", "x x x"]) == pytest.approx([2.0, 3 - 2 * 2.0])
    with pytest.raises(UserError, match="2 of 4 replies have one"):
        LengthEffect.fit([1.0, None, None, 2.0], replies)


def test_a_blank_reply_never_gets_more_than_another() -> None:
    steep = LengthEffect(0.02, 80.0, 0.9, 9)
    for how in ({"length": steep}, {}, {"length": steep, "transform": "logit"}):
        reward = as_reward(Counting(), "warm", **how)
        found = reward(["p"] * 4, ["b", "a " * 90, "", " "])
        assert found[2] == found[3] and found[2] <= min(found[:2]), how
    against = as_reward(Counting(), {"warm": -1.0}, "score")
    assert against(["p"] * 3, ["b", "a a", ""]) == [0.0, -2.0, -2.0]


def test_a_rater_that_scores_nothing_ends_the_training() -> None:
    reward = as_reward(Counting(), "warm")
    assert reward(["p"] * 255, ["?"] * 255) == [None] * 255
    with pytest.raises(
        UserError, match="reward warm: the rater scored none of the first 256 replies"
    ):
        reward(["p"], ["?"])
    reward = as_reward(Counting(), "warm")
    reward(["p"], ["a"])
    assert reward(["p"] * 300, ["?"] * 300) == [None] * 300


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dimension": "cold"}, "no dimension 'cold'; it has: warm, long"),
        ({"dimension": "warm", "transform": "sum"}, "transform: 'sum' is unknown; known: score"),
        ({"dimension": "long", "transform": "logit"}, "long has no levels"),
        (
            {"dimension": "warm", "level": 1.0},
            "level: 1 fits transform probability and logit alone",
        ),
        ({"dimension": "warm", "transform": "logit", "level": 0.5}, "one of the levels 0, 1, 2"),
        ({"dimension": {}}, "at least one dimension"),
        ({"dimension": {"warm": math.nan}}, "a finite weight is needed"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        as_reward(Counting(), **given)
    assert said in str(error.value)


def test_a_rater_without_the_probabilities_that_are_needed() -> None:
    class Bare(Counting):
        def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
            return replace(super().score(pairs), probabilities=(None, None))

    with pytest.raises(UserError, match="expected needs the probabilities of levels, which this"):
        as_reward(Bare(), "warm")(["p"], ["a"])


# --- the trainers of trl ---


class Logged(Counting):
    """Scores every third reply only, whatever it says."""

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        found = super().score(
            [replace(pair, response=pair.response.replace("?", ".") or ".") for pair in pairs]
        )
        third = np.arange(len(pairs)) % 3 == 0
        table = np.where(third[:, None], np.nan, found.probabilities[0])
        scores = np.where(third[:, None], np.nan, found.scores)
        return replace(found, scores=scores, probabilities=(table, None))


def prompts(conversational: bool) -> Dataset:
    texts = ["I lost my job today.", "The day was great.", "How was it?", "poor"]
    if conversational:
        return Dataset.from_list([{"prompt": [{"role": "user", "content": t}]} for t in texts])
    return Dataset.from_list([{"prompt": t, "context": t} for t in texts])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("name", ["grpo", "rloo", "online_dpo"])
def test_the_trainers_of_trl_call_it(
    name: str, conversational: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    if name == "online_dpo":
        from trl.experimental.online_dpo import OnlineDPOConfig as Config
        from trl.experimental.online_dpo import OnlineDPOTrainer as Trainer

        more: dict[str, Any] = {"max_new_tokens": 6, "max_length": 64}
    elif name == "grpo":
        from trl import GRPOConfig as Config
        from trl import GRPOTrainer as Trainer

        more = {"num_generations": 4, "max_completion_length": 6}
    else:
        from trl import RLOOConfig as Config
        from trl import RLOOTrainer as Trainer

        more = {"num_generations": 4, "max_completion_length": 6}
    rater = Logged()
    tokenizer = write_tokenizer()
    reward = as_reward(rater, "warm")
    arguments = {"per_device_train_batch_size": 4, "max_steps": 2, "use_cpu": True, "bf16": False}
    arguments |= {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "seed": 3}
    model = untrained(tokenizer)
    if name == "rloo":  # its reference is loaded from where the model came from
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
        more |= {"model_init_kwargs": {"dtype": "float32"}}
    trainer = Trainer(
        model=model,
        reward_funcs=reward,
        args=Config(output_dir=str(tmp_path), save_strategy="no", **arguments, **more),
        train_dataset=prompts(conversational),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert reward.asked >= 8 and 0 < reward.scored < reward.asked
    texts = {pair.prompt for pair in rater.seen}
    assert texts <= {"I lost my job today.", "The day was great.", "How was it?", "poor"}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    if name == "grpo":
        assert any("rewards/warm/mean" in entry for entry in trainer.state.log_history)
        assert any("reply_characters" in entry for entry in trainer.state.log_history)
