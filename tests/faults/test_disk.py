"""Disks that are full, read-only, or another one than expected."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from fault_table import Survived, steps
from phases import at, kill
from small_runs import Runs, check_equal, continued_from, steps_done

WEIGHTS = "peft.peft_model:safe_save_file"


class Disk:
    """A file system of 24 MB; where none can be mounted, a folder whose files cannot grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
        self.mounted = shutil.which("mount") is not None and (
            subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )

    def fill(self) -> None:
        """Take all that is free; in the child that is to meet it."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with self.filler.open("wb", buffering=0) as file:
            block = bytes(1 << 16)
            try:
                while True:
                    file.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Give it back."""
        self.filler.unlink(missing_ok=True)

    def close(self) -> None:
        """The folder is what it was."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    yield made
    made.close()


@pytest.mark.fault(80, "a checkpoint will not fit on the disk")
def test_room_is_looked_at_before(runs: Runs, disk: Disk, survived: Survived) -> None:
    if not disk.mounted:
        pytest.skip("needs the right to mount a small file system")
    run = disk.folder / "run"
    inject = at("empo.checkpoints.trainer:make_room", "before", disk.fill, nth=3)
    full = forked.run("recipes/sft.py", runs.arguments("sft", run), inject)
    assert full.code == 2, full.said
    assert not (run / "checkpoint-6").exists()
    done = steps_done(run)
    disk.free()
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        full,
        "checkpoint-6: a checkpoint needs …MB, 0.0 MB are free on the disk of …. Free space …"
        "and give the same command again: the run goes on from checkpoint-4.",
        steps(done - continued_from(again)),
    )


@pytest.mark.parametrize(
    ("where", "path", "nth", "said"),
    [
        pytest.param(
            WEIGHTS,
            "checkpoint-6/adapter_model.safetensors",
            1,
            "checkpoint-6: it could not be written to its end (…); …are free on its disk. Free space …and give the "
            "same command again: the run goes on from checkpoint-4.",
            marks=pytest.mark.fault(81, "the disk is full in the weights of a checkpoint"),
        ),
        pytest.param(
            "torch:save",
            "checkpoint-6/optimizer.pt",
            1,
            "checkpoint-6: it could not be written to its end (…); …are free on its disk. Free space …and give the "
            "same command again: the run goes on from checkpoint-4.",
            marks=pytest.mark.fault(82, "the disk is full in the optimizer of a checkpoint"),
        ),
        pytest.param(
            WEIGHTS,
            "run/adapter_model.safetensors",
            1,
            "run: it could not be written to its end (…); …are free on its disk. Free space …and give the same "
            "command again: the run goes on from checkpoint-8.",
            marks=pytest.mark.fault(83, "the disk is full in the weights of the run"),
        ),
        pytest.param(
            "transformers.modeling_utils:safe_save_file",
            "merged/model.safetensors",
            1,
            "could not be written to its end: …Free space …and give the same command again: …",
            marks=pytest.mark.fault(84, "the disk is full in the merged model"),
        ),
    ],
)
def test_a_full_disk_ends_a_run_with_a_sentence(
    runs: Runs, disk: Disk, survived: Survived, where: str, path: str, nth: int, said: str
) -> None:
    run = disk.folder / "run"
    full = forked.run(
        "recipes/sft.py", runs.arguments("sft", run), at(where, "before", disk.fill, path, nth)
    )
    assert full.code == 2, full.said
    assert "Traceback" not in full.said
    done = steps_done(run)
    disk.free()
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(full, said, steps(done - continued_from(again)))


def no_file_grows() -> None:
    """As a full disk, also for a file whose last block has room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.fault(85, "the disk is full when the log is written")
def test_a_full_disk_in_the_log(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"
    inject = at("empo.alignment.callbacks:LogFile.on_log", "before", no_file_grows, nth=7)
    full = forked.run("recipes/sft.py", runs.arguments("sft", run), inject)
    assert full.code == 2, full.said
    done = steps_done(run) + 1  # whose row is missing
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        full,
        "could not be written to its end: …Free space …and give the same command again: …",
        steps(done - continued_from(again)),
    )


