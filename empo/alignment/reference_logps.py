"""Log-probabilities of all completions under the reference: computed once, before training.

A DPO step compares policy and reference; the reference does not change, and all replies of all
epochs are known ahead, so it runs once over them and never in a step. Every value is kept by
itself in one file: a pass that was killed goes on where it stopped, on any number of processes, and
another run from the same weights finds what it needs.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, List, Value
from tqdm import tqdm

from empo.alignment.logp_store import LogpStore
from empo.checkpoints.processes import from_main
from empo.records import UserError

FILE = "reference.sqlite"

Score = Callable[[list[list[int]], list[list[list[int]]]], list[list[float]]]
"""Of prompts and, for each, its completions (token ids): the summed log-probability (nats) of every
completion given its prompt. It runs the model as often for one row as for a full batch."""

_BATCHES_PER_WRITE = 8
_CHECKED_ROWS = 4


@dataclass(frozen=True, slots=True)
class _Completion:
    key: bytes
    field: str  # where it stands in its row, for messages
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _Row:
    id: Any
    prompt: list[int]
    completions: list[_Completion]

    @property
    def tokens(self) -> int:
        """Length of the row when its completions share one prompt."""
        return len(self.prompt) + sum(len(completion.ids) for completion in self.completions)


@dataclass(frozen=True, slots=True)
class _Screen:
    """Lines of the main process; a bar instead where it has a terminal and something to compute."""

    split: str
    missing: int
    main: bool

    @property
    def shows_bar(self) -> bool:
        return self.main and sys.stderr.isatty() and self.missing > 0

    def begin(self, wanted: int, path: Path) -> None:
        if self.main and not self.missing:
            print(f"reference: all {wanted:,} completions are in {path} ({self.split})")
        elif self.main and not self.shows_bar:
            line = f"reference: {self.missing:,} of {wanted:,} completions to compute"
            print(f"{line} ({self.split})", flush=True)

    def bar(self) -> tqdm:
        title = f"reference ({self.split})"
        return tqdm(total=self.missing, desc=title, unit="completion", disable=not self.shows_bar)

    def end(self, seconds: float) -> None:
        if self.main and self.missing and not self.shows_bar:
            line = f"reference: {self.missing:,} completions computed in {seconds:.1f} s"
            print(f"{line} ({self.split})")


def with_reference(
    rows: Dataset,
    name: str,
    score: Score,
    folder: Path,
    identity: Mapping[str, Any],
    accelerator: Accelerator,
    batch_size: int,
    tolerance: float,
) -> tuple[Dataset, dict[str, Any]]:
    """`rows` with the reference's log-probabilities as columns, and the facts of it for run.json.

    `rows` have `id`, `prompt_ids`, `chosen_ids` and `rejected_pool`, and get `ref_chosen_logp` and
    `ref_rejected_pool` (float64, nats, parallel to `rejected_pool`). `name` is the split, for the
    screen. What is not in `reference.sqlite` of `folder` is computed in batches of at most
    `batch_size` rows, longest first, so that a lack of memory shows at once. A pass that is killed
    and continued on as many processes runs the same batches as one that is not.

    `identity` holds, as JSON can, all that makes the numbers: weights, precision, quantisation,
    template. An entry is found only by the same identity, prompt and completion. Since a wrong
    identity would go unseen, a few cached rows are scored again, and may differ by `tolerance`
    nats per token, which has to cover the noise of other batches.

    Called on all processes with the same arguments; `score` is called equally often on each, always
    with at least one row. All get the same values; only the main process needs `folder`.

    Raises UserError, on all processes, for a file that is no such cache, for cached values that the
    present model does not give, for a log-probability that is no finite number, and where the
    processes do not hold the same rows and identity.
    """
    started = time.monotonic()
    digest = identity_digest(identity)
    found = _rows(rows, bytes.fromhex(digest))
    keys = list(dict.fromkeys(c.key for row in found for c in row.completions))
    _check_same_on_all(keys, name)
    store = LogpStore(Path(folder) / FILE)
    logps = from_main(partial(store.open, keys))
    missing = set(keys) - logps.keys()
    screen = _Screen(name, len(missing), accelerator.is_main_process)
    screen.begin(len(keys), store.path)

    scored = partial(_scored, score=score, accelerator=accelerator, batch_size=batch_size)
    sample = _checked_rows(found, logps, digest)
    again = scored(sample)
    difference = _largest_difference(sample, logps, again, tolerance, store.path)

    todo = sorted(_distinct(found, missing), key=lambda row: -row.tokens)
    per_write = _BATCHES_PER_WRITE * batch_size * accelerator.num_processes
    with screen.bar() as bar:
        for start in range(0, len(todo), per_write):
            kept = _compute(todo[start : start + per_write], scored, accelerator, store)
            logps |= kept
            bar.update(len(kept))
    seconds = time.monotonic() - started
    screen.end(seconds)

    facts: dict[str, Any] = {
        "completions": len(keys),
        "computed": len(missing),
        "reused": len(keys) - len(missing),
        "file": FILE,
        "identity_sha256": digest,
        "seconds": round(seconds, 1),
        "checked": len(again),
        "largest_difference_per_token": difference,
    }
    if difference is None:
        facts["reasons"] = {"largest_difference_per_token": "nothing came from the cache"}
    return _with_columns(rows, found, logps), facts


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Hex sha256 of what makes the numbers; the order of the keys does not matter."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(rows: Dataset, identity: bytes) -> list[_Row]:
    """What is to be known: every row with the key of each of its completions."""
    columns = rows.with_format(None).select_columns(
        ["id", "prompt_ids", "chosen_ids", "rejected_pool"]
    )
    found = []
    for row in columns:
        prompt = row["prompt_ids"]
        # the length keeps apart what only moves the border between prompt and completion
        begun = hashlib.sha256(identity + _bytes([len(prompt), *prompt]))
        named = [("chosen_ids", row["chosen_ids"])]
        named += [(f"rejected_pool[{i}]", ids) for i, ids in enumerate(row["rejected_pool"])]
        completions = []
        for field, ids in named:
            key = begun.copy()
            key.update(_bytes(ids))
            completions.append(_Completion(key.digest(), field, ids))
        found.append(_Row(row["id"], prompt, completions))
    return found


def _bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, "<i8").tobytes()


def _distinct(rows: Sequence[_Row], wanted: Collection[bytes]) -> list[_Row]:
    """The rows with those completions whose keys are wanted, each key once; others are left out."""
    left, found = set(wanted), []
    for row in rows:
        completions = {c.key: c for c in row.completions if c.key in left}
        left.difference_update(completions)  # `-=` with a view of keys would copy the set
        if completions:
            found.append(_Row(row.id, row.prompt, list(completions.values())))
    return found


def _scored(
    rows: Sequence[_Row], score: Score, accelerator: Accelerator, batch_size: int
) -> dict[bytes, float]:
    """The values of all completions of these rows, on every process; each does its share.

    Neighbours go to different processes, so that they have about equally much to do.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    found: list[tuple[bytes, float]] = []
    for start in range(0, len(rows), processes * batch_size):
        part = rows[start : start + processes * batch_size]
        own = part[rank::processes]
        batch = own or part[:1]  # weights in shards need all processes: work without a use
        values = score(
            [row.prompt for row in batch], [[c.ids for c in row.completions] for row in batch]
        )
        pairs = [
            (completion.key, float(value))
            for row, of_row in zip(batch, values, strict=True)
            for completion, value in zip(row.completions, of_row, strict=True)
        ]
        found += pairs if own else []
    return dict(gather_object(found))


