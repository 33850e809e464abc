"""The frozen head against autograd through all logits: values, gradient, memory, half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear
from trl.kernels import ChunkedLogProbFunction

from empo.alignment.completion_head import CHUNK, FrozenHead
from empo.alignment.shared_prefix import FIELDS

Tensors = tuple[torch.Tensor, ...]
WIDTH, VOCABULARY = 16, 50


def inputs(
    number: int, bias: bool = False, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Hidden states, weight, bias, targets, and what the gradient of a log-probability is."""
    generator = torch.Generator().manual_seed(number)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    targets = torch.randint(VOCABULARY, (number,), generator=generator)
    hidden = (scale * normal(number, WIDTH)).requires_grad_()
    weight = normal(VOCABULARY, WIDTH)
    return hidden, weight, normal(VOCABULARY) if bias else None, targets, normal(number)


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> Tensors:
    """The same through all logits, by autograd."""
    logits = linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logps = logits.log_softmax(-1)
    probabilities = logps.exp()
    return (
        logps.gather(1, targets[:, None])[:, 0],
        -(probabilities * logps).sum(-1),
        probabilities.square().sum(-1).log(),
        logits.mean(-1),
        logits.argmax(-1) == targets,
    )


def gradient(found: Tensors, hidden: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    (taken,) = torch.autograd.grad(found[0], hidden, grad.to(found[0].dtype))
    return taken


def trls(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> Tensors:
    """trl's head; its vocabulary in two chunks."""
    return ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, 1.0, VOCABULARY // 2, None, 1.0, FIELDS
    )


NUMBERS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1]


@pytest.mark.parametrize("other", [plain, trls])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
def test_values_and_gradient_are_those_through_all_logits(
    number: int, bias: bool, other: Callable[..., Tensors]
) -> None:
    *given, grad = inputs(number, bias)
    found, expected = FrozenHead.apply(*given), other(*given)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gradient(found, given[0], grad), gradient(expected, given[0], grad), rtol=1e-5, atol=1e-5
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.booleans(), st.sampled_from([0.01, 1.0, 30.0]))
def test_it_is_right_in_float64(number: int, bias: bool, scale: float) -> None:
    *given, grad = inputs(number, bias, torch.float64, scale)
    found, expected = FrozenHead.apply(*given), plain(*given)
    ours, theirs = (gradient(values, given[0], grad) for values in (found, expected))
    assert ours.dtype == torch.float64
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6
    # float32 after the product: a logit of 100 is known to 1e-5
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=1e-5 * (1 + scale))


def test_a_gradient_that_a_person_can_check() -> None:
    """p = (2/3, 1/3): from the first row of the weight to the second, two thirds of the way."""
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[4.0, 1.0], [2.0, 3.0]]).log()  # logits log 4 and log 2
    (logp, *_, top1) = FrozenHead.apply(hidden, weight, None, torch.tensor([1]))
    assert logp.exp().item() == pytest.approx(1 / 3)
    assert not top1
    logp.backward()
    expected = (weight[1] - weight[0]) * 2 / 3
    torch.testing.assert_close(hidden.grad[0], expected)


@pytest.mark.parametrize("way", ["autocast", "weights"])
@pytest.mark.parametrize("bias", [False, True])
def test_half_precision_is_as_near_as_plain_half_precision(way: str, bias: bool) -> None:
    dtype = torch.bfloat16 if way == "weights" else torch.float32
    *given, grad = inputs(CHUNK + 3, bias, dtype)
    exact = [None if t is None else t.detach() for t in given]
    exact = [t.double() if t is not None and t.is_floating_point() else t for t in exact]
    truth = plain(exact[0].requires_grad_(), *exact[1:])
    expected = gradient(truth, exact[0], grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        found, usual = FrozenHead.apply(*given), plain(*given)
    assert all(value.dtype in (torch.float32, torch.bool) for value in found)
    for ours, theirs, right in zip(found[:4], usual[:4], truth[:4], strict=True):
        assert (ours - right).norm() <= 1.1 * (theirs - right).norm() + 1e-6
    ours, theirs = (gradient(values, given[0], grad) for values in (found, usual))
    assert ours.dtype == given[0].dtype
    assert (ours - expected).norm() <= 1.5 * (theirs - expected).norm()


def test_only_the_log_probability_has_a_gradient() -> None:
    *given, _ = inputs(5)
    logps, *others = FrozenHead.apply(*given)
    assert logps.requires_grad and not any(other.requires_grad for other in others)


def test_a_part_that_is_not_used_gets_zero_and_the_rest_its_own() -> None:
    hidden, weight, bias, targets, _ = inputs(6)
    logps = FrozenHead.apply(hidden, weight, bias, targets)[0]
    taken = torch.autograd.grad(logps[2:4].sum(), hidden)[0]
    assert not taken[[0, 1, 4, 5]].any()
    assert taken[[2, 3]].any(1).all()


def kept(number: int, gradients: bool) -> tuple[Tensors, int]:
    """What the head says, and the numbers it keeps for the backward pass."""
    hidden, weight, bias, targets, _ = inputs(number)
    numbers: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        numbers.append(tensor.numel())
        return tensor

    with (
        torch.set_grad_enabled(gradients),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        found = FrozenHead.apply(hidden, weight, bias, targets)
    return found, sum(numbers)


def test_it_keeps_one_vector_per_position_and_nothing_without_gradients() -> None:
    found, numbers = kept(CHUNK + 1, True)
    assert numbers == (CHUNK + 1) * WIDTH
    without, numbers = kept(CHUNK + 1, False)
    assert numbers == 0 and not without[0].requires_grad
    for ours, theirs in zip(without, found, strict=True):
        assert torch.equal(ours, theirs)


def test_the_first_of_equal_tokens_is_the_likeliest() -> None:
    hidden, weight = torch.ones(2, 1), torch.ones(3, 1)
    for other in (plain, trls, FrozenHead.apply):
        assert other(hidden, weight, None, torch.tensor([0, 1]))[4].tolist() == [True, False]