@pytest.mark.fault(86, "the disk is full in the cache of the reference")
def test_a_full_disk_in_the_reference(runs: Runs, disk: Disk, survived: Survived) -> None:
    run = disk.folder / "run"
    inject = at("empo.alignment.logp_store:LogpStore.write", "before", disk.fill)
    full = forked.run("recipes/dpo.py", runs.arguments("dpo", run), inject)
    assert full.code == 2, full.said
    disk.free()
    again = forked.run("recipes/dpo.py", runs.arguments("dpo", run))
    assert again.code == 0, again.said
    check_equal(run, runs.dpo)
    survived(
        full,
        "reference.sqlite: the cache of the reference's log-probabilities cannot be used (…). Check "
        "that the file and its folder can be read and written and the disk is not full, …",
        "8 batches of the reference",
    )


@pytest.mark.fault(87, "the disk is full in a generation")
def test_a_full_disk_in_a_generation(runs: Runs, disk: Disk, survived: Survived) -> None:
    output = disk.folder / "replies.jsonl"
    inject = at("empo.generation:reply_to", "after", disk.fill, nth=3)
    full = forked.run("recipes/generate.py", runs.generation(output), inject)
    assert full.code == 2, full.said
    disk.free()
    again = forked.run("recipes/generate.py", runs.generation(output))
    assert again.code == 0, again.said
    assert output.read_bytes() == runs.replies.read_bytes()
    survived(
        full,
        "could not be written …Free space …and give the same command again: it goes on with …",
        "1 batch of replies",
    )


@pytest.fixture
def read_only(runs: Runs) -> Iterator[Path]:
    """A folder that may be read; as root another user, who can read the corpus and the base."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        for source in (runs.corpus, runs.base):
            shutil.copytree(source, folder / source.name)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "runs").mkdir()
        (folder / "runs").chmod(0o555)
        yield folder
        (folder / "runs").chmod(0o755)


@pytest.mark.fault(88, "the folder of the run cannot be written")
def test_a_read_only_folder_is_named(
    runs: Runs, read_only: Path, tmp_path: Path, survived: Survived
) -> None:
    run = read_only / "runs" / "sft"
    argv = runs.arguments("sft", run, "--dialogues", read_only / "corpus")
    argv += ["--model", str(read_only / "base")]

    def as_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    refused = forked.run("recipes/sft.py", argv, as_nobody if os.getuid() == 0 else None)
    assert refused.code == 2, refused.said
    assert "Traceback" not in refused.said
    (read_only / "runs").chmod(0o755)
    again = forked.run("recipes/sft.py", argv)
    assert again.code == 0, again.said
    for name in ("adapter_model.safetensors", "merged/model.safetensors"):
        assert (run / name).read_bytes() == (runs.sft / name).read_bytes()
    survived(refused, "error: …runs/sft: permission denied. Choose another path.", "nothing")


def _other_file_system(than: Path) -> Path:
    """A folder on another file system."""
    for place in ("/dev/shm", "/run/shm", "/var/tmp", str(Path.home())):
        if os.access(place, os.W_OK) and os.stat(place).st_dev != os.stat(than).st_dev:
            return Path(tempfile.mkdtemp(dir=place))
    pytest.skip("this machine has one file system")


@pytest.mark.fault(89, "output_dir is a link to another file system than TMPDIR's; then a kill")
def test_nothing_is_renamed_across_file_systems(
    runs: Runs, tmp_path: Path, survived: Survived
) -> None:
    there = _other_file_system(tmp_path)
    try:
        (tmp_path / "run").symlink_to(there / "run")
        (there / "run").mkdir()
        environ = {"TMPDIR": str(tmp_path)}
        argv = runs.arguments("sft", tmp_path / "run")
        inject = kill("os:replace", "before", "checkpoint-6/manifest.json")
        killed = forked.run("recipes/sft.py", argv, inject, environ)
        assert killed.code == -signal.SIGKILL, killed.said
        done = steps_done(tmp_path / "run")
        again = forked.run("recipes/sft.py", argv, None, environ)
        assert again.code == 0, again.said
        check_equal(tmp_path / "run", runs.sft)
        survived(again, "continuing from …checkpoint-4", steps(done - continued_from(again)))
    finally:
        shutil.rmtree(there)


@pytest.mark.fault(90, "files may not grow beyond a limit (`ulimit -f`, a quota)")
def test_a_limit_on_files_is_explained(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run = tmp_path / "run"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    inject = at(WEIGHTS, "before", limited, "checkpoint-6/adapter_model.safetensors")
    ended = forked.run("recipes/sft.py", runs.arguments("sft", run), inject)
    assert ended.code == 2, ended.said
    done = steps_done(run)
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    survived(
        ended,
        "checkpoint-6: it could not be written to its end (…File too large…)",
        steps(done - continued_from(again)),
    )
