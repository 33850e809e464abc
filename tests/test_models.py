"""Bases and adapter chains: found where they lie, refused where they do not fit, merged exactly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import PreTrainedModel

from empo import models, small_models
from empo.alignment.settings import TARGETS
from empo.alignment.training import base_facts
from empo.models import ModelSource, load_model, lora_config, merge, resolve, weights_identity
from empo.records import UserError, read_json, write_json
from empo.untrusted import CONVERT

IDS = torch.tensor([[1, 7, 20, 33, 5, 90, 2]])


def new_base(folder: Path, seed: int, hidden: int = 16) -> Path:
    """A tiny base run: model, tokenizer and a complete run.json."""
    torch.manual_seed(seed)
    tokenizer = small_models.train_tokenizer(["I lost my cat.", "How are you?"] * 5, 300)
    small_models.small_base(tokenizer, hidden, 1, 2, 64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "run.json", {"status": "complete", "command": "base"})
    return folder


def new_adapter(folder: Path, base: str | Path, seed: int = 1, status: str = "complete") -> Path:
    """A LoRA run on a base, with weights that change what the base says."""
    torch.manual_seed(seed)
    model = get_peft_model(load_model(ModelSource(str(base))), lora_config(4, 8, 0.0, TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    facts = base_facts(ModelSource(str(base)), str(folder))
    write_json(folder / "run.json", {"status": status, "command": "sft", **facts})
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/base`, another base `runs/other` of the same shape, and `runs/sft` on the first."""
    folder = tmp_path_factory.mktemp("shelf") / "runs"
    new_base(folder / "base", seed=1)
    new_base(folder / "other", seed=2)
    new_adapter(folder / "sft", folder / "base")
    return folder


@pytest.fixture
def runs(shelf: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shelf, tmp_path / "runs"))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits


# --- resolve ---


