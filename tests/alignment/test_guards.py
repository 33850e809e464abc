"""Guards of a training: what the first step has to train, replies that say nothing, spoilt rows.

`accelerate launch tests/alignment/test_guards.py FOLDER WAY ...` trains on several processes, spoilt
in every WAY of `SPOILT` in turn (`none`: not at all).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from tiny_runs import ROOT, accelerate
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)
from trl import SFTConfig

from empo.alignment import guards
from empo.alignment.guards import check_replies, digest, frozen_tensors
from empo.alignment.sft import MaskedTurnTrainer, pack_rows
from empo.records import UserError, read_json

LORA = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B, W = f"{Q}.lora_A.default.weight", f"{Q}.lora_B.default.weight", f"{Q}.base_layer.weight"
FIRST = r"^step 1 did not train what it should:\n"


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0))


def rows(number: int = 16) -> Dataset:
    """Dialogues of 6 to 9 tokens, the last three of which carry a loss."""
    made = []
    for place in range(number):
        ids = [3 + (7 * place + at) % 50 for at in range(6 + place % 4)]
        labels = [-100] * (len(ids) - 3) + ids[-3:]
        made.append({"id": f"d-{place}", "row": place, "input_ids": ids, "labels": labels})
    return Dataset.from_list(made)


def made(folder: Path, lora: dict[str, Any] | None = None, **given: Any) -> MaskedTurnTrainer:
    """An SFT of three steps; `lora` changes the adapter, {"r": 0} trains all weights."""
    usual = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none"}
    usual |= {"gradient_checkpointing": False, "remove_unused_columns": False, "max_steps": 3}
    usual |= {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "disable_tqdm": True}
    usual |= {"save_strategy": "no", "dataset_kwargs": {"skip_prepare_dataset": True}}
    usual |= {"logging_nan_inf_filter": False, "max_length": 20}
    args = SFTConfig(**(usual | given))
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, unk_token="<pad>"))
    adapter = LORA | (lora or {})
    folder.mkdir(exist_ok=True, parents=True)
    return MaskedTurnTrainer(
        model=tiny(),
        args=args,
        train_dataset=pack_rows(rows(), args.max_length)[0] if args.packing else rows(),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>"
        ),
        peft_config=LoraConfig(**adapter) if adapter["r"] else None,
    )


def module(trainer: Trainer, name: str) -> torch.nn.Module:
    return trainer.accelerator.unwrap_model(trainer.model).get_submodule(name)


class Writes(TrainerCallback):
    """Adds to a tensor after the optimizer has stepped."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """On all processes; of a sharded tensor the first says what it becomes."""
        if not hasattr(self.tensor, "ds_tensor"):
            self.tensor.data.view(-1)[0] += 1
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([self.tensor], modifier_rank=0):
            self.tensor.data.view(-1)[0] += 1


def detach(trainer: Trainer) -> None:
    """Nothing arrives at the adapter of the first query, on no process."""
    module(trainer, f"{Q}.lora_B.default").register_forward_hook(
        lambda _, __, output: output.detach()
    )


def detach_on_one(trainer: Trainer) -> None:
    """The first process alone has a gradient there; DDP is told to look for such."""
    if trainer.args.process_index == 1:
        detach(trainer)


def silence(trainer: Trainer) -> None:
    """What arrives there is 0."""
    module(trainer, f"{Q}.lora_B.default").register_forward_hook(lambda _, __, output: output * 0)


def silence_on_one(trainer: Trainer) -> None:
    """0 on the second process, something on the first."""
    if trainer.args.process_index == 1:
        silence(trainer)


def write(trainer: Trainer) -> None:
    """A frozen weight changes."""
    trainer.add_callback(Writes(module(trainer, f"{Q}.base_layer").weight))


def write_on_one(trainer: Trainer) -> None:
    """A frozen weight changes on the second process only."""
    if trainer.args.process_index == 1:
        write(trainer)


SPOILT: dict[str, Callable[[Trainer], None]] = {
    function.__name__: function
    for function in (detach, detach_on_one, silence, silence_on_one, write, write_on_one)
}


# --- one process ---


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1},
        {"packing": True},
        {"max_grad_norm": 0.0},
        {"bf16": True},
        {"lora": {"r": 0}},
        {"lora": {"init_lora_weights": False}},
        {"lora": {"use_dora": True}},
        {"lora": {"target_modules": ["embed_tokens", "q_proj"]}},
    ],
    ids=str,
)
def test_a_training_that_trains_passes_and_leaves_no_hook(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    trainer = made(tmp_path, **given)
    noted: list[set[str]] = []
    step_end = trainer.first_step.on_step_end

    def noting(*args: Any, **kwargs: Any) -> None:
        noted.append(set(trainer.first_step._pending))
        step_end(*args, **kwargs)

    trainer.first_step.on_step_end = noting
    trainer.train()
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert noted[0] == set(trained) and noted[2] == set()
    assert all(not parameter._backward_hooks for parameter in trained.values())
    waiting = {name for name in trained if "lora_A" in name or "lora_embedding_B" in name}
    assert noted[1] == (
        set() if given.get("lora", {}).get("init_lora_weights") is False else waiting
    )


def test_a_tensor_cut_from_the_loss_is_named(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    detach(trainer)
    with pytest.raises(UserError, match=FIRST) as error:
        trainer.train()
    assert str(error.value).splitlines()[1:] == [
        f"  - 1 ({B}) of 8 trained tensors got no gradient: the loss does not depend on them. Leave "
        "layers that the model does not use out of lora_targets, or find what detaches them in the "
        "forward pass."
    ]


def test_a_whole_model_names_the_first_tensors_and_counts_the_others(tmp_path: Path) -> None:
    trainer = made(tmp_path, {"r": 0}, gradient_checkpointing=True)
    trainer.model.model.layers[1].register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(UserError, match=FIRST) as error:
        trainer.train()
    # the embedding, nine tensors of either layer; head and last norm have theirs
    assert "  - 19 (model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, " in str(
        error.value
    )
    assert " and 14 more) of 21 trained tensors got no gradient" in str(error.value)
    assert "Freeze what the model does not use, or set gradient_checkpointing_kwargs" in str(
        error.value
    )


def test_a_gradient_of_0_is_none(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    silence(trainer)
    with pytest.raises(UserError, match=FIRST) as error:
        trainer.train()
    assert f"  - 1 ({B}) of 8 trained tensors got a gradient of 0 everywhere." in str(error.value)


def test_a_batch_of_the_step_in_which_a_tensor_counts_suffices(tmp_path: Path) -> None:
    trainer = made(tmp_path, gradient_accumulation_steps=2)
    calls: list[int] = []

    def once(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * (len(calls) % 2)

    module(trainer, f"{Q}.lora_B.default").register_forward_hook(once)
    # as under DeepSpeed, where no `grad` is left that sums the batches
    trainer.first_step.on_pre_optimizer_step = lambda *_, **__: None
    trainer.train()
    assert len(calls) == 6


def test_an_adapter_waits_for_its_other_factor(tmp_path: Path) -> None:
    """Step 1 of the warm-up has a learning rate of 0, so B is 0 until step 2 has ended."""
    trainer = made(tmp_path, warmup_steps=2, max_steps=4)
    # from here A gets nothing: while B is 0 nobody can tell
    module(trainer, f"{Q}.lora_A.default").register_forward_hook(
        lambda _, __, output: output.detach()
    )
    with pytest.raises(UserError, match=r"^step 3 did not train what it should:\n") as error:
        trainer.train()
    assert f"  - 1 ({A}) of 8 trained tensors got no gradient" in str(error.value)


def test_a_frozen_tensor_that_changes_is_named(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    write(trainer)
    with pytest.raises(UserError, match=FIRST) as error:
        trainer.train()
    frozen = sum(not p.requires_grad for p in trainer.model.parameters())
    assert frozen == 21
    assert f"  - 1 ({W}) of {frozen} frozen tensors changed. Something writes to them in pl" in str(
        error.value
    )


def test_a_gradient_that_is_not_finite_names_its_tensor_and_the_dialogues(tmp_path: Path) -> None:
    trainer = made(tmp_path, train_sampling_strategy="sequential")
    dict(trainer.model.named_parameters())[B].register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(UserError, match=r"^step 1: loss or gradient is not finite") as error:
        trainer.train()
    assert str(error.value).endswith(f"Not finite are the gradients of 1 ({B}).")
    written = read_json(tmp_path / "non_finite.json")
    assert written["tensors"] == [B]
    assert [batch["ids"] for batch in written["batches"]] == [["d-0", "d-1", "d-2", "d-3"]]


def test_without_a_norm_the_tensor_still_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's `compute_grad_norm: false` answers None; losses are checked, and the first step."""
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda *_, **__: None)
    trainer = made(tmp_path / "whole")
    trainer.train()
    assert trainer.state.global_step == 3
    trainer = made(tmp_path / "spoilt")
    dict(trainer.model.named_parameters())[B].register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(UserError, match=FIRST) as error:
        trainer.train()
    assert f"  - 1 ({B}) of 8 trained tensors got a gradient that is not finite." in str(
        error.value
    )
    trainer = made(tmp_path / "loss")
    trainer.model.get_input_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"^step 1: loss or gradient is not finite"):
        trainer.train()
    assert read_json(tmp_path / "loss" / "non_finite.json")["gradient_norm"] is None


