"""Token-budgeted batches: every row once, both limits, one count, one order per seed and epoch."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from empo.alignment.batches import TokenBudgetBatches
from empo.records import UserError

MAX_TOKENS = 40
LENGTHS = st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=60)
MIXED = [length for length in range(1, 31) for _ in range(5)]
"""150 rows of 30 lengths; 2,325 tokens."""


class Case(NamedTuple):
    """What a sampler is made from."""

    lengths: list[int]
    max_tokens: int
    batch_size: int
    seed: int
    processes: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Samplers that can be made: with rows enough for their processes."""
    lengths = draw(LENGTHS)
    limits = (draw(st.integers(max(lengths), 90)), draw(st.integers(1, 8)), draw(st.integers(0)))
    processes = draw(st.integers(1, 5))
    alone = len(TokenBudgetBatches(lengths, *limits))
    assume(alone + -alone % processes <= len(lengths))
    return Case(lengths, *limits, processes)


def epoch_of(sampler: TokenBudgetBatches, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


# --- what an epoch is ---


def test_batches_that_a_person_can_make() -> None:
    """Sorted 3 3 4 5 5 10: each line takes what fits into 10 tokens."""
    sampler = TokenBudgetBatches([3, 10, 5, 3, 4, 5], max_tokens=10, batch_size=8, seed=1)
    assert sorted(map(sorted, sampler)) == [[0, 3, 4], [1], [2, 5]]
    assert sampler.facts() == {
        "batches_per_epoch": 3,
        "mean_rows": 2.0,
        "min_rows": 1,
        "max_rows": 3,
        "mean_tokens": 10.0,
        "fill": 1.0,
        "halved": 0,
    }


def test_rows_are_limited_too() -> None:
    sampler = TokenBudgetBatches([1] * 7, max_tokens=100, batch_size=3, seed=1)
    assert sorted(map(len, sampler)) == [1, 3, 3]
    assert sampler.facts()["fill"] == 0.0233  # 7 tokens in 3 batches of 100


def test_batches_are_even() -> None:
    """10 rows in batches of 6 could be 6 and 4; two of 5 are as few. Three processes take 4, 4, 2."""
    made = [TokenBudgetBatches([1] * 10, 6, 8, 1, processes) for processes in (1, 3)]
    assert [sorted(map(len, sampler)) for sampler in made] == [[5, 5], [2, 4, 4]]
    assert [sampler.facts()["halved"] for sampler in made] == [0, 0]


def test_the_batches_with_most_rows_are_halved_for_the_processes() -> None:
    """6 + 2 + 1 rows are three batches; four processes halve the 6, eight of them go on."""
    lengths = [1] * 6 + [3] * 2 + [6]
    made = {
        processes: TokenBudgetBatches(lengths, 6, 8, seed=1, processes=processes)
        for processes in (1, 3, 4, 5, 8)
    }
    rows = {processes: sorted(map(len, sampler)) for processes, sampler in made.items()}
    assert rows == {
        1: [1, 2, 6],
        3: [1, 2, 6],
        4: [1, 2, 3, 3],
        5: [1, 1, 2, 2, 3],
        8: [1, 1, 1, 1, 1, 1, 1, 2],
    }
    assert [sampler.facts()["halved"] for sampler in made.values()] == [0, 0, 1, 2, 5]


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(0, 5))
def test_every_epoch_has_every_row_once_within_both_limits(case: Case, epoch: int) -> None:
    sampler = TokenBudgetBatches(*case)
    batches = epoch_of(sampler, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(case.lengths)))
    rows = list(map(len, batches))
    tokens = [sum(case.lengths[row] for row in batch) for batch in batches]
    assert 0 < min(rows) <= max(rows) <= case.batch_size
    assert max(tokens) <= case.max_tokens
    facts = sampler.facts()
    assert (min(rows), max(rows)) == (facts["min_rows"], facts["max_rows"])
    assert len(batches) == len(sampler) == facts["batches_per_epoch"]
    assert facts["mean_tokens"] == round(sum(tokens) / len(tokens), 1)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(MAX_TOKENS, 90), st.integers(1, 8), st.integers(1, 5))
