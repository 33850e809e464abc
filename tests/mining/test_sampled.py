"""Pairs of a policy's own replies: the best against the worst, other losers in other epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empo.dialogues import Exchange, Turn
from empo.mining.filed_draws import FiledDraws
from empo.mining.sampled import SampledPairs
from empo.pair_files import write_pair_files
from empo.records import UserError, write_jsonl

CONTEXT = [{"role": "user", "content": "My cat died."}]


def row(name: str, *replies: tuple[str, float | None], cut: str = "") -> dict[str, Any]:
    of = [{"response": text, "score": s, "finished": text != cut} for text, s in replies]
    return {"id": name, "emotion": "sad", "context": CONTEXT, "best_of": {"replies": of}}


def sampled(path: Path, *rows: dict[str, Any], **options: Any) -> SampledPairs:
    write_jsonl(path / "r.jsonl", rows)
    return SampledPairs(path / "r.jsonl", **options)


FIVE = row("a", ("mid", 3.0), ("worst", 1.0), ("best", 5.0), ("low", 2.0), ("worst", 1.0))


def rejected(pairs: SampledPairs, epoch: int) -> list[str]:
    return [found["rejected"][0]["content"] for found in pairs.rows(epoch)]


def test_the_best_is_chosen_and_every_epoch_rejects_another_from_the_worst_on(
    tmp_path: Path,
) -> None:
    pairs = sampled(tmp_path, FIVE)
    assert [rejected(pairs, e) for e in range(4)] == [["worst"], ["low"], ["mid"], ["worst"]]
    (first,) = pairs.rows(0)
    assert first["chosen"] == [{"role": "assistant", "content": "best"}]
    assert (first["score_chosen"], first["score_rejected"]) == (5.0, 1.0)
    assert first["rejected_id"] == "a, sample 1"
    two = sampled(tmp_path, FIVE, several=2)
    assert [rejected(two, e) for e in range(2)] == [["worst", "low"], ["mid", "worst"]]


def test_a_margin_leaves_out_what_is_too_near(tmp_path: Path) -> None:
    pairs = sampled(tmp_path, FIVE, margin=3.0)
    assert [rejected(pairs, e) for e in range(3)] == [["worst"], ["low"], ["worst"]]


def test_every_exchange_without_a_pair_is_counted_under_its_reason(tmp_path: Path) -> None:
    pairs = sampled(
        tmp_path,
        FIVE,
        row("b", ("x", None), ("y", None)),
        row("c", ("x", 1.0), ("x", 1.0), ("z", None)),
        row("d", ("x", 1.0), ("y", 1.0)),
        row("e", ("x", 1.0), ("y", 3.9)),
        row("f", ("x", 1.0), (" ", 9.0), ("cut", 9.0), cut="cut"),
        row("g", ("cut", 9.0), cut="cut"),
        margin=3.0,
    )
    facts = pairs.facts()
    dropped = {"margin": 1, "one_text": 2, "tied": 1, "unfinished": 1, "unscored": 1}
    assert facts["dropped"] == dropped and facts["unfinished_replies"] == 2
    assert (facts["exchanges"], facts["kept"], facts["mean_margin"]) == (7, 1, 4.0)
    assert (facts["mean_chosen_characters"], facts["mean_rejected_characters"]) == (4.0, 5.0)
    pairs.require(1)
    with pytest.raises(UserError) as error:
        pairs.require(2)
    assert str(error.value) == (
        "1 of 7 exchanges have a pair of sampled replies, and min_pairs is 2. Left out by reason: "
        "margin 1, one_text 2, tied 1, unfinished 1, unscored 1. Sample more replies, lower margin or "
        "min_pairs, or raise the temperature."
    )
    few = sampled(tmp_path, row("a", ("x", 1.0), ("y", 2.0)), several=2)
    assert few.facts()["dropped"] == {"too_few": 1}


def test_replies_that_were_not_chosen_from_are_refused(tmp_path: Path) -> None:
    plain = {key: value for key, value in FIVE.items() if key != "best_of"}
    with pytest.raises(UserError, match=r"line 1, field 'best_of'.*--best-of N --rater DIR"):
        sampled(tmp_path, plain)


def test_a_training_takes_both_replies_from_the_files(tmp_path: Path) -> None:
    pairs = sampled(tmp_path, FIVE)
    asked = {"seed": 1, "system_message": "Be kind.", "sampled": pairs.facts()}
    told = {"selected_by": [{"name": "r", "weights": "w"}]}
    write_pair_files(tmp_path / "p", [pairs.rows(0), pairs.rows(1)], asked, told)
    exchange = Exchange("a", "sad", (Turn("user", "My cat died."),), "the human reply")
    other = Exchange("b", "glad", (Turn("user", "My cat lives."),), "good")
    draws = FiledDraws(tmp_path / "p", [exchange, other], 1)
    assert [(one.id, one.reply) for one in draws.exchanges] == [("a", "best")]
    assert [draws.draw(e, "a").reply for e in range(2)] == ["worst", "low"]
    assert draws.facts["exchanges_without_pairs"] == 1 and draws.facts["sampled"]["kept"] == 1
    assert draws.selected_by == told["selected_by"]
    assert draws.pool_sizes() == {"sad": 2} and draws.opposite(draws.exchanges[0]) == "sad"
    moved = Exchange("a", "sad", (Turn("user", "My dog died."),), "the human reply")
    with pytest.raises(UserError, match="another text in 'prompt'"):
        FiledDraws(tmp_path / "p", [moved], 1)


def test_a_score_that_is_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1, field 'best_of.replies.0.score'"):
        sampled(tmp_path, row("a", ("x", "2.0"), ("y", 1.0)))  # type: ignore[arg-type]
