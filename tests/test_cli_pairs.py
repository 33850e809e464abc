"""The commands `empo pairs` and `empo nidf-table`, run as a user runs them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from empo import cli, pair_files, pairs
from empo.dialogues import Exchange, Turn
from empo.emotions import OPPOSITES, Opposite
from empo.metrics.nidf import load_table
from empo.preferences import Draws, write_pairs
from empo.records import PAIRS_SCHEMA, Pair, UserError, read_jsonl, sha256
from empo.runs import alone

sys.path.insert(0, str(Path(__file__).parent))
from killed import contents, killed_before

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = str(ROOT / "data" / "sample")
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    program = "from empo.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True
    )


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The same in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["empo", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Pairs of the sample's validation split, and what the command printed."""
    output = tmp_path_factory.mktemp("pairs") / "out"
    done = command("pairs", "--dialogues", SAMPLE, "--split", "valid", "--output", str(output))
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_jsonl(path)]


# --- what is written ---


def test_one_file_per_epoch_and_a_manifest(first: tuple[Path, str]) -> None:
    output, _ = first
    names = sorted(path.name for path in output.iterdir())
    assert names == ["epoch-0.jsonl", "epoch-1.jsonl", "epoch-2.jsonl", "manifest.json"]
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["schema"] == PAIRS_SCHEMA
    assert (manifest["seed"], manifest["epochs"], manifest["system_message"]) == (42, 3, None)
    assert [(entry["file"], entry["sha256"]) for entry in manifest["files"]] == [
        (name, sha256(output / name)) for name in names[:3]
    ]
    assert manifest["corpus"]["dialogues"] == 256 and manifest["corpus"]["rejected"] == {}
    assert manifest["corpus"]["files"][0]["sha256"] == sha256(Path(SAMPLE) / "valid.csv")
    assert len(manifest["opposites"]) == 32 and len(manifest["pool_sizes"]) == 28
    assert [row["changed"] for row in manifest["statistics"]] == [1.0, 1.0, 1.0]


def test_every_line_is_a_pair_of_the_contract(first: tuple[Path, str]) -> None:
    epochs = [rows(first[0] / f"epoch-{epoch}.jsonl") for epoch in range(3)]
    for lines in epochs:
        found = [Pair.model_validate(row) for row in lines]
        assert len(found) == 256
        assert [m.role for pair in found for m in pair.prompt if m.role == "system"] == []
        assert all(pair.prompt[-1].role == "user" for pair in found)
        assert all(pair.id != pair.rejected_id and pair.chosen != pair.rejected for pair in found)
    for lines in zip(*epochs, strict=True):
        assert len({row["rejected_id"] for row in lines}) == 3
        assert len({json.dumps([row["id"], row["prompt"], row["chosen"]]) for row in lines}) == 1


def test_the_command_shows_what_it_did(first: tuple[Path, str]) -> None:
    output, printed = first
    assert "[valid]: 835 rows, 256 dialogues used, 0 left out" in printed
    assert printed.count("   rejected: ") == 3 and "(opposite: " in printed
    assert f"256 pairs x 3 epochs in {output}" in printed


def test_the_same_command_gives_the_same_bytes(first: tuple[Path, str], tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = command("pairs", "--dialogues", SAMPLE, "--split", "valid", "--output", str(again))
    assert done.returncode == 0, done.stderr
    for path in first[0].iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_second_run_into_the_same_folder_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pairs", "--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path / "out")]
    assert call(monkeypatch, *words) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call(monkeypatch, *words) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_run_with_fewer_epochs_leaves_no_file_of_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pairs", "--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path / "out")]
    assert call(monkeypatch, *words) == 0
    call(monkeypatch, *words, "--epochs", "1", "--seed", "7")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    listed = {entry["file"] for entry in manifest["files"]} | {"manifest.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == listed


def test_parquet_in_several_row_groups_holds_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_files, "_ROW_GROUP", 100)
    for name in ("parquet", "jsonl"):
        words = ["--dialogues", SAMPLE, "--split", "valid", "--epochs", "1", "--format", name]
        assert call(monkeypatch, "pairs", *words, "--output", str(tmp_path / name)) == 0
    file = pyarrow.parquet.ParquetFile(tmp_path / "parquet" / "epoch-0.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [100, 100, 56]
    assert file.read().to_pylist() == rows(tmp_path / "jsonl" / "epoch-0.jsonl")


def test_parquet_holds_the_same_pairs(
    first: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path / "out")]
    assert call(monkeypatch, "pairs", *words, "--format", "parquet", "--epochs", "2") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["epoch-0.parquet", "epoch-1.parquet", "manifest.json"]
    for epoch in range(2):
        table = pyarrow.parquet.read_table(tmp_path / "out" / f"epoch-{epoch}.parquet")
        assert table.to_pylist() == rows(first[0] / f"epoch-{epoch}.jsonl")