def _checked_rows(rows: Sequence[_Row], cached: Collection[bytes], digest: str) -> list[_Row]:
    """A few rows with what the cache has of them, the same ones for one identity."""
    candidates = _distinct(rows, cached)
    return random.Random(digest).sample(candidates, min(_CHECKED_ROWS, len(candidates)))


def _compute(
    rows: Sequence[_Row],
    scored: Callable[[Sequence[_Row]], dict[bytes, float]],
    accelerator: Accelerator,
    store: LogpStore,
) -> dict[bytes, float]:
    """The values of these rows, kept in the store; what is no finite number is named after that."""
    values = scored(rows)
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    from_main(partial(store.write, finite))
    _check_finite(rows, values)
    return finite


def _check_finite(rows: Sequence[_Row], values: Mapping[bytes, float]) -> None:
    bad = [
        (row.id, completion.field, values[completion.key])
        for row in rows
        for completion in row.completions
        if not math.isfinite(values[completion.key])
    ]
    if bad:
        row, field, value = bad[0]
        more = f" (and of {len(bad) - 1:,} more completions)" if len(bad) > 1 else ""
        raise UserError(
            f"row {row!r}, {field}: the reference's log-probability is {value}{more}. Load the "
            "model in bfloat16 or float32; if it is, its weights are damaged."
        )


def _largest_difference(
    rows: Sequence[_Row],
    cached: Mapping[bytes, float],
    again: Mapping[bytes, float],
    tolerance: float,
    path: Path,
) -> float | None:
    """Largest |cached - computed again| in nats per token; UserError where one is over `tolerance`."""
    largest = None
    for row in rows:
        for completion in row.completions:
            there, now = cached[completion.key], again[completion.key]
            difference = abs(there - now) / len(completion.ids)
            if not difference <= tolerance:
                raise UserError(
                    f"{path}: row {row.id!r}, {completion.field}: the log-probability kept there is "
                    f"{there:.6g}, and this model gives {now:.6g} ({difference:.3g} nats per token; "
                    f"{tolerance:g} are allowed). The file does not belong to these weights or this "
                    f"software. Name another reference_cache, or delete this one; it is computed again."
                )
            largest = max(difference, largest or 0.0)
    return largest


def _with_columns(rows: Dataset, found: Sequence[_Row], logps: Mapping[bytes, float]) -> Dataset:
    values = [[logps[completion.key] for completion in row.completions] for row in found]
    number = Value("float64")
    rows = rows.add_column("ref_chosen_logp", [chosen for chosen, *_ in values], feature=number)
    pools = [pool for _, *pool in values]
    return rows.add_column("ref_rejected_pool", pools, feature=List(number))


def _check_same_on_all(keys: Sequence[bytes], name: str) -> None:
    if len(set(gather_object([hashlib.sha256(b"".join(keys)).hexdigest()]))) > 1:
        raise UserError(
            f"reference ({name}): the processes do not hold the same rows and the same reference. "
            "Give all machines the same data, weights and software."
        )
