"""A model that follows a layout: per token what it says of separate sequences, and otherwise itself.

Models are random but built like real ones. The whole step is compared with trl's in
test_pair_batches.py.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from trl import DPOConfig
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from empo.alignment import shared_prefix
from empo.alignment.dpo import shares_prefix
from empo.alignment.layouts import Layout, pack
from empo.alignment.pair_batches import EpochCollator
from empo.alignment.settings import DpoSettings
from empo.alignment.shared_prefix import (
    FIELDS,
    NAME,
    VERIFIED,
    _flash,
    _masked,
    _row_masks,
    flash_kernel,
    refusal,
    share_prefix,
)
from empo.models import ModelSource
from empo.records import UserError

VOCABULARY = 200
SHAPES = [(1, 5, (1, 2, 3)), (30, 1, (9, 1, 4)), (7, 12, (3, 25, 1)), (4, 3, (3, 3, 8))]
"""Tokens of prompt, chosen and three rejected replies of every row."""

LONGEST = 39
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""What configurations call a factor on the logits; 1 by default in some."""


def batch() -> dict[str, Any]:
    """trl's batch of pairs, with the layout."""
    rng = random.Random(1)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(length)]

    return EpochCollator(0, rejected_per_prompt=3, shared=True)(
        [
            {
                "id": f"row-{place}",
                "row": place,
                "prompt_ids": tokens(prompt),
                "chosen_ids": tokens(chosen),
                "rejected_pool": [tokens(length) for length in rejected],
            }
            for place, (prompt, chosen, rejected) in enumerate(SHAPES)
        ]
    )


def config(kind: str, **changed: Any) -> Any:
    """Two small layers whose windows hold the longest sequence, but not a whole row.

    Where an architecture scales its logits, by something else than 1.
    """
    plain = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "sliding_window": LONGEST,
        "use_sliding_window": True,
        "max_window_layers": 1,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    made = AutoConfig.for_model(kind, **(plain | changed))
    for name in SCALES:
        if getattr(made, name, None) is not None:
            setattr(made, name, 0.3)
    return made


