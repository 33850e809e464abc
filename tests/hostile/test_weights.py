"""Weights from elsewhere: pickles, damage, and adapters that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from empo.alignment.settings import TARGETS
from empo.models import ModelSource, load_model, load_tokenizer, require_targets, resolve
from empo.raters.encoders import load_cross_encoder, load_embedder, load_encoder, resolve_encoder
from empo.raters.loading import lazy_rater, load_rater
from empo.raters.published import convert
from empo.raters.similarity import EmbeddingRater
from empo.records import UserError, read_json, write_json

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


class Bomb:
    """What is unpickled from it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),))


def pickled(weights: Path, name: str, ran: Path) -> Path:
    """Replace safetensors weights by a pickle that makes `ran` where it is opened."""
    weights.unlink()
    path = weights.with_name(name)
    torch.save({"weight": Bomb(ran)}, path)
    return path


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


# --- pickles ---


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "weights.ckpt"])
def test_a_pickled_base_is_not_opened(folder: Path, name: str) -> None:
    path = pickled(folder / "base" / "model.safetensors", name, folder / "ran")
    with pytest.raises(UserError) as error:
        load_model(resolve(str(folder / "base")))
    assert str(error.value) == (
        f"{path}: these weights are pickled, and a pickle can run any code, so it is not opened. "
        "Convert them, where you trust them, with the command in docs/security.md (or take a "
        "version of the model with model.safetensors)."
    )
    assert not (folder / "ran").exists()


def test_a_pickled_adapter_is_not_opened(folder: Path) -> None:
    ran = folder / "ran"
    pickled(folder / "adapter" / "adapter_model.safetensors", "adapter_model.bin", ran)
    with pytest.raises(UserError, match=r"adapter_model\.bin: these weights are pickled"):
        load_model(resolve(str(folder / "adapter")))
    assert not ran.exists()