def test_the_count_is_the_next_multiple_of_the_processes_or_an_error(
    lengths: list[int], max_tokens: int, batch_size: int, processes: int
) -> None:
    alone = len(TokenBudgetBatches(lengths, max_tokens, batch_size, 1))
    wanted = next(n for n in range(alone, alone + processes) if n % processes == 0)
    if wanted > len(lengths):
        with pytest.raises(UserError, match="there are too few rows to split"):
            TokenBudgetBatches(lengths, max_tokens, batch_size, 1, processes)
        return
    assert len(TokenBudgetBatches(lengths, max_tokens, batch_size, 1, processes)) == wanted


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(MAX_TOKENS, 90), st.integers(1, 8))
def test_no_cut_into_runs_has_fewer_batches_or_a_smaller_largest_one(
    lengths: list[int], max_tokens: int, batch_size: int
) -> None:
    """Against the best of all ways to cut the sorted lengths into as many runs."""
    ascending = sorted(lengths)

    def fewest(budget: int) -> int:
        best = [0]
        for end in range(1, len(ascending) + 1):
            starts = range(max(0, end - batch_size), end)
            best.append(1 + min(best[s] for s in starts if sum(ascending[s:end]) <= budget))
        return best[-1]

    batches = list(TokenBudgetBatches(lengths, max_tokens, batch_size, 1))
    largest = max(sum(lengths[row] for row in batch) for batch in batches)
    assert len(batches) == fewest(max_tokens)
    assert largest == max(lengths) or fewest(largest - 1) > len(batches)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_rows_of_similar_length_go_together(case: Case) -> None:
    """No batch reaches into the lengths of another, beyond the one that they share at their border."""
    lengths = [[case.lengths[row] for row in batch] for batch in TokenBudgetBatches(*case)]
    spans = sorted((min(batch), max(batch)) for batch in lengths)
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(spans))


# --- what an epoch depends on ---


