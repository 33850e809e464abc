import json
import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from empo.metrics.distinct_n import DRAWN, ORDERS, distinct_n, expected_distinct, ngram_counts
from empo.records import Response


def test_values_computed_by_hand(responses):
    result = distinct_n(responses("a b a", "b c"))
    # a b a b c | ab ba bc, none across the two responses | aba
    assert result.values["distinct_1"] == 3 / 5
    assert result.values["distinct_2"] == 3 / 3
    assert result.values["distinct_3"] == 1 / 1
    assert [result.values[f"ngrams_{n}"] for n in (1, 2, 3)] == [5, 3, 1]
    assert result.per_response == {}
    assert set(result.of_the_set) <= result.values.keys()


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), max_size=6))
def test_ngrams_are_counted_within_each_text(texts):
    for n, counts in zip(ORDERS, ngram_counts(texts), strict=True):
        grams = Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))
        assert sorted(counts.tolist()) == sorted(grams.values())


def test_case_is_kept_and_punctuation_counts(responses):
    assert distinct_n(responses("Oh oh !")).values["distinct_1"] == 1


def test_a_set_of_exactly_the_drawn_size_is_not_rarefied(responses):
    values = distinct_n(responses(" ".join(["a", "b", "c", "d"] * (DRAWN // 4)))).values
    assert values["rarefied_1"] == pytest.approx(values["distinct_1"], abs=1e-15)
    assert values["distinct_1"] == 4 / DRAWN
    assert values["rarefied_2"] is None
    assert values["reasons"]["rarefied_2"] == "needs 2,000 n-grams, there are 1,999"


def test_rarefied_value_of_words_that_all_occur_twice(responses):
    words = [f"w{i}" for i in range(DRAWN)]
    values = distinct_n(responses(" ".join(words), " ".join(reversed(words)))).values
    # a word is missed with probability (2000 / 4000) * (1999 / 3999)
    assert values["rarefied_1"] == pytest.approx(1 - 0.5 * 1999 / 3999, rel=1e-12)
    assert values["distinct_1"] == 0.5


def test_more_of_the_same_text_lowers_distinct_but_not_the_rarefied_value(responses):
    rng = random.Random(0)
    text = [" ".join(rng.choices([f"w{i}" for i in range(400)], k=20)) for _ in range(400)]
    some, all_ = distinct_n(responses(*text[:200])).values, distinct_n(responses(*text)).values
    assert all_["distinct_1"] < 0.6 * some["distinct_1"]
    assert all_["rarefied_1"] == pytest.approx(some["rarefied_1"], rel=0.01)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_expectation_against_all_draws(counts, data):
    items = [kind for kind, count in enumerate(counts) for _ in range(count)]
    drawn = data.draw(st.integers(1, min(len(items), 5)))
    draws = [len(set(draw)) for draw in combinations(items, drawn)]
    assert expected_distinct(np.array(counts), drawn) == pytest.approx(np.mean(draws), rel=1e-12)


def test_expectation_against_the_hypergeometric_distribution():
    counts = np.random.default_rng(0).zipf(1.5, 3_000).clip(max=20_000)
    missed = hypergeom.pmf(0, counts.sum(), counts, DRAWN)
    assert expected_distinct(counts, DRAWN) == pytest.approx((1 - missed).sum(), rel=1e-8)


@settings(max_examples=30)
@given(st.permutations(["a b a", "b c", "", "a a a a", "\U0001f600"]))
def test_order_does_not_matter(texts):
    rows = [
        Response(
            id=f"id{i}",
            emotion="sad",
            context=[{"role": "user", "content": "?"}],
            reference="",
            response=text,
            system="s",
        )
        for i, text in enumerate(texts)
    ]
    values = distinct_n(rows).values
    assert (values["ngrams_1"], values["ngrams_2"], values["ngrams_3"]) == (10, 6, 3)
    assert values["distinct_1"] == 4 / 10  # a, b, c, the emoji
    assert values["distinct_2"] == 4 / 6  # ab, ba, bc, aa
    assert values["distinct_3"] == 2 / 3  # aba, aaa


def test_a_set_without_text_has_reasons_instead_of_numbers(responses):
    values = distinct_n(responses("", "\n")).values
    for n in (1, 2, 3):
        assert values[f"distinct_{n}"] is values[f"rarefied_{n}"] is None
        assert values[f"ngrams_{n}"] == 0
    assert values["reasons"]["distinct_1"] == "no response has 1 token"
    assert values["reasons"]["distinct_2"] == "no response has 2 tokens"
    assert values["reasons"]["rarefied_3"] == "needs 2,000 n-grams, there are 0"


@pytest.mark.parametrize("text", ["ok", "\U0001f600", "\n", "word " * 10_000])
def test_one_response_of_any_kind(responses, text):
    values = distinct_n(responses(text)).values
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["ngrams_1"] == len(text.split())


def test_a_long_reply_of_one_word(responses):
    values = distinct_n(responses("word " * 10_000)).values
    assert values["rarefied_1"] == pytest.approx(1 / DRAWN)
    assert values["distinct_3"] == 1 / 9_998