def test_a_system_message_begins_every_prompt_and_changes_nothing_else(
    first: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path / "out")]
    message = "Be kind: listen."
    assert call(monkeypatch, "pairs", *words, "--epochs", "1", "--system-message", message) == 0
    plain = rows(first[0] / "epoch-0.jsonl")
    system = {"role": "system", "content": message}
    assert rows(tmp_path / "out" / "epoch-0.jsonl") == [
        {**row, "prompt": [system, *row["prompt"]]} for row in plain
    ]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["system_message"] == message


def test_seed_and_own_table_change_the_draw(
    first: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--dialogues", SAMPLE, "--split", "valid", "--epochs", "1", "--output"]
    assert call(monkeypatch, "pairs", *words, str(tmp_path / "seed"), "--seed", "7") == 0
    plain = rows(first[0] / "epoch-0.jsonl")
    seeded = rows(tmp_path / "seed" / "epoch-0.jsonl")
    assert [row["id"] for row in seeded] == [row["id"] for row in plain]
    assert [row["rejected_id"] for row in seeded] != [row["rejected_id"] for row in plain]

    own = tmp_path / "own.csv"
    table = {label: opposite.label for label, opposite in OPPOSITES.items()} | {"sad": "proud"}
    own.write_text("label,opposite,source\n" + "".join(f"{a},{b},me\n" for a, b in table.items()))
    assert call(monkeypatch, "pairs", *words, str(tmp_path / "own"), "--opposites", str(own)) == 0
    found = rows(tmp_path / "own" / "epoch-0.jsonl")
    assert {(row["emotion"], row["opposite"]) for row in found} == set(table.items())
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["opposites"]["sad"] == {"opposite": "proud", "source": "me"}

    own.write_text("label,opposite\nsad,joyful\njoyful,sad\n")
    assert call(monkeypatch, "pairs", *words, str(tmp_path / "few"), "--opposites", str(own)) == 2
    assert "'afraid' (8 exchanges) has no opposite in the table" in capsys.readouterr().err


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_a_command_killed_before_any_change_of_a_file_ends_in_the_same_files(
    tmp_path: Path, file_format: str
) -> None:
    words = ["--dialogues", SAMPLE, "--split", "valid", "--epochs", "2", "--format", file_format]
    assert pairs.pairs_command([*words, "--output", str(tmp_path / "whole")]) == 0
    for change in itertools.count(1):
        output = tmp_path / str(change)
        given = [*words, "--output", str(output)]
        killed = killed_before(change, output, lambda: pairs.pairs_command(given))  # noqa: B023
        assert pairs.pairs_command(given) == 0
        assert contents(output) == contents(tmp_path / "whole"), change
        assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []
        if not killed:
            break
        if change % 3 == 0:  # the folder is there, and the command is killed while it begins anew
            killed_before(3, output, lambda: pairs.pairs_command(given))  # noqa: B023
            assert pairs.pairs_command(given) == 0
            assert contents(output) == contents(tmp_path / "whole"), change
    assert change > 8


def test_a_second_command_on_the_folder_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["pairs", "--dialogues", SAMPLE, "--split", "valid", "--output", str(output)]
    with alone(tmp_path / ".out.lock", output):
        assert call(monkeypatch, *words) == 2
    assert f"error: {output}: another process is at work on it." in capsys.readouterr().err


# --- a user's errors ---

SAD = "a,1,sad,p,1,x,,\na,2,sad,p,0,y,,\n"


@pytest.mark.parametrize(
    "content, words, told",
    [
        (None, [], "corpus.csv: no such file or folder. Check the path."),
        ("", [], "corpus.csv: the file is empty."),
        (HEADER + SAD.replace("sad", "glad"), [], "1 x unknown emotion 'glad': a (lines 2-3)"),
        (HEADER + SAD, [], "'sad' (1 exchanges): its opposite 'joyful' has no reply"),
        (HEADER + SAD, ["--epochs", "0"], "--epochs: 0 is too few; at least 1 is needed."),
        (HEADER + SAD, ["--epoch", "2"], "--epoch: no such option; did you mean --epochs?"),
        (HEADER + SAD, ["--format", "csv"], "--format: 'csv' does not fit"),
        (HEADER + SAD, ["--opposites", "no.csv"], "no.csv: no such file. Check the path."),
    ],
)
def test_bad_input_ends_with_a_message_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    words: list[str],
    told: str,
) -> None:
    corpus = tmp_path / "corpus.csv"
    if content is not None:
        corpus.write_text(content)
    output = tmp_path / "out"
    given = ["--dialogues", str(corpus), "--output", str(output), *words]
    assert call(monkeypatch, "pairs", *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error
    assert not output.exists()


def test_the_process_of_a_refused_command_prints_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = command("pairs", "--dialogues", "nowhere", "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: nowhere: no such file or folder. Check the path.\n"


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("mine.txt", "mine", "the folder is not empty; choose a new folder for the pairs."),
        ("manifest.json", '{"schema": "other/1"}', "holds the output of another command"),
    ],
)
def test_a_folder_with_other_content_is_refused_and_left_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    told: str,
) -> None:
    (tmp_path / name).write_text(content)
    words = ["--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path)]
    assert call(monkeypatch, "pairs", *words) == 2
    assert f"error: {tmp_path}: {told}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ([{"file": "mine.txt"}], "'mine.txt'"),
        ([{"file": "../epoch-0.jsonl"}], "'../epoch-0.jsonl'"),
        ([{}], "None"),
        ("epoch", "'epoch'"),
    ],
)
def test_no_file_is_deleted_that_the_manifest_of_pairs_could_not_have_listed(
    tmp_path: Path, files: object, shown: str
) -> None:
    exchange = Exchange("a", "sad", (Turn("user", "x"),), "y")
    other = Exchange("b", "joyful", (Turn("user", "x"),), "z")
    table = {"sad": Opposite("joyful", "own"), "joyful": Opposite("sad", "own")}
    draws = Draws([exchange, other], table, 1)
    manifest = {"schema": "empo.pairs/1", "seed": 1, "system_message": None, "files": files}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=f"field 'files': {re.escape(shown)} is no file of pairs."):
        write_pairs(draws, [exchange], 1, tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "mine.txt"]


