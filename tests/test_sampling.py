"""Replies drawn by numbers of their own: the right distribution, and the same whatever is beside them."""

from __future__ import annotations

import math

import pytest
import torch

from empo.sampling import OwnNumbers, drawn_tokens, numbers_of, own_sampling

SCORES = torch.log(torch.tensor([[0.5, 0.0, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.49, 0), (0.51, 2), (0.69, 2), (0.71, 3), (0.999999, 3)]
)
def test_a_token_is_drawn_where_the_probabilities_exceed_the_number(
    number: float, token: int
) -> None:
    # 0 to .5: token 0; .5 to .7: token 2; .7 to 1: token 3; token 1 never
    assert drawn_tokens(SCORES, torch.tensor([number])).tolist() == [token]


def test_a_token_of_probability_0_is_never_drawn() -> None:
    scores = torch.log(torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]))
    drawn = [drawn_tokens(scores, torch.tensor([number])).item() for number in (0.0, 0.5, 0.75)]
    assert drawn == [1, 3, 3]


def test_tokens_come_as_often_as_they_are_probable() -> None:
    n = 20_000
    drawn = drawn_tokens(SCORES.expand(n, -1), numbers_of(1, "hit:1", 0, n))
    for token, share in enumerate([0.5, 0.0, 0.2, 0.3]):
        spread = 4 * math.sqrt(share * (1 - share) / n)
        assert abs((drawn == token).double().mean().item() - share) <= spread


def test_numbers_depend_on_seed_exchange_and_reply_and_nothing_else() -> None:
    first = numbers_of(1, "a", 0, 5)
    torch.manual_seed(9)
    assert torch.equal(numbers_of(1, "a", 0, 5), first)
    assert torch.equal(numbers_of(1, "a", 0, 3), first[:3])
    others = [numbers_of(2, "a", 0, 5), numbers_of(1, "b", 0, 5), numbers_of(1, "a", 1, 5)]
    assert len({tuple(numbers.tolist()) for numbers in [first, *others]}) == 4
    assert first.min() >= 0 and first.max() < 1


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    scores = torch.randn(
        3, 6, 50, generator=torch.Generator().manual_seed(0)
    )  # steps, rows, tokens
    numbers = [numbers_of(1, name, 0, 3) for name in "abcdef"]

    def tokens(rows: list[int]) -> list[list[int]]:
        processors = own_sampling([numbers[i] for i in rows], temperature=0.7, top_p=0.9)
        blank = torch.zeros(len(rows), 1, dtype=torch.long)
        return [processors(blank, scores[step, rows]).argmax(-1).tolist() for step in range(3)]

    together = tokens([0, 1, 2, 3, 4, 5])
    assert len({tuple(step) for step in together}) == 3
    for i in range(6):
        assert tokens([i]) == [[step[i]] for step in together]


def test_the_nucleus_leaves_out_the_tail_and_temperature_sharpens() -> None:
    numbers = [torch.tensor([0.95], dtype=torch.float64)]
    blank = torch.zeros(1, 1, dtype=torch.long)
    assert own_sampling(numbers, 1.0, 1.0)(blank, SCORES).argmax(-1).tolist() == [3]
    assert own_sampling(numbers, 1.0, 0.5)(blank, SCORES).argmax(-1).tolist() == [0]
    # at temperature .1 the shares are as .5^10, .2^10, .3^10: token 0 has .994
    assert own_sampling(numbers, 0.1, 1.0)(blank, SCORES).argmax(-1).tolist() == [0]


def test_only_the_drawn_token_is_left() -> None:
    left = OwnNumbers(torch.tensor([[0.6]]))(torch.zeros(1, 1, dtype=torch.long), SCORES)
    assert left.tolist() == [[-math.inf, -math.inf, 0.0, -math.inf]]