def test_steps_that_float16_leaves_out_do_not_count(tmp_path: Path) -> None:
    """The first scale overflows all gradients; the second is 1."""
    for spoilt in (False, True):
        trainer = made(tmp_path, fp16=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-127)
        trainer.accelerator.native_amp, trainer.accelerator.scaler = True, scaler
        if not spoilt:
            trainer.train()
            assert trainer.state.global_step == 3
            continue
        silence(trainer)
        with pytest.raises(UserError, match=r"^step 2 did not train what it should:\n"):
            trainer.train()


def test_a_continued_run_may_have_a_step_without_a_gradient(tmp_path: Path) -> None:
    """As losses with a margin have where all pairs are past it; a run that begins may not."""
    for continued in (True, False):
        trainer = made(tmp_path)
        compute = trainer.compute_loss

        def nothing_in_one(
            *args: Any, trainer: Any = trainer, compute: Any = compute, **kw: Any
        ) -> Any:
            return compute(*args, **kw) * (trainer.state.global_step > 0)

        trainer.compute_loss = nothing_in_one
        if continued:
            begin = trainer.first_step.on_train_begin
            trainer.first_step.on_train_begin = lambda args, state, control, begin=begin, **kw: (
                setattr(state, "global_step", 5),
                begin(args, state, control, **kw),
                setattr(state, "global_step", 0),
            )[0]
            trainer.train()
            assert trainer.state.global_step == 3
        else:
            with pytest.raises(UserError, match=FIRST):
                trainer.train()


