"""FSDP's configuration as accelerate's launcher reads it, down to the layers that it would shard."""

from __future__ import annotations

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env
from peft import get_peft_model
from tiny_runs import ROOT

from empo.models import lora_config
from empo.small_models import small_base, train_tokenizer


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    """What a launched process would have, made from the environment that the launcher gives it."""
    path = ROOT / "accelerate_configs" / "fsdp.yaml"
    words = ["--config_file", str(path), "recipes/dpo.py"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.use_fsdp and not args.use_deepspeed
    assert (args.num_processes, args.mixed_precision) == (8, "bf16")
    for name, value in prepare_multi_gpu_env(args).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    return FullyShardedDataParallelPlugin()


def test_the_launcher_makes_fsdp2_with_whole_state_dicts(
    plugin: FullyShardedDataParallelPlugin,
) -> None:
    """Adapters are gathered for a save; sharded ones no plain process could load."""
    assert plugin.fsdp_version == 2
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert plugin.activation_checkpointing is False


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "LoRA"])
def test_every_layer_is_a_shard_of_its_own(
    plugin: FullyShardedDataParallelPlugin, adapter: bool
) -> None:
    tokenizer = train_tokenizer(["a friend is sad today"] * 8, 300)
    model = small_base(tokenizer, hidden=16, layers=3, heads=2, max_positions=64)
    if adapter:
        model = get_peft_model(model, lora_config(4, 8, 0.0, ["q_proj", "v_proj"]))
    plugin.set_auto_wrap_policy(model)
    wrapped = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert wrapped is not None
    layers = [name for name, module in model.named_modules() if wrapped(module)]
    decoders = [name for name in layers if name.rpartition(".")[0].endswith("layers")]
    assert [name.rpartition(".")[2] for name in decoders] == ["0", "1", "2"]
