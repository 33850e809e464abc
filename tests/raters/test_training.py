from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

from empo.checkpoints import check
from empo.corpora.labelled import Example
from empo.process import Stopped
from empo.raters import fit, targets
from empo.raters.encoder_rater import EncoderRater
from empo.raters.inputs import InputSettings, PairTokenizer
from empo.raters.settings import RaterSettings
from empo.raters.training import train_classifier
from empo.raters.training_task import TrainingTask
from empo.rating import Dimension, RatingInput
from empo.records import UserError
from empo.runs import Run

LEVEL = Dimension("level", 0, 2, "ordinal", (0.0, 1.0, 2.0))
QUESTION = Dimension("question", 0, 1, "binary", (0.0, 1.0))
RULE = ("no", "weak", "strong")
"""The word of each level: what a rater has to find."""

ARGUMENTS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 32,
    "learning_rate": 5e-3,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
RUN = Run(Path("run"), {"command": "rater", "settings": {"loss": "cross_entropy"}})
Train = Callable[..., tuple[EncoderRater, dict[str, Any]]]


def examples(n: int, seed: int = 0) -> list[Example]:
    """Responses of a few words, one of which follows the rule."""
    chance = random.Random(seed)
    found = []
    for i in range(n):
        words = chance.choices(("day", "beach", "friend", "it", "was"), k=chance.randint(1, 6))
        words.insert(chance.randrange(len(words) + 1), RULE[i % 3])
        question = float("day" in words)
        pair = RatingInput(chance.choice(("my dog", "the party", "I do")), " ".join(words))
        labels = {"level": float(i % 3), "question": question}
        found.append(Example(str(i), str(i), pair, labels, {"level": (RULE[i % 3],)}))
    return found


