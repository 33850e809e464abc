"""Log-probabilities of the reference: each computed once, kept, found again, never mistaken."""

from __future__ import annotations

import math
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_rows import (
    IDENTITY,
    Counted,
    assert_columns,
    dataset,
    many,
    padded,
    pure,
    random_rows,
    run,
    stored,
    tiny_model,
)
from transformers import LlamaForCausalLM

from empo.alignment.reference_logps import FILE, identity_digest
from empo.records import UserError

# --- the columns ---


def test_every_value_stands_in_its_row_and_other_columns_stay(tmp_path: Path) -> None:
    rows = many(7, draws=3)
    scored, facts = run(rows, tmp_path, Counted())
    assert_columns(scored)
    assert scored.select_columns(rows.column_names).to_list() == rows.to_list()
    assert facts.pop("seconds") >= 0
    assert facts == {
        "completions": 28,
        "computed": 28,
        "reused": 0,
        "file": "reference.sqlite",
        "identity_sha256": identity_digest(IDENTITY),
        "checked": 0,
        "largest_difference_per_token": None,
        "reasons": {"largest_difference_per_token": "nothing came from the cache"},
    }
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_completion_is_scored_once_per_prompt_in_and_over_rows(tmp_path: Path) -> None:
    score = Counted()
    rows = dataset(
        ([1], [5, 2], [[6, 2], [7, 2], [6, 2], [5, 2]]),
        ([1], [6, 2], [[8, 2]]),
        ([3], [5, 2], [[6, 2]]),
    )
    scored, facts = run(rows, tmp_path, score)
    assert_columns(scored)
    assert sorted(score.asked) == [
        ((1,), (5, 2)),
        ((1,), (6, 2)),
        ((1,), (7, 2)),
        ((1,), (8, 2)),
        ((3,), (5, 2)),
        ((3,), (6, 2)),
    ]
    assert facts["completions"] == facts["computed"] == len(stored(tmp_path)) == 6


def test_tokens_that_move_over_the_border_of_the_prompt_are_another_entry(tmp_path: Path) -> None:
    """The score tells them apart by a token of its own between prompt and completion."""
    rows = dataset(([1, 3], [4, 2], [[3, 4, 2]]), ([1], [3, 4, 2], [[4, 2]]))
    scored, facts = run(rows, tmp_path, Counted())
    assert facts["computed"] == 4
    assert_columns(scored)


short = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(short, short, st.lists(short, min_size=1, max_size=4)), min_size=1),
    st.integers(1, 3),
    st.integers(0, 30),
)
def test_any_rows_in_any_batches_also_after_a_kill(
    rows: list[tuple[list[int], list[int], list[list[int]]]], batch_size: int, stop_at: int
) -> None:
    distinct = {(tuple(p), tuple(c)) for p, chosen, pool in rows for c in [chosen, *pool]}
    with tempfile.TemporaryDirectory() as folder:
        stopped = Counted(stop_at)
        try:
            run(dataset(*rows), Path(folder), stopped, batch_size=batch_size)
        except MemoryError:
            assert len(stopped.calls) == stop_at
        before = len(stored(Path(folder)))
        score = Counted()
        scored, facts = run(dataset(*rows), Path(folder), score, batch_size=batch_size)
        assert_columns(scored)
        assert (facts["computed"], facts["reused"]) == (len(distinct) - before, before)
        assert len(score.asked) == facts["computed"] + facts["checked"]
        assert set(stopped.asked) | set(score.asked) == distinct
        assert len(stored(Path(folder))) == len(distinct)


def test_rows_are_scored_longest_first_in_full_batches(tmp_path: Path) -> None:
    score = Counted()
    run(many(7), tmp_path, score, batch_size=3)
    assert [len(call) for call in score.calls] == [3, 3, 1]
    lengths = [
        len(prompt) + sum(map(len, of_row)) for call in score.calls for prompt, of_row in call
    ]
    assert lengths == sorted(lengths, reverse=True) == [16 - i for i in range(7)]


# --- a pass that was stopped, and what is found again ---


