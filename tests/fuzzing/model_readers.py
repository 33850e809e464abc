"""Readers of what trainings, raters and models leave: manifests, caches, weights, replies half made."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from inputs import Sample
from light_readers import MESSAGE, Reader
from run_readers import HARNESS, RUN
from safetensors.torch import save

from empo import checkpoints, generation, models, partial_replies, small_models, untrusted
from empo.alignment import dpo
from empo.alignment.logp_store import LogpStore
from empo.checkpoints import random_states
from empo.harness.measuring import measure
from empo.metrics import bertscore
from empo.metrics.score_store import ScoreStore
from empo.prompts import ChatFormat
from empo.raters import (
    comparison,
    cross_validation,
    encoders,
    held_out,
    held_out_comparison,
    published,
)
from empo.raters.folder import RaterConfig
from empo.raters.rating_store import RatingStore
from empo.rating import Dimension, Ratings
from empo.runs import versions

WARMTH = Dimension("warmth", 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0))
KEY = b"k" * 32
SHOWN = {"constant": {"interval": [0.1, 0.2]}, "length": {"interval": None}}
RATER = {
    "schema": "empo.rater/1", "kind": "pair_classifier", "name": "r", "dimensions": [WARMTH.facts()],
    "settings": {"note": "a note", "max_length": 8},
    "evidence": {"weights": "ab", "settings": "cd", "groups": 12, "drawn": "groups", "dimensions": {"warmth": SHOWN}},
}  # fmt: skip
JOINED = RATER | {"kind": "joined", "settings": {"members": ["a", "b"]}, "evidence": None}
PREDICTED = [
    {"id": f"e{i}", "group": f"g{i}", "seed": 1, "fold": 0, "characters": 9, "truncated": False,
     "response_truncated": False, "gold": {"warmth": float(i)}, "score": {"warmth": 1.0},
     "probabilities": {"warmth": [0.2, 0.3, 0.5]}, "constant": {"warmth": 1.0}, "length": {"warmth": 0.5}}
    for i in range(3)
]  # fmt: skip
RATER_RUN = {
    "schema": "empo.rater-results/1", "name": "r", "raters": {"r": "sig"}, "warnings": [], "data": [],
    "split": {}, "baselines": {}, "evaluation": {"dimensions": {"warmth": WARMTH.facts()}},
}  # fmt: skip
AGREED = {
    "schema": "empo.agreement/1", "input": {"file": "a.csv"},
    "rows": [{"aspect": "warmth", "group": "", "setting": "", "items": 3, "raters": 2,
              "coefficients": {"alpha": {"value": 0.5, "interval": [0.1, 0.9]}}}],
}  # fmt: skip
ADAPTER = {
    "base_model_name_or_path": "owner/base", "revision": None, "peft_type": "LORA", "r": 2,
    "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2},
}  # fmt: skip
REPLY = {"response": "Oh.", "response_tokens": 2, "finished": True}


def _unit(folder: Path) -> object:
    unit = held_out.Unit(1, 0, folder)
    return held_out.best_unit([unit]), held_out.as_predictions(unit.predictions(), [WARMTH])


def _held_out(folder: Path) -> object:
    found = held_out_comparison._results(folder)
    rows = held_out_comparison._rows(folder)
    dimensions = [Dimension.from_facts(of) for of in found["evaluation"]["dimensions"].values()]
    held_out_comparison._check_dimensions(folder, [d.name for d in dimensions], rows)
    return [held_out.as_predictions(of, dimensions) for of in rows.values()]


def _rater(folder: Path) -> object:
    config = RaterConfig.read(folder)
    return config.signature("ab"), config.warnings("ab")


def _memory(folder: Path) -> object:
    corpus: Any = SimpleNamespace(files=[{"file": "a.csv", "sha256": "ab"}])
    return list(comparison._memory("r", folder, corpus))


def _head(folder: Path) -> object:
    inner = SimpleNamespace(base_model_prefix="bert", state_dict=lambda: {"head": torch.zeros(2)})
    model: Any = SimpleNamespace(model=inner)
    return encoders.require_head(model, folder)


def _checkpoint(folder: Path) -> object:
    return checkpoints.last_checkpoint(folder, {"run"}, with_best=True)


def _room(folder: Path) -> object:
    return checkpoints.make_room(folder / "checkpoint-2", 1)


def _identity(folder: Path) -> object:
    settings: Any = SimpleNamespace(dtype="float32", load_in_4bit=False)
    chat: Any = SimpleNamespace(sha256="ab")
    source = models.ModelSource(str(folder), (str(folder),))
    return dpo.reference_identity(settings, source, chat)


def _measured(folder: Path) -> object:
    loaded: Any = SimpleNamespace(tasks={"t": None}, groups={}, not_run=[])
    source: Any = SimpleNamespace(run={})
    protocol: Any = SimpleNamespace(seed=1)
    return measure(loaded, source, protocol, folder, {"system": "sft"})


def _resolved(folder: Path) -> object:
    return models.resolve(str(folder)), models.resolve("owner/base", str(folder))


def _replies(folder: Path) -> object:
    return partial_replies.read_partial(folder / ".a.jsonl.partial", "key")


def _complete(folder: Path) -> object:
    asked = {"schema": "empo.responses/1", "system": "sft"}
    return generation._finished(folder / "a.jsonl", folder / "a.jsonl.manifest.json", asked)


def _in_folder(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def _ratings(path: Path) -> None:
    table = np.array([[0.2, 0.3, 0.5]])
    ratings = Ratings.of([WARMTH], [[1.0]], "s", probabilities=[table])
    RatingStore(path).write([KEY], ratings, ["a warning"])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _logps(path: Path) -> None:
    store = LogpStore(path)
    store.open([KEY])
    store.write({KEY: -1.5})


def _scores(path: Path) -> None:
    ScoreStore(path).write({KEY: (0.5, -1.5)})


def foreign(path: Path) -> None:
    """A SQLite database of another program."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ratings (key BLOB, scores TEXT)")


