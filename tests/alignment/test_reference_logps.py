"""Log-probabilities of the reference: each computed once, kept, found again, never mistaken.

As a script it is one process of the tests with two:
test_reference_logps.py FOLDER BATCH_SIZE KILL_AT (KILL_AT of 0 kills nothing)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import accelerate as launched
from transformers import LlamaConfig, LlamaForCausalLM

from empo.alignment.reference_logps import FILE, identity_digest, with_reference
from empo.records import UserError

IDENTITY = {"weights": ["a1b2"], "dtype": "float32", "load_in_4bit": False, "template": "c3"}
TOLERANCE = 1e-4
VOCABULARY = 50


def dataset(*rows: tuple[list[int], list[int], list[list[int]]]) -> Dataset:
    """Rows of prompt, chosen and pool; their ids are r0, r1, ..."""
    return Dataset.from_list(
        [
            {
                "id": f"r{i}",
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_pool": pool,
                "rejected_ids_pool": [f"d{j}" for j in range(len(pool))],
            }
            for i, (prompt, chosen, pool) in enumerate(rows)
        ]
    )


def many(number: int, draws: int = 2) -> Dataset:
    """Rows of which no two have the same length or a completion in common."""
    return dataset(
        *(
            ([1, *range(i)], [5, i, 2], [[6 + draw, i, 2] for draw in range(draws)])
            for i in range(number)
        )
    )


def pure(prompt: list[int], completion: list[int]) -> float:
    """A number of no short decimal form that depends on every token and its place."""
    return -sum((i + 1) * math.sqrt(t + 1) for i, t in enumerate([*prompt, 0, *completion]))


class Counted:
    """`pure` as a score that keeps what it was asked, and may end or change."""

    def __init__(self, stop_at: int = 0, shift: float = 0.0) -> None:
        self.calls: list[list[tuple[list[int], list[list[int]]]]] = []
        self.stop_at, self.shift = stop_at, shift

    def __call__(
        self, prompts: list[list[int]], completions: list[list[list[int]]]
    ) -> list[list[float]]:
        self.calls.append(list(zip(prompts, completions, strict=True)))
        if len(self.calls) == self.stop_at:
            raise MemoryError("stopped")
        return [[pure(p, c) + self.shift for c in of_row] for p, of_row in self.calls[-1]]

    @property
    def asked(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Prompt and completion of everything that was scored, in that order."""
        return [
            (tuple(prompt), tuple(completion))
            for call in self.calls
            for prompt, of_row in call
            for completion in of_row
        ]


def run(
    rows: Dataset,
    folder: Path,
    score: Callable[..., Any],
    identity: dict[str, Any] = IDENTITY,
    batch_size: int = 2,
    tolerance: float = TOLERANCE,
    name: str = "train",
) -> tuple[Dataset, dict[str, Any]]:
    """`with_reference` in this process."""
    accelerator = Accelerator(cpu=True)
    return with_reference(rows, name, score, folder, identity, accelerator, batch_size, tolerance)


def assert_columns(rows: Dataset, of: Callable[[list[int], list[int]], float] = pure) -> None:
    """Every value, to the last bit, is that of its own row and completion."""
    for row in rows:
        assert row["ref_chosen_logp"] == of(row["prompt_ids"], row["chosen_ids"])
        assert row["ref_rejected_pool"] == [of(row["prompt_ids"], c) for c in row["rejected_pool"]]


def stored(folder: Path) -> dict[bytes, float]:
    with sqlite3.connect(folder / FILE) as database:
        return dict(database.execute("SELECT key, logp FROM logps"))


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


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ratings (a)")


def older(path: Path) -> None:
    run(many(1), path.parent, Counted())
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")


def torn(path: Path) -> None:
    run(many(400), path.parent, Counted(), batch_size=50)
    path.write_bytes(path.read_bytes()[:-5000])


