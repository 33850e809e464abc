"""Names of trl, transformers and accelerate that are nobody's promise, and that alignment leans on.

Where one changes, a test says which and what to do. Names that are asked for in vain would not fail
by themselves: an override that nobody calls is silent. So a real training is watched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.dpo_trainer
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from transformers.trainer_utils import seed_worker
from trl import DPOConfig, DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.models import prepare_deepspeed, unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import FusedCausalLMOutput, maybe_gather_lm_head_ctx

from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator
from empo.alignment.shared_prefix import FIELDS, NAME

CHANGED = "a library has changed {}: adapt empo.alignment, then this test and the version range."

SIGNATURES: dict[Callable[..., Any], str] = {
    DPOTrainer._precompute_ref_logps: "self dataset name batch_size",
    DPOTrainer.compute_ref_log_probs: "self model inputs",
    DPOTrainer.compute_loss: "self model inputs return_outputs num_items_in_batch",
    DPOTrainer.prediction_step: "self model inputs prediction_loss_only ignore_keys",
    Trainer.training_step: "self model inputs num_items_in_batch",
    Trainer._prepare_inputs: "self inputs",
    Trainer._get_num_items_in_batch: "self batch_samples device",
    Trainer._get_grad_norm: "self model grad_norm",
    Trainer._get_train_sampler: "self train_dataset",
    Trainer.save_model: "self output_dir _internal_call",
    ChunkedLogProbFunction.forward: (
        "ctx hidden weight bias targets temperature chunk_size final_logit_softcapping logit_scale "
        "outputs"
    ),
    maybe_gather_lm_head_ctx: "params",
    prepare_deepspeed: "model accelerator",
    disable_gradient_checkpointing: "model gradient_checkpointing_kwargs",
    unwrap_model_for_generation: (
        "model accelerator gather_deepspeed3_params generation_kwargs gradient_checkpointing_kwargs"
    ),
    seed_worker: "worker_id num_workers rank",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_what_is_overridden_or_called_takes_what_it_took(function: Callable[..., Any]) -> None:
    found = list(inspect.signature(function).parameters)
    told = CHANGED.format(f"what {function.__qualname__} takes")
    assert found == SIGNATURES[function].split(), told


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0))


def rows(number: int = 5) -> Dataset:
    """So many rows of one rejected reply."""
    made = []
    for n in range(number):
        row = {"id": f"row-{n}", "row": n, "length": 20 + n, "prompt_ids": [3 + n] * (4 + n)}
        made.append(row | {"chosen_ids": [20 + n, 2], "rejected_pool": [[30 + n, 31 + n, 2]]})
    return Dataset.from_list(made)


def made(folder: Path, kind: type = RedrawnDPOTrainer, lora: bool = True, **changed: Any) -> Any:
    """A trainer of 5 rows in 3 batches, of which two make a step, and 5 rows for evaluation."""
    usual = {"output_dir": str(folder / "run"), "use_cpu": True, "bf16": False}
    usual |= {"gradient_checkpointing": False, "remove_unused_columns": False}
    usual |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    usual |= {"per_device_eval_batch_size": 5, "num_train_epochs": 1, "learning_rate": 1e-2}
    usual |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, unk_token="<pad>"))
    return kind(
        model=tiny(),
        args=DPOConfig(**(usual | {"precompute_ref_log_probs": True} | changed)),
        train_dataset=rows(),
        eval_dataset=rows(),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"),
        peft_config=LoraConfig(r=2, target_modules="all-linear") if lora else None,
        data_collator=EpochCollator(0, shared=True),
        reference_folder=folder / "reference",
    )


def watched(names: set[str], calls: list[str]) -> type:
    """Our trainer; calls of these methods are noted, with the number of pairs they are told."""

    def noting(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            told = kwargs.get("num_items_in_batch")
            calls.append(name if told is None else f"{name} of {told:g}")
            return getattr(super(kind, self), name)(*args, **kwargs)

        return method

    kind = type("Watched", (RedrawnDPOTrainer,), {name: noting(name) for name in names})
    return kind


def step(batches: int, pairs: int) -> list[str]:
    batch = ["training_step", "_prepare_inputs", f"compute_loss of {pairs}"]
    return ["_get_num_items_in_batch", *batch * batches, "_get_grad_norm", "optimizer"]


TRAINING = ["get_train_dataloader", "_get_train_sampler", *step(2, 4), *step(1, 1)]
EVALUATION = ["evaluation_loop", "prediction_step", "_prepare_inputs", "compute_loss"]


@pytest.mark.parametrize("clipping", [1.0, 0.0])
def test_a_training_calls_what_is_overridden_in_this_order(tmp_path: Path, clipping: float) -> None:
    calls: list[str] = []
    names = {name.split()[0] for name in TRAINING + EVALUATION} - {"optimizer"}
    trainer = made(tmp_path, watched(names, calls), max_grad_norm=clipping)
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(lambda *_: calls.append("optimizer"))
    for begin, expected in ((trainer.train, TRAINING), (trainer.evaluate, EVALUATION)):
        calls.clear()
        begin()
        for found, name in zip_longest(calls, expected):
            assert found == name, CHANGED.format(
                f"when it calls {name or found}, here {found} (all calls: {calls})"
            )


def test_a_loss_that_is_scaled_is_not_divided_by_the_batches_of_a_step(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 4

    def gradient(scaled: bool | None) -> torch.Tensor:
        trainer.loss_is_scaled_for_ga = scaled
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, dict(batch), torch.tensor(2.0))
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad])

    told = CHANGED.format("what loss_is_scaled_for_ga does in Trainer.training_step")
    torch.testing.assert_close(gradient(True), 4 * gradient(False), msg=told)
    assert gradient(True).any()


def test_trls_pass_over_the_reference_is_ours(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    class Watched(RedrawnDPOTrainer):
        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            assert self._precompute_engine is None, CHANGED.format("DPOTrainer._precompute_engine")
            calls.append((name, len(dataset)))
            return super()._precompute_ref_logps(dataset, name, batch_size)

    told = CHANGED.format("when DPOTrainer calls _precompute_ref_logps, and with which names")
    trainer = made(tmp_path, Watched, lora=False)
    assert calls == [("train", 5), ("eval", 5)], told
    trainer.evaluate()
    assert len(calls) == 2, told
    trainer.evaluate(rows(3))
    assert calls[2:] == [("eval", 3)], told
    told = CHANGED.format("what becomes of the rows that _precompute_ref_logps returns")
    for data in (trainer.train_dataset, trainer.eval_dataset):
        assert "ref_rejected_pool" in data.column_names, told


def test_trl_hashes_no_weights_where_adapters_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl.trainer.dpo_trainer, "hash_module", None)
    assert made(tmp_path).reference_facts["valid"]["completions"] == 10
    with pytest.raises(TypeError, match="not callable"):
        made(tmp_path, lora=False)


def test_the_references_pass_and_the_loss_use_the_batch_as_they_did(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("rows")
    other = batch | {"ref_chosen_logps": batch["ref_chosen_logps"] - 3}
    for ahead in (True, False):
        trainer.precompute_ref_logps = ahead
        losses = [trainer.compute_loss(trainer.model, dict(b)).item() for b in (batch, other)]
        told = CHANGED.format("what DPOTrainer.precompute_ref_logps does")
        assert (abs(losses[0] - losses[1]) > 0.01) == ahead, told
    with torch.no_grad():  # an adapter that the reference is computed without
        for name, parameter in trainer.model.named_parameters():
            parameter += 1.0 * ("lora_B" in name)
    seen: list[set[str]] = []
    trainer.model.register_forward_pre_hook(lambda *a: seen.append(set(a[2])), with_kwargs=True)
    found = trainer.compute_ref_log_probs(trainer.model, batch)
    told = CHANGED.format("what DPOTrainer.compute_ref_log_probs hands on or returns")
    given = {"input_ids", "attention_mask", NAME, "labels", "fused_lm_head", "use_cache"}
    assert seen == [given], told
    with torch.no_grad(), trainer.model.disable_adapter():
        logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    expected = (logps * batch["completion_mask"][:, 1:]).sum(1).chunk(2)
    torch.testing.assert_close(found, expected, msg=told, rtol=1e-5, atol=1e-4)


def test_what_trl_gathers_per_pair_goes_through_accelerator_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UnequalGather` stands there; what goes elsewhere has to be one number per batch."""
    trainer = made(tmp_path, per_device_train_batch_size=3)
    batch = next(iter(trainer.get_train_dataloader()))
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name in ("gather", "gather_for_metrics"):
        usual = getattr(trainer.accelerator, name)

        def noting(tensor: torch.Tensor, name: str = name, usual: Any = usual) -> torch.Tensor:
            shapes.setdefault(name, set()).add(tuple(tensor.shape))
            return usual(tensor)

        monkeypatch.setattr(trainer.accelerator, name, noting)
    trainer.compute_loss(trainer.model, batch)
    told = CHANGED.format("what DPOTrainer gathers for its metrics")
    assert shapes == {"gather": {(), (3,)}, "gather_for_metrics": {()}}, told


