"""A model that computes every prompt once and its replies on top of it: same loss, fewer tokens.

The collator lays rows out as `[prompt | chosen | rejected_1 ... rejected_K]` (`layouts.py`); here a
model learns to follow such a layout. Attention lets a reply see its prompt and itself, so hidden
states, loss and gradients are those of separate sequences. The output head is applied where a
reply's token is predicted, and nowhere else. trl's batch, loss types and metrics stay trl's.
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import FusedCausalLMOutput, maybe_gather_lm_head_ctx

from empo.alignment.completion_head import FrozenHead
from empo.alignment.layouts import Layout, pack

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)

NAME = "shared_prefix"
"""Of the attention function, and of the argument that carries the layout to it."""

VERIFIED = (
    "arcee",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "helium",
    "llama",
    "ministral",
    "ministral3",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
)
"""Architectures (`model_type`) whose loss and gradients the tests compare with trl's."""

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""Per-token fields of trl's output, in the order in which heads return them."""


def refusal(config: PretrainedConfig, attention: str | None, max_length: int) -> str | None:
    """Why a model cannot share prompts, or None where it can.

    `attention` is the backend that was asked for; None and `sdpa` can carry the mask.
    """
    if config.model_type not in VERIFIED:
        return (
            f"the architecture {config.model_type} is not one it was verified on "
            f"({', '.join(VERIFIED)})"
        )
    if attention not in (None, "sdpa"):
        return (
            f"attention: {attention} takes no mask in which replies share a prompt; only sdpa does "
            "(on a GPU in half precision it is replaced by a variable-length flash kernel anyway)"
        )
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window and window < max_length:
        return f"its sliding window of {window} tokens is shorter than max_length {max_length}"
    for name, value in config.to_dict().items():
        if value and ("dropout" in name or "softcapping" in name):
            return (
                f"its configuration has {name}: {value}, and a shared prompt is computed without "
                "dropout and caps"
            )
    return None


def share_prefix(
    model: PreTrainedModel, precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Let a causal model follow a layout given as `model(..., shared_prefix=layout)`.

    trl's per-token fields come back in the form of the layout's `cells`, 0 where it has none.
    Without a layout the model does what it did: generation, evaluation, saving. A second call changes
    nothing. `precision` is what a layout is followed under (autocast).
    """
    if getattr(model.forward, NAME, False):
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)  # stays set: checkpointing runs layers again in backward
    usual = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        """The model's own output, or with a layout trl's per-token fields, each of its cells' shape.

        Other arguments do not count beside a layout, which has its own ids, positions and masks.
        """
        layout = kwargs.pop(NAME, None)
        if layout is None:
            return usual(*args, **kwargs)
        with precision():
            outputs = self.base_model(
                input_ids=layout["ids"],
                position_ids=layout["positions"],
                # four dimensions are handed on as they are; the layout says who sees whom
                attention_mask=layout["ids"].new_ones((1, 1, 1, 1), dtype=torch.bool),
                use_cache=False,
                **{NAME: layout | {"masks": _masks(layout, self)}},
            )
            states = outputs.last_hidden_state[0].index_select(0, layout["queries"])
            found = _score(self.get_output_embeddings(), states, layout["targets"])
        return FusedCausalLMOutput(
            **{
                name: torch.cat([value, value.new_zeros(1)])[layout["cells"]]
                for name, value in zip(FIELDS, found, strict=True)
            }
        )

    setattr(forward, NAME, True)
    model.forward = types.MethodType(forward, model)


def _score(head: torch.nn.Module, states: torch.Tensor, targets: torch.Tensor) -> Sequence[Any]:
    weight, bias = head.weight, head.bias
    if isinstance(weight, DTensor):  # FSDP
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()
    with maybe_gather_lm_head_ctx(weight, bias):
        trained = head.weight.requires_grad or (bias is not None and head.bias.requires_grad)
        if not trained:
            return FrozenHead.apply(states, weight, bias, targets)
        # the head's own gradient needs the logits once more, as trl makes them
        sizes = (1.0, 32_768, None, 1.0)
        return ChunkedLogProbFunction.apply(states, weight, bias, targets, *sizes, FIELDS)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a layout; queries (1, heads, N, size), keys and values maybe fewer heads."""
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    run = _flash if shared_prefix["masks"] is None else _masked
    return run(query, key, value, shared_prefix, scaling)[None], None


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
) -> torch.Tensor:
    """(N, heads, size): row by row, each under its own mask; rows are views, nothing is padded."""
    parts = (tensor.split(layout["rows"], 2) for tensor in (query, key, value))
    attended = [
        scaled_dot_product_attention(*row, attn_mask=mask, scale=scaling, enable_gqa=True)
        for *row, mask in zip(*parts, layout["masks"], strict=True)
    ]
    return torch.cat(attended, 2)[0].transpose(0, 1)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
) -> torch.Tensor:
    """(N, heads, size): prompts and replies as sequences of unequal length, keys gathered."""
    from torch.nn.attention.varlen import varlen_attn

    # rotary positions leave queries and keys in float32 where weights are, under autocast
    queries, keys, values = (
        tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value)
    )
    return varlen_attn(
        queries.contiguous(),
        keys.index_select(0, layout["keys"]),
        values.index_select(0, layout["keys"]),
        layout["query_starts"],
        layout["key_starts"],
        *layout["longest"],
        scale=scaling,
        window_size=(-1, 0),  # causal, the last query meets the last key
        enable_gqa=True,
    )