def scratched(path: Path) -> None:
    run(many(400), path.parent, Counted(), batch_size=50)
    data = bytearray(path.read_bytes())
    data[8192:12288] = b"\x5a" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(
            lambda path: path.write_text("log-probs\n"),
            r"or a damaged one \(it begins with b'log-probs\\n', which no database does\)\. Delete",
            id="text",
        ),
        pytest.param(torn, r"or a damaged one \(.+\)\. Delete it, with the files", id="torn"),
        pytest.param(
            scratched, r"or a damaged one \(.+\)\. Delete it, with the files", id="scratched"
        ),
        pytest.param(
            foreign,
            r"this is a SQLite database, but no cache of the reference's log-probabilities "
            r"\(application id 0\)\. Move it elsewhere, delete it if nothing else needs it, or name",
            id="foreign",
        ),
        pytest.param(
            older,
            r"this cache of the reference's log-probabilities has the schema 7, and this version reads 1\. Delete it;",
            id="older",
        ),
        pytest.param(Path.mkdir, r"log-probabilities cannot be used \(unable to open", id="folder"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], Any], told: str
) -> None:
    path = tmp_path / FILE
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    score = Counted()
    with pytest.raises(UserError, match=told) as raised:
        run(many(1), tmp_path, score)  # also where what it needs lies in a sound part of the file
    assert str(raised.value).startswith(f"{path}: ")
    assert not score.calls
    assert before is None or path.read_bytes() == before


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    _, facts = run(many(2), tmp_path, Counted())
    assert facts["computed"] == len(stored(tmp_path)) == 6


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache/reference\.sqlite: its folder cannot be made"):
        run(many(1), tmp_path / "file" / "cache", Counted())


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


# --- a real model ---


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def padded(
    model: LlamaForCausalLM, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[list[float]]:
    """A whole batch in one forward, every completion padded on the right behind its prompt."""
    whole = [(p, c) for p, of_row in zip(prompts, completions, strict=True) for c in of_row]
    width = max(len(p) + len(c) for p, c in whole)
    ids = torch.tensor([[*p, *c, *[0] * (width - len(p) - len(c))] for p, c in whole])
    mask = torch.tensor([[i < len(p) + len(c) for i in range(width)] for p, c in whole])
    logps = model(ids, attention_mask=mask.long()).logits.double().log_softmax(-1)
    sums = [
        sum(logps[i, len(p) - 1 + k, token].item() for k, token in enumerate(c))
        for i, (p, c) in enumerate(whole)
    ]
    taken = iter(sums)
    return [[next(taken) for _ in of_row] for of_row in completions]


@torch.no_grad()
def alone(model: LlamaForCausalLM, prompt: list[int], completion: list[int]) -> float:
    """The chain rule, one forward for every token, nothing beside it."""
    total, ids = 0.0, list(prompt)
    for token in completion:
        total += model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


def random_rows(number: int) -> Dataset:
    """Rows of random lengths; the completions of a row end on tokens of their own."""
    generator = torch.Generator().manual_seed(7)

    def ids(longest: int) -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()

    return dataset(
        *((ids(12), [*ids(5), 0], [[*ids(5), last] for last in (1, 2, 3)]) for _ in range(number))
    )


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


# --- several processes ---


def process(folder: Path, batch_size: int, kill_at: int) -> None:
    """One of several processes; every call of the score needs all of them, as sharded weights do.

    In call KILL_AT the last process dies. Writes `process-RANK.json`.
    """
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    model, calls = tiny_model(), [0]

    def score(prompts: list[list[int]], completions: list[list[list[int]]]) -> list[list[float]]:
        assert prompts
        calls[0] += 1
        if calls[0] == kill_at and accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGKILL)
        together = torch.tensor([calls[0], 1])
        torch.distributed.all_reduce(together)
        assert together.tolist() == [calls[0] * accelerator.num_processes, 2]
        return padded(model, prompts, completions)

    def overflown(prompts: list[list[int]], of: list[list[list[int]]]) -> list[list[float]]:
        return [[math.nan if rank else -1.0 for _ in of_row] for of_row in of]

    def ours(rows: Dataset, score: Callable[..., Any], name: str) -> tuple[Dataset, dict[str, Any]]:
        place = folder / (name if rank == 0 else "nowhere")
        return with_reference(
            rows, name, score, place, IDENTITY, accelerator, batch_size, TOLERANCE
        )

    def refusal(rows: Dataset, score: Callable[..., Any], name: str) -> str:
        with pytest.raises(UserError) as raised:
            ours(rows, score, name)
        return str(raised.value)

    if rank == 0:
        shutil.rmtree(folder / "overflown", ignore_errors=True)
        (folder / "spoiled").mkdir(exist_ok=True)
        (folder / "spoiled" / FILE).write_text("log-probs")
    refusals = [
        refusal(random_rows(3 + rank), score, "unlike"),
        refusal(random_rows(3), score, "spoiled"),
        refusal(many(2), overflown, "overflown"),
    ]
    scored, facts = ours(random_rows(37), score, "cache")
    columns = scored.select_columns(["ref_chosen_logp", "ref_rejected_pool"]).to_list()
    written = {"calls": calls[0], "columns": columns, "facts": facts, "refusals": refusals}
    (folder / f"process-{rank}.json").write_text(json.dumps(written))
    accelerator.end_training()