def test_a_stopped_pass_goes_on_with_the_batches_it_would_have_run(tmp_path: Path) -> None:
    """8 batches of 2 rows are written together: the stop in the 12th leaves 16 of 30 rows."""
    whole, stopped, rest = Counted(), Counted(stop_at=12), Counted()
    expected, _ = run(many(30), tmp_path / "whole", whole)
    with pytest.raises(MemoryError):
        run(many(30), tmp_path / "stopped", stopped)
    assert len(stored(tmp_path / "stopped")) == 16 * 3
    scored, facts = run(many(30), tmp_path / "stopped", rest)
    assert (facts["computed"], facts["reused"]) == (14 * 3, 16 * 3)
    assert facts["checked"] == 4 * 3
    assert rest.calls[2:] == whole.calls[8:]  # the first two are the spot check
    assert scored.to_list() == expected.to_list()
    assert stored(tmp_path / "stopped") == stored(tmp_path / "whole")


def test_another_identity_computes_everything_and_keeps_the_old_entries(tmp_path: Path) -> None:
    other = {**IDENTITY, "dtype": "bfloat16"}
    first, _ = run(many(5), tmp_path, Counted())
    old = stored(tmp_path)
    shifted, facts = run(many(5), tmp_path, Counted(shift=-1.0), other)
    assert (facts["computed"], facts["reused"]) == (15, 0)
    assert shifted["ref_chosen_logp"] == [logp - 1.0 for logp in first["ref_chosen_logp"]]
    assert len(stored(tmp_path)) == 30 and old.items() <= stored(tmp_path).items()
    again, facts = run(many(5), tmp_path, Counted())
    assert (facts["computed"], facts["reused"]) == (0, 15)
    assert again.to_list() == first.to_list()


@pytest.mark.parametrize("field", IDENTITY)
def test_every_part_of_the_identity_counts(field: str) -> None:
    assert identity_digest({**IDENTITY, field: "another"}) != identity_digest(IDENTITY)


def test_the_order_in_which_an_identity_is_written_does_not_count() -> None:
    backwards = dict(reversed(IDENTITY.items()))
    assert identity_digest(backwards) == identity_digest(IDENTITY)


def test_one_other_token_computes_that_completion_only(tmp_path: Path) -> None:
    run(many(6), tmp_path, Counted())
    rows = many(6).to_list()
    rows[3]["rejected_pool"][1][0] += 20
    score = Counted()
    scored, facts = run(Dataset.from_list(rows), tmp_path, score)
    assert_columns(scored)
    assert (facts["computed"], facts["reused"]) == (1, 17)
    assert score.asked[facts["checked"] :] == [((1, 0, 1, 2), (27, 3, 2))]


# --- the spot check ---


def test_cached_values_that_the_model_does_not_give_are_refused(tmp_path: Path) -> None:
    """-1 on a completion of 4 tokens is 0.25 nats per token."""
    rows = dataset(([1], [5, 6, 7, 2], [[5, 6, 7, 8]]))
    run(rows, tmp_path, Counted())
    before = stored(tmp_path)
    value = pure([1], [5, 6, 7, 2])
    with pytest.raises(UserError) as raised:
        run(rows, tmp_path, Counted(shift=-1.0), tolerance=0.2)
    assert str(raised.value) == (
        f"{tmp_path / FILE}: row 'r0', chosen_ids: the log-probability kept there is {value:.6g}, "
        f"and this model gives {value - 1:.6g} (0.25 nats per token; 0.2 are allowed). The file "
        "does not belong to these weights or this software. Name another reference_cache, or "
        "delete this one; it is computed again."
    )
    assert stored(tmp_path) == before
    _, facts = run(rows, tmp_path, Counted(shift=-1.0), tolerance=0.26)
    assert facts["largest_difference_per_token"] == pytest.approx(0.25, abs=1e-12)
    assert facts["checked"] == 2


def test_a_value_changed_in_the_file_is_found_by_its_field(tmp_path: Path) -> None:
    rows = dataset(([1], [5, 2], [[6, 2], [7, 2]]))
    run(rows, tmp_path, Counted())
    with sqlite3.connect(tmp_path / FILE) as database:
        value = pure([1], [7, 2])
        assert (
            database.execute("UPDATE logps SET logp = -1000 WHERE logp = ?", [value]).rowcount == 1
        )
    with pytest.raises(
        UserError, match=r"row 'r0', rejected_pool\[1\]: .* kept there is -1000, and"
    ):
        run(rows, tmp_path, Counted())


