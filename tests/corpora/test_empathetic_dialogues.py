"""EmpatheticDialogues itself, and the subset of it that was published."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from empo.corpora import load_corpus, published_ids, published_subset
from empo.dialogues import Exchange, Turn


def test_the_published_subset_loses_seven_and_cuts_three() -> None:
    lost = [5607, 5624, 19297, 19299, 19303, 19315, 19323]
    cut = [5545, 5546, 5627]
    context = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    exchanges = [
        Exchange(f"hit:{n // 2}_conv:{n}", "sad", context, "d") for n in (1, *lost, *cut, 2)
    ]
    kept = published_subset(exchanges)
    assert [exchange.id.rpartition(":")[2] for exchange in kept] == [
        "1",
        "5545",
        "5546",
        "5627",
        "2",
    ]
    assert [len(exchange.context) for exchange in kept] == [3, 1, 1, 1, 3]
    assert all(exchange.context[-1] == Turn("user", "c") for exchange in kept)
    assert published_ids(["conv:5607", "conv:5608", "x"]) == {"conv:5608", "x"}


# --- the real corpus ---

DATA = os.environ.get("EMPO_DATA")
real = pytest.mark.skipif(
    DATA is None or not (Path(DATA) / "empathetic_dialogues").is_dir(),
    reason="EMPO_DATA is not set to a folder that holds empathetic_dialogues/",
)


@real
@pytest.mark.parametrize(
    "split, dialogues, rejected",
    [
        ("train", 19_531, {"fewer than 2 turns": 2}),
        ("valid", 2_769, {"fewer than 2 turns": 1}),
        ("test", 2_547, {}),
    ],
)
def test_empathetic_dialogues_is_read_whole(
    split: str, dialogues: int, rejected: dict[str, int]
) -> None:
    corpus = load_corpus(Path(DATA) / "empathetic_dialogues", split)
    assert len(corpus.exchanges()) == dialogues
    assert corpus.facts()["rejected"] == rejected


@real
def test_the_published_evaluation_has_2540_exchanges_three_of_them_cut() -> None:
    whole = load_corpus(Path(DATA) / "empathetic_dialogues", "test").exchanges()
    published = published_subset(whole)
    assert len(published) == 2_540
    before = {exchange.id: exchange for exchange in whole}
    cut = [exchange for exchange in published if exchange != before[exchange.id]]
    assert sorted(exchange.id.rpartition(":")[2] for exchange in cut) == ["5545", "5546", "5627"]
    for exchange in cut:
        assert exchange.context == before[exchange.id].context[-1:]
        assert len(before[exchange.id].context) > 1