@pytest.fixture(scope="module")
def still(encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without dropout, so that batches of other sizes give the same numbers."""
    folder = shutil.copytree(encoders["bert"], tmp_path_factory.mktemp("still") / "bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def train(encoders: dict[str, Path], tmp_path: Path) -> Train:
    """Train on 120 examples of the rule, or on `data`; settings and arguments by name."""
    arguments = {*ARGUMENTS, "gradient_accumulation_steps", "save_total_limit"}

    def run(
        folder: str = "run",
        *,
        data: Sequence[Example] | None = None,
        validation: Sequence[Example] | None = None,
        dimensions: Sequence[Dimension] = (LEVEL,),
        seed: int = 1,
        **given: Any,
    ) -> tuple[EncoderRater, dict[str, Any]]:
        settings = {
            "encoder": str(encoders["bert"]),
            "max_length": 16,
            "patience": 9,
            "pooling": "mean",
            "head": "linear",
        }
        settings |= {key: value for key, value in given.items() if key not in arguments}
        task = TrainingTask(
            train=examples(120) if data is None else data,
            validation=examples(24, seed=1) if validation is None else validation,
            dimensions=dimensions,
            settings=RaterSettings(data="composed", **settings),
            arguments=ARGUMENTS | {key: value for key, value in given.items() if key in arguments},
            folder=tmp_path / folder,
            run=RUN,
            seed=seed,
            name="rule",
        )
        return train_classifier(task)

    return run


def weights(rater: EncoderRater) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in rater.model.state_dict().items()}


def equal(a: EncoderRater, b: EncoderRater) -> bool:
    return all(torch.equal(tensor, weights(b)[name]) for name, tensor in weights(a).items())


def validations(printed: str) -> list[tuple[float, float]]:
    """Loss and macro-F1 per epoch, as they are printed."""
    lines = re.findall(r"validation: loss ([\d.]+), macro-F1 ([\d.]+)", printed)
    return [(float(loss), float(score)) for loss, score in lines]


@pytest.mark.parametrize(
    "architecture", ["cross_encoder", "bi_encoder", "seeker_attention", "window"]
)
def test_a_classifier_learns_a_rule(train: Train, architecture: str) -> None:
    rater, facts = train(architecture=architecture, num_train_epochs=6)
    validation = examples(24, seed=1)
    scores = rater.score([example.input for example in validation]).scores[:, 0]
    gold = [example.labels["level"] for example in validation]
    assert facts["validation_macro_f1"] == 1 and scores.tolist() == gold
    assert (facts["train"], facts["validation"], facts["unread"]) == (120, 24, 0)
    assert rater.config.settings["seed"] == 1
    assert rater.config.settings["encoder"] == "tiny-bert"  # no path


def test_the_epoch_that_is_kept_is_the_best_one(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is learnt is wrong in the validation part, so that the last epoch is not the best."""
    validation = [
        dataclasses.replace(example, labels={"level": (example.labels["level"] + 1) % 3})
        for example in examples(24, seed=1)
    ]
    rater, facts = train(validation=validation, num_train_epochs=5)
    scores = rater.score([example.input for example in validation]).scores[:, 0]
    gold = [example.labels["level"] for example in validation]
    printed = [score for _, score in validations(capsys.readouterr().out)]
    assert len(printed) == 5 and printed[-1] == 0 < max(printed)
    kept = f1_score(gold, scores, average="macro")
    assert kept == pytest.approx(facts["validation_macro_f1"]) and max(printed) == round(kept, 4)


def test_the_seed_is_the_training(train: Train) -> None:
    first, again, other = (
        train(str(i), seed=seed, num_train_epochs=2)[0] for i, seed in enumerate((1, 1, 2))
    )
    assert equal(first, again)
    assert not equal(first, other)


def stop_at(step: int) -> type[TrainerCallback]:
    class Stopping(fit.EpochLines):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    return Stopping


def interrupt(train: Train, monkeypatch: pytest.MonkeyPatch, step: int, **given: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit, "EpochLines", stop_at(step))
        with pytest.raises(KeyboardInterrupt):
            train(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"architecture": "cross_encoder", "save_total_limit": 1},
        {"architecture": "seeker_attention"},
        {"ema_decay": 0.9},
    ],
)
def test_a_training_that_goes_on_is_one_that_was_never_stopped(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
) -> None:
    whole, facts = train("whole", **given)
    interrupt(train, monkeypatch, 22, folder="stopped", **given)  # 15 an epoch
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint-15"]
    (tmp_path / "stopped" / "checkpoint-30").mkdir()  # as where the machine went down while saving
    printed = validations(capsys.readouterr().out)
    resumed, facts_resumed = train("stopped", **given)
    assert validations(capsys.readouterr().out) == printed[1:3]  # it did not begin again
    assert equal(whole, resumed)
    assert facts == facts_resumed


def signal_at(step: int, number: int) -> type[TrainerCallback]:
    class Signalled(fit.EpochLines):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step - 1:
                os.kill(os.getpid(), number)

    return Signalled


@pytest.mark.parametrize("step", [7, 15, 22, 45], ids="within first-ends within last".split())
@pytest.mark.parametrize(
    "given",
    [
        {"save_total_limit": 1},
        {"ema_decay": 0.9, "patience": 2},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    ],
    ids=["limit", "average", "accumulated"],
)
def test_a_training_that_is_asked_to_stop_saves_its_step_and_ends_as_if_it_had_not_been(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    step: int,
    given: dict[str, Any],
) -> None:
    whole, facts = train("whole", **given)
    printed = validations(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "EpochLines", signal_at(step, signal.SIGTERM))
        with pytest.raises(Stopped) as stop:
            train("stopped", **given)
    saved = tmp_path / "stopped" / f"checkpoint-{step}"
    assert stop.value.number == signal.SIGTERM and stop.value.where == f"Saved in {saved}"
    assert check(saved, RUN.digests) is None
    before = validations(capsys.readouterr().out)
    assert len(before) == step // 15  # a cut-off epoch is not judged
    resumed, facts_resumed = train("stopped", **given)
    assert before + validations(capsys.readouterr().out) == printed
    assert equal(whole, resumed)
    assert facts == facts_resumed


