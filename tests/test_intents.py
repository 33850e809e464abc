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
    """Eight dialogues of two agent turns, the second of which asks and seems warmer.

    What asking adds is 2, 2.5, 2.5 and 3, each twice; a ninth dialogue has no turn that asks.
    """
    rows = [["dialogue_id", "turn", "role", "text", "ask_1", "ask_2", "warmth_1", "warmth_2"]]
    for d in range(8):
        rows += [
            [d, 1, "customer", "Hi.", "", "", "", ""],
            [d, 2, "agent", f"Yes {d}.", 0, 1, 1 + d % 2, 2],
            [d, 3, "agent", f"What is it, {d}?", 1, 1, 4, 4 + d // 2 % 2],
        ]
    rows += [[8, 1, "customer", "Hi.", "", "", "", ""], [8, 2, "agent", "Yes.", 0, 0, 1, 2]]
    with (tmp_path / "intents.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "own.yaml").write_text(DEFINITIONS)
    return ["--input", str(tmp_path / "intents.csv"), "--definitions", str(tmp_path / "own.yaml")]


def test_the_table_is_printed_and_written(
    dialogues: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert intents_command([*dialogues, "--output", str(tmp_path / "out")]) == 0
    result = read_json(tmp_path / "out" / "intents.json")
    facts = (result["schema"], result["tests"], result["correction"])
    assert facts == ("empo.intents/2", 1, "holm")
    (row,) = result["rows"]
    assert row["turns"]["present"]["mean"] == 4.25 and row["turns"]["absent"][
        "mean"
    ] == pytest.approx(15.5 / 9)
    assert (row["turns"]["present"]["n"], row["mark"]) == (8, "***")
    assert (row["dialogues"]["n"], row["dialogues"]["left_out"]) == (8, 1)
    shown = capsys.readouterr().out
    assert "Within dialogues: 1 tests, corrected by holm" in shown
    assert "Over 17 single turns, not tested" in shown
    assert "+2.50 ± 0.13***" in shown and "4.25 ± 0.09" in shown
    text = (tmp_path / "out" / "intents.md").read_text()
    assert "| ask | warmth | 8 | 1 | 4.25" in text and "## Over 17 single turns" in text


def test_another_correction_and_a_file_as_folder(
    dialogues: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert intents_command([*dialogues, "--correction", "fdr_bh"]) == 0
    assert "corrected by fdr_bh" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a file; a folder is needed"):
        intents_command([*dialogues, "--output", str(tmp_path / "own.yaml")])
