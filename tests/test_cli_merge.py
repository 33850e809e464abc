"""`empo merge`: a folder that is there is whole, and a killed command can be given again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from empo import cli
from empo.models import lora_config
from empo.records import UserError, read_json
from empo.runs import alone
from empo.small_models import train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from killed import contents, killed_before


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with noise in it, on a base of one layer."""
    from peft import get_peft_model

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["I am sorry to hear that."], 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = LlamaForCausalLM.from_pretrained(folder / "base")
    model = get_peft_model(base, lora_config(2, 4, 0.0, ["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"


def merge(adapter: Path, output: Path, *more: str) -> int:
    return cli.merge_command(["--model", str(adapter), "--output", str(output), *more])


def test_a_command_killed_before_any_change_of_a_file_ends_in_the_same_model(
    adapter: Path, tmp_path: Path
) -> None:
    assert merge(adapter, tmp_path / "whole") == 0
    assert contents(tmp_path / "whole").keys() >= {"model.safetensors", "run.json"}
    for change in (1, 2, 3, 5, 7, 9, 11, 10_000):
        folder = tmp_path / str(change)
        output = folder / "merged"
        killed = killed_before(change, folder, lambda: merge(adapter, output))  # noqa: B023
        assert not output.exists() or contents(output).keys() == contents(tmp_path / "whole").keys()
        assert merge(adapter, output) == 0
        assert contents(output) == contents(tmp_path / "whole"), change
        assert not (folder / ".merged.partial").exists()
    assert not killed


def test_a_merge_that_is_done_is_not_done_again(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    output.mkdir()
    assert merge(adapter, output) == 0
    written = (output / "model.safetensors").stat().st_mtime_ns
    assert merge(adapter, output) == 0
    assert (output / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="the folder is not empty; choose another --output"):
        merge(adapter, output, "--dtype", "bfloat16")
    assert read_json(output / "run.json")["dtype"] == "float32"


def test_a_folder_that_is_half_a_model_or_none_is_refused(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError) as error:
        merge(adapter, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: the folder is not empty and has no run.json, which a merge writes last: a merge "
        "that was stopped, or something else. Delete it, or choose another --output."
    )


def test_a_second_command_on_the_folder_stops_at_once(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    with (
        alone(tmp_path / ".merged.lock", output),
        pytest.raises(UserError, match="another process is at work on it"),
    ):
        merge(adapter, output)
