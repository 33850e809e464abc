"""`empo pairs` with a rater and an encoder, run as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_rater import tiny_rater

from empo.pairs import pairs_command
from empo.raters.encoder_rater import EncoderRater
from empo.raters.identity import identities
from empo.records import Pair, UserError, read_jsonl

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ["--dialogues", str(ROOT / "data" / "sample"), "--split", "valid", "--show", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rater, an encoder and the caches that the tests share."""
    folder = tmp_path_factory.mktemp("mined")
    tiny_rater(folder / "rater", 3)
    return folder


def words(place: Path, output: Path, *more: object) -> list[str]:
    kept = ["--rater-cache", place / "r.sqlite", "--embedding-cache", place / "e.sqlite"]
    if "--rater" not in more:
        kept = kept[2:]
    return list(map(str, [*CORPUS, "--output", output, "--epochs", 2, *kept, *more]))


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def hard(place: Path) -> list[object]:
    return ["--rater", place / "rater", "--rater-value", "expected", "--candidates", 3]


def test_the_hardest_on_topic_with_a_margin(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = place / "encoders" / "tiny-bert"
    more = [*hard(place), "--choose", "hardest", "--margin", 0.002, "--on-topic", 5]
    given = words(place, tmp_path / "a", *more, "--encoder", encoder)
    assert pairs_command(given) == 0
    printed = capsys.readouterr()
    assert "warning: Rater rater: nothing shows that it beats" in printed.err
    assert "epoch 1: " in printed.out and "   rejected: " in printed.out
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["selected_by"] == identities([place / "rater"])
    mining = manifest["mining"]
    assert (mining["candidates"], mining["choose"], mining["margin"]) == (3, "hardest", 0.002)
    assert mining["on_topic"]["nearest"] == 5
    assert mining["on_topic"]["encoder"]["name"] == "tiny-bert"
    for epoch in range(2):
        facts, found = manifest["statistics"][epoch], rows(tmp_path / "a" / f"epoch-{epoch}.jsonl")
        assert facts["pairs"] == len(found) == 256 - facts["dropped"]["margin"]
        assert 0 < facts["dropped"]["margin"] < 256
        for row in found:
            Pair.model_validate(row)
            assert row["score_chosen"] - row["score_rejected"] >= 0.002
            assert -1 <= row["similarity"] <= 1
        assert facts["margins"]["0"] >= 0.002
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the rater was asked again")

        patch.setattr(EncoderRater, "score", refuse)
        assert pairs_command(given) == 0  # all from the caches
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_hardest_is_above_easiest_and_random_is_the_plain_draw(place: Path, tmp_path: Path) -> None:
    for choose in ("hardest", "easiest"):
        given = words(place, tmp_path / choose, *hard(place), "--choose", choose)
        assert pairs_command(given) == 0
    scores = [
        [row["score_rejected"] for row in rows(tmp_path / choose / "epoch-0.jsonl")]
        for choose in ("hardest", "easiest")
    ]
    assert all(high >= low for high, low in zip(*scores, strict=True))
    assert sum(scores[0]) > sum(scores[1]) + 1
    plain = words(place, tmp_path / "plain")
    assert pairs_command(plain) == 0
    annotated = words(place, tmp_path / "noted", "--rater", place / "rater")
    assert pairs_command(annotated) == 0
    noted = rows(tmp_path / "noted" / "epoch-1.jsonl")
    for row in noted:
        assert 0 <= row.pop("score_chosen") <= 1 and 0 <= row.pop("score_rejected") <= 1
    assert noted == rows(tmp_path / "plain" / "epoch-1.jsonl")
    assert json.loads((tmp_path / "noted" / "manifest.json").read_text())["selected_by"] is None


def test_several_rejected_replies_and_parquet(place: Path, tmp_path: Path) -> None:
    for name in ("jsonl", "parquet"):
        given = words(place, tmp_path / name, "--rejected", 2, "--format", name)
        assert pairs_command(given) == 0
    found = rows(tmp_path / "jsonl" / "epoch-0.jsonl")
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "epoch-0.parquet")
    assert table.to_pylist() == found
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first["id"] == second["id"] and first["rejected"] != second["rejected"]


def test_a_pool_with_fewer_replies_than_candidates_is_counted_and_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--rater", place / "rater", "--candidates", 20, "--choose", "easiest"]
    assert pairs_command(words(place, tmp_path / "a", *more)) == 0  # eight dialogues an emotion
    assert "256 exchanges had fewer candidates than asked for" in capsys.readouterr().out
    facts = json.loads((tmp_path / "a" / "manifest.json").read_text())["statistics"][0]
    assert facts["short_of_candidates"] == 256 and facts["drawn"] <= 8 * 256


def test_a_plain_folder_and_a_mined_one_are_not_mixed(place: Path, tmp_path: Path) -> None:
    assert pairs_command(words(place, tmp_path / "a")) == 0
    with pytest.raises(UserError, match=r"holds pairs of another draw \(it differs in mining\)"):
        pairs_command(words(place, tmp_path / "a", "--rejected", 2))


# --- a user's errors ---


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--choose", "hardest", "--candidates", 2], "go by scores; give a rater as --rater DIR."),
        (["--margin", 1], "--choose and --margin go by scores; give a rater as --rater DIR."),
        (
            ["--candidates", 3],
            "--candidates: nothing chooses among them; give --choose or --margin.",
        ),
        (
            ["--rater", "r", "--choose", "easiest"],
            "--choose easiest: of 1 candidates 1 are rejected, so there is no choice; give more "
            "--candidates.",
        ),
        (
            ["--rejected", 3, "--candidates", 2],
            "--candidates: 2 are fewer than the 3 of --rejected.",
        ),
        (["--rejected", 0], "--rejected: 0 is below 1."),
        (["--min-pairs", 5], "--min-pairs: it is for --margin, which is not given."),
        (["--rater-dimension", "x"], "--rater-dimension: nothing is rated without --rater DIR."),
        (
            ["--on-topic", 1, "--rejected", 2],
            "--on-topic: 2 candidates cannot be drawn from the 1 nearest; give at least as many.",
        ),
        (["--on-topic", 2, "--encoder", "minilmm"], "minilmm: no such encoder."),
        (["--rater", "nowhere", "--margin", 1], "nowhere: this is no rater folder"),
    ],
)
def test_what_cannot_be_mined_is_refused(
    place: Path, tmp_path: Path, more: list[object], told: str
) -> None:
    with pytest.raises(UserError) as error:
        pairs_command(words(place, tmp_path / "out", *more))
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_dimension_names_those_there_are(place: Path, tmp_path: Path) -> None:
    more = ["--rater", place / "rater", "--margin", 1, "--rater-dimension", "warmth"]
    with pytest.raises(UserError) as error:
        pairs_command(words(place, tmp_path / "out", *more))
    assert str(error.value) == (
        "--rater-dimension: the rater has no dimension 'warmth'; it has: emotional_reactions, "
        "interpretations, explorations."
    )


def test_a_margin_beyond_the_range_writes_nothing(place: Path, tmp_path: Path) -> None:
    more = ["--rater", place / "rater", "--margin", 1.5]
    with pytest.raises(UserError) as error:
        pairs_command(words(place, tmp_path / "out", *more))
    text = str(error.value)
    assert text.startswith(
        "epoch 0: 0 of 256 exchanges have a pair, and --min-pairs is 3. Left out by reason: margin "
        "256. At --margin 1.5 0 are left; there would be, at margin: "
    )
    assert not (tmp_path / "out").exists()
