"""Vectors of texts by an encoder, kept in a file and made only once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from empo.raters.encoders import encoder_identity, load_embedder, resolve_encoder
from empo.raters.fitting import token_counts
from empo.sqlite_file import Kind, SqliteFile

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CHUNK = 1_024
"""Texts that are embedded before they are written: what an interruption can cost."""

_KIND = Kind(
    holds="embeddings",
    application=0x456D5045,  # "EmPE"
    schema=1,
    table="embeddings",
    columns=("key", "cut", "vector"),
    create="CREATE TABLE embeddings (key BLOB PRIMARY KEY NOT NULL, cut INTEGER NOT NULL, "
    "vector BLOB NOT NULL)",  # rows of a vector are too long for an index
    write_ahead=False,
)


class CachedEmbedder:
    """An encoder whose vectors are kept in a SQLite file under its weights and the text.

    The encoder is loaded when a text is missing, and not before. `cut` counts the texts of the last
    call that were longer than the encoder reads (its own maximum; they lose their end), `misses` those
    that had to be embedded.
    """

    def __init__(
        self,
        encoder: str,
        path: str | Path,
        device: str | None = None,
        max_length: int | None = None,
    ) -> None:
        """Raises UserError where there is no such encoder, or the file is no store of embeddings."""
        self._folder, self.name = resolve_encoder(encoder)
        self.identity = encoder_identity(self._folder)
        self._device, self._max_length = device, max_length
        self._model: SentenceTransformer | None = None
        self._file = SqliteFile(Path(path), _KIND)
        self._file.prepare()
        self.cut = self.misses = 0

    def facts(self) -> dict[str, str]:
        """The encoder, as JSON."""
        return {"name": self.name, "weights": self.identity}

    def embed(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Unit vectors of the texts, shape (n, d), float32; zeros where the encoder gives none."""
        keys = [self._key(text) for text in texts]
        there = set(self._file.read(keys))
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in there}
        todo = sorted(missing, key=lambda key: len(missing[key]))  # texts of like length together
        with tqdm(
            total=len(todo), desc="contexts embedded", unit="text", delay=2, disable=None
        ) as bar:
            for start in range(0, len(todo), CHUNK):
                some = todo[start : start + CHUNK]
                self._make(some, [missing[key] for key in some], batch_size)
                bar.update(len(some))
        self.misses = len(missing)
        rows = self._file.read(keys)
        self.cut = sum(bool(rows[key][0]) for key in keys)
        return self._vectors([rows[key][1] for key in keys])

    def _make(self, keys: Sequence[bytes], texts: list[str], batch_size: int) -> None:
        if self._model is None:
            self._model = load_embedder(
                self._folder, max_length=self._max_length, device=self._device
            )
        found = self._model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        unit = (found / np.where(lengths > 0, lengths, 1.0)).astype("<f4")
        counts = token_counts(self._model.tokenizer, texts)
        most = self._model.max_seq_length
        self._file.write(
            (key, int(count > most), vector.tobytes())
            for key, count, vector in zip(keys, counts, unit, strict=True)
        )

    def _vectors(self, rows: Sequence[bytes]) -> np.ndarray:
        width = {len(row) for row in rows if isinstance(row, bytes)}
        if len(width) > 1 or any(size % 4 for size in width):
            raise self._file.damaged(f"it has vectors of {sorted(width)} bytes")
        return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1)

    def _key(self, text: str) -> bytes:
        made_by = f"{self.identity}\n{self._max_length}\n{text}"
        return hashlib.sha256(made_by.encode()).digest()
