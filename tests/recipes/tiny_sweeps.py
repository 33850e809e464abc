"""A YAML for a sweep of tiny runs, and the sweep itself, that the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import LORA, TINY, Shelf, recipe

from empo.records import UserError

OURS = dict(zip([word[2:] for word in LORA[::2]], map(yaml.safe_load, LORA[1::2]), strict=True))
OURS |= {"learning_rate": 1e-2, "num_train_epochs": 1, "per_device_train_batch_size": 16}
del OURS["lora_alpha"]


def written(folder: Path, shelf: Shelf, **changed: Any) -> Path:
    """A YAML for a sweep of DPO on the SFT model of the shelf; on `folder`/corpus where it is."""
    corpus = folder / "corpus"
    settings: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "dialogues": str(corpus if corpus.is_dir() else shelf.corpus),
        "recipe": "dpo",
        "recipe_config": str(TINY / "dpo.yaml"),
        "model": str(shelf.sft),
        "overrides": OURS,
        "grid": {"lora_alpha": [4, 64]},
        "seeds": [42],
        "limit": 12,
        "generate": {"max_new_tokens": 20},
        "metrics": ["trie", "nidf", "length"],
        **changed,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def sweep(path: Path, *more: str) -> int:
    return recipe("sweep")(["--config", str(path), *more])


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder with its size and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        sweep(path)
    return str(error.value)
