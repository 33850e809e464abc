from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from empo.raters import losses
from empo.raters.settings import RaterSettings
from empo.records import UserError

LN2 = math.log(2)
P34 = -math.log(0.75)
"""-log p of a class with probability 3/4, which logits (ln 3, 0) give."""


def approx(value: float) -> object:
    return pytest.approx(value, rel=1e-5, abs=1e-7)


TWO = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])


def test_cross_entropy_by_hand() -> None:
    assert losses.cross_entropy(TWO, torch.tensor([0, 0])).item() == approx((P34 + LN2) / 2)


def test_cross_entropy_leaves_missing_labels_out() -> None:
    labels = torch.tensor([losses.MISSING, 1])
    assert losses.cross_entropy(TWO, labels).item() == approx(LN2)


def test_cross_entropy_divides_by_the_weights_of_the_labels() -> None:
    found = losses.cross_entropy(TWO, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    assert found.item() == approx((P34 + 3 * LN2) / 4)


def test_cross_entropy_smooths_its_labels() -> None:
    # Half of the label is spread over both classes: 3/4 and 1/4 of it.
    found = losses.cross_entropy(TWO[:1], torch.tensor([0]), smoothing=0.5)
    assert found.item() == approx(0.75 * P34 + 0.25 * math.log(4))


def test_focal_by_hand() -> None:
    labels = torch.tensor([0, 0])
    expected = (0.25**2 * P34 + 0.5**2 * LN2) / 2
    assert losses.focal(TWO, labels).item() == approx(expected)
    assert losses.focal(TWO, labels, alpha=0.25).item() == approx(0.25 * expected)
    assert losses.focal(TWO, torch.tensor([losses.MISSING, 0])).item() == approx(0.25 * LN2)


def test_ldam_by_hand() -> None:
    assert losses.ldam_margins([16, 1]) == approx([0.25, 0.5])
    logits = torch.zeros(1, 2)
    # Class 1 loses 0.5: logits 2 · (0, -0.5), p = 1 / (1 + e).
    found = losses.ldam(logits, torch.tensor([1]), [16, 1], scale=2.0)
    assert found.item() == approx(math.log(1 + math.e))
    found = losses.ldam(logits, torch.tensor([0]), [16, 1], scale=2.0)
    assert found.item() == approx(math.log(1 + math.exp(0.5)))


def test_ldam_refuses_a_class_without_examples() -> None:
    with pytest.raises(UserError, match=r"class 1 has 0 training examples .*\[5, 0, 2\]"):
        losses.ldam(torch.zeros(1, 3), torch.tensor([0]), [5, 0, 2])


def test_kl_by_hand_and_against_torch() -> None:
    target = torch.tensor([[0.75, 0.25]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert losses.soft_label_kl(torch.zeros(1, 2), target).item() == approx(expected)
    torch.manual_seed(0)
    logits, target = torch.randn(5, 4), torch.randn(5, 4).softmax(dim=1)
    reference = functional.kl_div(logits.log_softmax(1), target, reduction="batchmean")
    assert losses.soft_label_kl(logits, target).item() == approx(reference.item())


@pytest.mark.parametrize("target", [torch.eye(3)[[0, 2]], torch.tensor([0, 2])])
def test_kl_refuses_one_hot_targets(target: torch.Tensor) -> None:
    with pytest.raises(UserError, match="equals the cross-entropy"):
        losses.soft_label_kl(torch.zeros(2, 3), target)


def test_kl_is_the_cross_entropy_on_one_hot_targets() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    target = functional.one_hot(labels, 3)
    found = losses.soft_label_kl(logits, target, checked=True)
    assert found.item() == approx(losses.cross_entropy(logits, labels).item())


def test_one_soft_row_is_enough_for_kl() -> None:
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # from even odds: log 2, and nothing
    assert losses.soft_label_kl(torch.zeros(2, 2), target).item() == approx(math.log(2) / 2)


def test_numbers_by_hand() -> None:
    prediction = torch.tensor([1.0, 2.0, 5.0])
    target = torch.tensor([0.0, 4.0, math.nan])
    assert losses.mse(prediction, target).item() == approx((1 + 4) / 2)
    assert losses.mae(prediction, target).item() == approx((1 + 2) / 2)


def test_contrastive_by_hand() -> None:
    distance, target = torch.tensor([0.2, 0.1, 0.7, 0.3]), torch.tensor([1.0, 0.0, 0.0, 0.5])
    # 0.2², (0.5 - 0.1)², beyond the margin, 0.5 · 0.3² + 0.5 · 0.2²
    expected = (0.04 + 0.16 + 0.0 + 0.065) / 4
    assert losses.contrastive(distance, target).item() == approx(expected)
    assert losses.contrastive(distance[:1], torch.zeros(1), margin=0.8).item() == approx(0.36)


def test_cosine_embedding_by_hand() -> None:
    found = losses.cosine_embedding(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.5]))
    assert found.item() == approx((0.5 + 1.5) / 2)


CLASS = {
    "cross_entropy": losses.cross_entropy,
    "weighted": lambda z, y: losses.cross_entropy(z, y, torch.tensor([1.0, 2.0, 3.0])),
    "focal": losses.focal,
    "focal_half": lambda z, y: losses.focal(z, y, gamma=0.5),
    "ldam": lambda z, y: losses.ldam(z, y, [100, 10, 1]),
}
NUMBER = {
    "mse": losses.mse,
    "mae": losses.mae,
    "contrastive": losses.contrastive,
    "cosine_embedding": losses.cosine_embedding,
}
LOGITS = st.lists(
    st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=6
)


@pytest.mark.parametrize("name", CLASS)
@settings(max_examples=40, deadline=None)
@given(rows=LOGITS, data=st.data())
def test_losses_of_classes_and_their_gradients_are_finite(
    name: str, rows: list[list[float]], data: st.DataObject
) -> None:
    labels = data.draw(
        st.lists(st.sampled_from([0, 1, 2, -100]), min_size=len(rows), max_size=len(rows))
    )
    logits = torch.tensor(rows, requires_grad=True)
    loss = CLASS[name](logits, torch.tensor(labels))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert loss.item() >= 0
    missing = torch.tensor(labels) == losses.MISSING
    assert not logits.grad[missing].any(), "an input without a label must not teach anything"


@settings(max_examples=40, deadline=None)
@given(rows=LOGITS)
def test_special_cases_of_focal_and_ldam_are_cross_entropy(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    labels = torch.arange(len(rows)) % 3
    plain = losses.cross_entropy(logits, labels).item()
    assert losses.focal(logits, labels, gamma=0.0).item() == pytest.approx(plain, rel=1e-9)
    found = losses.ldam(logits, labels, [5, 3, 1], max_margin=0.0, scale=30.0).item()
    scaled = losses.cross_entropy(30.0 * logits, labels).item()
    assert found == pytest.approx(scaled, rel=1e-9)


@pytest.mark.parametrize("name", NUMBER)
@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6), data=st.data())
def test_losses_of_numbers_and_their_gradients_are_finite(
    name: str, values: list[float], data: st.DataObject
) -> None:
    label = st.one_of(st.floats(0, 1, width=32), st.just(math.nan))
    target = data.draw(st.lists(label, min_size=len(values), max_size=len(values)))
    prediction = torch.tensor(values, requires_grad=True)
    loss = NUMBER[name](prediction, torch.tensor(target))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(prediction.grad).all()
    assert not prediction.grad[torch.tensor(target).isnan()].any()


