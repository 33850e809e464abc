"""Layouts against a naive construction: every token meets what it meets in a sequence of its own.

Tokens are numbered, so that a token says where it stands, and what a query sees can be read off as
a list of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.layouts import Layout, pack, pack_pairs
from empo.alignment.shared_prefix import _row_masks
from empo.records import UserError

Row = tuple[list[int], list[list[int]]]
"""Tokens of a prompt, and of its replies."""

LENGTHS = st.integers(1, 6)
MULTIPLES = st.sampled_from([None, 1, 4, 16])


def numbered(shapes: Sequence[tuple[int, Sequence[int]]]) -> list[Row]:
    """Rows of this many tokens, no token twice; 0 is what fills up."""
    numbers = count(1)

    def tokens(length: int) -> list[int]:
        return [next(numbers) for _ in range(length)]

    return [(tokens(prompt), [tokens(reply) for reply in replies]) for prompt, replies in shapes]


def packed(rows: Sequence[Row], multiple_of: int | None = None) -> Layout:
    return pack([prompt for prompt, _ in rows], [replies for _, replies in rows], multiple_of)


def naive(rows: Sequence[Row]) -> list[list[int]]:
    """Every token of the layout as the sequence that it ends."""
    sequences = []
    for prompt, replies in rows:
        sequences += [prompt[: place + 1] for place in range(len(prompt))]
        for reply in replies:
            sequences += [prompt + reply[: place + 1] for place in range(len(reply) - 1)]
    return sequences


def in_order(layout: Layout, places: Sequence[int]) -> list[int]:
    """The tokens at these places by their positions, of which none may come twice."""
    positions = layout["positions"][0].tolist()
    places = sorted(places, key=positions.__getitem__)
    assert [positions[place] for place in places] == list(range(len(places)))
    return [layout["ids"][0, place].item() for place in places]


def seen_by_masks(layout: Layout) -> Iterator[list[int]]:
    """What every token sees row by row under its mask, itself included."""
    begin = 0
    for mask, tokens in zip(_row_masks(layout, torch.float32), layout["rows"], strict=True):
        assert mask.shape == (1, 1, tokens, tokens)
        assert set(mask.unique().tolist()) <= {0.0, -torch.inf}
        for row in mask[0, 0]:
            yield in_order(layout, [begin + place for place in (row == 0).nonzero()[:, 0].tolist()])
        begin += tokens
    assert begin == len(layout["segments"])


def seen_by_kernels(layout: Layout) -> Iterator[list[int]]:
    """What every token sees in sequences of unequal length, whose last query meets the last key."""
    queries, keys = layout["query_starts"].tolist(), layout["key_starts"].tolist()
    assert queries[0] == keys[0] == 0
    assert queries[-1] == len(layout["segments"]) and keys[-1] == len(layout["keys"])
    pieces = list(zip(pairwise(queries), pairwise(keys), strict=True))
    longest = [max(end - begin for begin, end in starts) for starts in zip(*pieces, strict=True)]
    assert layout["longest"] == longest
    for (first, last), (begin, end) in pieces:
        for query in range(first, last):
            yield in_order(layout, layout["keys"][begin : end - (last - 1 - query)].tolist())


# --- rows ---

ROWS = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, min_size=1, max_size=4)), min_size=1).map(
    numbered
)


@settings(deadline=None)
@given(ROWS, MULTIPLES)
def test_every_token_sees_its_prompt_and_its_own_reply_up_to_itself(
    rows: list[Row], multiple_of: int | None
) -> None:
    layout = packed(rows, multiple_of)
    expected = naive(rows)
    for seen in (list(seen_by_masks(layout)), list(seen_by_kernels(layout))):
        assert seen[: len(expected)] == expected
        assert not any(token for sequence in seen[len(expected) :] for token in sequence)


@settings(deadline=None)
@given(ROWS, MULTIPLES)
def test_every_token_of_a_reply_is_predicted_once_from_what_precedes_it(
    rows: list[Row], multiple_of: int | None
) -> None:
    layout = packed(rows, multiple_of)
    seen = list(seen_by_kernels(layout))
    queries, targets = layout["queries"].tolist(), layout["targets"].tolist()
    replies = [(prompt, reply) for prompt, several in rows for reply in several]
    read = sum(len(reply) for _, reply in replies)
    assert [begin for begin, _ in layout["spans"]] + [read] == [
        0,
        *(end for _, end in layout["spans"]),
    ]
    assert len(queries) == len(targets) == -(-read // (multiple_of or 1)) * (multiple_of or 1)
    for (prompt, reply), (begin, end) in zip(replies, layout["spans"], strict=True):
        assert targets[begin:end] == reply
        assert [seen[query] for query in queries[begin:end]] == [
            prompt + reply[:place] for place in range(len(reply))
        ]


@settings(deadline=None)
@given(ROWS, MULTIPLES)
def test_nothing_is_computed_twice_and_little_is_filled(
    rows: list[Row], multiple_of: int | None
) -> None:
    layout = packed(rows, multiple_of)
    needed = [len(prompt) + sum(len(r) - 1 for r in replies) for prompt, replies in rows]
    total = layout["ids"].shape[1]
    assert layout["rows"] == needed + [total - sum(needed)] * (total > sum(needed))
    assert total == -(-sum(needed) // (multiple_of or 1)) * (multiple_of or 1)
    assert layout["ids"].shape == layout["positions"].shape == (1, total)
    assert layout["query_starts"].dtype == layout["key_starts"].dtype == torch.int32


def test_a_layout_that_a_person_can_write_down() -> None:
    layout = pack([[5, 6], [7]], [[[8, 9, 10], [11]], [[12, 13]]], multiple_of=8)
    assert layout["ids"].tolist() == [[5, 6, 8, 9, 7, 12, 0, 0]]
    assert layout["positions"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1]]
    assert layout["segments"].tolist() == [0, 0, 1, 1, 0, 1, 0, 0]
    assert layout["rows"] == [4, 2, 2]
    assert layout["queries"].tolist() == [1, 2, 3, 1, 4, 5, 0, 0]
    assert layout["targets"].tolist() == [8, 9, 10, 11, 12, 13, 0, 0]
    assert layout["spans"] == [(0, 3), (3, 4), (4, 6)]
    assert layout["keys"].tolist() == [0, 1, 0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert layout["query_starts"].tolist() == [0, 2, 4, 5, 6, 8]
    assert layout["key_starts"].tolist() == [0, 2, 6, 7, 9, 11]
    assert layout["longest"] == [2, 4]


@pytest.mark.parametrize(
    ("prompt", "replies"),
    [([], [[1]]), ([1], []), ([1], [[2], []])],
    ids=["no prompt", "no replies", "an empty reply"],
)
def test_prompts_and_replies_need_a_token(prompt: list[int], replies: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"^a prompt and every one of its replies need at least"):
        pack([[1], prompt], [[[2]], replies])


# --- trl's batch ---

PAIRS = st.lists(
    st.tuples(LENGTHS, st.lists(LENGTHS, min_size=2, max_size=4)), min_size=1, max_size=5
).map(numbered)
"""Prompts, each with a chosen and one to three rejected replies."""


def trls_batch(rows: Sequence[Row], multiple_of: int | None = None) -> dict[str, torch.Tensor]:
    return DataCollatorForPreference(0, pad_to_multiple_of=multiple_of)(
        [
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": reply}
            for prompt, (chosen, *rejected) in rows
            for reply in rejected
        ]
    )


def pairs_packed(
    rows: Sequence[Row], batch: dict[str, torch.Tensor], multiple_of: int | None = None
) -> Layout:
    names = [f"row-{place}" for place in range(len(rows))]
    return pack_pairs(batch, names, [len(replies) - 1 for _, replies in rows], multiple_of)


@settings(deadline=None)
@given(PAIRS, MULTIPLES)
def test_the_layout_of_a_batch_is_that_of_its_rows(
    rows: list[Row], multiple_of: int | None
) -> None:
    found = pairs_packed(rows, trls_batch(rows, multiple_of), multiple_of)
    expected = packed(rows, multiple_of)
    assert found.keys() == expected.keys() - {"spans"} | {"cells"}
    for key in expected.keys() - {"spans"}:
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key])), key


@settings(deadline=None)
@given(PAIRS, MULTIPLES)
def test_every_cell_of_a_batch_knows_its_prediction(
    rows: list[Row], multiple_of: int | None
) -> None:
    batch = trls_batch(rows, multiple_of)
    layout = pairs_packed(rows, batch, multiple_of)
    cells, none = layout["cells"], len(layout["targets"])
    predicted = batch["completion_mask"][:, 1:].bool()
    assert cells.shape == predicted.shape
    assert torch.equal(cells != none, predicted)
    read = sum(len(reply) for _, replies in rows for reply in replies)
    assert set(cells[predicted].tolist()) == set(range(read))
    seen = list(seen_by_kernels(layout))
    for place, column in predicted.nonzero().tolist():
        cell = cells[place, column]
        assert layout["targets"][cell] == batch["input_ids"][place, column + 1]
        query = layout["queries"][cell]
        assert seen[query] == batch["input_ids"][place, : column + 1].tolist()


def test_cells_that_a_person_can_write_down() -> None:
    rows = [([5, 6], [[8, 9], [11], [12, 13, 14]]), ([7], [[15], [16, 17]])]
    layout = pairs_packed(rows, trls_batch(rows))
    assert layout["targets"].tolist() == [8, 9, 11, 12, 13, 14, 15, 16, 17]
    assert layout["cells"].tolist() == [
        [9, 0, 1, 9],  # 5 6 8 9, twice: two rejected replies
        [9, 0, 1, 9],
        [6, 9, 9, 9],  # 7 15
        [9, 2, 9, 9],  # 5 6 11
        [9, 3, 4, 5],  # 5 6 12 13 14
        [7, 8, 9, 9],  # 7 16 17
    ]


@pytest.mark.parametrize("place", [1, 2, 3], ids=["other chosen", "rejected", "other rejected"])
def test_prompts_that_differ_are_refused_by_name(place: int) -> None:
    rows = [([3], [[4], [5]]), ([6, 7], [[8], [9], [10]])]
    batch = trls_batch(rows)
    of_second_row = [1, 2, 4, 5]
    batch["input_ids"][of_second_row[place], 1] += 1
    with pytest.raises(UserError) as error:
        pairs_packed(rows, batch)
    assert str(error.value) == (
        "row row-1: the prompts of its chosen and rejected reply are different tokens, so they "
        "cannot be shared. Tokenise prompt and reply apart, or set shared_prefix: false."
    )


@pytest.mark.parametrize("emptied", ["chosen", "rejected", "prompt"])
def test_what_was_cut_to_nothing_is_refused_by_name(emptied: str) -> None:
    rows = [([3], [[4], [5]]), ([6, 7], [[8], [9]])]
    batch = trls_batch(rows)
    if emptied == "prompt":
        batch["attention_mask"][[1, 3], :2] = 0
    else:
        place = 1 if emptied == "chosen" else 3
        batch["attention_mask"][place, 2:] = batch["completion_mask"][place, 2:] = 0
    with pytest.raises(UserError) as error:
        pairs_packed(rows, batch)
    assert str(error.value) == (
        "row row-1: its prompt or one of its replies has no token left. Raise max_length, or leave "
        "the row out."
    )
