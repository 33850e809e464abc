"""How likely a language model finds every allowed answer to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer_log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    batch_size: int = 16,
) -> np.ndarray:
    """Log-likelihood of every answer right after every prompt, shape (n, A), float64.

    The sum over the tokens of an answer, not normalised by length. Prompt and answer are tokenised
    apart, the prompt with the special tokens of a beginning, the answer without any. Beginnings that
    answers share are computed once. The batch size changes nothing but the speed, up to rounding.
    """
    tokens = [tuple(tokenizer(answer, add_special_tokens=False).input_ids) for answer in answers]
    starts = sorted({ids[:k] for ids in tokens for k in range(len(ids))}, key=len)
    encoded = [list(ids) for ids in tokenizer(list(prompts)).input_ids] if prompts else []
    rows = [(n, start) for n in range(len(encoded)) for start in starts]
    rows.sort(key=lambda row: -len(encoded[row[0]]) - len(row[1]))
    wanted = {
        start: sorted(
            {
                ids[len(start)]
                for ids in tokens
                if ids[: len(start)] == start and len(ids) > len(start)
            }
        )
        for start in starts
    }
    found: dict[tuple[int, tuple[int, ...], int], float] = {}
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        logits = next_token_logits(model, tokenizer, [[*encoded[n], *start] for n, start in batch])
        table = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        for (n, start), log_probs in zip(batch, table, strict=True):
            for token in wanted[start]:
                found[n, start, token] = float(log_probs[token])
    return np.array(
        [
            [sum(found[n, ids[:k], ids[k]] for k in range(len(ids))) for ids in tokens]
            for n in range(len(encoded))
        ]
    ).reshape(len(encoded), len(answers))


def option_log_likelihoods(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    options: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Log-likelihood of every option as the whole output of an encoder-decoder, shape (n, K).

    `input_ids` and `attention_mask` (n, L); `options` are K outputs as ids, the end of the text
    included, so that an option which begins another is told from it. Sums over tokens, not
    normalised by length, float32, with gradients. The encoder runs once per input.
    """
    padding = model.config.pad_token_id
    longest = max(map(len, options))
    ids = [[*option, *[padding] * (longest - len(option))] for option in options]
    mask = [[1.0] * len(option) + [0.0] * (longest - len(option)) for option in options]
    targets = torch.tensor(ids, device=input_ids.device).repeat(len(input_ids), 1)
    weights = torch.tensor(mask, device=input_ids.device).repeat(len(input_ids), 1)
    encoded = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
    k = len(options)
    output = model(
        encoder_outputs=(encoded.last_hidden_state.repeat_interleave(k, dim=0),),
        attention_mask=attention_mask.repeat_interleave(k, dim=0),
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=targets),
    )
    likely = output.logits.float().log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    return (likely * weights).sum(dim=1).reshape(len(input_ids), k)


def next_token_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[list[int]]
) -> torch.Tensor:
    """Logits of the token after each sequence of ids, shape (n, vocabulary), float32."""
    with torch.inference_mode():
        batch = left_padded(sequences, tokenizer.pad_token_id or 0, model.device)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1].float()


def left_padded(
    sequences: Sequence[list[int]], padding: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Sequences of ids as one batch that ends where they end."""
    longest = max(map(len, sequences))
    ids = [[padding] * (longest - len(ids)) + list(ids) for ids in sequences]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