def test_a_damaged_checkpoint_and_one_of_another_run_are_passed_over(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, facts = train("run")
    folder = tmp_path / "run"
    data = bytearray((folder / "checkpoint-45" / "optimizer.pt").read_bytes())
    data[-100] ^= 1
    (folder / "checkpoint-45" / "optimizer.pt").write_bytes(data)
    manifest = folder / "checkpoint-30" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(RUN.digest, "0" * 64))
    again, repeated = train("run")
    assert [message for message in caplog.messages if "passed over" in message] == [
        f"{folder / 'checkpoint-45'} is passed over: optimizer.pt has changed since it was saved",
        f"{folder / 'checkpoint-30'} is passed over: its manifest.json is that of another run",
    ]
    assert equal(whole, again) and facts == repeated


def test_the_average_of_the_weights_is_what_is_kept(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)) at step t."""
    steps: list[dict[str, torch.Tensor]] = []

    class Watching(fit.EpochLines):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.on_step_end(args, state, control, **kwargs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = kwargs["model"]
            steps.append({name: p.detach().clone() for name, p in model.named_parameters()})

    monkeypatch.setattr(fit, "EpochLines", Watching)
    rater, _ = train(data=examples(24), num_train_epochs=1, ema_decay=0.3)
    assert len(steps) == 1 + 3
    for name, average in steps[0].items():
        for decay, step in zip((2 / 11, 3 / 12, 0.3), steps[1:], strict=True):
            average = decay * average + (1 - decay) * step[name]
        torch.testing.assert_close(weights(rater)[name], average, atol=1e-6, rtol=0)


def test_patience_goes_on_where_it_was(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate of 0 nothing gets better: three epochs with a patience of two."""
    given = {"learning_rate": 0.0, "patience": 2, "num_train_epochs": 6}
    assert train("whole", **given)[1]["epochs"] == 3
    interrupt(train, monkeypatch, 37, folder="stopped", **given)
    assert train("stopped", **given)[1]["epochs"] == 3


@pytest.mark.parametrize("given", [{}, {"ema_decay": 0.9}])
def test_a_training_whose_patience_ran_out_is_not_trained_on(
    train: Train, capsys: pytest.CaptureFixture[str], given: dict[str, Any]
) -> None:
    """As after a kill between the last epoch and the file that says that the unit is done."""
    given = {"learning_rate": 0.0, "patience": 2, "num_train_epochs": 6, **given}
    first, facts = train("run", **given)
    assert len(validations(capsys.readouterr().out)) == facts["epochs"] == 3
    again, repeated = train("run", **given)
    assert validations(capsys.readouterr().out) == []
    assert repeated == facts and equal(first, again)