def _weights() -> bytes:
    out = io.BytesIO()
    torch.save({"a.weight": torch.zeros(2), "b.bias": torch.ones(1)}, out)
    return out.getvalue()


@cache
def _model() -> Mapping[str, bytes]:
    """The files of a tiny model with a tokenizer and an adapter on it."""
    from peft import get_peft_model

    tokenizer = small_models.train_tokenizer(["I lost my job.", "That is hard."] * 3, 300)
    base = small_models.small_base(tokenizer, 8, 1, 2, 32)
    base.name_or_path = "owner/base"
    with tempfile.TemporaryDirectory() as name:
        base.save_pretrained(name)
        tokenizer.save_pretrained(name)
        lora = models.lora_config(2, 4, 0.0, ["q_proj"])
        get_peft_model(base, lora).save_pretrained(Path(name) / "adapter")
        paths = [path for path in Path(name).rglob("*") if path.is_file()]
        return {p.relative_to(name).as_posix(): p.read_bytes() for p in paths}


def files_of_model(*names: str) -> dict[str, Sample]:
    """Files of the tiny model and its tokenizer, as samples."""
    found = {}
    for name in names:
        data = _model()[name]
        is_json = name.endswith(".json")
        found[name] = Sample("json", json.loads(data)) if is_json else Sample("binary", data)
    return found


def _tokenizer(folder: Path) -> object:
    chat = ChatFormat(models.load_tokenizer(models.ModelSource(str(folder))), "zephyr")
    return chat.prompt([MESSAGE])


def _loaded(folder: Path) -> object:
    source = models.ModelSource(str(folder))
    return models.load_config(source), models.load_model(source)


def _unopened(folder: Path) -> object:
    untrusted.refuse_code("m", untrusted.configs_of(folder), "Choose another.")
    return untrusted.require_safetensors(folder)


def _adapted(folder: Path) -> object:
    source = models.ModelSource(str(folder), (str(folder / "adapter"),))
    return models.load_model(source)


def _template(folder: Path) -> object:
    source = models.ModelSource(str(folder))
    chat = ChatFormat(models.load_tokenizer(source), str(folder / "a.jinja"), training=False)
    return chat.prompt([MESSAGE])