def test_a_hub_id_is_a_base_of_its_own() -> None:
    source = resolve("owner/name", revision="v1")
    assert (source.base, source.adapters, source.revision) == ("owner/name", (), "v1")
    assert source.facts() == {
        "base": {"name": "owner/name", "revision": "v1", "commit": None},
        "adapters": [],
    }


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "runs/nowhere/model", "nowhere"])
def test_a_missing_folder_is_told(name: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(name)
    assert str(error.value) == f"{name}: no such model folder, and not a hub id (owner/name)."


def test_a_missing_run_beside_others_is_told(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    with pytest.raises(UserError, match="runs/stf: no such model folder"):
        resolve("runs/stf")


def test_a_file_is_no_model(runs: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        resolve(str(runs / "base" / "config.json"))


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        resolve(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: the folder holds neither config.json nor adapter_config.json."
    )


@pytest.mark.parametrize("name", ["base", "sft"])
def test_an_unfinished_run_is_refused(runs: Path, name: str) -> None:
    facts = read_json(runs / name / "run.json")
    write_json(runs / name / "run.json", {**facts, "status": "running"})
    with pytest.raises(UserError, match=r"this run has not ended\. Run its command again"):
        resolve(str(runs / name))


def test_an_unfinished_run_is_refused_as_adapter_too(runs: Path) -> None:
    facts = read_json(runs / "sft" / "run.json")
    write_json(runs / "sft" / "run.json", {**facts, "status": "running"})
    with pytest.raises(UserError, match="this run has not ended"):
        resolve(str(runs / "base"), str(runs / "sft"))


def test_a_run_without_adapter_given_as_adapter_is_a_users_error(runs: Path) -> None:
    with pytest.raises(UserError):
        resolve(str(runs / "base"), str(runs / "other"))


def test_a_base_run_is_its_own_base(runs: Path) -> None:
    source = resolve(str(runs / "base"))
    assert (source.base, source.adapters) == (str(runs / "base"), ())
    assert source.run["command"] == "base"


def test_an_adapter_run_brings_its_base(runs: Path) -> None:
    source = resolve(str(runs / "sft"))
    assert Path(source.base).resolve() == (runs / "base").resolve()
    assert source.adapters == (str(runs / "sft"),)
    assert source.run["command"] == "sft"
    identities = [source.facts()["base"]["sha256"], source.facts()["adapters"][0]["sha256"]]
    assert identities == [weights_identity(str(runs / n))["sha256"] for n in ("base", "sft")]


def test_an_adapter_can_be_given_beside_its_base(runs: Path) -> None:
    source = resolve(str(runs / "base"), adapter=str(runs / "sft"))
    assert (source.base, source.adapters) == (str(runs / "base"), (str(runs / "sft"),))


def test_merged_weights_stand_for_the_adapter_unless_it_is_asked_for(runs: Path) -> None:
    merge(resolve(str(runs / "sft")), runs / "sft" / models.MERGED)
    source = resolve(str(runs / "sft"))
    assert (source.base, source.adapters) == (str(runs / "sft" / "merged"), ())
    assert source.run["command"] == "sft"
    assert resolve(str(runs / "sft"), merged=False).adapters == (str(runs / "sft"),)


@pytest.mark.parametrize("inside", [False, True], ids=["from elsewhere", "from beside"])
def test_runs_that_were_moved_together_still_find_their_base(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    first = Path(shutil.copytree(shelf, tmp_path / "first"))
    new_adapter(first / "own", first / "base")
    recorded = read_json(first / "own" / "adapter_config.json")["base_model_name_or_path"]
    assert Path(recorded) == first / "base"
    before = logits(load_model(resolve(str(first / "own"))))
    second = Path(shutil.move(first, tmp_path / "second"))
    monkeypatch.chdir(second if inside else "/")
    source = resolve("./own" if inside else str(second / "own"))
    assert Path(source.base).resolve() == (second / "base").resolve()
    assert torch.equal(logits(load_model(source)), before)


# --- what does not fit ---


def test_an_adapter_of_another_base_is_refused_by_its_weights(runs: Path) -> None:
    with pytest.raises(UserError) as error:
        resolve(str(runs / "other"), adapter=str(runs / "sft"))
    trained, given = (weights_identity(str(runs / n))["sha256"][:12] for n in ("base", "other"))
    recorded = read_json(runs / "sft" / "run.json")["base_model"]["name"]
    assert str(error.value) == (
        f"{runs / 'sft'}: this adapter was trained on {recorded} (weights {trained}), but "
        f"{runs / 'other'} has the weights {given}. Give the base it was trained on."
    )


def test_a_base_that_changed_after_the_adapter_was_trained_is_refused(runs: Path) -> None:
    shutil.copy(runs / "other" / "model.safetensors", runs / "base" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"this adapter was trained on .* but .*base has the weights"
    ):
        resolve(str(runs / "sft"))


def test_an_adapter_of_another_shape_is_refused_when_it_is_put_on(
    runs: Path, tmp_path: Path
) -> None:
    wide = new_base(tmp_path / "wide", seed=3, hidden=32)
    os.remove(runs / "sft" / "run.json")  # an adapter from elsewhere records no weights
    with pytest.raises(UserError) as error:
        load_model(resolve(str(wide), adapter=str(runs / "sft")))
    assert str(error.value) == (
        f"{runs / 'sft' / 'adapter_model.safetensors'}: base_model.model.model.layers.0.mlp.down_proj"
        f".lora_A.weight has the shape [4, 48], but the layer of {wide} has 96 inputs and 32 outputs. "
        "The adapter was made for a model of another size; give the base it was trained on "
        f"({read_json(runs / 'sft' / 'adapter_config.json')['base_model_name_or_path']})."
    )


def test_a_pickled_adapter_is_refused(runs: Path) -> None:
    from safetensors.torch import load_file

    weights = runs / "sft" / "adapter_model.safetensors"
    torch.save(load_file(weights), runs / "sft" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UserError) as error:
        load_model(resolve(str(runs / "sft")))
    assert str(error.value) == (
        f"{runs / 'sft' / 'adapter_model.bin'}: these weights are pickled, and a pickle can run any "
        f"code, so it is not opened. {CONVERT}"
    )


def test_a_pickled_base_is_refused(runs: Path) -> None:
    from safetensors.torch import load_file

    weights = runs / "other" / "model.safetensors"
    torch.save(load_file(weights), runs / "other" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"other/pytorch_model\.bin: these weights are pickled"):
        load_model(resolve(str(runs / "other")))


def test_a_model_without_tokenizer_is_told(runs: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (runs / "other" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="other: the tokenizer cannot be loaded: "):
        models.load_tokenizer(resolve(str(runs / "other")))


# --- weights ---


def test_merged_weights_say_what_base_and_adapter_say(runs: Path, tmp_path: Path) -> None:
    source = resolve(str(runs / "sft"))
    merge(source, tmp_path / "merged")
    base, adapted = logits(load_model(ModelSource(source.base))), logits(load_model(source))
    merged = logits(load_model(resolve(str(tmp_path / "merged"))))
    assert (adapted - base).abs().max() > 0.01
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    assert models.load_tokenizer(ModelSource(str(tmp_path / "merged"))).eos_token == "</s>"


def test_a_chain_of_adapters_is_applied_in_its_order(runs: Path, tmp_path: Path) -> None:
    merge(resolve(str(runs / "sft")), tmp_path / "merged")
    second = new_adapter(tmp_path / "dpo", tmp_path / "merged", seed=5)
    base = str(runs / "base")
    chain = load_model(ModelSource(base, (str(runs / "sft"), str(second))))
    torch.testing.assert_close(
        logits(chain), logits(load_model(resolve(str(second)))), rtol=0, atol=1e-5
    )


def test_merging_casts_after_it_has_added_in_float32(runs: Path, tmp_path: Path) -> None:
    source = resolve(str(runs / "sft"))
    merge(source, tmp_path / "exact")
    merge(source, tmp_path / "half", dtype="bfloat16")
    exact, half = (load_model(ModelSource(str(tmp_path / n)), t).state_dict()
                   for n, t in (("exact", "float32"), ("half", "bfloat16")))  # fmt: skip
    assert all(torch.equal(exact[name].to(torch.bfloat16), half[name]) for name in exact)


def test_only_the_last_adapter_is_trainable_and_only_when_asked(runs: Path) -> None:
    source = resolve(str(runs / "sft"))
    assert not any(p.requires_grad for p in load_model(source).parameters())
    model = load_model(source, trainable=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained)
