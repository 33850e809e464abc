"""A causal language model of a few thousand parameters with its tokenizer, for tests."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from empo.prompts import ChatFormat
from empo.small_models import small_base, train_tokenizer

TEXTS = (
    "I lost my job today and do not know what to do.",
    "How was it? The day was awful, poor, okay, fine, good or great.",
    "lower than: 0 and 1, equal to: 2 and 3, higher than: 4 and 5. Score: 1.5 mood",
)


def write_tokenizer() -> PreTrainedTokenizerBase:
    """About 330 tokens; the chat template is Zephyr's."""
    tokenizer = train_tokenizer(TEXTS, 330)
    tokenizer.chat_template = ChatFormat(tokenizer, "zephyr", None).plain_template
    return tokenizer


def untrained(tokenizer: PreTrainedTokenizerBase, positions: int = 200) -> PreTrainedModel:
    """Two layers of 32, weights large enough that answers differ."""
    torch.manual_seed(0)
    model = small_base(tokenizer, 32, 2, 2, positions)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()