def test_an_output_that_is_a_file_is_a_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("mine")
    words = ["--dialogues", SAMPLE, "--split", "valid", "--output", str(tmp_path / "out")]
    assert call(monkeypatch, "pairs", *words) == 2


# --- the command around it ---


def test_without_a_command_the_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name}" in printed for name in cli.COMMANDS)


def test_an_unknown_command_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pear") == 2
    assert "empo pear: no such command; known: " in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_every_command_has_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, "--help") == 0
    printed = capsys.readouterr().out
    assert f"Example: empo {name} " in " ".join(printed.split())


def test_the_table_of_frequencies_is_one_that_the_metric_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # documents are all turns but the last, also where that is the speaker's: "a b", "b c"
    corpus = tmp_path / "corpus.csv"
    corpus.write_text(HEADER + "x,1,sad,p,1,a b,,\nx,2,sad,p,0,b c,,\nx,3,sad,p,1,d,,\n")
    output = tmp_path / "nidf.json"
    words = ["nidf-table", "--dialogues", str(corpus), "--output", str(output)]
    assert call(monkeypatch, *words) == 0
    table = json.loads(output.read_text())
    assert (table["schema"], table["documents"]) == ("empo.nidf/1", 2)
    assert table["counts"] == {"a": 1, "b": 2, "c": 1}
    assert load_table(output)["counts"] == table["counts"]
    assert call(monkeypatch, *words, "--all-turns") == 0
    assert json.loads(output.read_text())["counts"] == {"a": 1, "b": 2, "c": 1, "d": 1}
