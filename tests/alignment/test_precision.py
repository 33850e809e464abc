"""Half precision through a real trainer: where it is asked for, what it costs, what it may not touch.

In bfloat16 a log-probability is off by hundredths of a nat. Policy and reference have to be off
together: before the first step every margin is 0. float16 is scaled, and a step that overflowed is
left out; a loss that is not finite is an error in every precision.
"""

from __future__ import annotations

import gc
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import DPOConfig, DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.completion_head import FrozenHead
from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.pair_batches import EpochCollator
from empo.alignment.shared_prefix import FIELDS, NAME
from empo.records import UserError

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # what an accelerate configuration sets
Patch = pytest.MonkeyPatch
STOPS = r"^step 1: loss or gradient is not finite"


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> Iterator[None]:
    """`train` collects garbage several times; walking all that was imported takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def tiny(dtype: torch.dtype) -> LlamaForCausalLM:
    """The same random model every time; its weights are large, so that rounding is."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.25, pad_token_id=0)).to(dtype)


def rows(reply: int) -> list[dict[str, Any]]:
    """12 rows of one rejected reply, for trl too; replies of `reply` tokens, where 0 of 1 to 20."""
    rng, found = random.Random(1), []
    for place in range(12):
        lengths = rng.randint(3, 30), reply or rng.randint(1, 20), reply or rng.randint(1, 20)
        prompt, chosen, rejected = ([rng.randrange(3, 200) for _ in range(n)] for n in lengths)
        row = {"id": f"row-{place}", "row": place, "prompt_ids": prompt, "chosen_ids": chosen}
        found.append(row | {"rejected_ids": rejected, "rejected_pool": [rejected]})
    return found


def made(folder: Path, way: str = "adapter", half: str = "", reply: int = 0, **given: Any) -> Any:
    """Our trainer, or trl's (`stock`); without `adapter` all weights are trained. Margins are nats."""
    usual = {"output_dir": str(folder / "run"), "use_cpu": True, "bf16": half == "autocast"}
    usual |= {"gradient_checkpointing": False, "remove_unused_columns": False, "beta": 1.0}
    usual |= {"per_device_train_batch_size": 3, "train_sampling_strategy": "sequential"}
    usual |= {"max_steps": 4, "learning_rate": 0.0, "logging_steps": 1, "disable_tqdm": True}
    usual |= {"save_strategy": "no", "report_to": "none", "logging_nan_inf_filter": False}
    usual |= {"precompute_ref_log_probs": "ahead" in way}
    dtype, stock = torch.bfloat16 if half == "weights" else torch.float32, "stock" in way
    trls = type("Stock", (DPOTrainer,), {"_prepare_dataset": lambda _, rows, *__: rows})
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, unk_token="<pad>"))
    return (trls if stock else RedrawnDPOTrainer)(
        model=tiny(dtype),
        ref_model=tiny(dtype) if "beside" in way else None,
        args=DPOConfig(**(usual | given)),
        train_dataset=Dataset.from_list(rows(reply)),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"),
        peft_config=LORA if "adapter" in way else None,
        data_collator=DataCollatorForPreference(0) if stock else EpochCollator(0, shared=True),
        **({} if stock else {"reference_folder": folder / "reference"}),
    )


def steps(trainer: DPOTrainer) -> list[dict[str, float]]:
    """What is logged at every step."""
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("half", ["autocast", "weights"])
@pytest.mark.parametrize("way", ["adapter", "adapter, ahead", "ahead", "beside"])
def test_a_policy_that_has_not_moved_has_margins_of_0(tmp_path: Path, way: str, half: str) -> None:
    """0 where both run in the step, 0.01 nats over batches of another shape; bfloat16 is 0.05 off."""
    stock, ours = (steps(made(tmp_path / who, f"{who} {way}", half)) for who in ("stock", "ours"))
    bound = 0.01 if "ahead" in way else 1e-6
    for mine, theirs in zip(ours, stock, strict=True):
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert abs(mine[name]) <= bound and abs(theirs[name]) <= bound, name
        for name in ("logps/chosen", "logps/rejected"):
            assert mine[name] == pytest.approx(theirs[name], abs=0.1), name
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=0.005)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.01)


# --- what the launcher asks for counts, though the arguments say bf16: false ---