STATE = {"global_step": 1, "best_global_step": None, "log_history": [{"loss": 0.5}]}
STATE_DATA = json.dumps(STATE).encode()
LISTED = [{"file": "trainer_state.json", "bytes": len(STATE_DATA) + 1,
           "sha256": hashlib.sha256(STATE_DATA + b"\n").hexdigest()}]  # fmt: skip
MANIFEST = {"schema": "empo.checkpoint/1", "step": 1, "run": "run", "files": LISTED}
SEALED = {
    "checkpoint-1/trainer_state.json": Sample("json", STATE),
    "checkpoint-1/manifest.json": Sample("json", MANIFEST),
}
RESPONSES = b'{"id": "e0"}\n'
HALF: list[dict[str, Any]] = [{"key": "key", "batch": i, "replies": [REPLY]} for i in (0, 1)]
HALF_MADE = [{**row, "sha256": partial_replies._digest(row)} for row in HALF]
UNOPENED = {
    "config.json": Sample("json", {"model_type": "bert", "text_config": {"hidden_act": "gelu"}}),
    "modules.json": Sample("json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]),
    "model.safetensors.index.json": Sample("json", {"weight_map": {"head": "a.safetensors"}}),
    "a.safetensors": Sample("binary", save({"head": torch.zeros(2)})),
}  # fmt: skip
ANSWERED = {
    "schema": "empo.responses/1", "system": "sft", "sha256": hashlib.sha256(RESPONSES).hexdigest()
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"

READERS = [
    Reader("rater: its folder", {"rater_config.json": Sample("json", RATER)}, _rater, ("raters.folder.RaterConfig.read",), found="a name that is no text"),
    Reader("rater: joined", {"rater_config.json": Sample("json", JOINED)}, _rater, ("raters.folder.RaterConfig.read",)),
    Reader(
        "rater: a unit",
        {"unit.json": Sample("json", {"validation_score": 0.5}), "predictions.jsonl": Sample("jsonl", PREDICTED)},
        _unit, ("raters.held_out.Unit.facts", "raters.held_out.read_predictions"), found="rows without their keys, of other types, other dimensions or levels, twice",
    ),
    Reader(
        "rater: held-out rows",
        {"results.json": Sample("json", RATER_RUN), "units/seed-1/fold-0/predictions.jsonl": Sample("jsonl", PREDICTED)},
        _held_out, ("raters.held_out_comparison._results", "raters.held_out.read_predictions", "records.read_rows"),
    ),
    Reader(
        "rater: what it was trained on",
        {"run.json": Sample("json", {"data": [{"files": [{"file": "a.csv", "sha256": "ab"}]}], "settings": {"test": None}})},
        _memory, ("raters.comparison._memory",), found="no object, other types",
    ),
    Reader(
        "rater: agreement of annotators", {"agreement.json": Sample("json", AGREED)},
        lambda folder: cross_validation._agreement(str(folder / "agreement.json"), ["warmth"]),
        ("raters.cross_validation._agreement",), found="keys that are missing, other types",
    ),
    Reader("rater: weights of a head", {"model.safetensors": Sample("binary", save({"head": torch.zeros(2)}))}, _head, ("raters.encoders.require_head",), found="headers that are none"),
    Reader("rater: published weights", {"a.pth": Sample("binary", _weights())}, lambda folder: published._renamed(published._read(folder / "a.pth")), ("raters.published._read",), found="pickles that break off"),
    Reader(
        "cache of ratings", {"a.sqlite": Sample("binary", _in_folder(_ratings, "a.sqlite"))},
        lambda folder: RatingStore(folder / "a.sqlite").read([KEY]),
        ("sqlite_file.SqliteFile._opened", "sqlite_file.SqliteFile._check_header", "raters.rating_store._row"),
    ),
    Reader(
        "cache of log-probabilities", {"a.sqlite": Sample("binary", _in_folder(_logps, "a.sqlite"))},
        lambda folder: LogpStore(folder / "a.sqlite").open([KEY]),
        ("sqlite_file.SqliteFile._opened", "sqlite_file.SqliteFile._check_header"),
    ),
    Reader(
        "cache of scores", {"a.sqlite": Sample("binary", _in_folder(_scores, "a.sqlite"))},
        lambda folder: ScoreStore(folder / "a.sqlite").read([KEY]),
        ("sqlite_file.SqliteFile._opened", "sqlite_file.SqliteFile._check_header"),
    ),
    Reader("checkpoint", SEALED, _checkpoint, ("checkpoints._state", "checkpoints._read"), takes_all=True),
    Reader("checkpoint: its size", SEALED, _room, ("checkpoints._read",), takes_all=True),
    Reader(
        "random states",
        {"a.safetensors": Sample("binary", _in_folder(lambda path: random_states.save_random_state(path, torch.device("cpu")), "a"))},
        lambda folder: random_states.load_random_state(folder / "a.safetensors", torch.device("cpu")),
        ("checkpoints.random_states._restore",), found="headers that are none, states of other sizes",
    ),
    Reader(
        "model: identity of a reference",
        {"config.json": Sample("json", {"model_type": "m"}), "adapter_config.json": Sample("json", ADAPTER),
         "a.safetensors": Sample("binary", b"x")},
        _identity, ("alignment.dpo.reference_identity",), found="no object",
    ),
    Reader(
        "model: adapter and run",
        {"run.json": Sample("json", RUN | {"base_model": {"name": "owner/base", "sha256": "ab"}}),
         "adapter_config.json": Sample("json", ADAPTER)},
        _resolved, ("models.resolve", "models._check_base", "adapters.adapter_config"),
        found="a `run.json` that is no object, fields of other types",
    ),
    Reader("model: what is refused unopened", UNOPENED, _unopened, ("untrusted.refuse_code", "untrusted.model_folders", "untrusted.shapes", "untrusted._check_index")),
    Reader("model: tokenizer", files_of_model("tokenizer.json", "tokenizer_config.json", "config.json"), _tokenizer, ("models.load_tokenizer",), found="two dozen kinds of errors of transformers and tokenizers"),
    Reader("model: configuration and weights", files_of_model("config.json", "model.safetensors"), _loaded, ("models.load_config", "models.load_model"), found="headers that are none, a dozen kinds of errors of transformers"),
    Reader(
        "model: adapter's weights",
        files_of_model("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "config.json", "model.safetensors"),
        _adapted, ("adapters.put_on", "adapters.check_tensors"), found="headers that are none, other types",
    ),
    Reader(
        "model: chat template", {"a.jinja": Sample("text", TEMPLATE), **files_of_model("tokenizer.json", "tokenizer_config.json")},
        _template, ("prompts.ChatFormat._choose",), found="templates with wrong syntax",
    ),
    Reader(
        "BERTScore: configuration",
        {"config.json": Sample("json", {"model_type": "bert", "num_hidden_layers": 2}), "a.safetensors": Sample("binary", b"x")},
        lambda folder: bertscore._checked_folder(folder, None), ("metrics.bertscore._checked_folder",), found="no object, a number of layers below 1",
    ),
    Reader(
        "harness: finished tasks",
        {".partial/identity.json": Sample("json", {"system": "sft", "lm_eval": versions().get("lm_eval")}),
         ".partial/tasks/t.json": Sample("json", {"task": HARNESS["tasks"]["t"], "lm_eval": {"acc,none": 0.5}})},
        _measured, ("harness.measuring.measure", "harness.measuring._finished"), found="no object, figures that are missing",
    ),
    Reader(
        "replies half made",
        {".a.jsonl.partial": Sample("jsonl", HALF_MADE)},
        _replies, ("partial_replies.read_partial", "partial_replies._whole"),
        found="bytes that are not UTF-8, rows without their keys, or keys of other types",
    ),
    Reader(
        "replies and their manifest",
        {"a.jsonl.manifest.json": Sample("json", ANSWERED), "a.jsonl": Sample("binary", RESPONSES)},
        _complete, ("generation._finished",),
        found="a manifest that is no JSON, or no object",
    ),
]  # fmt: skip
