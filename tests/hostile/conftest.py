"""A tiny base and an adapter on it, which tests damage in their own copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from empo import small_models
from empo.alignment.settings import TARGETS
from empo.models import ModelSource, load_model, lora_config
from empo.prompts import ZEPHYR_TEMPLATE


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` and `adapter`, as from elsewhere: without a run.json that records digests."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    tokenizer = small_models.train_tokenizer(["I lost my cat.", "How are you?"] * 5, 300)
    tokenizer.chat_template = ZEPHYR_TEMPLATE
    small_models.small_base(tokenizer, 16, 2, 2, 128).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = get_peft_model(
        load_model(ModelSource(str(folder / "base"))), lora_config(4, 8, 0.0, TARGETS)
    )
    model.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to change; the adapter names the base beside it."""
    copied = Path(shutil.copytree(whole, tmp_path / "from-elsewhere"))
    config = copied / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(whole), str(copied)))
    return copied
