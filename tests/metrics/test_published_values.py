"""Values of the human references of EmpatheticDialogues, where the corpus is at hand."""

import os
from pathlib import Path

import pytest

from empo.corpora import load_corpus, published_subset
from empo.metrics.iva import iva, load_lexicons
from empo.metrics.length import length
from empo.metrics.nidf import build_table, nidf
from empo.metrics.shared_exchanges import human_responses
from empo.metrics.trie import trie

DATA = os.environ.get("EMPO_DATA")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="EMPO_DATA is not set to a folder with the real corpora and lexicons"
)


def folder(name):
    path = Path(DATA) / name
    if not path.is_dir():
        pytest.skip(f"{path} does not exist")
    return path


@pytest.fixture(scope="module")
def human():
    corpus = load_corpus(folder("empathetic_dialogues"), "test")
    responses = human_responses(published_subset(corpus.exchanges()))
    assert len(responses) == 2540
    return responses


def test_diversity(human):
    values = trie(human).values
    assert values["compression_ratio"] == pytest.approx(0.65617, abs=5e-6)
    assert {key: values[key] for key in values if isinstance(values[key], int)} == {
        "templates": 2526,
        "span_nodes": 2735,
        "total_nodes": 22275,
        "children_from_root": 878,
        "unique_start_words": 370,
    }


def test_specificity(human):
    source = folder("empathetic_dialogues")
    table = build_table(
        [
            dialogue
            for split in ("train", "valid")
            for dialogue in load_corpus(source, split).dialogues
        ]
    )
    values = nidf(human, table).values
    assert (round(values["mean"], 4), round(values["sd"], 4)) == (0.2958, 0.0664)


def test_word_choice(human):
    values = iva(human, load_lexicons(folder("lexicons"))).values
    rounded = {
        name: (round(value["mean_absolute"], 4), round(value["mean_signed"], 4))
        for name, value in values.items()
    }
    assert rounded == {
        "intensity": (0.2810, 0.0249),
        "valence": (0.1427, -0.0004),
        "arousal": (0.1752, 0.0239),
        "dominance": (0.1431, 0.0065),
    }


def test_mean_length(human):
    assert round(length(human).values["mean_characters"]) == 65