@pytest.mark.parametrize("name", CLASS)
def test_a_batch_without_any_class_has_no_loss(name: str) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = CLASS[name](logits, torch.full((2,), losses.MISSING))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("name", NUMBER)
def test_a_batch_without_any_number_has_no_loss(name: str) -> None:
    prediction = torch.randn(2, requires_grad=True)
    loss = NUMBER[name](prediction, torch.full((2,), math.nan))
    loss.backward()
    assert loss.item() == 0 and not prediction.grad.any()


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.tensor([[0.0, 12.0]], dtype=torch.bfloat16)
    for loss in (losses.cross_entropy, losses.focal):
        found = loss(logits, torch.tensor([1]))
        assert found.dtype == torch.float32
    assert losses.cross_entropy(logits, torch.tensor([1])).item() == approx(
        math.log1p(math.exp(-12))
    )


def test_the_loss_of_levels_weighs_classes_and_is_0_without_labels() -> None:
    weighted = RaterSettings(data="x", class_weighting=1.0)
    likely = torch.tensor([[-1.0, -3.0], [-2.0, -2.5], [-9.0, -1.0]], requires_grad=True)
    labels, counts = torch.tensor([0, 0, 1]), torch.tensor([2.0, 1.0])
    loss = losses.level_loss(weighted, likely, labels, counts)
    expected = functional.cross_entropy(likely, labels, torch.tensor([0.75, 1.5]))
    torch.testing.assert_close(loss, expected)
    ignored = losses.level_loss(weighted, likely, torch.full((3,), losses.MISSING), counts)
    assert ignored.item() == 0 and ignored.requires_grad