@settings(deadline=None, max_examples=60)
@given(cases(), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_the_order_is_a_function_of_seed_and_epoch(case: Case, epochs: list[int]) -> None:
    """Whatever was iterated before, and whatever the global generators hold."""
    sampler = TokenBudgetBatches(*case)
    for epoch in epochs:
        random.seed(epoch)
        torch.manual_seed(epoch)
        fresh = TokenBudgetBatches(*case)
        assert epoch_of(sampler, epoch) == list(sampler) == epoch_of(fresh, epoch)


def test_the_order_stays_that_of_runs_begun_earlier() -> None:
    """Recorded: a run is continued by another process, perhaps of another version."""
    sampler = TokenBudgetBatches([3, 10, 5, 3, 4, 5], 10, 8, seed=42)
    assert epoch_of(sampler, 0) == [[3, 0, 4], [1], [2, 5]]
    assert epoch_of(sampler, 1) == [[0, 3, 4], [5, 2], [1]]


def test_epochs_and_seeds_differ_in_order_and_company() -> None:
    one = TokenBudgetBatches(MIXED, 90, 8, seed=1)
    other = TokenBudgetBatches(MIXED, 90, 8, seed=2)
    orders = [epoch_of(one, 0), epoch_of(one, 1), epoch_of(one, 2), epoch_of(other, 0)]
    companies = [{frozenset(batch) for batch in order} for order in orders]
    lengths = [[tuple(MIXED[row] for row in batch) for batch in order] for order in orders]
    for first in range(len(orders)):
        for second in range(first):
            assert lengths[first] != lengths[second], "the batches are in another order"
            assert sorted(lengths[first]) == sorted(lengths[second]), "of the same shapes"
            assert len(companies[first] & companies[second]) < len(one) / 2


def test_an_epoch_that_has_begun_is_not_changed() -> None:
    """A loader with workers asks ahead; the next epoch may be set before it is done."""
    sampler = TokenBudgetBatches(MIXED, 40, 8, seed=1)
    expected = epoch_of(sampler, 0)
    begun = iter(sampler)
    sampler.set_epoch(1)
    assert list(begun) == expected


# --- accelerate and the trainer ---


class Rows(Dataset[int]):
    """Rows that are their own number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        return row


def loader(sampler: TokenBudgetBatches, workers: int = 0) -> DataLoader[int]:
    return DataLoader(
        Rows(len(MIXED)),
        batch_sampler=sampler,
        collate_fn=list,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_one_process_gets_the_batches_as_they_are(workers: int) -> None:
    """`set_epoch` of the prepared loader reaches the sampler."""
    sampler = TokenBudgetBatches(MIXED, 40, 8, seed=1)
    expected = [epoch_of(sampler, epoch) for epoch in range(2)]
    assert expected[0] != expected[1]
    sampler.set_epoch(0)
    prepared = Accelerator(cpu=True).prepare(loader(sampler, workers))
    assert len(prepared) == len(sampler)
    for epoch in range(2):
        prepared.set_epoch(epoch)
        assert list(prepared) == expected[epoch]


@pytest.mark.parametrize("processes", [1, 2])
def test_skipped_batches_are_the_ones_that_were_trained_on(processes: int) -> None:
    """A new sampler, as after a restart; the epoch is set at its beginning by a callback."""
    for process in range(processes):
        loaders = []
        for _ in range(2):
            sampler = TokenBudgetBatches(MIXED, 40, 8, seed=1, processes=processes)
            sampler.set_epoch(1)
            place = {"num_processes": processes, "process_index": process}
            loaders.append(prepare_data_loader(loader(sampler), **place))
            loaders[-1].set_epoch(1)  # as the trainer does; it would put back another epoch
        whole = list(loaders[0])
        rest = skip_first_batches(loaders[1], 5)
        rest.set_epoch(1)
        assert len(rest) == len(whole) - 5
        assert list(rest) == whole[5:]


@settings(deadline=None, max_examples=60)
@given(cases(), st.booleans(), st.integers(0, 3))
def test_processes_share_every_row_once_and_get_equally_many_batches(
    case: Case, even_batches: bool, epoch: int
) -> None:
    """Through accelerate's shards, which drop or repeat rows where batches are not as they expect."""
    sampler = TokenBudgetBatches(*case)
    sampler.set_epoch(epoch)
    shards = [
        BatchSamplerShard(sampler, case.processes, process, even_batches=even_batches)
        for process in range(case.processes)
    ]
    batches = [list(shard) for shard in shards]
    each = len(sampler) // case.processes
    assert {len(shard) for shard in shards} == set(map(len, batches)) == {each}
    dealt = [batch for step in zip(*batches, strict=True) for batch in step]
    assert dealt == list(sampler), "round robin, in the sampler's order"


class Guess(torch.nn.Module):
    """One weight; says which rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen.append(rows.tolist())
        return {"loss": ((rows - self.weight) ** 2).mean()}


class SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins."""

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self.set_epoch = set_epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.set_epoch(int(state.epoch or 0))


class Budgeted(Trainer):
    """The trainer with its batch sampler replaced."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        sampler = TokenBudgetBatches(MIXED, 40, 8, self.args.seed, self.args.world_size)
        self.add_callback(SetEpoch(sampler.set_epoch))
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)
        )


def budgeted(folder: Path, **changed: Any) -> Budgeted:
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        seed=7,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=10,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **changed,
    )
    return Budgeted(
        model=Guess(),
        args=args,
        train_dataset=Rows(len(MIXED)),
        data_collator=lambda rows: {"rows": torch.tensor(rows)},
    )


def test_a_training_continued_in_mid_epoch_sees_what_an_uninterrupted_one_sees(
    tmp_path: Path,
) -> None:
    whole = budgeted(tmp_path)
    whole.train()
    sampler = TokenBudgetBatches(MIXED, 40, 8, seed=7)
    assert whole.model.seen == [batch for epoch in range(3) for batch in epoch_of(sampler, epoch)]
    steps_per_epoch = -(-len(sampler) // 2)
    assert whole.state.max_steps == whole.state.global_step == 3 * steps_per_epoch
    step = 60
    assert steps_per_epoch < step < 2 * steps_per_epoch, "in the middle of the second epoch"
    continued = budgeted(tmp_path)
    continued.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    trained = len(sampler) + 2 * (step - steps_per_epoch)
    assert continued.model.seen == whole.model.seen[trained:]
    assert continued.state.epoch == whole.state.epoch == 3.0


# --- what cannot be ---


def test_a_row_longer_than_a_batch_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError) as refused:
        TokenBudgetBatches([5, 70, 9, 90, 50], max_tokens=50, batch_size=8, seed=1)
    assert str(refused.value) == (
        "row 3 (counted from 0) has 90 tokens, more than the 50 of tokens_per_batch; 2 of 5 rows "
        "are too long. Raise tokens_per_batch to 90 or more, or lower max_length."
    )


@pytest.mark.parametrize(
    ("lengths", "batch_size", "processes", "message"),
    [
        ([], 8, 1, "there is no row to make batches of. Check the corpus and max_length."),
        (
            [4, 0],
            8,
            1,
            "row 1 (counted from 0) has 0 tokens; a row has at least 1. Leave it out.",
        ),
        (
            [4, 4],
            0,
            1,
            "per_device_train_batch_size: 0 is no batch; at least 1 row is needed.",
        ),
        (
            [9, 9, 9],
            8,
            2,
            "3 rows make 3 batches, and 2 processes need a multiple of 2: there are too few rows "
            "to split. Launch fewer processes, give more rows, or raise tokens_per_batch.",
        ),
    ],
    ids=["no rows", "empty row", "no batch", "too few rows"],
)
def test_what_cannot_be_batched_is_refused(
    lengths: list[int], batch_size: int, processes: int, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        TokenBudgetBatches(lengths, 10, batch_size, 1, processes)
    assert str(refused.value) == message