def test_the_command_of_the_docs_converts(folder: Path, tmp_path: Path) -> None:
    import shlex
    import subprocess
    import sys

    weights = folder / "base" / "model.safetensors"
    before = load_file(weights)
    torch.save(before, folder / "base" / "pytorch_model.bin")
    weights.unlink()
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    command = text.split("```sh\n")[1].split("```")[0].replace("\\\n", "")
    words = [sys.executable, *shlex.split(command)[1:]]
    subprocess.run(words, cwd=folder / "base", check=True)
    after = load_file(weights)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    load_model(resolve(str(folder / "base")))


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained rater on the packaged encoder."""
    folder = tmp_path_factory.mktemp("raters") / "whole"
    EmbeddingRater.zero_shot().save(folder)
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_pickled_encoders_and_raters_are_not_opened(rater: Path, tmp_path: Path, name: str) -> None:
    folder, ran = Path(shutil.copytree(rater, tmp_path / "rater")), tmp_path / "ran"
    pickled(folder / "model.safetensors", name, ran)
    for load in (resolve_encoder, load_encoder, load_embedder, load_cross_encoder, load_rater):
        with pytest.raises(UserError, match=r"pickle.*not opened"):
            load(str(folder))
    with pytest.raises(UserError, match=r"pickle.*not opened"):
        lazy_rater(folder)
    assert not ran.exists()


def test_published_classifiers_are_read_without_running_anything(tmp_path: Path) -> None:
    for number, save in enumerate(
        (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value)))
    ):
        file, ran = tmp_path / f"{number}.pth", tmp_path / "ran"
        save({"weight": Bomb(ran)}, file)
        with pytest.raises(UserError, match=rf"{number}\.pth: this is no plain table of weights"):
            convert({"explorations": file}, tmp_path / "out", "minilm")
        assert not ran.exists()


# --- damage ---


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:7], lambda b: b[:-1], lambda b: b + b"x"]
)
@pytest.mark.parametrize("holder", ["base/model", "adapter/adapter_model"])
def test_weights_that_are_not_whole(
    folder: Path, holder: str, damage: Callable[[bytes], bytes]
) -> None:
    path = folder / f"{holder}.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        load_model(resolve(str(folder / "adapter")))
    assert str(error.value).startswith(f"{path}: this is no whole safetensors file (")
    assert str(error.value).endswith("Copy or download it again.")


def test_a_base_without_some_of_its_tensors(folder: Path) -> None:
    path = folder / "base" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError) as error:
        load_model(resolve(str(folder / "base")))
    assert str(error.value) == (
        f"{folder / 'base'}: the weights lack 1 tensors of the model that config.json describes, "
        "such as model.layers.1.mlp.up_proj.weight; they would be random. Copy the model again, or "
        "give one that was made to write text."
    )


@pytest.mark.parametrize(
    "shard", ["missing.safetensors", "../base/model.safetensors", "/x.safetensors"]
)
def test_an_index_of_weights_that_are_missing_or_elsewhere(folder: Path, shard: str) -> None:
    index = folder / "base" / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"lm_head.weight": shard}})
    with pytest.raises(UserError, match=r"index\.json, field 'weight_map': .*(is missing|is no)"):
        load_model(resolve(str(folder / "base")))


def _run(relative: object) -> str:
    """The manifest of a complete run whose base is said to lie there."""
    facts = {"status": "complete", "command": "sft", "base_model": {"relative": relative}}
    return json.dumps(facts)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("base/config.json", "{", "not JSON"),
        ("base/config.json", "", "the file is empty"),
        ("base/config.json", "[]", "a JSON object is expected, not list"),
        ("base/config.json", '{"model_type": "nothing"}', "the model cannot be loaded"),
        ("base/config.json", '{"model_type": 3}', "the model cannot be loaded"),
        ("base/tokenizer_config.json", "{", "not JSON"),
        ("base/tokenizer.json", "{}", "the tokenizer cannot be loaded"),
        ("base/tokenizer.json", "", "the tokenizer cannot be loaded"),
        ("adapter/adapter_config.json", "{", "not JSON"),
        ("adapter/adapter_config.json", "3", "a JSON object is expected, not int"),
        ("adapter/adapter_config.json", "{}", "field 'peft_type': str is expected, not None"),
        (
            "adapter/run.json",
            _run("/x"),
            "'base_model.relative': a path from this folder is expected",
        ),
        ("adapter/run.json", _run(3), "base_model.relative"),
    ],
)
def test_configurations_that_are_broken(folder: Path, file: str, content: str, said: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        source = resolve(str(folder / "adapter"))
        load_tokenizer(source)
        load_model(source)
    assert said in str(error.value) and str(folder / Path(file).parent) in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of peft, about fields and tensors it lacks
@pytest.mark.parametrize(
    "file",
    [
        "base/config.json",
        "base/tokenizer_config.json",
        "base/tokenizer.json",
        "base/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ],
)
def test_a_flipped_byte_is_told_or_does_no_harm(folder: Path, file: str) -> None:
    path, draw = folder / file, random.Random(file)
    content = path.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else None
    for _ in range(25):
        place = draw.randrange(head or len(content))
        flipped = content[place] ^ (1 << draw.randrange(8))
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            source = resolve(str(folder / "adapter"))
            load_tokenizer(source)
            load_model(source)
        except UserError as error:
            assert str(folder) in str(error)


# --- adapters against their base ---


def changed_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def test_an_adapter_of_another_architecture(folder: Path) -> None:
    other = folder / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2)).save_pretrained(
        other
    )
    with pytest.raises(UserError) as error:
        load_model(ModelSource(str(other), (str(folder / "adapter"),)))
    assert str(error.value) == (
        f"{folder / 'adapter' / 'adapter_model.safetensors'}: the adapter was made for another "
        f"architecture: {other} (gpt2) has no model.layers.0.mlp.down_proj (14 such layers). Give "
        f"the base it was trained on ({folder / 'base'})."
    )


def test_targets_that_the_base_has_not(folder: Path) -> None:
    config = folder / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"target_modules": ["q_proj", "nowhere"]})
    with pytest.raises(UserError) as error:
        load_model(resolve(str(folder / "adapter")))
    assert str(error.value) == (
        f"{config}, field 'target_modules': the model (mistral) has no linear layer nowhere. It "
        "has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )


def test_a_rank_that_is_not_that_of_the_tensors(folder: Path) -> None:
    config = folder / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"r": 8})
    with pytest.raises(UserError, match=r"lora_A\.weight has the shape \[4, .*says rank 8\."):
        load_model(resolve(str(folder / "adapter")))
    layers = read_json(config)["target_modules"]
    write_json(config, read_json(config) | {"r": 8, "rank_pattern": dict.fromkeys(layers, 4)})
    load_model(resolve(str(folder / "adapter")))
    write_json(config, read_json(config) | {"rank_pattern": {".*_proj": 4}})
    with pytest.raises(UserError, match="field 'rank_pattern': names of layers with a number each"):
        load_model(resolve(str(folder / "adapter")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop(f"{LAYER}.lora_B.weight"),
            rf"the file lacks 1 tensors, such as {LAYER}.lora_B",
        ),
        (lambda t: t.update(more=torch.ones(2)), "the file has besides 1 tensors, such as more"),
        (
            lambda t: t.update({f"{LAYER}.weight": torch.zeros(16, 16)}),
            rf"the file has besides 1 tensors, such as {LAYER}\.weight",
        ),
        (lambda t: t[f"{LAYER}.lora_A.weight"].fill_(float("nan")), "holds NaN or an infinity"),
        (lambda t: t[f"{LAYER}.lora_A.weight"].fill_(float("inf")), "holds NaN or an infinity"),
        (
            lambda t: t.update({f"{LAYER}.lora_A.weight": torch.zeros(4, 9)}),
            r"has the shape \[4, 9\], but the layer of .* has 16 inputs and 16 outputs",
        ),
        (
            lambda t: t.update({f"{LAYER}.lora_B.weight": torch.zeros(16)}),
            r"has the shape \[16\], but adapter_config\.json says rank 4",
        ),
    ],
)
def test_tensors_that_do_not_belong(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    path = changed_tensors(folder, change)
    with pytest.raises(UserError, match=said) as error:
        load_model(resolve(str(folder / "adapter")))
    assert str(error.value).startswith(f"{path}: ")


def test_other_kinds_of_adapters(folder: Path) -> None:
    config = folder / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"peft_type": "PROMPT_TUNING"})
    with pytest.raises(UserError, match="PROMPT_TUNING adapters are not read, only LORA"):
        resolve(str(folder / "adapter"))


def test_an_adapter_whose_base_is_an_adapter(folder: Path) -> None:
    config = folder / "adapter" / "adapter_config.json"
    second = folder / "second"
    shutil.copytree(folder / "adapter", second)
    write_json(
        second / "adapter_config.json",
        read_json(config) | {"base_model_name_or_path": str(folder / "adapter")},
    )
    with pytest.raises(UserError, match=r"is an adapter itself\. Merge that first"):
        resolve(str(second))


def test_lora_targets_of_a_training(folder: Path) -> None:
    model = load_model(resolve(str(folder / "base")))
    require_targets(model, TARGETS)
    require_targets(model, ["self_attn.q_proj", "model.layers.1.mlp.up_proj"])
    with pytest.raises(UserError) as error:
        require_targets(model, ["q_proj", "query_key_value", "proj", "norm"])
    assert str(error.value) == (
        "lora_targets: the model (mistral) has no linear layer query_key_value, proj, norm. It has: "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )


def test_targets_of_layers_of_gpt2() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2))
    require_targets(model, ["c_attn"])
    with pytest.raises(UserError, match=r"no linear layer q_proj\. It has: c_attn, c_fc, c_proj\."):
        require_targets(model, ["q_proj"])
