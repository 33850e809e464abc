"""Every function of empo that opens a file to read is fuzzed, or stands here with the reason why not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from language_model_readers import READERS as OF_LANGUAGE_MODELS
from light_readers import READERS as GIVEN
from light_readers import Reader
from model_readers import READERS as OF_MODELS
from run_readers import READERS as LEFT
from survey_readers import READERS as OF_SURVEYS
from test_readers import is_read, placed

ROOT = Path(__file__).resolve().parents[2] / "empo"
READERS = [*GIVEN, *LEFT, *OF_MODELS, *OF_LANGUAGE_MODELS, *OF_SURVEYS]

OPENERS = {
    *("open", "read_text", "read_bytes", "load", "loads", "safe_open", "load_file", "connect"),
    *("reader", "DictReader", "get_single_data", "read_table", "load_dataset", "from_pretrained"),
    *("read_json", "read_object", "read_jsonl", "read_rows", "read_typed", "load_yaml", "read_csv"),
    *("SentenceTransformer", "CrossEncoder", "Transformer", "header_of"),
}
"""Names of what opens or parses a file, ours and those of libraries."""

_LIBRARY = "transformers reads the files, and what it raises is told; tests/raters has damaged ones"
LEFT_OUT = {
    "survey.store.Store.create": "makes the file",
    "survey_commands.survey_command": "opens the null device",
    "records.sha256": "any bytes have a digest",
    "settings._from_text": "a word of the command line, no file",
    "corpora.tables._read_hub": "a hub; whatever datasets raises is told",
    "demo._report": "logs that the demo has just written",
    "alignment.callbacks.LogFile.on_log": "appends",
    "checkpoints._to_disk": "opens to flush",
    "raters.weight_average.WeightAverage.on_train_begin": "a file of a checkpoint whose digest agrees",
    "partial_replies.keep": "appends",
    "harness.tasks.load_tasks": "lm-eval's TaskManager.load",
    "alignment.starting.policy_and_reference": "calls a function of its own named load",
    "raters.loading.load_rater": "calls the load of each kind of rater",
    "sweep.commands.training_settings": "the YAML of a recipe, as in settings.load_yaml",
    "sweep.rounds.RoundsSettings.training": "the YAML of a recipe, as in settings.load_yaml",
    "sweep.rounds.write_sampled_pairs": "a manifest whose digest the step before has compared",
    "sweep.rounds.progress": "manifests whose digests the steps have compared",
    "sweep.commands.before_step": "the YAML of a recipe, as in settings.load_yaml",
    "preview._model": "the adapter of a model that was resolved before",
    "preview._architecture": _LIBRARY,
    "raters.encoders.encoder_identity": "a hub; what transformers raises is told",
    "raters.encoders.load_encoder": _LIBRARY,
    "raters.encoders.load_embedder": _LIBRARY,
    "raters.encoders.load_saved_tokenizer": _LIBRARY,
    "raters.encoders.load_seq2seq": _LIBRARY,
    "raters.encoders.load_cross_encoder": _LIBRARY,
    "raters.classifier.PairClassifier.load": _LIBRARY,
    "raters.encoder_rater.EncoderRater.load": _LIBRARY,
    "raters.published.convert": "a tokenizer that load_encoder has read",
}


def opening() -> set[str]:
    """Dotted names, below empo, of the functions and methods that call one of OPENERS."""
    found = set()
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name, node in _functions(ast.parse(path.read_text("utf-8")), module):
            calls = {_called(call) for call in ast.walk(node) if isinstance(call, ast.Call)}
            if calls & OPENERS:
                found.add(name)
    return found


def _functions(tree: ast.AST, place: str) -> Any:
    """The functions of a module and the methods of its classes; inner functions belong to theirs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{place}.{node.name}")
        elif isinstance(node, ast.FunctionDef):
            yield f"{place}.{node.name}", node


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "attr", getattr(function, "id", ""))


def test_every_function_that_opens_a_file_is_fuzzed_or_left_out_with_a_reason() -> None:
    covered = {name for reader in READERS for name in reader.covers}
    found = opening()
    assert found - covered - LEFT_OUT.keys() == set(), "give it a reader, or a reason"
    assert LEFT_OUT.keys() - found == set(), "it is gone, or opens nothing any more"
    assert covered & LEFT_OUT.keys() == set()


def test_a_reader_that_the_table_lacks_would_be_seen() -> None:
    tree = ast.parse("class A:\n    def b(self):\n        return [c for c in csv.reader(d)]\n")
    ((name, node),) = _functions(tree, "m")
    assert name == "m.A.b"
    assert {_called(n) for n in ast.walk(node) if isinstance(n, ast.Call)} == {"reader"}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_runs_the_functions_that_it_covers(reader: Reader, tmp_path: Path) -> None:
    run: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("empo."):
            run.add(f"{module.removeprefix('empo.')}.{frame.f_code.co_qualname}")

    folder = placed(reader, tmp_path / "files")
    sys.setprofile(note)
    try:
        assert is_read(reader, folder)
    finally:
        sys.setprofile(None)
    assert set(reader.covers) <= run
    assert len({reader.name for reader in READERS}) == len(READERS)
