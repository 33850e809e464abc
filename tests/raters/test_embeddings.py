"""Vectors that are kept: made once, unit length, under the encoder and the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_encoders import SENTENCES

from empo.raters import embeddings
from empo.raters.embeddings import CachedEmbedder
from empo.raters.encoders import load_embedder
from empo.records import UserError

TEXTS = [*SENTENCES, SENTENCES[2], "a " * 100]


def test_vectors_are_those_of_the_encoder_in_the_order_of_the_texts(
    encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "CHUNK", 4)
    embedder = CachedEmbedder(str(encoders["bert"]), tmp_path / "e.sqlite", "cpu")
    found = embedder.embed(TEXTS, batch_size=3)
    plain = load_embedder(str(encoders["bert"]), device="cpu").encode(TEXTS, batch_size=1)
    np.testing.assert_allclose(
        found, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5
    )
    assert found.shape == (11, 32) and found.dtype == np.float32
    assert (embedder.misses, embedder.cut) == (10, 1)  # one text twice; one longer than 40 tokens


def test_what_is_there_is_not_made_again(encoders: dict[str, Path], tmp_path: Path) -> None:
    first = CachedEmbedder(str(encoders["bert"]), tmp_path / "e.sqlite", "cpu")
    made = first.embed(TEXTS)
    second = CachedEmbedder(str(encoders["bert"]), tmp_path / "e.sqlite", "cpu")
    np.testing.assert_array_equal(second.embed(TEXTS[::-1]), made[::-1])
    assert (second.misses, second.cut, second._model) == (0, 1, None)
    other = CachedEmbedder(str(encoders["roberta"]), tmp_path / "e.sqlite", "cpu")
    assert not np.allclose(other.embed(TEXTS), made)
    assert other.misses == 10 and other.facts()["name"] == "tiny-roberta"


def test_a_file_of_something_else_is_no_store(encoders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "e.sqlite").write_text("mine, and long enough to be read")
    with pytest.raises(UserError, match="this is no cache of embeddings, or a damaged one"):
        CachedEmbedder(str(encoders["bert"]), tmp_path / "e.sqlite")
