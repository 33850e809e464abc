"""A model with its adapters in the form lm-eval asks questions of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from empo.adapters import check_tensors
from empo.models import ModelSource, load_config, load_model, load_tokenizer
from empo.records import UserError
from empo.untrusted import require_safetensors

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


def language_model(
    source: ModelSource,
    dtype: str = "float32",
    *,
    batch_size: int = 8,
    device: str | None = None,
    max_length: int | None = None,
    by_path: bool = False,
) -> HFLM:
    """A model loaded as everywhere in EmPO, or, `by_path`, by lm-eval itself.

    lm-eval spreads over several processes only what it has loaded itself. Then UserError is raised
    for what it cannot load: a chain of adapters, or an adapter on a base with spare embeddings.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it advises against loaded models
    tokenizer = load_tokenizer(source)
    shared = {"tokenizer": tokenizer, "batch_size": batch_size, "max_length": max_length}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not by_path:
        return HFLM(pretrained=load_model(source, dtype, device=device), **shared)
    remedy = "Merge it first (`empo merge`), or start one process only."
    if len(source.adapters) > 1:
        raise UserError(
            f"{source.adapters[-1]}: several processes can have one adapter on a base, not a chain "
            f"of {len(source.adapters)}. {remedy}"
        )
    if source.adapters and (rows := load_config(source).vocab_size) != len(tokenizer):
        raise UserError(
            f"{source.adapters[0]}: its base has {rows:,} embeddings for {len(tokenizer):,} tokens, "
            f"and under several processes lm-eval would cut them off. {remedy}"
        )
    for adapter in source.adapters:
        check_tensors(adapter)
    if Path(source.base).is_dir():
        require_safetensors(source.base)
    return HFLM(
        pretrained=source.base,
        trust_remote_code=source.trust_remote_code,
        revision=source.revision or "main",
        peft=source.adapters[0] if source.adapters else None,
        dtype=dtype,
        device=device,
        use_safetensors=True,
        **shared,
    )
