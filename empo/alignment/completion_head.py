"""Log-probabilities of given tokens under a frozen output head, with the gradient ready at once.

For one position, d log p(target) / d hidden = (onehot(target) - p) W. All of it is there in the
forward pass, so that it keeps one vector per position instead of what would make the logits
again: the backward pass is one multiplication. Under ZeRO-3 and FSDP the head is gathered once.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 1024
"""Positions whose logits exist at the same time."""


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product in float32, without rounding it to half precision first."""
    if left.device.type == "cuda" and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float()


class FrozenHead(torch.autograd.Function):
    """`apply(hidden, weight, bias, targets)`: what trl's DPO reads of its head's output.

    `hidden` (n, width), `weight` (vocabulary, width), `bias` (vocabulary) or None, `targets` (n);
    logits are float32 after the product, in the type of autocast where that is on. Returns
    log-probability, entropy (nats), log of the sum of squared probabilities, mean logit and whether
    the target is the likeliest token, each (n); only the first has a gradient, and only with
    respect to `hidden`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Project, normalise, and keep the gradient."""
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        head = weight.to(dtype)
        gradients, found = [], []
        for states, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = (states.to(dtype) @ head.t()).float()
            if bias is not None:
                logits += bias.float()
            logps = torch.log_softmax(logits, -1)
            probabilities = logps.exp()
            found.append(
                (
                    logps.gather(1, wanted[:, None])[:, 0],
                    -(probabilities * logps).sum(-1),
                    probabilities.square().sum(-1).log(),
                    logits.mean(-1),
                    logits.argmax(-1) == wanted,
                )
            )
            if ctx.needs_input_grad[0]:
                # subtracted before it is rounded: for a sure token both terms are nearly equal
                toward = probabilities.neg_()
                toward.scatter_add_(1, wanted[:, None], torch.ones_like(toward[:, :1]))
                gradients.append(_product(toward.to(dtype), head))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        ctx.dtype = hidden.dtype
        outputs = tuple(torch.cat(values) for values in zip(*found, strict=True))
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
        """Scale the kept gradient."""
        if grad is None:
            return None, None, None, None
        (gradient,) = ctx.saved_tensors
        return (gradient * grad[:, None]).to(ctx.dtype), None, None, None
