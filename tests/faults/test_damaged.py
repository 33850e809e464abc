"""Files that are damaged, foreign or hostile when a command is given again."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import forked
import pytest
from fault_table import Survived, steps
from phases import kill
from small_runs import Runs, check_equal, continued_from, copied, steps_done

from empo.alignment.reference_logps import FILE
from empo.checkpoints import MANIFEST, seal
from empo.records import read_json, sha256, write_json
from empo.runs import Run

WEIGHTS = "adapter_model.safetensors"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def no_json(path: Path) -> None:
    path.write_text('{"global_step": 6, "epo')


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


class Case(NamedTuple):
    """Damage to a file of the newest checkpoint."""

    number: int
    name: str
    file: str
    damage: Callable[[Path], None]
    said: str


CHANGED = "checkpoint-6 is passed over: {} has changed since it was saved"
NEWEST = [
    Case(
        31,
        "the weights of a checkpoint are cut off",
        WEIGHTS,
        cut,
        "checkpoint-6 is passed over: adapter_model.safetensors has …bytes, …were saved",
    ),
    Case(
        32,
        "the weights of a checkpoint are empty",
        WEIGHTS,
        empty,
        "checkpoint-6 is passed over: adapter_model.safetensors has 0 bytes, …were saved",
    ),
    Case(33, "a bit of a checkpoint's weights flips", WEIGHTS, flip, CHANGED.format(WEIGHTS)),
    Case(
        34,
        "a file of a checkpoint is missing",
        "scheduler.pt",
        Path.unlink,
        "checkpoint-6 is passed over: scheduler.pt is missing",
    ),
    Case(
        35,
        "trainer_state.json is cut off",
        "trainer_state.json",
        no_json,
        "checkpoint-6 is passed over: trainer_state.json has …bytes, …were saved",
    ),
    Case(
        36,
        "manifest.json is cut off",
        MANIFEST,
        cut,
        "checkpoint-6 is passed over: it cannot be read (…not JSON …)",
    ),
]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=pytest.mark.fault(c.number, c.name)) for c in NEWEST]
)
def test_a_run_goes_on_from_the_checkpoint_before(
    runs: Runs, tmp_path: Path, survived: Survived, case: Case
) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    case.damage(run / "checkpoint-6" / case.file)
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(again, case.said, steps(done - continued_from(again)))


@pytest.mark.fault(37, "every checkpoint is damaged")
def test_without_a_checkpoint_a_run_begins_anew(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    for step in (4, 6):
        flip(run / f"checkpoint-{step}" / "optimizer.pt")
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(again, "no checkpoint is usable, training begins from its start", steps(done))


@pytest.mark.fault(38, "run.json is cut off")
def test_a_broken_run_json_is_named(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    kept = (run / "run.json").read_bytes()
    cut(run / "run.json")
    refused = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert refused.code == 2, refused.said
    (run / "run.json").write_bytes(kept)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        refused,
        "error: …run.json, line …: not JSON (…). Restore the file to continue the run. `--fresh` …",
        "nothing, once run.json is restored",
    )


@pytest.mark.fault(39, "a checkpoint's optimizer.pt is replaced by a pickle that runs a command")
def test_a_foreign_pickle_is_not_opened(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run, marker = copied(runs.stopped, tmp_path / "run"), tmp_path / "marker"
    (run / "checkpoint-6" / "optimizer.pt").write_bytes(pickle.dumps(Payload(marker)))
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    assert not marker.exists()
    check_equal(run, runs.sft)
    survived(
        again,
        "checkpoint-6 is passed over: optimizer.pt has …",
        steps(done - continued_from(again)),
    )


@pytest.mark.fault(40, "the same, with a manifest made to fit")
def test_a_pickle_with_a_fitting_manifest_does_not_run(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run, marker = copied(runs.stopped, tmp_path / "run"), tmp_path / "marker"
    (run / "checkpoint-6" / "optimizer.pt").write_bytes(pickle.dumps(Payload(marker)))
    seal(run / "checkpoint-6", Run(run, read_json(run / "run.json")).digest)
    refused = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert refused.code == 2 and not marker.exists(), refused.said
    shutil.rmtree(run / "checkpoint-6")
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        refused,
        "checkpoint-6: optimizer.pt or scheduler.pt holds a pickle that could run code; it was not "
        "run. …delete the checkpoint, and give the same command again.",
        steps(steps_done(runs.stopped) - 4),
    )


@pytest.mark.fault(41, "a manifest names files outside of its checkpoint")
def test_a_manifest_leads_nowhere_else(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    manifest = read_json(run / "checkpoint-6" / MANIFEST)
    entry = {"file": "../../outside.txt", "bytes": 4, "sha256": sha256(outside)}
    write_json(run / "checkpoint-6" / MANIFEST, manifest | {"files": [*manifest["files"], entry]})
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    assert outside.read_text() == "mine"
    check_equal(run, runs.sft)
    survived(
        again,
        "checkpoint-6 is passed over: ../../outside.txt is missing",
        steps(done - continued_from(again)),
    )


def _in_reference(runs: Runs, folder: Path) -> Path:
    """A DPO run that was killed before its first step, with all of its reference."""
    inject = kill("transformers:Trainer.train", "before")
    ended = forked.run("recipes/dpo.py", runs.arguments("dpo", folder), inject)
    assert ended.code < 0, ended.said
    return folder / "reference" / FILE


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            cut,
            "reference.sqlite: this is no cache of the reference's log-probabilities, or a damaged "
            "one (…). Delete it, with …, or name another file; …",
            marks=pytest.mark.fault(42, "the cache of the reference is cut off"),
        ),
        pytest.param(
            lambda path: path.write_text("my shopping list, which is longer than a header"),
            "reference.sqlite: this is no cache of the reference's log-probabilities, or a damaged "
            "one (it begins with …). Delete it, …",
            marks=pytest.mark.fault(43, "another file lies in place of the cache of the reference"),
        ),
        pytest.param(
            lambda path: (path.unlink(), sqlite3.connect(path).execute("create table t (x)")),
            "reference.sqlite: this is a SQLite database, but no cache of the reference's "
            "log-probabilities (…). Move it elsewhere, delete it if nothing else needs it, or name "
            "another file.",
            marks=pytest.mark.fault(44, "another program's database lies in its place"),
        ),
        pytest.param(
            lambda path: _changed_values(path),
            "reference.sqlite: row …: the log-probability kept there is …, and this model gives …",
            marks=pytest.mark.fault(45, "the cache of the reference has other values"),
        ),
    ],
)
def test_a_cache_that_cannot_be_trusted_is_named(
    runs: Runs,
    tmp_path: Path,
    survived: Survived,
    damage: Callable[[Path], Any],
    said: str,
) -> None:
    run = tmp_path / "run"
    cache = _in_reference(runs, run)
    damage(cache)
    before = cache.read_bytes()
    refused = forked.run("recipes/dpo.py", runs.arguments("dpo", run))
    assert refused.code == 2, refused.said
    assert cache.read_bytes() == before
    cache.unlink()
    again = forked.run("recipes/dpo.py", runs.arguments("dpo", run))
    assert again.code == 0, again.said
    check_equal(run, runs.dpo)
    survived(refused, said, "the pass of the reference")


def _changed_values(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE logps SET logp = logp - 50")
    database.commit()
    database.close()


@pytest.mark.fault(46, "the partial file of a generation is damaged")
def test_damaged_replies_are_made_again(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    output = tmp_path / "replies.jsonl"
    inject = kill("empo.generation:reply_to", "before", nth=3)
    assert forked.run("recipes/generate.py", runs.generation(output), inject).code < 0
    partial = output.with_name(f".{output.name}.partial")
    first, *rest = partial.read_text().splitlines(keepends=True)
    partial.write_text(
        "".join([first, *(line.replace('"response_tokens": ', '"respo') for line in rest)])
    )
    again = forked.run("recipes/generate.py", runs.generation(output))
    assert again.code == 0, again.said
    assert output.read_bytes() == runs.replies.read_bytes()
    survived(again, "line 2: damaged; these replies are made again", "1 batch of replies")


def _hostile(runs: Runs, folder: Path, change: Callable[[Path], None]) -> Path:
    base = copied(runs.base, folder / "base")
    shutil.rmtree(base / "checkpoint-1", ignore_errors=True)
    change(base)
    return base


def _with_code(base: Path) -> None:
    config = read_json(base / "config.json")
    config |= {
        "model_type": "own_model",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    }
    write_json(base / "config.json", config)
    marker = base.parent / "marker"
    (base / "own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Own: pass\n")


@pytest.mark.fault(47, "the base comes with code of its own (`auto_map`)")
def test_code_of_a_model_is_not_run(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    base = _hostile(runs, tmp_path, _with_code)
    argv = runs.arguments("sft", tmp_path / "run", "--model", base)
    refused = forked.run("recipes/sft.py", argv)
    assert refused.code == 2, refused.said
    assert not (tmp_path / "marker").exists()
    assert "[y/N]" not in refused.said
    survived(
        refused,
        "config.json, field 'auto_map': …base comes with code of its own (own.OwnConfig, own.Own), "
        "which would run on this machine. It is not run. …",
        "nothing",
    )


@pytest.mark.fault(48, "an adapter's weights are a pickle (`adapter_model.bin`)")
def test_pickled_adapters_are_not_read(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    adapter, marker = copied(runs.dpo, tmp_path / "adapter"), tmp_path / "marker"
    (adapter / WEIGHTS).unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    argv = runs.generation(tmp_path / "replies.jsonl", "--model", adapter)
    refused = forked.run("recipes/generate.py", argv)
    assert refused.code == 2, refused.said
    assert not marker.exists()
    survived(
        refused,
        "adapter_model.bin: these weights are pickled, and a pickle can run any code, so it is not "
        "opened. …",
        "nothing",
    )


@pytest.mark.fault(49, "a base's weights are a pickle (`pytorch_model.bin`)")
def test_pickled_models_are_not_read(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    def pickled(base: Path) -> None:
        (base / "model.safetensors").unlink()
        (base / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "marker")))

    base = _hostile(runs, tmp_path, pickled)
    refused = forked.run("recipes/sft.py", runs.arguments("sft", tmp_path / "run", "--model", base))
    assert refused.code == 2, refused.said
    assert not (tmp_path / "marker").exists()
    survived(
        refused,
        "pytorch_model.bin: these weights are pickled, and a pickle can run any code, so it is not "
        "opened. …",
        "nothing",
    )


@pytest.mark.fault(50, "the base's weights are cut off")
def test_a_cut_base_is_named(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    base = _hostile(runs, tmp_path, lambda base: cut(base / "model.safetensors"))
    refused = forked.run("recipes/sft.py", runs.arguments("sft", tmp_path / "run", "--model", base))
    assert refused.code == 2, refused.said
    survived(
        refused,
        "model.safetensors: this is no whole safetensors file (…). Copy or download it again.",
        "nothing",
    )


@pytest.mark.fault(51, "a rater's folder names members outside of it")
def test_members_of_a_rater_lie_in_it(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    folder = tmp_path / "joined"
    folder.mkdir()
    config = read_json(runs.rater / "rater_config.json")
    config |= {"kind": "joined", "settings": {"members": ["../warmth"]}, "evidence": None}
    (folder / "rater_config.json").write_text(json.dumps(config))
    copied(runs.rater, tmp_path / "warmth")
    argv = runs.evaluation(tmp_path / "out", "--metrics", "diff_epitome", "--rater", folder)
    refused = forked.run("eval/responses.py", argv)
    assert refused.code == 2, refused.said
    survived(refused, "members: names of folders right below this one are expected…", "nothing")
