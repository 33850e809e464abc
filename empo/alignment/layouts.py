"""Rows of one prompt and all its replies, one after the other in one sequence without padding.

A row is `[prompt | reply 1 | ... | reply n]`, each reply without its last token (it predicts
nothing). Positions of every reply go on from the end of the prompt, and a reply sees the prompt and
itself: every token meets what it meets in a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from empo.records import UserError

Layout = dict[str, Any]
"""Tensors and lists of whole numbers, which every loader can move."""


def pack(
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[Sequence[int]]],
    multiple_of: int | None = None,
) -> Layout:
    """The layout of rows; `replies[i]` are the replies to `prompts[i]`, each of at least one token.

    - `ids`, `positions` (1, N): all rows one after the other;
    - `queries`, `targets` (M): where a reply's token is predicted, and that token;
    - `spans`: begin and end in M of every reply, in order of the rows;
    - `rows`: tokens of every row, and `segments` (N): 0 for its prompt, 1, 2, ... for its replies;
    - `keys`, `query_starts`, `key_starts`, `longest`: the same as sequences of unequal length, for
      kernels: a prompt attends to itself, a reply to its prompt and itself, both causally.

    N and M are filled up to `multiple_of` by what nothing reads, so that fewer shapes occur.
    Raises ValueError for an empty prompt or reply.
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    queries: list[int] = []
    targets: list[int] = []
    keys: list[int] = []
    rows: list[int] = []
    spans: list[tuple[int, int]] = []
    pieces: list[tuple[int, int]] = []  # queries and keys of a sequence

    def add(tokens: Sequence[int], first_position: int, segment: int, shared: range) -> range:
        """Append a prompt, or a reply that sees the tokens at `shared` too; its places in N.

        No tokens (a reply of one, without its last) have no place and are no sequence.
        """
        begin = len(ids)
        ids.extend(tokens)
        positions.extend(range(first_position, first_position + len(tokens)))
        segments.extend([segment] * len(tokens))
        own = range(begin, len(ids))
        if own:
            keys.extend(shared)
            keys.extend(own)
            pieces.append((len(own), len(shared) + len(own)))
        return own

    for prompt, several in zip(prompts, replies, strict=True):
        if not prompt or not several or not all(several):
            raise ValueError("a prompt and every one of its replies need at least one token")
        shared = add(prompt, 0, 0, range(0))
        for number, reply in enumerate(several, start=1):
            own = add(reply[:-1], len(prompt), number, shared)
            spans.append((len(targets), len(targets) + len(reply)))
            queries += [shared[-1], *own]
            targets += reply
        rows.append(len(ids) - shared[0])
    filling = -len(ids) % multiple_of if multiple_of else 0
    if filling:
        rows.append(len(add([0] * filling, 0, 0, range(0))))
    unread = -len(queries) % multiple_of if multiple_of else 0
    queries += [0] * unread
    targets += [0] * unread
    starts = torch.tensor([(0, 0), *pieces], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return {
        "ids": torch.tensor([ids]),
        "positions": torch.tensor([positions]),
        "queries": torch.tensor(queries),
        "targets": torch.tensor(targets),
        "spans": spans,
        "rows": rows,
        "segments": torch.tensor(segments),
        "keys": torch.tensor(keys),
        "query_starts": starts[:, 0].contiguous(),
        "key_starts": starts[:, 1].contiguous(),
        "longest": [max(q for q, _ in pieces), max(k for _, k in pieces)],
    }


def pack_pairs(
    batch: dict[str, torch.Tensor],
    names: Sequence[str],
    rejected: Sequence[int],
    multiple_of: int | None = None,
) -> Layout:
    """The layout of trl's batch of pairs, with `cells` (2 * pairs, L - 1) into its M predictions.

    trl has a row of L tokens per chosen, then one per rejected reply, the prompt in front of each.
    `rejected` is the number of rejected replies of every prompt in `names`; its pairs lie side by
    side, and the chosen reply of all of them is computed once. Cells without a prediction hold M.
    Raises UserError with the name of a prompt whose rows disagree about it, or have no reply.
    """
    real, inside = batch["attention_mask"].bool(), batch["completion_mask"].bool()
    prompts = [
        ids[mask].tolist() for ids, mask in zip(batch["input_ids"], real & ~inside, strict=True)
    ]
    replies = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], inside, strict=True)]
    pairs = len(prompts) // 2
    rows: list[tuple[list[int], list[list[int]]]] = []
    places: list[list[int]] = []  # in trl's batch, of every reply of the layout
    begin = 0
    for name, number in zip(names, rejected, strict=True):
        own = list(range(begin, begin + number))
        other = [pairs + pair for pair in own]
        begin += number
        prompt, several = prompts[own[0]], [replies[place] for place in (own[0], *other)]
        if any(prompts[place] != prompt for place in (*own, *other)):
            raise UserError(
                f"row {name}: the prompts of its chosen and rejected reply are different tokens, so "
                "they cannot be shared. Tokenise prompt and reply apart, or set shared_prefix: false."
            )
        if not prompt or not all(several):
            raise UserError(
                f"row {name}: its prompt or one of its replies has no token left. Raise max_length, "
                "or leave the row out."
            )
        rows.append((prompt, several))
        places += [own, *([place] for place in other)]
    layout = pack([prompt for prompt, _ in rows], [several for _, several in rows], multiple_of)
    cells = torch.full_like(batch["input_ids"][:, 1:], len(layout["targets"]))
    predicted = (inside & real)[:, 1:]
    for own, (first, last) in zip(places, layout.pop("spans"), strict=True):
        for place in own:
            cells[place, predicted[place]] = torch.arange(first, last)
    return layout | {"cells": cells}
