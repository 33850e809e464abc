import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.metrics import trie as module
from empo.metrics.long_repeats import Repeats
from empo.metrics.trie import fold, trie, trie_nodes


def naive_fold(sequences):
    """The definition, word for word: everything is counted again before each fold.

    A symbol is the tuple of what it stands for, so nested tuples show the order of folds too.
    """
    sequences = [list(sequence) for sequence in sequences]
    folds = 0
    while True:
        count, first = {}, {}
        for row, sequence in enumerate(sequences):
            for start in range(len(sequence)):
                for end in range(start + 2, len(sequence) + 1):
                    ngram = tuple(sequence[start:end])
                    count[ngram] = count.get(ngram, 0) + 1
                    first.setdefault(ngram, (row, start))
        repeated = [ngram for ngram in count if count[ngram] > 1]
        if not repeated:
            return sequences, folds
        best = min(repeated, key=lambda g: (-len(g) * count[g], len(g), first[g]))
        folds += 1
        for row, sequence in enumerate(sequences):
            folded, i = [], 0
            while i < len(sequence):
                if tuple(sequence[i : i + len(best)]) == best:
                    folded.append((folds, *best))
                    i += len(best)
                else:
                    folded.append(sequence[i])
                    i += 1
            sequences[row] = folded


def as_naive(sequences):
    """The result of `fold` with symbols written like those of `naive_fold`."""
    words = list(dict.fromkeys(word for sequence in sequences for word in sequence))
    folded, expansions = fold(sequences)
    written = dict(enumerate(words))
    for number, (symbol, ngram) in enumerate(expansions.items(), start=1):
        written[symbol] = (number, *(written[part] for part in ngram))
    return [[written[symbol] for symbol in sequence] for sequence in folded], len(expansions)


@pytest.mark.parametrize(
    "texts",
    [
        ["a a a a"],
        ["a a a a a"],
        ["a b a b a b a"],
        ["a a b a a", "a b a a b"],
        ["a b c", "b c d", "a b c d", "c d a b"],
        ["", "a", "a"],
        ["a b", "a b", "a b"],
        ["a a a", "b b b", "a b a", "b a b a"],
    ],
)
def test_fold_is_the_naive_one_on_overlaps_and_ties(texts):
    sequences = [text.split() for text in texts]
    assert as_naive(sequences) == naive_fold(sequences)


@pytest.mark.parametrize("letters", [1, 2, 3, 5])
def test_fold_is_the_naive_one_on_random_input(letters):
    rng = random.Random(letters)
    for _ in range(400):
        sequences = [
            [rng.choice("abcde"[:letters]) for _ in range(rng.randint(0, 10))]
            for _ in range(rng.randint(1, 7))
        ]
        assert as_naive(sequences) == naive_fold(sequences), sequences


def test_fold_is_the_naive_one_on_sentences_with_long_repeats():
    rng = random.Random(0)
    phrases = ["i am so sorry", "to hear that", "that is", "great news", "i am glad", "."]
    for _ in range(40):
        sequences = [
            " ".join(rng.choice(phrases) for _ in range(rng.randint(1, 4))).split()
            for _ in range(12)
        ]
        assert as_naive(sequences) == naive_fold(sequences), sequences


def test_values_counted_by_hand(responses):
    # "a b" (weight 4) becomes X: X c, X d, e
    values = trie(responses("a b c", "a b d", "e")).values
    assert values == {
        "templates": 3,
        "template_share": 1.0,
        "span_nodes": 1,
        "total_nodes": 5,  # root, X, c, d, e
        "children_from_root": 2,  # X, e
        "compression_ratio": 5 / 6,  # unfolded: root, a, b, c, d, e
        "unique_start_words": 2,  # a, e
    }


def test_tie_goes_to_the_smaller_n():
    # "a a" occurs three times, overlapping ones counted, "a a a" twice: both weigh 6
    folded, expansions = fold([["a", "a", "a", "a"]])
    assert list(expansions.values()) == [[0, 0]]
    assert len(folded[0]) == 2


def test_equal_responses_are_one_template(responses):
    values = trie(responses("so sorry .", "so sorry .", "So sorry .")).values
    assert values["templates"] == 2
    assert values["template_share"] == pytest.approx(2 / 3)
    assert values["unique_start_words"] == 2


def test_blank_response_is_an_empty_template(responses):
    values = trie(responses("", "a")).values
    assert (values["templates"], values["total_nodes"], values["children_from_root"]) == (2, 2, 1)


def test_order_of_the_file_does_not_matter(responses):
    # "c a" and "a c" both weigh 4; "c a" is seen first in the order of ids as text (10 < 2 < 3)
    rows = responses("c a", "a c", "a a c a", ids=["10", "2", "3"])
    for order in itertools.permutations(rows):
        values = trie(order).values
        assert values["total_nodes"] == 6  # X; a c; a a X; and the root
        assert values["children_from_root"] == 2


def test_trie_nodes_counts_distinct_prefixes_and_the_root():
    assert trie_nodes([]) == 1
    assert trie_nodes([(), ("a",), ("a", "b"), ("b", "b")]) == 5


CORPORA = st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=5)


@settings(deadline=None)
@given(CORPORA)
def test_fold_is_the_naive_one(sequences):
    assert as_naive(sequences) == naive_fold(sequences)


@settings(deadline=None)
@given(CORPORA)
def test_fold_through_the_suffix_array_is_the_naive_one(sequences):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT", -1)  # every fold is found in the suffix array
        patch.setattr(module, "KEPT_PER_TOKEN", -1)
        assert as_naive(sequences) == naive_fold(sequences)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=4))
def test_suffixes_are_sorted_and_their_common_prefixes_counted(sequences):
    repeats = Repeats(sequences)
    values = repeats.joined.tolist()
    suffixes = sorted(range(len(values)), key=lambda start: values[start:])
    assert repeats.suffixes.tolist() == suffixes
    for i in range(1, len(values)):
        pair = values[suffixes[i - 1] :], values[suffixes[i] :]
        same = [a == b for a, b in zip(*pair, strict=False)]
        assert repeats.common[i] == [*same, False].index(False)


def test_repeats_too_many_to_keep_are_folded_all_the_same():
    texts = [["sad", "word"] * 5_000, ["a", "sad", "word"], ["so"] * 9_999]
    folded, expansions = fold(texts)
    sad, word, _, so = range(4)
    # n times 10,000 - n: "so" 5,000 times in 5,000 places is the heaviest, and found in the array
    heaviest, second = list(expansions.values())[:2]
    assert heaviest == [so] * 5_000
    assert second == [sad, word] * 2_500

    def expand(symbols):
        return [w for s in symbols for w in (expand(expansions[s]) if s in expansions else [s])]

    assert [expand(sequence) for sequence in folded] == [
        [["sad", "word", "a", "so"].index(token) for token in text] for text in texts
    ]
    assert sum(map(len, folded)) < 20
