"""Readers of what commands leave: results, replies' manifests, harness files, sweeps, runs, pairs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from inputs import Sample
from light_readers import Reader, on

from empo import cli, measure, pair_files, runs
from empo.dialogues import Exchange, Turn
from empo.emotions import Opposite
from empo.harness import comparing, protocol, task_files
from empo.mining.filed_draws import FiledDraws
from empo.mining.sampled import SampledPairs
from empo.preferences import Draws, pair, write_pairs
from empo.records import UserError
from empo.reporting import harness_results, results
from empo.reporting.run_folders import read_folders
from empo.sweep import inputs as sweep_inputs
from empo.sweep import steps

SYSTEM = {"n": 2, "digest": "ab", "trained": {"command": "sft", "seed": 1, "settings": {"beta": 0.1}},
          "metrics": {"length": {"mean_characters": 5.0}, "nidf": {"mean": 0.5, "sd": 0.1}}}  # fmt: skip
COMPARED = {
    "a": "sft", "b": "dpo", "metric": "nidf", "difference": 0.1, "interval": [0.0, 0.2], "p": 0.3,
    "p_holm": 0.3, "test": "sign-flip", "n": 2, "d": {"paired": 0.1, "pooled": None},
    "length_controlled": None, "reasons": {"length_controlled": "too few"},
}  # fmt: skip
RESULTS = {
    "schema": "empo.results/1", "created": "2026-01-01", "versions": {"python": "3.11"}, "seed": 0,
    "left_out": {"sft": 0}, "signatures": {"nidf": "mean"}, "systems": {"sft": SYSTEM, "dpo": SYSTEM},
    "comparisons": [COMPARED], "not_run": [{"metric": "iva", "reason": "no lexicons"}],
    "samples": [{"id": "e0", "emotion": "sad", "prompt": "Hi.", "responses": {"sft": "Oh."}}],
    "warnings": ["No measure."],
}  # fmt: skip
PER_RESPONSE = [
    {"id": f"e{i}", "system": name, "emotion": "sad", "values": {"nidf": 0.5, "trie": None}}
    for name in ("sft", "dpo") for i in (0, 1)
]  # fmt: skip
FIGURE = {"value": 0.5, "stderr": None, "reasons": {"stderr": "one item"}}
HARNESS = {
    "schema": "empo.harness/1", "created": "2026-01-01", "versions": {"lm_eval": "0.4"}, "seed": 42,
    "command": "python", "system": "sft", "model": {"base": {"name": "m", "sha256": "ab"}},
    "trained": None, "settings": {"tasks": ["t"], "limit": None, "seed": 42},
    "tasks": {"t": {**FIGURE, "metric": "acc", "n": 2, "shots": 0, "truncated": 0,
                    "metrics": {"acc": FIGURE}, "version": "1", "dataset": "d"}},
    "groups": {"g": {**FIGURE, "metric": "acc", "n": 2, "tasks": ["t"]}},
    "comparisons": [], "not_run": [],
}  # fmt: skip
ITEMS = [
    {"doc_id": i, "doc_hash": f"h{i}", "target": "x", "metrics": {"acc": 1.0}, "answer": "y"}
    for i in range(3)
]
TASK = {
    "task": "mine", "tag": ["ours"], "dataset_path": "json", "output_type": "multiple_choice",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "include": "base.yaml",
    "metric_list": [{"metric": "acc"}],
}  # fmt: skip
STEP = {
    "status": "done", "command": ["python", "x.py"], "inputs": {"a": "1"}, "outputs": {"b": "2"},
    "seconds": 1.5, "ended": "2026-01-01",
}  # fmt: skip
RUN = {
    "schema": "empo.run/1", "status": "complete", "command": "sft", "argv": ["x"],
    "started": "2026-01-01", "settings": {"seed": 1, "model": "m"}, "versions": {"python": "3"},
    "identity": {"data": ["ab"]}, "base_model": {"name": "base", "relative": "../base"},
    "process": {"id": os.getpid(), "host": socket.gethostname()},
    "accepted": [{"when": "2026-01-01", "changes": ["seed: 1 there, 2 now"], "digest": "ab"}],
}  # fmt: skip
MERGED = {
    "schema": "empo.run/1", "status": "complete", "command": "merge", "dtype": "float32",
    "merged": {"base": {"name": "base", "sha256": "ab"}, "adapters": []}, "template": "zephyr",
}  # fmt: skip
GIVEN = {"file": "a.jsonl", "bytes": 9, "sha256": "ab"}
EXCHANGES = [
    Exchange(f"e{i}", emotion, (Turn("user", f"I am {emotion} {i}."),), f"Reply {i} to {emotion}.")
    for i, emotion in enumerate(("sad", "joyful", "sad", "joyful"))
]
TABLE = {"sad": Opposite("joyful", "wheel"), "joyful": Opposite("sad", "wheel")}
PAIRS = {
    "schema": "empo.pairs/1", "seed": 1, "epochs": 1, "system_message": None, "corpus": {"rows": 4},
    "files": [{"file": "epoch-0.jsonl", "bytes": 1, "sha256": "ab"}],
}  # fmt: skip


RATERS = [{"name": "levels", "weights": "ab", "signature": "levels@ab"}]
PAIR_ROWS = [
    pair(EXCHANGES[0], "joyful", EXCHANGES[1])
    | {"score_chosen": 0.5, "score_rejected": None, "similarity": 0.1}
]
PAIR_TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIR_ROWS)
MINED = PAIRS | {
    "selected_by": RATERS, "mining": {"candidates": 2},
    "files": [{"file": "epoch-0.jsonl", "sha256": hashlib.sha256(PAIR_TEXT.encode()).hexdigest()}],
}  # fmt: skip

SAMPLED = [
    {
        "id": f"s{i}", "emotion": "sad", "context": [{"role": "user", "content": "It is gone."}],
        "best_of": {"replies": [{"response": "Oh no.", "score": 2.0, "finished": True}, {"response": "Ok.", "score": float(i), "finished": True}]},
    }
    for i in range(3)
]  # fmt: skip


def _sampled(path: Path) -> object:
    pairs = SampledPairs(path)
    return pairs.facts(), list(pairs.rows(0))


def _filed(folder: Path) -> object:
    (folder / "epoch-0.jsonl").write_text(PAIR_TEXT, "utf-8")
    filed = FiledDraws(folder, EXCHANGES, 1)
    return filed.facts, filed.selected_by, filed.draw(0, EXCHANGES[0].id)


def _pairs(folder: Path) -> object:
    return write_pairs(Draws(EXCHANGES, TABLE, 1), EXCHANGES, 1, folder, {"corpus": {"rows": 4}})


def _at_work(folder: Path) -> None:
    """What `run.json` says is told where it can be; that somebody is at work always is."""
    lock = folder / runs.LOCK
    at_work = pytest.raises(UserError, match="another process.* is at work on it")
    with runs.alone(lock, folder), at_work, runs.alone(lock, folder):
        pass


def _given(folder: Path) -> None:
    measure.refuse_other_results(folder, [GIVEN])


def _same(folder: Path) -> object:
    asked = {"system": "sft", "model": HARNESS["model"], "settings": HARNESS["settings"]}
    found = harness_results.read_harness(folder / "harness.json")
    protocol.same_evaluation(folder, found, asked, {*found["tasks"], *found["groups"]})
    return harness_results.plain_summary(found)


def _matched(folder: Path) -> object:
    return comparing.matched(folder / "a", folder / "b", "t", "acc")


def _run(folder: Path) -> object:
    run = runs.Run.start(folder, "sft", {"seed": 1, "model": "m"})
    run.check_identity({"data": ["ab"]})
    return runs.read_run(folder), run.digests


READERS = [
    Reader(
        "manifest of responses", {"a.jsonl.manifest.json": Sample("json", {"schema": "empo.responses/1", "trained": {"command": "sft"}, "selected_by": RATERS, "reward": RATERS})},
        on("a.jsonl.manifest.json", measure._noted), ("measure._noted",),
    ),
    Reader(
        "results folders",
        {"results.json": Sample("json", RESULTS), "per_response.jsonl": Sample("jsonl", PER_RESPONSE),
         "harness.json": Sample("json", HARNESS)},
        lambda folder: read_folders([folder]),
        ("reporting.per_response.read_per_response", "reporting.results.read_results",
         "reporting.harness_results.read_harness"), found="`\"0.5\"` was taken for a number, an id may be a list",
    ),
    Reader("results.json", {"results.json": Sample("json", RESULTS)}, on("results.json", results.read_results), ("records.read_typed",)),
    Reader("harness.json", {"harness.json": Sample("json", HARNESS)}, _same, ("reporting.harness_results.read_harness",), found="figures that are texts, a model that is no object"),
    Reader(
        "harness: items", {f"{side}/items/t.jsonl": Sample("jsonl", ITEMS) for side in "ab"},
        _matched, ("harness.comparing._values",), found="rows without their keys; an item that stands twice was lost",
    ),
    Reader(
        "harness: task files",
        {"mine.yaml": Sample("yaml", TASK), "base.yaml": Sample("yaml", {"doc_to_text": "x"}),
         "all.yaml": Sample("yaml", {"group": "all", "task": ["mine", {"task": "x"}]})},
        lambda folder: task_files.digests(["mine", "all", "ours"], [folder]),
        ("harness.task_files._read",),
        "`!!int` on other text, aliases that stand for a billion values, names longer than a file's "
        "can be",
        takes_all=True,
    ),
    Reader("sweep: steps", {"sweep.json": Sample("json", {"schema": "empo.sweep/2", "steps": {"a": STEP}})}, on("sweep.json", steps.read_steps), ("sweep.steps.read_steps",)),
    Reader(
        "sweep: adapter's base", {"adapter_config.json": Sample("json", {"base_model_name_or_path": "x"})},
        sweep_inputs.model_files, ("sweep.inputs.model_files", "records.read_object"), found="no object, a base with a name too long for a file",
    ),
    Reader(
        "run.json", {"run.json": Sample("json", RUN)}, _run, ("runs.Run.start", "runs.read_run", "runs.read_facts"),
        found="no object, fields of other types",
    ),
    Reader(
        "run.json while somebody is at work", {"run.json": Sample("json", RUN)}, _at_work,
        ("runs.alone", "runs.read_facts"), found="no object, fields of other types", takes_all=True,
    ),
    Reader(
        "merged model", {"run.json": Sample("json", MERGED)},
        lambda folder: cli._merged(folder, MERGED["merged"], "float32"), ("cli._merged",), found="no object",
    ),
    Reader(
        "results of the same responses", {"results.json": Sample("json", RESULTS | {"inputs": [GIVEN]})},
        _given, ("measure.refuse_other_results",), found="inputs that are no list of objects",
    ),
    Reader("pairs of a training: manifest", {"manifest.json": Sample("json", MINED)}, _filed, ("pair_files.read_manifest",)),
    Reader("sampled pairs of a training: manifest", {"manifest.json": Sample("json", MINED | {"sampled": {"margin": None}})}, _filed, ("mining.filed_draws.FiledDraws._reply",)),
    Reader("sampled replies", {"a.jsonl": Sample("jsonl", SAMPLED)}, on("a.jsonl", _sampled), ("mining.sampled.SampledPairs.__init__",)),
    Reader("pairs of a training: rows", {"epoch-0.jsonl": Sample("jsonl", PAIR_ROWS)}, on("epoch-0.jsonl", lambda path: list(pair_files._read(path))), ("pair_files._read",)),
    Reader("pairs: manifest", {"manifest.json": Sample("json", PAIRS)}, _pairs, ("pair_files._begin",), found="files that are no list; any name could be listed, and its file was deleted"),
]  # fmt: skip
