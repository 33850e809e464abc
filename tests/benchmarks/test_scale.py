"""The benchmark of memory and time over the size of the corpus, and the bounds that it shows."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from empo.corpora import load_corpus
from empo.emotions import LABELS
from empo.records import UserError, read_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scale  # noqa: E402
import scale_corpus  # noqa: E402

FIGURES = ("seconds", "cpu_seconds", "peak_mb")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("scale") / "scale.json"
    words = ["--dialogues", "128", "64", "--stages", "pairs", "read_responses", "corpus"]
    assert scale.main([*words, "--output", str(path)]) == 0
    return read_json(path)


def test_every_stage_asked_for_has_figures_at_every_size(result: dict[str, Any]) -> None:
    found = [(row["dialogues"], row["stage"]) for row in result["stages"]]
    stages = ("corpus", "pairs", "read_responses")
    assert found == [(size, stage) for size in (64, 128) for stage in stages]
    for row in result["stages"]:
        assert row.keys() == {"stage", "dialogues", *FIGURES}
        assert 10 < row["peak_mb"] < 500
        assert row["cpu_seconds"] > 0 and row["seconds"] > 0
    assert result["bytes_per_dialogue"].keys() == set(stages)
    assert result["versions"].keys() >= {"python", "numpy"}
    assert result["machine"]["cores"] >= 1


def test_the_peak_is_that_of_the_process_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "held = bytearray({}); print(len(held))"
    settings = scale.Settings()
    peaks = []
    for megabytes in (100, 400):
        words = ["-c", kept.format(megabytes * 10**6)]
        monkeypatch.setitem(scale.COMMANDS, "report", lambda at, words=words: words)
        peaks.append(scale.run_stage("report", tmp_path, 64, settings)["peak_mb"])
    assert peaks[1] - peaks[0] == pytest.approx(300, abs=5)


def test_a_stage_that_fails_says_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scale.COMMANDS, "pairs", lambda at: ["-c", "exit('no such corpus')"])
    with pytest.raises(UserError, match=r"pairs: ended with 1:\nno such corpus"):
        scale.run_stage("pairs", tmp_path, 64, scale.Settings())


def test_growth_is_from_the_smallest_to_the_largest_size() -> None:
    sizes = {"pairs": [(100, 50.0), (200, 70.0), (1_100, 60.0)], "report": [(100, 5.0)]}
    rows = [
        {"stage": stage, "dialogues": dialogues, "peak_mb": peak}
        for stage, of in sizes.items()
        for dialogues, peak in of
    ]
    assert scale.growth(rows) == {"pairs": 10_000}  # 10 MB over 1,000 dialogues


def test_what_a_stage_reads_is_written_before_it() -> None:
    stages = list(scale.NEEDS)
    for stage, needed in scale.NEEDS.items():
        assert all(stages.index(other) < stages.index(stage) for other in needed)
        assert (stage in scale.COMMANDS) != (stage in scale.INSIDE)


def test_settings_that_cannot_work_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        scale.main(["--dialogues", "100", "63", "--stages", "pairs", "training"])
    assert "--dialogues: 63 is too few; at least 64." in str(caught.value)
    assert "--stages: no such stage: training; known: corpus, tokenizer," in str(caught.value)


def test_the_corpus_is_read_without_a_loss(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scale_corpus.write_corpus(tmp_path / f"{name}.csv", 640, seed)
    same, again, other = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert same == again != other
    corpus = load_corpus(tmp_path / "a.csv")
    assert len(corpus.dialogues) == 640 and not corpus.rejected
    assert Counter(d.emotion for d in corpus.dialogues) == dict.fromkeys(LABELS, 20)
    turns = [len(dialogue.turns) for dialogue in corpus.dialogues]
    assert set(turns) == set(scale_corpus.TURNS)
    words = [len(exchange.reply.split()) for exchange in corpus.exchanges()]
    assert 12 < sum(words) / 640 < 16  # 16.8 tokens of ED's replies with their end
    assert len({exchange.reply for exchange in corpus.exchanges()}) > 600


@pytest.mark.slow
def test_a_hundred_thousand_dialogues_stay_within_the_stated_memory(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    assert scale.main(["--dialogues", "100000", "--output", str(path)]) == 0
    rows = read_json(path)["stages"]
    assert [row["stage"] for row in rows] == list(scale.NEEDS)
    above = {
        row["stage"]: row["peak_mb"] for row in rows if row["peak_mb"] > scale.bound_mb(100_000)
    }
    assert not above