def test_the_launchers_precision_is_part_of_the_references_identity(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    facts, values = [], []
    for precision in ("no", "bf16", "no", "bf16"):
        monkeypatch.setenv(LAUNCHED, precision)
        trainer = made(tmp_path, "adapter, ahead")
        assert not trainer.args.bf16
        facts.append(trainer.reference_facts["train"])
        values.append(trainer.train_dataset["ref_chosen_logp"][:])
    assert [fact["computed"] for fact in facts] == [24, 24, 0, 0]
    digests = [fact["identity_sha256"] for fact in facts]
    assert digests[:2] == digests[2:] and digests[0] != digests[1]
    assert values[:2] == values[2:]
    assert max(abs(a - b) for a, b in zip(*values[:2], strict=True)) > 0.05


def refusal(told: str | None) -> AbstractContextManager[Any]:
    return nullcontext() if told is None else pytest.raises(UserError, match=told)


@pytest.mark.parametrize(
    ("precision", "allowed"), [("no", 0.001), ("bf16", 0.05), ("weights", 0.05)]
)
def test_cached_values_may_differ_by_the_noise_of_the_precision(
    tmp_path: Path, monkeypatch: Patch, precision: str, allowed: float
) -> None:
    """Replies of 4 tokens; first by half of what is allowed per token, then by twice as much."""
    monkeypatch.setenv(LAUNCHED, "bf16" if precision == "bf16" else "no")
    made(tmp_path, "adapter, ahead", precision, reply=4)
    for off, told in ((0.5, None), (2.0, f"; {allowed} are allowed")):
        with sqlite3.connect(tmp_path / "reference" / "reference.sqlite") as database:
            database.execute("UPDATE logps SET logp = logp + ?", (4 * off * allowed,))
        database.close()
        with refusal(told):
            facts = made(tmp_path, "adapter, ahead", precision, reply=4).reference_facts["train"]
            assert facts["largest_difference_per_token"] > off * allowed / 2


@pytest.mark.parametrize(
    ("precision", "by", "told"),
    [("bf16", 1.02, None), ("bf16", 2.0, "0.1 is rounding"), ("no", 1.02, "0.001 is rounding")],
)
def test_the_first_batch_may_differ_by_the_noise_of_the_launchers_precision(
    tmp_path: Path, monkeypatch: Patch, precision: str, by: float, told: str | None
) -> None:
    monkeypatch.setenv(LAUNCHED, precision)
    trainer = made(tmp_path, max_steps=1)
    right = ALL_ATTENTION_FUNCTIONS[NAME]

    def wrong(*args: Any, **kwargs: Any) -> Any:
        attended, weights = right(*args, **kwargs)
        return by * attended if "shared_prefix" in kwargs else attended, weights

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, NAME, wrong)
    with refusal(told):
        assert len(steps(trainer)) == 1


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_the_gradient_of_a_sure_token_is_as_near_as_trls(way: str) -> None:
    """At p = 0.9987 the two terms of the gradient are equal but for a thousandth."""
    generator, targets = torch.Generator().manual_seed(0), torch.arange(2000)
    weight = torch.randn(2000, 64, generator=generator) / 8
    hidden = torch.randn(2000, 64, generator=generator)
    hidden += torch.linspace(0, 20, 2000)[:, None] * weight  # surer and surer of the target
    hidden, weight = hidden.bfloat16(), weight.bfloat16()

    def plain(hidden: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[torch.Tensor]:
        return (linear(hidden, weight).log_softmax(-1).diagonal(),)

    def trls(*given: Any) -> Any:
        return ChunkedLogProbFunction.apply(*given, 1.0, 32_768, None, 1.0, FIELDS)

    def gradient(head: Callable[..., Any], dtype: torch.dtype, autocast: bool) -> torch.Tensor:
        given = hidden.to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            head(given, weight.to(dtype), None, targets)[0].sum().backward()
        return given.grad.double()

    truth, autocast = gradient(plain, torch.float64, False), way == "autocast"
    dtype = torch.float32 if autocast else torch.bfloat16
    ours, theirs = (
        (gradient(head, dtype, autocast) - truth).norm(dim=1) / truth.norm(dim=1)
        for head in (FrozenHead.apply, trls)
    )
    odds = plain(hidden.double(), weight.double())[0].exp().logit()
    for probability, allowed in [(0.65, 0.03), (0.97, 0.05), (0.9987, 0.1)]:
        near = (odds - torch.tensor(probability).logit()).abs() < 0.3
        assert near.sum() > 50 and ours[near].max() <= allowed, probability
        assert (ours <= 1.5 * theirs + 0.01)[near].all(), probability


# --- DeepSpeed, float16, sharded gradients ---


def under_deepspeed(trainer: Any, monkeypatch: Patch, half: str) -> None:
    """The trainer as accelerate leaves it under ZeRO-2 in `half` (bf16, fp16)."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is an extra and is not installed")
    from accelerate.utils import DeepSpeedPlugin
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config = HfTrainerDeepSpeedConfig({"zero_optimization": {"stage": 2}, half: {"enabled": True}})
    config.trainer_config_process(trainer.args)
    state = trainer.accelerator.state
    monkeypatch.setattr(state, "deepspeed_plugins", DeepSpeedPlugin(hf_ds_config=config))
    monkeypatch.setattr(state, "distributed_type", DistributedType.DEEPSPEED)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    assert trainer.accelerator.mixed_precision == half and trainer.accelerator.scaler is None


def test_deepspeed_does_not_round_the_reference(tmp_path: Path, monkeypatch: Patch) -> None:
    trainer = made(tmp_path, "adapter, ahead", "autocast")
    batch = next(iter(trainer.get_train_dataloader()))
    under_deepspeed(trainer, monkeypatch, "bf16")
    usual, ours = DPOTrainer._prepare_inputs(trainer, dict(batch)), trainer._prepare_inputs(batch)
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert (usual[name] - batch[name]).abs().max() > 0.01, "nothing is rounded any more"
        assert ours[name].dtype == torch.float32 and torch.equal(ours[name], batch[name])


def stepped(trainer: Any, spoilt: bool = False) -> Any:
    """After the backward pass of one batch; its loss is NaN if `spoilt`."""
    if spoilt:
        trainer.model.get_input_embeddings().weight.data.fill_(torch.nan)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, batch, torch.tensor(3.0))
    assert torch.isfinite(loss) != spoilt
    return trainer


@pytest.mark.parametrize("norm", [torch.inf, torch.nan, -1.0])
def test_deepspeed_leaves_an_overflow_out_in_float16_only(
    tmp_path: Path, monkeypatch: Patch, norm: float
) -> None:
    """It has a scaler of its own, and says -1 of a norm that is not finite."""
    for half, spoilt in [("fp16", False), ("fp16", True), ("bf16", False), ("bf16", True)]:
        trainer = stepped(made(tmp_path, bf16=half == "bf16"), spoilt)
        under_deepspeed(trainer, monkeypatch, half)
        given = 1.0 if spoilt else norm
        with refusal(None if half == "fp16" and not spoilt else STOPS):
            assert trainer._get_grad_norm(trainer.model, given) == pytest.approx(given, nan_ok=True)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_step_that_overflows_in_float16_is_left_out_and_a_loss_that_does_stops(
    tmp_path: Path, spoilt: bool
) -> None:
    trainer = made(tmp_path, fp16=True, learning_rate=1e-2, max_steps=3)
    if spoilt:
        trainer.model.get_input_embeddings().weight.data.fill_(torch.nan)
    # as accelerate makes it on a GPU; the first scale is far too large, the second is 1
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-127)
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, scaler
    with refusal(STOPS if spoilt else None):
        logged = steps(trainer)
        assert [math.isfinite(step["grad_norm"]) for step in logged] == [False, True, True]
        assert [step["rewards/margins"] != 0 for step in logged] == [False, False, True]


def test_the_norm_of_sharded_gradients_is_checked_like_any_other(
    tmp_path: Path, monkeypatch: Patch, request: pytest.FixtureRequest
) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    request.addfinalizer(torch.distributed.destroy_process_group)
    whole = stepped(made(tmp_path)).model
    expected = clip_grad_norm_(whole.parameters(), torch.inf).item()
    trainer = made(tmp_path)
    fully_shard(trainer.model, mesh=init_device_mesh("cpu", (1,)))
    norm = clip_grad_norm_(stepped(trainer).model.parameters(), torch.inf)
    assert isinstance(norm, DTensor)
    # so that the processes, though there is one, agree through the group
    monkeypatch.setattr(PartialState(), "distributed_type", DistributedType.MULTI_CPU)
    assert trainer._get_grad_norm(trainer.model, norm).item() == pytest.approx(expected)
    with pytest.raises(UserError, match=STOPS):
        stepped(trainer)._get_grad_norm(trainer.model, norm * torch.inf)