def test_shards_of_fsdp_are_checked_like_whole_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One process, sharded: hooks on the parameters see nothing there, `grad` does."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    request.addfinalizer(torch.distributed.destroy_process_group)
    for spoil in (None, detach, silence, write_shard):
        trainer = made(tmp_path)
        for layer in trainer.model.base_model.model.model.layers:
            fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
        if spoil is None:
            trainer.train()
            continue
        spoil(trainer)
        with pytest.raises(UserError, match=FIRST) as error:
            trainer.train()
        assert (W if spoil is write_shard else B) in str(error.value)


def write_shard(trainer: Trainer) -> None:
    """`write`, on a tensor in shards."""
    trainer.add_callback(Writes(module(trainer, f"{Q}.base_layer").weight.to_local()))


# --- what a digest sees ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_a_digest_sees_one_bit_an_exchange_and_a_change_of_all(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = (torch.rand(3, 50) * 100).to(dtype)
    before = digest(tensor)
    assert digest(tensor.clone()) == before
    assert digest(tensor.T.contiguous().T) == before  # laid out otherwise, the same values
    tensor.view(torch.uint8)[2, 7] ^= 1
    assert digest(tensor) != before
    tensor.view(torch.uint8)[2, 7] ^= 1
    assert digest(tensor) == before
    exchanged = tensor.clone()
    exchanged[0, 0], exchanged[0, 1] = tensor[0, 1].clone(), tensor[0, 0].clone()
    assert digest(exchanged) != before
    for value in (0, 1, 2):  # a norm's weights are all equal, and their number is even
        assert digest(torch.full((1024, 512), value, dtype=dtype)) != digest(
            torch.full((1024, 512), value + 1, dtype=dtype)
        )


def test_places_go_on_from_piece_to_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(10)
    whole = digest(tensor)
    monkeypatch.setitem(guards._PIECE, "cpu", 4)
    assert digest(tensor) == whole and digest(tensor.flip(0)) != whole
    assert digest(torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 8, 9])) != whole


def test_buffers_count_where_they_are_saved() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[1].register_buffer("kept", torch.zeros(2))
    model[1].register_buffer("made_anew", torch.zeros(2), persistent=False)
    model.register_buffer("own", torch.zeros(2))
    assert [name for name, _ in frozen_tensors(model)] == ["0.weight", "0.bias", "own", "1.kept"]
    assert set(model.state_dict()) - {"1.weight", "1.bias"} == {
        "0.weight",
        "0.bias",
        "own",
        "1.kept",
    }


# --- rows ---


def test_a_reply_that_says_nothing_is_refused() -> None:
    """No token at all, or only the end of text (2)."""
    spoken = {"id": "a", "chosen_ids": [5, 2], "rejected_pool": [[6, 2], [7, 2]]}
    check_replies(Dataset.from_list([spoken]), 2)
    several = [
        spoken,
        spoken | {"id": "b", "chosen_ids": []},
        spoken | {"id": "c", "rejected_pool": [[6, 2], [2]]},
    ]
    with pytest.raises(UserError) as error:
        check_replies(Dataset.from_list(several), 2)
    assert str(error.value).startswith(
        "2 ('b' (chosen), 'c' (rejected)) of 3 rows have a reply without a token. Either it is empty"
    )


