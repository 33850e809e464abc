"""A folder of pairs as the draws of a training: every epoch its file, and no other corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from function_raters import FunctionRater, interval
from small_corpus import TABLE, corpus, draws_of, exchange

from empo.choosing import Judge
from empo.dialogues import Exchange
from empo.mining.candidates import Drawn
from empo.mining.choice import Rule
from empo.mining.epochs import Mine
from empo.mining.filed_draws import FiledDraws
from empo.pair_files import UNFINISHED, read_pair_files, write_pair_files
from empo.preferences import Draws, write_pairs
from empo.records import UserError

EXCHANGES = corpus(3, 6)


def mined(folder: Path, rule: Rule, several: int, epochs: int = 2, **told: Any) -> Mine:
    draws = draws_of(EXCHANGES)
    judge = Judge(FunctionRater(lambda pair: [float(pair.response)], interval("worth")))
    mine = Mine(draws, EXCHANGES, Drawn(draws, several), rule, judge, several)
    asked = {"seed": 1, "system_message": "Be kind.", "mining": rule.facts()}
    rows = (mine.rows(mine.epoch(epoch)) for epoch in range(epochs))
    write_pair_files(folder, rows, asked, told)
    return mine


def test_plain_pairs_are_the_plain_draws(tmp_path: Path) -> None:
    draws = draws_of(EXCHANGES)
    write_pairs(draws, EXCHANGES, 3, tmp_path / "p", {}, file_format="parquet")
    filed = FiledDraws(tmp_path / "p", EXCHANGES, 1)
    assert filed.exchanges == EXCHANGES
    for epoch in range(3):
        for one in EXCHANGES:
            assert filed.draw(epoch, one.id) is draws.draw(epoch, one.id)
            assert filed.opposite(one) == TABLE[one.emotion].label
    assert filed.pool_sizes() == {"down": 6, "up": 3}
    assert filed.facts["repeated_by_epoch"] == [0, 0, 0] and filed.selected_by == []


def test_exchanges_without_a_pair_are_left_out_and_counted(tmp_path: Path) -> None:
    mined(tmp_path / "p", Rule(margin=10.0), 1, selected_by=[{"name": "r", "weights": "w"}])
    filed = FiledDraws(tmp_path / "p", EXCHANGES, 1)
    assert [one.id for one in filed.exchanges] == ["u0", "u1", "u2"]
    assert filed.facts["exchanges_without_pairs"] == 6
    assert filed.facts["mining"]["margin"] == 10.0
    assert filed.selected_by == [{"name": "r", "weights": "w"}]


def test_an_epoch_without_a_pair_repeats_another(tmp_path: Path) -> None:
    # of the replies 0 to 5 only 0 to 2 are 48 below 50
    mine = mined(tmp_path / "p", Rule(margin=48.0), 1, epochs=4)
    filed = FiledDraws(tmp_path / "p", EXCHANGES, 1)
    kept = [[bool(some) for some in mine.epoch(e).rejected[:3]] for e in range(4)]
    assert filed.facts["repeated_by_epoch"] == [3 - sum(row) for row in kept]
    assert sum(filed.facts["repeated_by_epoch"]) > 0
    for place, one in enumerate(EXCHANGES[:3]):
        own = [e for e in range(4) if kept[e][place]]
        for epoch in range(4):
            there = epoch if epoch in own else own[epoch % len(own)]
            (rejected,) = mine.epoch(there).rejected[place]
            assert filed.draw(epoch, one.id) == rejected.candidate.exchange


def test_several_rejected_follow_each_other(tmp_path: Path) -> None:
    mine = mined(tmp_path / "p", Rule("hardest", 2), 3)
    filed = FiledDraws(tmp_path / "p", EXCHANGES, 2)
    for epoch in range(2):
        expected = [r.candidate.exchange.id for r in mine.epoch(epoch).rejected[0]]
        assert [filed.draw(2 * epoch + k, "u0").id for k in range(2)] == expected
    with pytest.raises(UserError) as error:
        FiledDraws(tmp_path / "p", EXCHANGES, 1)
    assert str(error.value) == (
        f"{tmp_path / 'p'}, epoch 0: 'u0' has 2 rejected replies, and rejected_per_prompt is 1. Set "
        "it to the --rejected of the pairs."
    )


def test_a_training_of_more_epochs_is_refused(tmp_path: Path) -> None:
    write_pairs(draws_of(EXCHANGES), EXCHANGES, 2, tmp_path / "p", {})
    filed = FiledDraws(tmp_path / "p", EXCHANGES, 1)
    with pytest.raises(UserError) as error:
        filed.draw(2, "u0")
    assert str(error.value) == (
        f"{tmp_path / 'p'}: it has pairs of 2 epochs, and the training has more. Draw more with "
        "`empo pairs --epochs`, or set num_train_epochs (or max_steps) lower."
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            EXCHANGES[1:],
            "the pairs name the dialogue 'u0', which the training corpus does not have.",
        ),
        (
            [exchange("u0", "up", "51"), *EXCHANGES[1:]],
            "the pair of 'u0' has another text in 'chosen' than the training corpus.",
        ),
        (
            [Exchange("u0", "up", EXCHANGES[1].context, "50"), *EXCHANGES[1:]],
            "the pair of 'u0' has another text in 'prompt' than the training corpus.",
        ),
    ],
)
def test_pairs_of_another_corpus_are_refused(
    tmp_path: Path, other: list[Exchange], told: str
) -> None:
    mined(tmp_path / "p", Rule(), 1)
    with pytest.raises(UserError) as error:
        FiledDraws(tmp_path / "p", other, 1)
    assert str(error.value) == (
        f"{tmp_path / 'p'}: {told} Give the corpus, split and limit that the pairs were drawn from, "
        "or draw them again."
    )


# --- the folder ---


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="this is no folder of pairs, or its command has not ended."
    ):
        read_pair_files(tmp_path)
    write_pairs(Draws(EXCHANGES, TABLE, 1), EXCHANGES, 1, tmp_path / "p", {})
    (tmp_path / "p" / UNFINISHED).touch()
    with pytest.raises(
        UserError, match="this is no folder of pairs, or its command has not ended."
    ):
        read_pair_files(tmp_path / "p")
    (tmp_path / "p" / UNFINISHED).unlink()
    (tmp_path / "p" / "epoch-0.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"epoch-0\.jsonl: it has changed since it was written\."):
        read_pair_files(tmp_path / "p")
    (tmp_path / "p" / "epoch-0.jsonl").unlink()
    with pytest.raises(UserError, match=r"epoch-0\.jsonl: the file is missing\. Write the pairs"):
        read_pair_files(tmp_path / "p")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"schema": "empo.run/1"}, "this is the manifest of another command, not of `empo pairs`."),
        ({"selected_by": 3}, "field 'selected_by': a list of objects with name and weights is exp"),
        ({"selected_by": [{"name": "r"}]}, "name and weights is expected, not [{'name': 'r'}]."),
        ({"files": []}, "it lists no file of pairs. Write them again."),
        ({"files": [{"file": "../x.jsonl"}]}, "'../x.jsonl' is no file of pairs."),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    write_pairs(Draws(EXCHANGES, TABLE, 1), EXCHANGES, 1, tmp_path / "p", {})
    path = tmp_path / "p" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError) as error:
        read_pair_files(tmp_path / "p")
    assert told in str(error.value) and str(path) in str(error.value)