@functools.cache
def flash_kernel(device: torch.device, dtype: torch.dtype, head_size: int = 64) -> bool:
    """Whether the variable-length flash kernel serves here; tried once, and said once.

    It has to agree with masked attention on a small layout, values and gradients.
    """
    if device.type != "cuda":
        return False
    if dtype not in (torch.bfloat16, torch.float16):
        logger.warning(
            "shared_prefix: in %s attention runs row by row under a mask; with bf16: true a faster "
            "kernel serves",
            dtype,
        )
        return False
    layout = pack([[1] * 33, [1] * 5], [[[1] * 9, [1] * 40], [[1] * 3, [1]]])
    layout = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in layout.items()}
    layout["masks"] = _row_masks(layout, dtype)
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(1, heads, len(layout["segments"]), head_size) for heads in (8, 2, 2, 8)]
    tensors = [
        torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes
    ]
    results = []
    try:
        for function in (_masked, _flash):
            inputs = [tensor.clone().requires_grad_() for tensor in tensors[:3]]
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                out = function(*inputs, layout, None)
                out.backward(tensors[3][0].transpose(0, 1))
            results.append([out.detach(), *(tensor.grad for tensor in inputs)])
        apart = max((a - b).abs().max().item() for a, b in zip(*results, strict=True))
        reason = f"it is {apart:.3f} off" if not apart < 0.1 else None
    except (RuntimeError, ValueError, ImportError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
    if reason:
        logger.warning(
            "shared_prefix: the variable-length flash kernel does not serve on %s (%s); attention "
            "runs row by row under a mask, which is slower",
            torch.cuda.get_device_name(device),
            reason,
        )
    return reason is None


def _masks(layout: Layout, model: PreTrainedModel) -> list[torch.Tensor] | None:
    """None where the flash kernel serves."""
    device, config = layout["ids"].device, model.config
    dtype = model.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return None if flash_kernel(device, dtype, size) else _row_masks(layout, dtype)


def _row_masks(layout: Layout, dtype: torch.dtype) -> list[torch.Tensor]:
    """Per row (1, 1, T, T): 0 where a token sees another, -inf elsewhere."""
    masks = []
    for segments in layout["segments"].split(layout["rows"]):
        own = (segments == 0) | (segments == segments[:, None])
        unseen = own.logical_not() | torch.ones_like(own).triu(1)
        mask = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
        masks.append(mask.masked_fill_(unseen, -torch.inf)[None, None])
    return masks
