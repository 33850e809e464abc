from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import POSITIONS, shaken
from transformers import BertConfig, BertModel, PreTrainedModel

from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoders import load_encoder
from empo.records import UserError

ARCHITECTURES = ("bi_encoder", "seeker_attention", "cross_encoder", "window")
CLASSES = [3, 2]


@pytest.fixture(scope="module")
def loaded(encoders: dict[str, Path]) -> dict[str, PreTrainedModel]:
    return {name: load_encoder(str(path))[0] for name, path in encoders.items()}


def build(encoder: PreTrainedModel, seed: int = 0, **config: Any) -> PairClassifier:
    settings = {"classes": CLASSES, **config}
    return shaken(PairClassifier.from_encoder(encoder, PairClassifierConfig(**settings)), seed)


def batch(architecture: str, n: int = 3, length: int = 9, context: int = 7) -> dict[str, Any]:
    """Random tokens; the first row is full, the others end before."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([length, *[length - 3] * (n - 1)])
    tensors = {
        "input_ids": torch.randint(5, 90, (n, length), generator=generator),
        "attention_mask": (torch.arange(length)[None] < lengths[:, None]).long(),
    }
    tensors["target_mask"] = tensors["attention_mask"].clone()
    tensors["target_mask"][:, :2] = 0
    if architecture in ("bi_encoder", "seeker_attention"):
        tensors["context_input_ids"] = torch.randint(5, 90, (n, context), generator=generator)
        tensors["context_attention_mask"] = torch.ones(n, context, dtype=torch.long)
    return tensors


def logits(model: PairClassifier, tensors: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**tensors).logits


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("pooling", ["first", "mean", "both"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_loaded_is_what_was_saved(
    loaded: dict[str, PreTrainedModel], tmp_path: Path, architecture: str, pooling: str, head: str
) -> None:
    model = build(loaded["bert"], architecture=architecture, pooling=pooling, head=head)
    before = logits(model, batch(architecture))
    assert before.shape == (3, 5) and before.std(dim=0).min() > 1e-3
    model.save_pretrained(tmp_path)
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix != ".json"] == [
        ".safetensors"
    ]
    again = PairClassifier.load(tmp_path)
    assert not again.training
    torch.testing.assert_close(logits(again, batch(architecture)), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoder", ["roberta", "t5"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_encoders_are_saved_and_loaded(
    loaded: dict[str, PreTrainedModel], tmp_path: Path, architecture: str, encoder: str
) -> None:
    rationales = architecture != "bi_encoder"
    model = build(loaded[encoder], architecture=architecture, rationales=rationales)
    before = logits(model, batch(architecture))
    model.save_pretrained(tmp_path)
    again = PairClassifier.load(tmp_path)
    assert not [name for name, _ in again.named_parameters() if "decoder" in name]
    torch.testing.assert_close(logits(again, batch(architecture)), before, atol=1e-6, rtol=0)


def test_both_encoders_begin_as_the_pretrained_one(loaded: dict[str, PreTrainedModel]) -> None:
    config = PairClassifierConfig(architecture="seeker_attention", classes=[3])
    model = PairClassifier.from_encoder(loaded["roberta"], config)
    for name, tensor in loaded["roberta"].state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
        assert torch.equal(model.context_encoder.state_dict()[name], tensor)


def test_logits_are_split_by_dimension(loaded: dict[str, PreTrainedModel]) -> None:
    model = build(loaded["bert"], classes=[3, 2, 4])
    together = torch.arange(18.0).view(2, 9)
    assert [part[0].tolist() for part in model.split(together)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6, 7, 8],
    ]


def test_pooling(loaded: dict[str, PreTrainedModel]) -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [5.0, 8.0], [9.0, 9.0]]])
    mask = torch.tensor([[0, 1, 1, 0]])

    def pooled(pooling: str) -> list[float]:
        return build(loaded["bert"], pooling=pooling)._pool(states, mask)[0].tolist()

    assert pooled("first") == [1, 2] and pooled("mean") == [4, 7]
    assert pooled("both") == [1, 2, 4, 7]


@pytest.fixture
def saved(loaded: dict[str, PreTrainedModel], tmp_path: Path) -> Path:
    build(loaded["bert"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_head_of_another_size_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "classes": [4, 2]}))
    with pytest.raises(UserError) as error:
        PairClassifier.load(saved)
    assert str(error.value).startswith(f"{saved}: config.json and model.safetensors do not belong")
    assert "mismatched_keys ('heads.0.4.bias', torch.Size([3]), torch.Size([4]))" in str(
        error.value
    )


def test_a_missing_weight_is_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["heads.1.4.weight"]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"do not belong together: missing_keys heads\.1\.4\.weight"
    ):
        PairClassifier.load(saved)


def test_a_surplus_weight_is_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors") | {"heads.2.4.bias": torch.zeros(3)}
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"unexpected_keys heads\.2\.4\.bias"):
        PairClassifier.load(saved)


class Touch:
    """Unpickling it makes a folder: what any pickle could do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def test_pickled_weights_are_never_opened(saved: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    (saved / "model.safetensors").unlink()
    pickled = pickle.dumps(Touch(trace))
    (saved / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(UserError, match="cannot be loaded"):
        PairClassifier.load(saved)
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.exists()  # so the test would have seen it


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the classifier cannot be loaded"):
        PairClassifier.load(tmp_path)
    with pytest.raises(UserError, match="names no encoder"):
        PairClassifier(PairClassifierConfig(classes=[3]))


@pytest.mark.parametrize("encoder", ["bert", "roberta", "t5"])
def test_seeker_attention_does_not_see_the_padding_of_the_context(
    loaded: dict[str, PreTrainedModel], encoder: str
) -> None:
    model = build(loaded[encoder], architecture="seeker_attention")
    alone = batch("seeker_attention")
    padded = {name: tensor.clone() for name, tensor in alone.items()}
    for name, filling in (("context_input_ids", 17), ("context_attention_mask", 0)):
        rest = torch.full((3, 6), filling)
        padded[name] = torch.cat([padded[name], rest], dim=1)
    torch.testing.assert_close(logits(model, padded), logits(model, alone), atol=1e-5, rtol=0)
    seen = {**padded, "context_attention_mask": torch.ones(3, 13, dtype=torch.long)}
    assert (logits(model, seen) - logits(model, alone)).abs().max() > 1e-3


def gradients(model: PairClassifier, architecture: str) -> dict[str, bool]:
    model.zero_grad()
    tensors = batch(architecture)
    labels = torch.ones(*tensors["input_ids"].shape, 2, dtype=torch.long)
    if model.config.rationales:
        tensors["rationale_labels"] = labels
    output = model(**tensors)
    (output.logits.square().sum() + (output.rationale_loss or 0)).backward()
    return {name: parameter.grad is not None for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("encoder", ["bert", "roberta", "t5"])
def test_a_frozen_context_encoder_gets_no_gradient_and_everything_else_does(
    loaded: dict[str, PreTrainedModel], encoder: str
) -> None:
    settings = {"architecture": "seeker_attention", "rationales": True}
    frozen = build(loaded[encoder], freeze_context_encoder=True, **settings)
    for name, got in gradients(frozen, "seeker_attention").items():
        assert got != name.startswith("context_encoder."), name
    free = build(loaded[encoder], freeze_context_encoder=False, **settings)
    assert all(gradients(free, "seeker_attention").values())


@pytest.mark.parametrize("architecture", ["bi_encoder", "cross_encoder", "window"])
def test_every_weight_gets_a_gradient(
    loaded: dict[str, PreTrainedModel], architecture: str
) -> None:
    rationales = architecture != "bi_encoder"
    model = build(loaded["bert"], architecture=architecture, rationales=rationales)
    assert all(gradients(model, architecture).values())


def test_seeker_attention_is_the_formula_of_the_paper() -> None:
    """softmax(Q K^T / sqrt(d)) V, projected, on top of the response's states; d = 2."""
    shape = {"hidden_size": 2, "num_attention_heads": 1, "intermediate_size": 4}
    encoder = BertModel(BertConfig(vocab_size=90, num_hidden_layers=1, **shape))
    model = build(
        encoder,
        architecture="seeker_attention",
        classes=[2],
        head="linear",
        freeze_context_encoder=True,
    )
    tensors = batch("seeker_attention", n=1, length=3, context=4)
    with torch.no_grad():
        response = model.encoder(input_ids=tensors["input_ids"]).last_hidden_state[0].numpy()
        context = model.context_encoder(input_ids=tensors["context_input_ids"])
        context = context.last_hidden_state[0].numpy()
    w = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    weights = np.split(w["attention.in_proj_weight"], 3)
    biases = np.split(w["attention.in_proj_bias"], 3)
    query, key, value = (
        states @ weight.T + bias
        for states, weight, bias in zip((response, context, context), weights, biases, strict=True)
    )
    powers = np.exp(query @ key.T / np.sqrt(2))
    attended = (powers / powers.sum(axis=1, keepdims=True)) @ value
    projected = attended @ w["attention.out_proj.weight"].T + w["attention.out_proj.bias"]
    first = (response + projected)[0]
    expected = first @ w["heads.0.1.weight"].T + w["heads.0.1.bias"]
    np.testing.assert_allclose(logits(model, tensors)[0].numpy(), expected, atol=1e-5)
    without = response[0] @ w["heads.0.1.weight"].T + w["heads.0.1.bias"]
    assert np.abs(expected - without).max() > 1e-3


def test_a_context_without_mask_needs_a_length() -> None:
    with pytest.raises(UserError, match="mask_context: false needs pad_context_to"):
        PairClassifierConfig(mask_context=False)


def test_the_marking_loss_leaves_out_what_has_no_mark(loaded: dict[str, PreTrainedModel]) -> None:
    model = build(loaded["bert"], rationales=True, classes=[3])
    tensors = batch("cross_encoder", n=1)
    states = model.encoder(
        input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]
    ).last_hidden_state[0]
    marks = model.rationale_head(states).log_softmax(-1).detach()

    def loss(labels: dict[int, int]) -> float:
        given = torch.full((1, 9, 1), -100)
        for place, label in labels.items():
            given[0, place, 0] = label
        return float(model(**tensors, rationale_labels=given).rationale_loss.detach())

    assert loss({3: 1}) == pytest.approx(-float(marks[3, 1]), abs=1e-5)
    expected = -(marks[3, 1] + marks[4, 0] + marks[7, 0]) / 3
    assert loss({3: 1, 4: 0, 7: 0}) == pytest.approx(float(expected), abs=1e-5)
    assert loss({}) == 0
    assert model(**tensors).rationale_loss is None


def test_a_bi_encoder_is_its_two_vectors_side_by_side(loaded: dict[str, PreTrainedModel]) -> None:
    model = build(loaded["roberta"], architecture="bi_encoder", pooling="both")
    tensors = batch("bi_encoder")
    with torch.no_grad():
        context = model.embed(tensors["context_input_ids"], tensors["context_attention_mask"])
        response = model.embed(tensors["input_ids"], tensors["attention_mask"])
        together = model.classify(torch.cat([context, response], dim=1))
    torch.testing.assert_close(logits(model, tensors), together)
    assert context.shape == (3, 64)


def test_the_rows_may_fill_all_positions(loaded: dict[str, PreTrainedModel]) -> None:
    for name in ("bert", "roberta"):
        full = batch("cross_encoder", length=POSITIONS)
        assert torch.isfinite(logits(build(loaded[name]), full)).all()
        with pytest.raises((IndexError, RuntimeError)):
            logits(build(loaded[name]), batch("cross_encoder", length=POSITIONS + 1))