def test_trls_output_has_the_fields_that_the_kernel_returns() -> None:
    names = [field.name for field in fields(FusedCausalLMOutput)]
    assert names[1:6] == list(FIELDS), CHANGED.format("FusedCausalLMOutput")
    hidden, weight, targets = torch.eye(2), 3 * torch.eye(2), torch.tensor([0, 1])
    sizes = (1.0, 32_768, None, 1.0)
    with maybe_gather_lm_head_ctx(weight, None):  # which does nothing outside ZeRO-3
        found = ChunkedLogProbFunction.apply(hidden, weight, None, targets, *sizes, FIELDS)
    p = torch.tensor([3.0, 0.0]).softmax(0)
    expected = p[0].log(), -(p * p.log()).sum(), p.square().sum().log(), 1.5, True
    for name, value, right in zip(FIELDS, found, expected, strict=True):
        told = CHANGED.format(f"where ChunkedLogProbFunction returns {name}")
        assert value.tolist() == pytest.approx(2 * [float(right)]), told


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_a_layout_and_its_mask_reach_attention_as_they_are(checkpointing: bool | None) -> None:
    """`checkpointing` says whether it is reentrant, or None without."""
    seen: list[tuple[Any, Any]] = []

    def attention(*args: Any, shared_prefix: Any = None, **kwargs: Any) -> Any:
        seen.append((args[4], shared_prefix))
        return sdpa_attention_forward(*args[:4], None, **kwargs)

    AttentionInterface.register("watched", attention)
    AttentionMaskInterface.register("watched", sdpa_mask)
    model = tiny()
    model.set_attn_implementation("watched")
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    ids, mask, layout = torch.tensor([[3, 4, 5]]), torch.ones((1, 1, 1, 1)).bool(), {"rows": [3]}
    states = model.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False, **{NAME: layout}
    ).last_hidden_state
    states.sum().backward()
    assert len(seen) == (2 if checkpointing is None else 4)
    for given, handed in seen:
        assert given is mask, CHANGED.format("what becomes of an attention mask of four dimensions")
        assert handed is layout, CHANGED.format("how arguments of a model reach its attention")
    model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1]]))
    assert seen[-1][0].shape == (1, 1, 3, 3), CHANGED.format("AttentionMaskInterface")


def test_samplers_take_their_order_from_where_we_set_it(tmp_path: Path) -> None:
    rebalanced = BatchRebalanceSampler(list(range(1, 41)), 4, 1, 1)
    grouped = LengthGroupedSampler(4, lengths=list(range(1, 41)))
    grouped.generator = torch.Generator()
    orders: list[Any] = []
    for seed in (1, 1, 2):
        rebalanced.seed = seed
        grouped.generator.manual_seed(seed)
        orders.append((list(rebalanced), list(grouped)))
    names = ("BatchRebalanceSampler.seed", "LengthGroupedSampler.generator")
    for name, (one, same, other) in zip(names, zip(*orders, strict=True), strict=True):
        assert one == same != other, CHANGED.format(name)
    kinds = {"batch_rebalance": BatchRebalanceSampler, "group_by_length": LengthGroupedSampler}
    for strategy, kind in kinds.items():
        sampler = made(tmp_path, train_sampling_strategy=strategy, seed=7)._get_train_sampler()
        told = CHANGED.format("Trainer._get_train_sampler")
        assert isinstance(sampler, kind) and getattr(sampler, "seed", 7) == 7, told
