import math

import numpy as np
import pytest

from empo.dialogues import Dialogue, Turn
from empo.metrics.nidf import build_table, load_table, nidf
from empo.records import UserError, write_json


def dialogue(*texts):
    turns = tuple(Turn("user" if i % 2 == 0 else "assistant", t) for i, t in enumerate(texts))
    return Dialogue("d", "sad", "", turns)


DIALOGUES = [dialogue("a b", "a a c", "d"), dialogue("a b", "d d")]


def test_every_turn_but_the_last_is_a_document():
    table = build_table(DIALOGUES)
    assert table["counts"] == {"a": 3, "b": 2, "c": 1}
    assert (table["dialogues"], table["documents"]) == (2, 3)


def test_all_turns():
    table = build_table(DIALOGUES, all_turns=True)
    assert table["counts"] == {"a": 3, "b": 2, "c": 1, "d": 2}
    assert table["documents"] == 5


def test_corpus_digest_tells_corpora_apart():
    other = build_table([dialogue("a b", "a a c!", "d"), dialogue("a b", "d d")])
    assert build_table(DIALOGUES)["corpus_sha256"] == build_table(iter(DIALOGUES))["corpus_sha256"]
    assert build_table(DIALOGUES)["corpus_sha256"] != other["corpus_sha256"]


def test_scores_computed_by_hand(responses):
    result = nidf(responses("a b b", "c", "unseen a", " "), build_table(DIALOGUES))
    b = (math.log(3) - math.log(2)) / math.log(3)
    assert result.per_response["nidf"][:3] == pytest.approx([b / 2, 1.0, 0.5], abs=1e-15)
    assert np.isnan(result.per_response["nidf"][3])
    assert result.values["n"] == 3
    assert result.values["mean"] == pytest.approx((b / 2 + 1.5) / 3, abs=1e-15)
    assert sum(result.values["histogram"]) == 3
    assert result.values["histogram"][-1] == 1


def test_only_blank_responses_have_reasons_instead_of_numbers(responses):
    values = nidf(responses("", " "), build_table(DIALOGUES)).values
    assert values["mean"] is values["sd"] is values["interval"] is None
    assert values["reasons"]["mean"] == "no response has this value"


def test_table_survives_a_file(tmp_path):
    table = build_table(DIALOGUES)
    write_json(tmp_path / "table.json", table)
    assert load_table(tmp_path / "table.json") == table


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": "x"}, "this is no NIDF table"),
        ({"tokens": "letters"}, "counts other word tokens ('letters')"),
        ({"counts": {"a": "many"}}, "field 'counts.a': Input should be a valid integer"),
        ({"counts": {"a": 2, "b": 2}}, "field 'counts': needs different counts"),
        ({"counts": {"a": 2, "b": 0}}, "field 'counts': needs different counts"),
    ],
)
def test_errors_name_file_and_field(tmp_path, change, text):
    write_json(tmp_path / "table.json", build_table(DIALOGUES) | change)
    with pytest.raises(UserError) as error:
        load_table(tmp_path / "table.json")
    assert text in str(error.value)
    assert "table.json" in str(error.value)
    assert "empo nidf-table" in str(error.value)


def test_corpus_in_which_words_do_not_differ_is_refused():
    with pytest.raises(UserError, match="1 utterances of 1 dialogues are too few"):
        build_table([dialogue("a b", "c")])
