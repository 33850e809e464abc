"""A run folder says itself whether it can be used, continued or must be left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from empo.records import RUN_SCHEMA, UserError
from empo.runs import LOCK, Run, alone, free_folder, now, read_run, versions

SETTINGS: dict[str, Any] = {"seed": 42, "learning_rate": 1e-5, "lora_targets": ["q_proj"]}


def test_a_new_run_writes_nothing_until_it_is_saved(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "sft", SETTINGS)
    assert not (tmp_path / "run").exists()
    run.save(steps=3)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["schema"] == RUN_SCHEMA == "empo.run/1"
    assert (facts["status"], facts["command"], facts["steps"]) == ("running", "sft", 3)
    assert facts["settings"] == SETTINGS
    assert facts["versions"]["python"] and facts["started"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert not Run.start(tmp_path, "sft", SETTINGS).complete


def test_a_run_with_the_same_settings_is_continued(tmp_path: Path) -> None:
    Run.start(tmp_path, "sft", SETTINGS).save(seed=42)
    (tmp_path / "checkpoint-1").mkdir()
    again = Run.start(tmp_path, "sft", dict(reversed(SETTINGS.items())))
    assert again.facts["seed"] == 42 and not again.complete
    again.save(status="complete")
    assert Run.start(tmp_path, "sft", SETTINGS).complete


def test_the_digest_is_of_what_a_run_is_and_not_of_its_progress(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "sft", SETTINGS)
    run.check_identity({"processes": 1})
    run.save()
    digest = run.digest
    (tmp_path / "run" / "checkpoint-1").mkdir()
    (tmp_path / "run").rename(tmp_path / "moved")
    again = Run.start(tmp_path / "moved", "sft", dict(reversed(SETTINGS.items())))
    again.save(steps=3, started="later", versions={})
    assert again.digest == digest == Run(tmp_path, again.facts).digest
    for name, other in (("command", "dpo"), ("settings", {}), ("identity", {"processes": 2})):
        assert Run(tmp_path, again.facts | {name: other}).digest != digest, name


def test_another_run_in_the_folder_is_refused_with_every_difference(tmp_path: Path) -> None:
    Run.start(tmp_path, "sft", SETTINGS).save()
    (tmp_path / "checkpoint-10").mkdir()
    changed = {**SETTINGS, "learning_rate": 2e-5, "lora_targets": ["q_proj", "v_proj"], "limit": 5}
    del changed["seed"]
    with pytest.raises(UserError) as error:
        Run.start(tmp_path, "sft", changed)
    assert str(error.value) == (
        f"{tmp_path}: this folder already holds another run (sft, not at its end). It differs in:\n"
        "  - learning_rate: 1e-05 there, 2e-05 now\n"
        "  - limit: None there, 5 now\n"
        "  - lora_targets: ['q_proj'] there, ['q_proj', 'v_proj'] now\n"
        "  - seed: 42 there, None now\n"
        "Give its settings to continue it. `--fresh` begins a new one in a folder beside it."
    )


def test_a_run_that_trained_nothing_yet_gives_way_to_other_settings(tmp_path: Path) -> None:
    Run.start(tmp_path, "sft", SETTINGS).save()
    assert Run.start(tmp_path, "sft", {"limit": 5}).facts["settings"] == {"limit": 5}


@pytest.mark.parametrize("left", ["units", "units/seed-1/fold-0", "units/seed-1/fold-0/empathy"])
def test_units_that_hold_nothing_are_nothing_to_lose(tmp_path: Path, left: str) -> None:
    run = Run.start(tmp_path, "rater", SETTINGS)
    run.check_identity({"data": ["with a fault"]})
    run.save()
    (tmp_path / left).mkdir(parents=True)
    assert Run.start(tmp_path, "rater", {"limit": 5}).facts["settings"] == {"limit": 5}
    Run.start(tmp_path, "rater", SETTINGS).check_identity({"data": ["mended"]})


@pytest.mark.parametrize(
    "left", ["units/seed-1/fold-0/unit.json", "units/seed-1/fold-0/empathy/checkpoint-3/a"]
)
def test_a_unit_or_its_checkpoint_is_something_to_lose(tmp_path: Path, left: str) -> None:
    Run.start(tmp_path, "rater", SETTINGS).save()
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(UserError, match="already holds another run"):
        Run.start(tmp_path, "rater", {"limit": 5})


def test_a_run_on_other_data_or_processes_is_refused(tmp_path: Path) -> None:
    run = Run.start(tmp_path, "sft", SETTINGS)
    run.check_identity({"processes": 1, "data": ["a"]})
    run.save()
    (tmp_path / "checkpoint-1").mkdir()
    again = Run.start(tmp_path, "sft", SETTINGS)
    again.check_identity({"processes": 1, "data": ["a"]})
    with pytest.raises(UserError, match=r"processes: 1 there, 2 now\n  - data: \['a'\] there"):
        again.check_identity({"processes": 2, "data": ["b"]})


def test_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    Run.start(tmp_path, "sft", SETTINGS).save(status="complete")
    with pytest.raises(UserError, match=r"\(sft, complete\)(.|\n)*command: 'sft' there, 'dpo' now"):
        Run.start(tmp_path, "dpo", SETTINGS)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError) as error:
        Run.start(tmp_path, "sft", SETTINGS)
    assert str(error.value) == (
        f"{tmp_path}: the folder is not empty and holds no run.json. "
        "Choose an empty or a new output folder."
    )


def test_only_a_run_that_has_ended_is_read(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    run = Run.start(tmp_path, "sft", SETTINGS)
    run.save()
    with pytest.raises(UserError) as error:
        read_run(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: this run has not ended. Run its command again to continue it (sft)."
    )
    run.save(status="complete", seed=42)
    facts = read_run(tmp_path)
    assert facts is not None and facts["seed"] == 42


def test_a_manifest_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": ')
    with pytest.raises(UserError, match=r"run\.json, line 1: not JSON"):
        read_run(tmp_path)
    with pytest.raises(UserError, match=r"run\.json, line 1: not JSON"):
        Run.start(tmp_path, "sft", SETTINGS)


def test_versions_name_what_moves_numbers_and_nothing_that_is_not_installed() -> None:
    found = versions()
    assert {"python", "platform", "empo", "numpy"} <= found.keys()
    assert all(isinstance(version, str) and version for version in found.values())


def test_the_time_is_utc_to_the_second() -> None:
    assert now().endswith("+00:00") and len(now()) == len("2026-01-01T00:00:00+00:00")


# --- one process, fresh folders, accepted changes ---


def test_a_folder_is_one_processs_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with alone(folder / LOCK, folder):
        Run.start(folder, "sft", SETTINGS).save()
        with pytest.raises(UserError) as error, alone(folder / LOCK, folder):
            pass
    assert str(error.value) == (
        f"{folder}: another process (number {os.getpid()} on {socket.gethostname()}) is at work on "
        "it. Wait until it has ended, stop it, or choose another place for this one."
    )
    with alone(folder / LOCK, folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_process_that_is_killed_lets_go_of_its_folder(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with alone(tmp_path / LOCK, tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).exists()
    with alone(tmp_path / LOCK, tmp_path):
        assert not Run.start(tmp_path, "sft", SETTINGS).complete  # the lock alone is no content


def test_a_complete_run_does_not_say_whose_process_wrote_it(tmp_path: Path) -> None:
    run = Run.start(tmp_path, "sft", SETTINGS)
    run.save()
    assert json.loads((tmp_path / "run.json").read_text())["process"]["id"] == os.getpid()
    run.save(status="complete")
    assert "process" not in json.loads((tmp_path / "run.json").read_text())


def test_a_fresh_folder_is_the_first_that_is_free(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    assert free_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "a").touch()
    assert free_folder(tmp_path / "run") == tmp_path / "run-2"
    (tmp_path / "run-2" / "a").mkdir(parents=True)
    assert free_folder(tmp_path / "run") == tmp_path / "run-3"


def begun(folder: Path, **facts: Any) -> Run:
    """A run with a checkpoint and an identity."""
    run = Run.start(folder, "sft", SETTINGS)
    run.check_identity({"processes": 1, "base": "a"})
    run.save(**facts)
    (folder / "checkpoint-1").mkdir()
    return run


def test_changes_that_are_accepted_are_kept_in_the_facts(tmp_path: Path) -> None:
    before = begun(tmp_path).digest
    changed = {**SETTINGS, "learning_rate": 2e-5}
    with pytest.raises(UserError, match="`--accept-changes` continues it all the same"):
        Run.start(tmp_path, "sft", changed, accept=False)
    run = Run.start(tmp_path, "sft", changed, accept=True)
    middle = run.digest
    run.check_identity({"processes": 2, "base": "a"}, accept=True)
    assert [entry["changes"] for entry in run.facts["accepted"]] == [
        ["learning_rate: 1e-05 there, 2e-05 now"],
        ["processes: 1 there, 2 now"],
    ]
    assert run.facts["settings"] == changed
    assert run.digests == {before, middle, run.digest} and len(run.digests) == 3
    run.save()
    again = Run.start(tmp_path, "sft", changed, accept=False)
    again.check_identity({"processes": 2, "base": "a"}, accept=False)
    assert again.digests == run.digests


def test_what_weights_hang_on_cannot_be_accepted(tmp_path: Path) -> None:
    run = begun(tmp_path)
    changed = {**SETTINGS, "lora_targets": ["v_proj"]}
    for accept in (True, False):
        with pytest.raises(UserError) as error:
            Run.start(tmp_path, "sft", changed, accept=accept, fixed={"lora_targets"})
        assert "lora_targets: ['q_proj'] there, ['v_proj'] now" in str(error.value)
        assert "--accept-changes" not in str(error.value)
    with pytest.raises(UserError, match="lora_targets cannot change in a run"):
        Run.start(tmp_path, "sft", changed, accept=True, fixed={"lora_targets"})
    with pytest.raises(UserError) as error:
        run.check_identity({"processes": 1, "base": "b"}, accept=True)
    assert "base: 'a' there, 'b' now" in str(error.value)
    assert "--accept-changes" not in str(error.value)


def test_a_complete_run_takes_no_changes(tmp_path: Path) -> None:
    begun(tmp_path, status="complete")
    with pytest.raises(UserError, match="it is complete"):
        Run.start(tmp_path, "sft", {**SETTINGS, "seed": 1}, accept=True)


def test_a_broken_manifest_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "runn')
    with pytest.raises(UserError) as error:
        Run.start(tmp_path, "sft", SETTINGS)
    assert str(error.value).startswith(f"{tmp_path / 'run.json'}, line 1: not JSON (")
    assert str(error.value).endswith(
        "). Restore the file to continue the run. `--fresh` begins a new one in a folder beside it."
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", ": a JSON object is expected, not list."),
        ('{"status": 1, "command": "sft"}', ", field 'status': Input should be a valid string."),
        ('{"status": "complete"}', ", field 'command': Field required."),
        (
            '{"status": "complete", "command": "sft", "settings": []}',
            ", field 'settings': Input should be a valid dictionary.",
        ),
        (
            '{"status": "running", "command": "sft", "accepted": [{"changes": []}]}',
            ", field 'accepted.0.digest': Field required.",
        ),
    ],
)
def test_a_manifest_with_a_field_of_another_type_is_told(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_run(tmp_path)
    remedy = "Restore the file, or run its command again in a new folder."
    assert str(error.value) == f"{path}{told} {remedy}"
    with pytest.raises(UserError) as error:
        Run.start(tmp_path, "sft", SETTINGS)
    assert str(error.value).startswith(f"{path}{told} Restore the file to continue the run.")
    with (
        alone(tmp_path / LOCK, tmp_path),
        pytest.raises(UserError, match=": another process is at work on it"),
        alone(tmp_path / LOCK, tmp_path),
    ):
        pass
