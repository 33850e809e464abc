"""`empo intents`: from a csv of dialogues to the table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from empo.intents import intents_command
from empo.records import UserError, read_json

DEFINITIONS = "intents: {ask: asks something}\nperceived: {warmth: feels warm}\n"


@pytest.fixture
def dialogues(tmp_path: Path) -> list[str]:
    """Eight dialogues of two agent turns, the second of which asks and seems warmer."""
    rows = [["dialogue_id", "turn", "role", "text", "ask_1", "ask_2", "warmth_1", "warmth_2"]]
    for d in range(8):
        rows += [
            [d, 1, "customer", "Hi.", "", "", "", ""],
            [d, 2, "agent", f"Yes {d}.", 0, 1, 1 + d % 2, 2],
            [d, 3, "agent", f"What is it, {d}?", 1, 1, 4, 4 + d % 2],
        ]
    with (tmp_path / "intents.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "own.yaml").write_text(DEFINITIONS)
    return ["--input", str(tmp_path / "intents.csv"), "--definitions", str(tmp_path / "own.yaml")]


def test_the_table_is_printed_and_written(
    dialogues: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert intents_command([*dialogues, "--output", str(tmp_path / "out")]) == 0
    result = read_json(tmp_path / "out" / "intents.json")
    assert (result["schema"], result["tests"], result["correction"]) == (
        "empo.intents/1",
        1,
        "holm",
    )
    (row,) = result["rows"]
    assert row["present"]["mean"] == 4.25 and row["absent"]["mean"] == 1.75
    assert (row["present"]["n"], row["mark"]) == (8, "***")
    shown = capsys.readouterr().out
    assert "16 turns, 1 tests, corrected by holm." in shown
    assert "+2.50***" in shown and "4.25 ± 0.09" in shown
    assert "| ask | warmth | 4.25" in (tmp_path / "out" / "intents.md").read_text()


def test_dialogues_can_be_compared_and_a_file_as_folder_is_refused(
    dialogues: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert intents_command([*dialogues, "--by-dialogue", "--correction", "fdr_bh"]) == 0
    assert "corrected by fdr_bh" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a file; a folder is needed"):
        intents_command([*dialogues, "--output", str(tmp_path / "own.yaml")])
