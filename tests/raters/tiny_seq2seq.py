"""An encoder-decoder of a few thousand parameters, for tests."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from empo.small_models import small_seq2seq, train_tokenizer

TEXTS = (
    "I lost my job today and do not know what to do. speaker: listener: reply, | Answers:",
    "How was it? The day was awful, poor, okay, fine, good or great. none weak strong Yes No",
)


def write_tokenizer() -> PreTrainedTokenizerBase:
    """About 330 tokens."""
    return train_tokenizer(TEXTS, 330)


def untrained(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Two layers of 32, weights large enough that answers differ."""
    torch.manual_seed(0)
    model = small_seq2seq(tokenizer, 32, 2, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()
