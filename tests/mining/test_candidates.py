"""Candidates are a pure function of seed, epoch and id; the nearest are the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import corpus, draws_of, exchange

from empo.mining import candidates
from empo.mining.candidates import Candidate, Drawn, OnTopic, nearest_opposites


def ids(some: list[Candidate]) -> list[str]:
    return [candidate.exchange.id for candidate in some]


def unit(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, angles in degrees."""
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_candidates_are_draws_that_follow_each_other() -> None:
    exchanges = corpus(4, 9)
    draws = draws_of(exchanges)
    for one in exchanges[:4]:
        found = [ids(Drawn(draws, 3).of(epoch, one)) for epoch in range(3)]
        plain = [draws.draw(number, one.id).id for number in range(9)]
        assert found == [plain[:3], plain[3:6], plain[6:]]
        assert sorted(plain) == [f"d{i}" for i in range(9)]  # all of the pool before one again
        assert ids(Drawn(draws, 1).of(2, one)) == plain[2:3]


def test_more_candidates_than_the_pool_has_are_all_of_it_once() -> None:
    exchanges = corpus(2, 3)
    some = Drawn(draws_of(exchanges), 8).of(0, exchanges[0])
    assert sorted(ids(some)) == ["d0", "d1", "d2"]
    on_topic = OnTopic(draws_of(exchanges), exchanges, unit(0, 0, 1, 2, 3), 8, 8)
    assert sorted(ids(on_topic.of(1, exchanges[0]))) == ["d0", "d1", "d2"]


def test_the_nearest_by_hand() -> None:
    exchanges = [*corpus(1, 4), exchange("d4", "down", "3"), exchange("d5", "down", "50")]
    # u0 at 0 degrees; d4 says what d3 says and is farther; d5 says what u0 itself says
    vectors = unit(0, 60, 30, 180, 10, 11, 0)
    near = nearest_opposites(draws_of(exchanges), exchanges, vectors, 3)["u0"]
    assert ids(near) == ["d3", "d1", "d0"]
    cosines = [candidate.similarity for candidate in near]
    np.testing.assert_allclose(cosines, np.cos(np.deg2rad([10, 30, 60])), atol=1e-6)


def test_on_topic_walks_the_nearest_and_begins_again() -> None:
    exchanges = corpus(1, 8)
    vectors = unit(0, *(10 * i for i in range(1, 9)))
    on_topic = OnTopic(draws_of(exchanges), exchanges, vectors, nearest=4, several=2)
    epochs = [ids(on_topic.of(epoch, exchanges[0])) for epoch in range(3)]
    assert sorted(epochs[0] + epochs[1]) == ["d0", "d1", "d2", "d3"]
    assert epochs[2] == epochs[0]


def test_the_order_of_the_nearest_is_seeded_and_each_exchanges_own() -> None:
    exchanges = corpus(2, 8)
    vectors = unit(0, 0, *(10 * i for i in range(1, 9)))
    orders = {
        tuple(ids(OnTopic(draws_of(exchanges, seed), exchanges, vectors, 8, 8).of(0, one)))
        for seed in (1, 2)
        for one in exchanges[:2]
    }
    assert len(orders) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(1, 4), st.integers(0, 99), st.data())
def test_neither_the_order_of_asking_nor_of_the_corpus_changes_candidates(
    ups: int, downs: int, several: int, seed: int, data: st.DataObject
) -> None:
    exchanges = corpus(ups, downs)
    angles = {one.id: float(7 * i % 50) for i, one in enumerate(exchanges)}

    def both(some: list) -> tuple[Drawn, OnTopic]:
        draws = draws_of(some, seed)
        vectors = unit(*(angles[one.id] for one in some))
        return Drawn(draws, several), OnTopic(draws, some, vectors, 5, several)

    asked = [(epoch, one) for epoch in range(3) for one in exchanges]
    first = [[ids(kind.of(*question)) for question in asked] for kind in both(exchanges)]
    mixed = data.draw(st.permutations(asked))
    for before, kind in zip(first, both(data.draw(st.permutations(exchanges))), strict=True):
        found = {(epoch, one.id): ids(kind.of(epoch, one)) for epoch, one in mixed}
        assert [found[epoch, one.id] for epoch, one in asked] == before


def test_blocks_of_contexts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges = corpus(7, 5)
    vectors = unit(*(13 * i % 90 for i in range(12)))
    whole = nearest_opposites(draws_of(exchanges), exchanges, vectors, 3)
    monkeypatch.setattr(candidates, "ROWS", 2)
    blocks = nearest_opposites(draws_of(exchanges), exchanges, vectors, 3)
    assert {k: ids(v) for k, v in whole.items()} == {k: ids(v) for k, v in blocks.items()}
