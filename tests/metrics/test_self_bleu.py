import json
import math
import random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from empo.metrics import self_bleu as module
from empo.metrics.self_bleu import self_bleu
from empo.metrics.tokens import word_tokens

SENTENCES = (
    "I am so sorry that this happened to you .",
    "I am so glad that this worked out for you !",
    "That sounds hard , do you want to talk about it ?",
    "Congratulations , you must be very proud of it .",
    "What are you going to do about it now ?",
)


def test_equal_replies_have_1_however_short(responses):
    assert self_bleu(responses(*["I am sorry to hear that."] * 3)).values["mean"] == 1
    assert self_bleu(responses("Oh", "Oh")).values["mean"] == 1


def test_replies_without_a_common_word_have_0(responses):
    values = self_bleu(responses("a b c d e", "f g h i j")).values
    assert values["mean"] == values["sd"] == 0


def test_value_computed_by_hand(responses):
    # "a b c d e" against "a b c x y": 3 of 5, 2 of 4, 1 of 3, and 0.1 for 0 of 2; same length
    bleu = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** (1 / 4)
    values = self_bleu(responses("a b c d e", "a b c x y")).values
    assert values["mean"] == pytest.approx(bleu, abs=1e-12)
    assert (values["replies"], values["references"], values["blank"]) == (2, 1, 0)
    # brevity: 4 tokens against 8
    short, long = "a b c d", "a b c d e f g h"
    longer = (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** (1 / 4)
    values = self_bleu(responses(short, long)).values
    assert values["mean"] == pytest.approx((math.exp(1 - 8 / 4) + longer) / 2, abs=1e-12)


def test_small_sets_are_scored_in_full(responses):
    texts = [word_tokens(text) for text in SENTENCES]
    expected = [
        sentence_bleu(
            texts[:i] + texts[i + 1 :], text, smoothing_function=SmoothingFunction().method1
        )
        for i, text in enumerate(texts)
    ]
    result = self_bleu(responses(*SENTENCES))
    assert result.values["mean"] == pytest.approx(sum(expected) / 5, abs=1e-12)
    assert result.values["sd"] > 0
    low, high = result.values["interval"]
    assert min(expected) <= low < result.values["mean"] < high <= max(expected)
    assert result.per_response == {}
    assert result.of_the_set == ("mean",)


def drawn_texts(count):
    rng = random.Random(1)
    return [" ".join(rng.choices("a b c d e f".split(), k=6)) for _ in range(count)]


def test_the_sample_is_that_of_the_seed_and_not_of_the_file(responses, monkeypatch):
    monkeypatch.setattr(module, "REPLIES", 10)
    monkeypatch.setattr(module, "REFERENCES", 4)
    rows = responses(*drawn_texts(40))
    values = self_bleu(rows, seed=1).values
    assert (values["replies"], values["references"]) == (10, 4)
    assert self_bleu(random.Random(2).sample(rows, 40), seed=1).values == values
    assert self_bleu(rows, seed=2).values["mean"] != values["mean"]
    # runs measured with different seeds can stand in one report
    assert self_bleu(rows, seed=1).signature == self_bleu(rows, seed=2).signature
    assert "10 replies against up to 4 others" in self_bleu(rows, seed=1).signature


def test_no_reply_is_its_own_reference(responses, monkeypatch):
    monkeypatch.setattr(module, "REFERENCES", 3)
    words = [" ".join(f"{i}x{j}" for j in range(5)) for i in range(30)]
    assert self_bleu(responses(*words)).values["mean"] == 0


def test_blank_replies_are_left_out_and_counted(responses):
    with_blank = self_bleu(responses("a b c d e", "", "a b c x y", " \n")).values
    without = self_bleu(responses("a b c d e", "a b c x y")).values
    assert with_blank == without | {"blank": 2}


@pytest.mark.parametrize("texts", [(), ("",), ("ok",), ("ok", "\n")])
def test_fewer_than_two_replies_have_a_reason_instead_of_a_number(responses, texts):
    values = self_bleu(responses(*texts)).values
    assert values["mean"] is values["sd"] is values["interval"] is None
    assert (values["replies"], values["references"]) == (0, 0)
    for key in ("mean", "sd", "interval"):
        assert values["reasons"][key] == "needs two replies that are not blank"
    assert json.dumps(values, allow_nan=False)


def test_odd_and_very_long_replies(responses):
    texts = ("\U0001f600", "\U0001f600 \U0001f600", "\n", "word " * 10_000, "word")
    values = self_bleu(responses(*texts)).values
    assert (values["replies"], values["blank"]) == (4, 1)
    assert 0 < values["mean"] < 1
    assert json.dumps(values, allow_nan=False)
