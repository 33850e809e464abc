"""The same folder with something else in the command: refused with the differences, or not asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from fault_table import Survived, steps
from phases import kill
from small_runs import Runs, check_equal, continued_from, copied, log, steps_done

from empo.prompts import ZEPHYR_TEMPLATE
from empo.records import read_json, sha256

ACCEPT = "`--accept-changes` continues it all the same"
FRESH = "`--fresh` begins a new one in a folder beside it."


class Case(NamedTuple):
    """Words that are added to the command of a run that was stopped after step 7."""

    number: int
    name: str
    more: list[str]
    said: str
    accepted: bool


CASES = [
    Case(
        52,
        "another batch size, accumulated to the same",
        ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"],
        "- per_device_train_batch_size: 4 there, 2 now",
        True,
    ),
    Case(
        53,
        "another learning rate",
        ["--learning_rate", "1e-3"],
        "It differs in: - learning_rate: 0.01 there, 0.001 now",
        False,
    ),
    Case(54, "another rank of LoRA", ["--lora_r", "4"], "- lora_r: 8 there, 4 now", False),
    Case(
        55,
        "another system message",
        ["--system_message", "Be brief."],
        "- system_message: 'You are a kind listener.' there, 'Be brief.' now",
        True,
    ),
]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=pytest.mark.fault(c.number, c.name)) for c in CASES]
)
def test_other_settings_are_refused_and_named(
    runs: Runs, tmp_path: Path, survived: Survived, case: Case
) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    argv = runs.arguments("sft", run, *case.more)
    refused = forked.run("recipes/sft.py", argv)
    assert refused.code == 2, refused.said
    assert (ACCEPT in refused.err) == case.accepted
    assert FRESH in refused.err
    accepted = forked.run("recipes/sft.py", [*argv, "--accept_changes", "true"])
    if case.accepted:
        assert accepted.code == 0, accepted.said
        assert continued_from(accepted) == 6
        accepted_changes = [
            change
            for entry in read_json(run / "run.json")["accepted"]
            for change in entry["changes"]
        ]
        assert any(case.more[0].lstrip("-") in change for change in accepted_changes)
    else:
        assert accepted.code == 2
        fixed = case.more[0].lstrip("-")
        assert f"These cannot be accepted: {fixed} cannot change in a run." in accepted.err
        again = forked.run("recipes/sft.py", runs.arguments("sft", run))
        assert again.code == 0, again.said
        check_equal(run, runs.sft)
    how = "goes on" if case.accepted else "`--fresh` only"
    survived(refused, case.said, f"nothing ({how})")


@pytest.mark.fault(56, "other training data")
def test_other_data_are_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    own = copied(runs.corpus, tmp_path / "corpus")
    with (own / "train.csv").open("a") as file:
        file.write((own / "train.csv").read_text().splitlines()[1].replace("conv", "other") + "\n")
    argv = runs.arguments("sft", run)
    kept = copied(runs.corpus, tmp_path / "kept")
    shutil.copy(own / "train.csv", runs.corpus / "train.csv")
    try:
        refused = forked.run("recipes/sft.py", argv)
        assert refused.code == 2, refused.said
        assert ACCEPT in refused.err
    finally:
        shutil.copy(kept / "train.csv", runs.corpus / "train.csv")
    again = forked.run("recipes/sft.py", argv)
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        refused,
        "this run was trained on other data: …train.csv (train) is not the file that it began with.",
        "nothing (goes on)",
    )


@pytest.mark.fault(57, "other weights of the base")
def test_another_base_is_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    weights = runs.base / "model.safetensors"
    kept = weights.read_bytes()
    changed = bytearray(kept)
    changed[-1] ^= 1
    weights.write_bytes(changed)
    try:
        refused = forked.run("recipes/sft.py", runs.arguments("sft", run))
        accepted = forked.run(
            "recipes/sft.py", runs.arguments("sft", run, "--accept_changes", "true")
        )
    finally:
        weights.write_bytes(kept)
    assert (refused.code, accepted.code) == (2, 2), accepted.said
    assert ACCEPT not in refused.err + accepted.err
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        refused,
        "this run cannot be continued exactly, because something else than its settings has "
        "changed: - base: …",
        "nothing (`--fresh` only)",
    )


@pytest.mark.fault(58, "another chat template, at the same path")
def test_another_template_is_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(ZEPHYR_TEMPLATE)
    own = ["--chat_template", str(template)]
    run = tmp_path / "run"
    stopped = forked.run(
        "recipes/sft.py",
        runs.arguments("sft", run, *own),
        kill("empo.alignment.callbacks:LogFile.on_log", "after", nth=9),
    )
    assert stopped.code < 0, stopped.said
    template.write_text(ZEPHYR_TEMPLATE.replace("<|user|>", "<|user|> "))
    refused = forked.run("recipes/sft.py", runs.arguments("sft", run, *own))
    assert refused.code == 2, refused.said
    assert ACCEPT in refused.err
    template.write_text(ZEPHYR_TEMPLATE)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run, *own))
    assert again.code == 0, again.said
    assert sha256(run / "adapter_model.safetensors") == sha256(
        runs.sft / "adapter_model.safetensors"
    )
    survived(refused, "changed: - template_sha256: …there, …now", "nothing (goes on)")


HARMLESS = ["--save_total_limit", "1", "--disable_tqdm", "true", "--dataloader_num_workers", "0"]


@pytest.mark.fault(59, "other settings that move no number (`save_total_limit`, `disable_tqdm`)")
def test_harmless_changes_are_not_asked_about(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run, *HARMLESS))
    assert again.code == 0, again.said
    assert log(run) == log(runs.sft)
    assert sha256(run / "adapter_model.safetensors") == sha256(
        runs.sft / "adapter_model.safetensors"
    )
    assert [p.name for p in run.glob("checkpoint-*")] == ["checkpoint-8"]
    survived(again, "continuing from …checkpoint-6", steps(done - continued_from(again)))


@pytest.mark.fault(60, "`--fresh` where a run is")
def test_fresh_begins_beside(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.stopped, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    new = forked.run("recipes/sft.py", runs.arguments("sft", run, "--fresh", "true"))
    assert new.code == 0, new.said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    check_equal(tmp_path / "run-2", runs.sft)
    survived(
        new,
        "a new run in …run-2; give this folder, without --fresh, to continue it",
        "nothing",
    )


@pytest.mark.fault(61, "other settings for a run that is complete")
def test_a_complete_run_is_not_changed(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = copied(runs.sft, tmp_path / "run")
    refused = forked.run("recipes/sft.py", runs.arguments("sft", run, "--lora_alpha", "8"))
    assert refused.code == 2, refused.said
    assert ACCEPT not in refused.err
    check_equal(run, runs.sft)
    survived(
        refused,
        "this folder already holds another run (sft, complete). It differs in: - lora_alpha: 16 "
        "there, 8 now …`--fresh` begins a new one",
        "nothing",
    )


@pytest.mark.fault(62, "a folder of other files as output_dir")
def test_a_foreign_folder_is_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused = forked.run("recipes/sft.py", runs.arguments("sft", tmp_path))
    assert refused.code == 2, refused.said
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["thesis.txt"],
        [".lock", "thesis.txt"],
    )
    survived(
        refused,
        "the folder is not empty and holds no run.json. Choose an empty or a new output folder.",
        "nothing",
    )


@pytest.mark.fault(63, "replies of other settings to the same file")
def test_other_replies_are_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    output = tmp_path / "replies.jsonl"
    for file in (runs.replies, runs.replies.with_name(f"{runs.replies.name}.manifest.json")):
        shutil.copy(file, tmp_path)
    refused = forked.run("recipes/generate.py", runs.generation(output, "--max_new_tokens", 9))
    assert refused.code == 2, refused.said
    assert output.read_bytes() == runs.replies.read_bytes()
    survived(
        refused,
        "the file holds other responses (it differs in decoding). Choose another --output, or "
        "delete the file.",
        "nothing",
    )