def test_a_packed_row_that_is_not_finite_names_all_its_dialogues(tmp_path: Path) -> None:
    trainer = made(tmp_path, packing=True, per_device_train_batch_size=2)
    packed = trainer.train_dataset
    assert max(map(len, packed["id"])) > 1
    assert sorted(name for row in packed["id"] for name in row) == sorted(rows()["id"])
    alone = {row["id"]: row["input_ids"] for row in rows()}
    for row in packed:
        assert row["input_ids"] == [token for name in row["id"] for token in alone[name]]
        assert row["seq_lengths"] == [len(alone[name]) for name in row["id"]]
    seen: list[list[int]] = []
    compute = trainer.compute_loss

    def spoilt(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["input_ids"][0].tolist())
        return compute(model, inputs, *args, **kwargs) * torch.inf

    trainer.compute_loss = spoilt
    with pytest.raises(UserError, match=r"^step 1: loss or gradient is not finite"):
        trainer.train()
    (batch,) = read_json(tmp_path / "non_finite.json")["batches"]
    assert len(batch["ids"]) > 2
    assert [token for name in batch["ids"] for token in alone[name]] == seen[0]


# --- several processes ---


TRAINED = "3 steps, 0 watched"
CONFIGURED = {"zero-2": "deepspeed_zero2", "zero-3": "deepspeed_zero3"}
PORTS = iter(range(29_811, 29_900))


def launched(tmp_path: Path, kind: str, *ways: str) -> tuple[int, str]:
    """Exit status and errors of two processes of this file."""
    if kind == "ddp":
        words = ["--multi_gpu", "--num_machines", "1", "--dynamo_backend", "no"]
    else:
        pytest.importorskip("deepspeed")
        path = ROOT / "accelerate_configs" / f"{CONFIGURED[kind]}.yaml"
        words = ["--config_file", str(path)]
    words += ["--num_processes", "2", "--mixed_precision", "no"]
    words += ["--main_process_port", str(next(PORTS)), __file__, str(tmp_path / "run"), *ways]
    paths = [str(ROOT), str(ROOT / "tests" / "recipes")]
    environ = {"PYTHONPATH": os.pathsep.join(paths), "DS_ACCELERATOR": "cpu"}
    environ |= {"TORCH_EXTENSIONS_DIR": str(tmp_path.parent / "extensions")}
    if kind == "ddp":
        del environ["DS_ACCELERATOR"]
    done = accelerate(*words, **environ)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            "ddp",
            {
                "none": TRAINED,
                "detach_on_one": TRAINED,
                "detach": f"1 ({B}) of 8 trained tensors got no gradient",
                "write_on_one": f"1 ({W}) of 21 frozen tensors changed",
            },
        ),
        (
            "zero-2",
            {
                "silence_on_one": TRAINED,
                "detach": f"1 ({B}) of 8 trained tensors got no gradient",
                "write_on_one": f"1 ({W}) of 21 frozen tensors changed",
            },
        ),
        (
            "zero-3",
            {
                "silence_on_one": TRAINED,
                "silence": f"1 ({B}) of 8 trained tensors got a gradient of 0",
                "write": f"1 ({W}) of 21 frozen tensors changed",
            },
        ),
    ],
)
def test_two_processes_agree(tmp_path: Path, kind: str, told: dict[str, str]) -> None:
    status, errors = launched(tmp_path, kind, *told)
    assert status == 0, errors[-4000:]
    for way, text in told.items():
        said = re.findall(rf"^{way}@[01]: (.*)$", errors, re.MULTILINE)
        assert len(said) == 2 and all(text in line for line in said), (way, said, errors[-4000:])


def main(folder: str, *ways: str) -> None:
    """Train on the processes of this launch, spoilt in one way after another; say what came of it."""
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    given: dict[str, Any] = {"use_cpu": not deepspeed, "ddp_find_unused_parameters": True}
    given |= {"ddp_backend": "gloo"} if deepspeed else {}
    for way in ways:
        trainer = made(Path(folder) / way, **given)
        assert PartialState().num_processes == 2
        SPOILT.get(way, lambda _: None)(trainer)
        try:
            trainer.train()
            said = f"{trainer.state.global_step} steps, {len(trainer.first_step._pending)} watched"
        except UserError as error:
            said = str(error).replace("\n", " ")
        print(f"{way}@{trainer.args.process_index}: {said}\n", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