def test_an_overflow_of_the_present_model_does_not_pass_the_check(tmp_path: Path) -> None:
    run(many(1), tmp_path, Counted())
    with pytest.raises(UserError, match="and this model gives nan"):
        run(many(1), tmp_path, Counted(shift=math.nan))


def test_four_cached_rows_are_checked_the_same_ones_each_time(tmp_path: Path) -> None:
    run(many(20), tmp_path, Counted())
    first, second = Counted(), Counted()
    for score in (first, second):
        _, facts = run(many(20), tmp_path, score)
        assert (facts["computed"], facts["checked"]) == (0, 12)
        assert facts["largest_difference_per_token"] == 0.0 and "reasons" not in facts
    assert first.calls == second.calls and len(first.asked) == 12
    other = Counted()
    run(many(20), tmp_path, Counted(), {"weights": "other"})
    run(many(20), tmp_path, other, {"weights": "other"})
    assert other.calls != first.calls


# --- what cannot be used ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_named_and_not_kept(tmp_path: Path, bad: float) -> None:
    def score(prompts: list[list[int]], completions: list[list[list[int]]]) -> list[list[float]]:
        return [
            [bad if c[:2] == [7, 1] else pure(p, c) for c in of_row]
            for p, of_row in zip(prompts, completions, strict=True)
        ]

    told = (
        rf"row 'r1', rejected_pool\[1\]: the reference's log-probability is {bad}\. Load the model "
        r"in bfloat16 or float32; if it is, its weights are damaged\."
    )
    with pytest.raises(UserError, match=told):
        run(many(3), tmp_path, score)
    kept = stored(tmp_path)
    assert len(kept) == 8 and all(map(math.isfinite, kept.values()))
    scored, facts = run(many(3), tmp_path, Counted())
    assert facts["computed"] == 1
    assert_columns(scored)


# --- the screen ---


def test_lines_say_what_is_to_do_and_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(many(4), tmp_path, Counted())
    capsys.readouterr()
    run(many(400), tmp_path, Counted(), batch_size=100, name="valid")
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun == "reference: 1,188 of 1,200 completions to compute (valid)"
    assert ended.startswith("reference: 1,188 completions computed in ")
    assert ended.endswith(" s (valid)")
    run(many(400), tmp_path, Counted(), batch_size=100)
    shown = capsys.readouterr()
    assert shown.out == f"reference: all 1,200 completions are in {tmp_path / FILE} (train)\n"
    assert shown.err == ""


def test_a_terminal_gets_a_bar_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(many(400), tmp_path, Counted(), batch_size=50)
    shown = capsys.readouterr()
    assert shown.out == "" and "reference (train): 100%" in shown.err and "1200/1200" in shown.err


@torch.no_grad()
def alone(model: LlamaForCausalLM, prompt: list[int], completion: list[int]) -> float:
    """The chain rule, one forward for every token, nothing beside it."""
    total, ids = 0.0, list(prompt)
    for token in completion:
        total += model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


# --- a real model ---


def test_a_model_gives_what_it_gives_token_by_token(tmp_path: Path) -> None:
    model, rows = tiny_model(), random_rows(9)

    def score(prompts: list[list[int]], completions: list[list[list[int]]]) -> list[list[float]]:
        return padded(model, prompts, completions)

    scored, facts = run(rows, tmp_path, score, batch_size=4)
    assert facts["computed"] == 36
    for row in scored:
        values = [row["ref_chosen_logp"], *row["ref_rejected_pool"]]
        for value, ids in zip(values, [row["chosen_ids"], *row["rejected_pool"]], strict=True):
            assert value == pytest.approx(alone(model, row["prompt_ids"], ids), abs=1e-4)
    again, facts = run(rows, tmp_path, score, batch_size=3)
    assert facts["computed"] == 0 and facts["checked"] == 16
    assert facts["largest_difference_per_token"] < 1e-5
    assert again.to_list() == scored.to_list()
    with torch.no_grad():
        model.lm_head.weight[5] += 0.3
    with pytest.raises(UserError, match="does not belong to these weights"):
        run(rows, tmp_path, score)
