"""Names from files that become names of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo.harness.items import items_file
from empo.untrusted import file_name


@pytest.mark.parametrize("name", ["mmlu_pro", "leaderboard-bbh", "dpo,beta=0.1", "a.b", "gefühl"])
def test_plain_names_stay(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("../../etc/passwd", "etc-passwd-"),
        ("/absolute", "absolute-"),
        ("a/b", "a-b-"),
        ("a\0b", "a-b-"),
        ("a\nb", "a-b-"),
        ("C:\\x", "C--x-"),
        ("..", "unnamed-"),
        ("", "unnamed-"),
        (".hidden", "hidden-"),
        ("-rf", "rf-"),
        ("NUL", "NUL-"),
        ("com1.txt", "com1-txt-"),
        ("x" * 300, "x" * 120 + "-"),
    ],
)
def test_odd_names_are_replaced_and_numbered_by_a_digest(name: str, begins: str) -> None:
    found = file_name(name)
    assert found.startswith(begins) and len(found) == len(begins) + 8


@given(st.lists(st.text(max_size=200), min_size=2, max_size=8, unique=True))
def test_two_names_are_two_files_right_inside_the_folder(names: list[str]) -> None:
    found = [file_name(name) for name in names]
    assert len(set(found)) == len(names)
    for name in found:
        assert Path("out", f"{name}.jsonl").parent == Path("out")
        assert len(f"{name}.jsonl".encode()) <= 255 or not name.isascii()
        assert name not in ("", ".", "..") and not set(name) & set("/\\\0\n")


def test_items_of_a_task_stay_in_the_output_folder(tmp_path: Path) -> None:
    assert items_file("out", "mmlu") == Path("out/items/mmlu.jsonl")
    for task in ("../../x", "/x", "a/../../x"):
        assert items_file(tmp_path, task).resolve().parent == tmp_path / "items"
    assert items_file("out", "a/b") != items_file("out", "a-b")