def test_the_weights_beneath_the_average_lie_in_every_checkpoint(
    train: Train, tmp_path: Path
) -> None:
    train("run", ema_decay=0.9, num_train_epochs=2, save_total_limit=1)
    checkpoints = list((tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints and all((path / "weights.safetensors").is_file() for path in checkpoints)


SOFT = [
    dataclasses.replace(example, labels={"level": abs(example.labels["level"] - 0.3)})
    for example in examples(120)
]


@pytest.mark.parametrize(
    "loss, settings",
    [
        ("cross_entropy", {"class_weighting": 1.0}),
        ("cross_entropy", {"label_smoothing": 0.1}),
        ("focal", {}),
        ("ldam", {"ldam_scale": 5.0}),
        ("soft_label_kl", {"data": SOFT, "validation": SOFT[:24]}),
    ],
)
def test_every_loss_gets_smaller(
    train: Train, capsys: pytest.CaptureFixture[str], loss: str, settings: dict[str, Any]
) -> None:
    train(loss=loss, num_train_epochs=4, **settings)
    found = [value for value, _ in validations(capsys.readouterr().out)]
    assert len(found) == 4 and found[-1] < 0.8 * found[0]


def test_batches_that_are_added_up_are_one_batch(
    train: Train, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 x 8 and 2 x 4, also in the last step of an epoch, which has 4 examples of 20 left."""
    common = {"encoder": str(still), "dropout": 0.0, "num_train_epochs": 1, "learning_rate": 1e-3}
    common |= {"data": examples(20)}
    whole, _ = train("whole", **common)
    parts, _ = train(
        "parts", **common, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    for name, tensor in weights(whole).items():
        if not name.endswith("key.bias"):  # its gradient is 0 but for rounding, which Adam enlarges
            torch.testing.assert_close(weights(parts)[name], tensor, atol=1e-5, rtol=0, msg=name)
    losses = [loss for loss, _ in validations(capsys.readouterr().out)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_heads_may_learn_faster_than_the_encoder(train: Train, tmp_path: Path) -> None:
    given = {"num_train_epochs": 1, "learning_rate": 0.0}
    fresh, _ = train("0", **given)
    trained, _ = train("1", head_learning_rate=1e-2, **given)
    for name, tensor in weights(trained).items():
        assert torch.equal(tensor, weights(fresh)[name]) == name.startswith("encoder."), name


def test_several_dimensions_and_labels_that_are_missing(train: Train) -> None:
    data = examples(120)
    for example in data[::4]:
        del example.labels["question"]
    rater, facts = train(data=data, dimensions=(LEVEL, QUESTION), num_train_epochs=8)
    assert facts["validation_macro_f1"] == pytest.approx(1)
    assert rater.model.config.classes == [3, 2] and facts["train"] == 120


def test_rationales_are_learnt(train: Train) -> None:
    rater, _ = train(rationale_weight=1.0, num_train_epochs=5)
    rows = rater.inputs.rows([example.input for example in examples(24, seed=1)])
    batch = rater.inputs.batch(rows)
    with torch.no_grad():
        states = rater.model.encoder(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
        ).last_hidden_state
        marks = rater.model.rationale_head(states).argmax(-1)
    tokens = rater.tokenizer.convert_ids_to_tokens(batch["input_ids"][marks == 1])
    assert {"no", "weak", "stro"} <= set(tokens)
    found = marks[batch["target_mask"] == 1].sum()
    assert 24 <= found <= 40  # one word of one or two pieces in each of 24 responses


def test_nothing_is_marked_where_there_is_no_label(encoders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoders["bert"])
    reader = PairTokenizer(tokenizer, "cross_encoder", InputSettings(), 40)
    settings = RaterSettings(data="composed", rationale_weight=1.0)
    example = Example("1", "1", RatingInput("a", "b no c"), {"level": 0.0}, {"level": ("no",)})
    items, _ = targets.training_rows([example], [LEVEL, QUESTION], reader, settings)
    np.testing.assert_array_equal(items[0]["rationales"].T, [[0, 1, 0], [-100, -100, -100]])
    batch = targets.collate(items, reader, 2)
    inside = batch["rationale_labels"][0, :, 0].tolist()
    assert inside == [-100, -100, -100, 0, 1, 0, -100]  # [CLS] a [SEP] b no c [SEP]


def test_class_weights_are_those_of_the_documentation(train: Train) -> None:
    """n / (classes · n of the class), to a power; here 12 examples, of which 2, 4 and 6."""
    rater, _ = train(num_train_epochs=1)
    counts = [torch.tensor([2.0, 4.0, 6.0])]
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    labels = torch.tensor([[0], [2], [1]])
    for power, expected in ((1.0, [2.0, 1.0, 2 / 3]), (0.5, [2**0.5, 1.0, (2 / 3) ** 0.5])):
        loss = targets.HeadLoss(
            RaterSettings(data="composed", class_weighting=power), rater.model, counts
        )
        found = loss(targets.PairOutput(logits=logits), labels)
        wanted = cross_entropy(logits, labels[:, 0], torch.tensor(expected))
        assert float(found) == pytest.approx(float(wanted))


def test_class_weights_that_a_loss_would_ignore_are_refused() -> None:
    def problems(**given: Any) -> str:
        return " ".join(RaterSettings(data="composed", class_weighting=0.5, **given).problems())

    assert problems() == "" and problems(loss="cross_entropy") == ""
    assert "class_weighting: only the loss cross_entropy weighs classes" in problems(loss="focal")
    grid = {"grid_architectures": ["window"], "grid_losses": ["focal", "cross_entropy"]}
    assert problems(**grid) == ""


def test_what_cannot_be_read_or_is_cut_is_counted(train: Train) -> None:
    data = examples(24)
    blank = [
        dataclasses.replace(e, input=RatingInput("my dog", text))
        for e, text in zip(data, (" ", "no " * 50), strict=False)
    ]
    long = [dataclasses.replace(data[2], input=RatingInput("the day " * 20, "strong"))]
    _, facts = train(
        data=[*data, *blank, *long], validation=[*data[:3], blank[0]], num_train_epochs=1
    )
    assert (facts["train"], facts["validation"], facts["unread"]) == (25, 3, 3)
    assert (facts["context_cut"], facts["response_cut"]) == (1, 0)
    with pytest.raises(UserError, match="no response of the training or the validation part"):
        train(validation=blank)


def test_a_saved_rater_holds_no_pickle_and_nothing_of_the_training(
    train: Train, tmp_path: Path
) -> None:
    rater, _ = train(num_train_epochs=1)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    pickled = {path.name for path in checkpoint.iterdir() if path.suffix in (".bin", ".pth", ".pt")}
    assert pickled == {"optimizer.pt", "scheduler.pt"}  # read as weights only
    rater.save(tmp_path / "rater")
    names = {path.name for path in (tmp_path / "rater").rglob("*")}
    assert {"config.json", "model.safetensors", "rater_config.json", "tokenizer.json"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".txt"}
    saved = load_file(tmp_path / "rater" / "model.safetensors")
    assert saved.keys() == weights(rater).keys()
    pairs = [example.input for example in examples(6)]
    again = EncoderRater.load(tmp_path / "rater", "cpu").score(pairs)
    np.testing.assert_allclose(
        again.probabilities[0], rater.score(pairs).probabilities[0], atol=1e-6
    )


def refused(train: Train, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        train(**given)
    return str(error.value)


def labelled(*labels: float) -> list[Example]:
    return [
        dataclasses.replace(example, labels={"level": label})
        for example, label in zip(examples(len(labels)), labels, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_labels_that_a_loss_cannot_learn(train: Train) -> None:
    interval = Dimension("level", 0, 2, "interval")
    said = refused(train, dimensions=(interval,))
    assert "dimension 'level' is an interval, and this loss learns levels. Take mse, mae" in said
    said = refused(train, data=labelled(0, 1, 1.5))
    assert said == "dimension 'level': 1.5 is no level; known: 0, 1, 2."
    said = refused(train, loss="soft_label_kl", dimensions=(interval,), data=labelled(0.5))
    assert "dimension 'level': soft labels need levels and a label for every example" in said
    said = refused(train, loss="soft_label_kl", data=labelled(0.5, float("nan")))
    assert "a label for every example" in said
    said = refused(train, loss="soft_label_kl", data=labelled(0.5, 2.5))
    assert said == "dimension 'level': the label 2.5 lies outside its levels, 0 to 2."
    said = refused(train, loss="soft_label_kl")
    assert "On one-hot labels the KL divergence equals the cross-entropy" in said
    said = refused(train, loss="ldam", data=labelled(0, 1, 0, 1))
    assert "ldam: class 2 has 0 training examples" in said


def test_a_validation_part_may_be_one_hot_by_chance(train: Train) -> None:
    whole = labelled(0, 1, 2)
    _, facts = train(loss="soft_label_kl", data=SOFT, validation=whole, num_train_epochs=1)
    assert facts["validation"] == 3


@pytest.mark.parametrize(
    "label, mixture",
    [(0.0, [1, 0, 0]), (0.25, [0.75, 0.25, 0]), (1.5, [0, 0.5, 0.5]), (2.0, [0, 0, 1])],
)
def test_a_label_between_two_levels_is_their_mixture(label: float, mixture: list[float]) -> None:
    np.testing.assert_allclose(targets.soft_targets(np.array([label]), LEVEL), [mixture])