def tiny(kind: str = "llama", **changed: Any) -> PreTrainedModel:
    """The same random model for the same arguments; biases and norms are not 0 and 1."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(kind, **changed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def gradients(model: PreTrainedModel, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum in which every token has a weight of its own."""
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (weights * logps).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def separate(model: PreTrainedModel, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The per-token fields of trl's batch, from the logits of the model's own head."""
    ids, mask = given["input_ids"][:, 1:], given["completion_mask"][:, 1:]
    logits = model(given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
    logps = logits.float().log_softmax(-1)
    probabilities = logps.exp()
    fields = {
        "log_probs": logps.gather(-1, ids[..., None])[..., 0],
        "entropy": -(probabilities * logps).sum(-1),
        "log_sum_sq_probs": probabilities.square().sum(-1).log(),
        "mean_logits": logits.mean(-1),
        "is_top1": logits.argmax(-1) == ids,
    }
    return {name: value * mask for name, value in fields.items()}


# --- what it says of a token ---


@pytest.mark.parametrize("head", ["frozen", "trained", "tied"])
@pytest.mark.parametrize("kind", VERIFIED)
def test_fields_and_gradients_are_those_of_separate_sequences(kind: str, head: str) -> None:
    given, model = batch(), tiny(kind, tie_word_embeddings=head == "tied")
    assert not hasattr(model.config, "output_router_logits"), "trl adds a loss to that of experts"
    model.get_output_embeddings().weight.requires_grad_(head != "frozen")
    fields = separate(model, given)
    expected = gradients(model, fields["log_probs"])
    share_prefix(model)
    found = model(**{NAME: given[NAME]})
    for name in FIELDS:
        torch.testing.assert_close(found[name].float(), fields[name].float(), rtol=0, atol=2e-5)
    ours = gradients(model, found.log_probs)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_a_second_model_of_the_same_configuration_follows_too() -> None:
    shape, given = config("llama"), batch()
    for model in (LlamaForCausalLM(shape), LlamaForCausalLM(shape)):
        share_prefix(model)
        expected = separate(model, given)["log_probs"]
        torch.testing.assert_close(model(**{NAME: given[NAME]}).log_probs, expected)


# --- without a layout ---


@pytest.mark.parametrize("kind", VERIFIED)
def test_without_a_layout_a_model_does_what_it_did(kind: str) -> None:
    given, model = batch(), tiny(kind).eval()
    ids = given["input_ids"].flip(1)  # padding on the left, as generation wants it
    inputs = {"input_ids": ids, "attention_mask": given["attention_mask"].flip(1)}

    def said() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            return model(**inputs).logits, model.generate(**inputs, max_new_tokens=9)

    before = said()
    share_prefix(model)
    model(**{NAME: given[NAME]})
    for now, then in zip(said(), before, strict=True):
        assert torch.equal(now, then)


def test_trls_fused_head_stays_without_a_layout() -> None:
    given, model = batch(), tiny()
    add_fused_lm_head(model, outputs=FIELDS)
    inputs = {key: given[key] for key in ("input_ids", "attention_mask")}
    labels = given["input_ids"].masked_fill(given["completion_mask"] == 0, -100)

    def said() -> FusedCausalLMOutput:
        return model(**inputs, labels=labels, fused_lm_head=True)

    before = said()
    share_prefix(model)
    after = said()
    assert torch.equal(after.loss, before.loss)
    assert all(torch.equal(after[name], before[name]) for name in FIELDS)


def test_calling_it_twice_is_calling_it_once() -> None:
    model = tiny()
    share_prefix(model)
    forward = model.forward
    share_prefix(model)
    assert model.forward is forward


def test_a_saved_model_knows_nothing_of_it(tmp_path: Path) -> None:
    model, ids = tiny().eval(), batch()["input_ids"]
    share_prefix(model)
    model.save_pretrained(tmp_path)
    assert not any(NAME.encode() in file.read_bytes() for file in tmp_path.iterdir())
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config._attn_implementation == "sdpa"
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_a_saved_adapter_knows_nothing_of_it(tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model, ids = get_peft_model(tiny(), lora).eval(), batch()["input_ids"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    share_prefix(model.get_base_model())
    model.save_pretrained(tmp_path)
    assert not any(NAME.encode() in file.read_bytes() for file in tmp_path.iterdir())
    again = PeftModel.from_pretrained(tiny(), tmp_path).eval()
    assert torch.equal(again(ids).logits, model(ids).logits)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, again(ids).logits, rtol=0, atol=1e-4)


# --- refusals ---


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_mask_is_refused(attention: str) -> None:
    llama = config("llama", sliding_window=None)
    assert refusal(llama, attention, 512) == (
        f"attention: {attention} takes no mask in which replies share a prompt; only sdpa does "
        "(on a GPU in half precision it is replaced by a variable-length flash kernel anyway)"
    )
    assert refusal(llama, "sdpa", 512) is None


def test_architectures_that_were_not_verified_are_refused_by_name() -> None:
    assert refusal(AutoConfig.for_model("gemma2"), None, 512) == (
        f"the architecture gemma2 is not one it was verified on ({', '.join(VERIFIED)})"
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "attention_dropout"),
        ("starcoder2", "residual_dropout"),
        ("gemma3_text", "final_logit_softcapping"),
    ],
)
def test_dropout_that_stays_and_caps_are_refused(kind: str, name: str) -> None:
    assert refusal(config(kind, sliding_window=None, **{name: 0.5}), None, 512) == (
        f"its configuration has {name}: 0.5, and a shared prompt is computed without dropout and caps"
    )


def test_batches_by_tokens_need_shared_prompts(tmp_path: Path) -> None:
    settings, args, source = asked(tmp_path, False)
    settings.tokens_per_batch = 500
    with pytest.raises(UserError, match=r"prompts are not shared here \(shared_prefix: false\)"):
        shares_prefix(settings, args, source)


def test_windows_shorter_than_a_sequence_are_refused() -> None:
    mistral = config("mistral", sliding_window=64)
    assert refusal(mistral, None, 64) is None
    assert refusal(mistral, None, 65) == (
        "its sliding window of 64 tokens is shorter than max_length 65"
    )
    assert refusal(config("qwen2", sliding_window=64), None, 65) is not None
    assert refusal(config("qwen2", sliding_window=64, use_sliding_window=False), None, 65) is None


def asked(
    tmp_path: Path, wish: bool | None, kind: str = "llama", **arguments: Any
) -> tuple[DpoSettings, DPOConfig, Any]:
    settings = DpoSettings(dialogues="-", model="-", shared_prefix=wish)
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **arguments)
    config(kind, sliding_window=None).save_pretrained(tmp_path / kind)
    return settings, args, ModelSource(str(tmp_path / kind))


def test_what_cannot_be_shared_is_an_error_only_where_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shares_prefix(*asked(tmp_path, None)) and shares_prefix(*asked(tmp_path, True))
    assert not shares_prefix(*asked(tmp_path, False))
    dispatched = {"accelerator_config": {"dispatch_batches": True}}
    for changed, reason in [
        ({"kind": "gemma2"}, "the architecture gemma2 is not one it was verified on"),
        (dispatched, "dispatch_batches would cut its layout into pieces"),
    ]:
        assert not shares_prefix(*asked(tmp_path, False, **changed))
        assert not caplog.records
        with pytest.raises(UserError) as error:
            shares_prefix(*asked(tmp_path, True, **changed))
        assert str(error.value).startswith(f"shared_prefix: {reason}")
        assert str(error.value).endswith(". Set it to false.")
        with caplog.at_level(logging.WARNING):
            assert not shares_prefix(*asked(tmp_path, None, **changed))
        assert f"prompts are not shared between their replies: {reason}" in caplog.text
        caplog.clear()


# --- attention as a kernel for sequences of unequal length ---


def documented_varlen(*given: Any, scale: float | None, **options: Any) -> torch.Tensor:
    """What torch documents of `varlen_attn`, one sequence after the other, on a CPU too."""
    query, key, value, query_starts, key_starts, *longest = given
    assert query.dtype == key.dtype == value.dtype
    assert query_starts.dtype == key_starts.dtype == torch.int32
    assert options == {"window_size": (-1, 0), "enable_gqa": True}
    queries, keys = query_starts.diff().tolist(), key_starts.diff().tolist()
    assert longest == [max(queries), max(keys)]
    attended = [
        scaled_dot_product_attention(
            *(part.transpose(0, 1)[None] for part in parts),
            attn_mask=torch.ones(m, n, dtype=torch.bool).tril(n - m),
            scale=scale,
            enable_gqa=True,
        )[0].transpose(0, 1)
        for *parts, m, n in zip(
            query.split(queries), key.split(keys), value.split(keys), queries, keys, strict=True
        )
    ]
    return torch.cat(attended)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_the_kernel_is_given_what_the_masks_say(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    given, model = batch(), tiny()
    share_prefix(model)
    if precision == "bfloat16":
        model.bfloat16()
    results = []
    for kernel in (False, True):
        monkeypatch.setattr(shared_prefix, "flash_kernel", lambda *_, answer=kernel: answer)
        monkeypatch.setattr(varlen, "varlen_attn", documented_varlen)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            logps = model(**{NAME: given[NAME]}).log_probs
        results.append((logps, gradients(model, logps)))
    (masked, expected), (flash, found) = results
    rounding = 2e-5 if precision == "float32" else 0.05
    assert (flash - masked).abs().mean() <= rounding
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= rounding * gradient.norm(), name


def test_the_kernel_is_not_for_cpus() -> None:
    assert not flash_kernel(torch.device("cpu"), torch.bfloat16)


gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the variable-length flash kernel needs a CUDA GPU"
)


def on_gpu(layout: Layout) -> Layout:
    return {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in layout.items()}


@gpu
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2)])
def test_the_kernel_is_as_near_to_float32_as_the_masks(heads: tuple[int, int], size: int) -> None:
    shapes = [(300, (40, 1, 170)), (1, (2, 3)), (64, (64, 65)), (17, (1,))]
    layout = pack([[1] * n for n, _ in shapes], [[[1] * n for n in m] for _, m in shapes], 8)
    layout = on_gpu(layout)
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value, grad = (
        torch.randn((1, h, len(layout["segments"]), size), generator=generator, device="cuda")
        for h in (heads[0], heads[1], heads[1], heads[0])
    )

    def run(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        masks = {"masks": _row_masks(layout, dtype)}
        inputs = [t.to(torch.bfloat16).to(dtype).requires_grad_() for t in (query, key, value)]
        out = function(*inputs, layout | masks, None)
        out.backward(grad[0].transpose(0, 1).to(torch.bfloat16).to(dtype))
        return [out.detach().float(), *(tensor.grad.float() for tensor in inputs)]

    truth = run(_masked, torch.float32)
    masked, flash = run(_masked, torch.bfloat16), run(_flash, torch.bfloat16)
    for exact, ours, theirs in zip(truth, flash, masked, strict=True):
        assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + 1e-3 * exact.norm()


@gpu
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_on_a_gpu_a_model_says_what_it_says_of_separate_sequences(weights: torch.dtype) -> None:
    device = torch.device("cuda")
    modern = torch.cuda.get_device_capability() >= (8, 0)
    assert flash_kernel(device, torch.bfloat16) == modern
    assert not flash_kernel(device, torch.float32)
    model = tiny(head_dim=64, initializer_range=0.05).to(device, weights)
    share_prefix(model)
    given = batch()
    layout, given = on_gpu(given[NAME]), on_gpu(given)
    with torch.autocast("cuda", torch.bfloat16, enabled=weights == torch.float32):
        expected = separate(model, given)["log_probs"]
        found = model(**{NAME: layout}).log_probs
    assert (found - expected).abs().mean() < 0.05
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