def two_processes(folder: Path, port: int, kill_at: int = 0) -> tuple[int, str]:
    """Exit code and what two processes with batches of 2 rows printed."""
    words = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    found = os.pathsep.join([str(Path(__file__).parents[1] / "recipes"), *sys.path])
    done = launched(*words, __file__, folder, "2", str(kill_at), PYTHONPATH=found)
    return done.returncode, done.stdout + done.stderr


def one_process(folder: Path) -> tuple[Dataset, dict[str, Any]]:
    model = tiny_model()
    return run(random_rows(37), folder, lambda prompts, of: padded(model, prompts, of))


@pytest.mark.slow
def test_two_processes_with_unequal_work_find_what_one_finds(tmp_path: Path) -> None:
    """37 rows are 9 rounds of 2 x 2 and one row, for which the second process only helps."""
    code, output = two_processes(tmp_path, 29_741)
    assert code == 0, output
    first, second = (json.loads((tmp_path / f"process-{i}.json").read_text()) for i in (0, 1))
    assert first["calls"] == second["calls"] == 10
    assert first["columns"] == second["columns"]
    assert first["facts"]["computed"] == second["facts"]["computed"] == 148
    assert output.count("reference: 148 of 148 completions to compute (cache)") == 1
    assert len(stored(tmp_path / "cache")) == 148 and not (tmp_path / "nowhere").exists()
    assert first["refusals"] == second["refusals"]
    unlike, spoiled, overflown = second["refusals"]
    assert unlike.startswith("reference (unlike): the processes do not hold the same rows and the")
    assert spoiled.startswith(f"{tmp_path / 'spoiled' / FILE}: this is no cache of the reference's")
    assert overflown.startswith("row 'r0', chosen_ids: the reference's log-probability is nan (and")
    assert len(stored(tmp_path / "overflown")) == 3
    expected, _ = one_process(tmp_path / "one")
    for row, other in zip(expected, first["columns"], strict=True):
        assert row["ref_chosen_logp"] == pytest.approx(other["ref_chosen_logp"], abs=1e-4)
        assert row["ref_rejected_pool"] == pytest.approx(other["ref_rejected_pool"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_killed_are_continued_by_one(tmp_path: Path) -> None:
    """Dead in the 10th round: 8 rounds of 4 rows of 4 completions are kept."""
    code, output = two_processes(tmp_path, 29_742, kill_at=10)
    assert code != 0 and not list(tmp_path.glob("process-*.json")), output
    assert len(stored(tmp_path / "cache")) == 128
    scored, facts = one_process(tmp_path / "cache")
    assert (facts["computed"], facts["reused"]) == (20, 128)
    expected, _ = one_process(tmp_path / "one")
    for row, other in zip(scored, expected, strict=True):
        assert row["ref_chosen_logp"] == pytest.approx(other["ref_chosen_logp"], abs=1e-4)
        assert row["ref_rejected_pool"] == pytest.approx(other["ref_rejected_pool"], abs=1e-4)
    code, output = two_processes(tmp_path, 29_743)
    assert code == 0, output
    second = json.loads((tmp_path / "process-1.json").read_text())
    assert second["calls"] == 1 and second["facts"]["computed"] == 0
    assert second["columns"] == scored.select_columns([*second["columns"][0]]).to_list()


if __name__ == "__main__":
    process(Path(sys.argv[1]), *map(int, sys.argv[2:]))
