"""Word choice: emotional intensity, valence, arousal and dominance of reply against prompt.

Lexicons: NRC VAD (Mohammad, ACL 2018) and NRC Affect Intensity (Mohammad, LREC 2018). Their terms
forbid redistribution, so they are the user's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.length import characters
from empo.metrics.statistics import describe, histogram
from empo.records import Response, UserError, read_text, sha256

DIMENSIONS = ("intensity", "valence", "arousal", "dominance")
VAD_FILE = "NRC-VAD-Lexicon.txt"
INTENSITY_FILE = "NRC-AffectIntensity.txt"
GET_THEM = (
    f"Put the NRC lexicons of Saif Mohammad as {VAD_FILE} "
    "(https://saifmohammad.com/WebPages/nrc-vad.html) and "
    f"{INTENSITY_FILE} (https://saifmohammad.com/WebPages/AffectIntensity.htm) into a folder; "
    "their terms forbid shipping them."
)


@dataclass(frozen=True)
class Lexicons:
    """Per dimension word -> value (0..1), and which files and rules they come from."""

    values: dict[str, dict[str, float]]
    signature: str


def iva(responses: Sequence[Response], lexicons: Lexicons, seed: int = 0) -> MetricResult:
    """Differences prompt - response per dimension; the prompt is the last speaker turn.

    An utterance has the largest value of its lower-cased word tokens, 0 where none is in the
    lexicon (section 4.4 of the EmPO paper).

    mean_absolute: mean |prompt - response| (0..1); sd, interval and length_correlation are its.
    mean_signed: mean prompt - response (-1..1); positive: the response has less.
    share_without_words: share of responses without any lexicon word, whose value is 0 by default;
    share_prompts_without_words: the same of prompts.
    """
    lengths = characters(responses)
    values: dict[str, dict[str, object]] = {}
    per_response: dict[str, np.ndarray] = {}
    for dimension in DIMENSIONS:
        of_word = lexicons.values[dimension]
        prompts = _largest([response.prompt for response in responses], of_word)
        replies = _largest([response.response for response in responses], of_word)
        signed = np.nan_to_num(prompts) - np.nan_to_num(replies)
        described = describe(np.abs(signed), lengths, seed)
        values[dimension] = {
            "mean_absolute": described.pop("mean"),
            "mean_signed": float(signed.mean()),
            "share_without_words": float(np.isnan(replies).mean()),
            "share_prompts_without_words": float(np.isnan(prompts).mean()),
            **described,
            "histogram": histogram(np.abs(signed), bins=20),
        }
        per_response[f"iva.{dimension}"] = np.abs(signed)
    signature = f"maximum over lower-cased tokens, unknown = 0; {lexicons.signature}"
    return MetricResult("iva", len(responses), values, per_response, signature)


def _largest(texts: Sequence[str], of_word: dict[str, float]) -> np.ndarray:
    """The largest value of each text's tokens, NaN where none is in the lexicon; shape (n,)."""
    found = (
        [of_word[token] for token in map(str.lower, word.word_tokens(text)) if token in of_word]
        for text in texts
    )
    return np.array([max(values, default=np.nan) for values in found])


def load_lexicons(folder: str | Path, several: Literal["last", "maximum"] = "last") -> Lexicons:
    """Read both lexicons from a folder: tab-separated, with or without a header line.

    `several` says which value an intensity word with several emotions has: that of its last row
    (as published) or its maximum.

    Raises UserError naming the missing file and where to get it, or file, line and bad field.
    """
    folder = Path(folder)
    missing = [name for name in (VAD_FILE, INTENSITY_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {' and '.join(missing)} not found. {GET_THEM}")
    values: dict[str, dict[str, float]] = {dimension: {} for dimension in DIMENSIONS}
    for term, fields in _rows(folder / VAD_FILE, "word, valence, arousal, dominance", _vad):
        for dimension, value in zip(DIMENSIONS[1:], fields, strict=True):
            values[dimension][term] = value
    intensity = values["intensity"]
    for term, (value,) in _rows(folder / INTENSITY_FILE, "word, emotion, intensity", _intensity):
        intensity[term] = max(value, intensity.get(term, 0)) if several == "maximum" else value
    digests = ", ".join(
        f"{name} {sha256(folder / name)[:12]}" for name in (VAD_FILE, INTENSITY_FILE)
    )
    return Lexicons(values, f"{digests}; intensity of the {several} row")


def _vad(fields: list[str]) -> list[float]:
    valence, arousal, dominance = fields
    return [float(valence), float(arousal), float(dominance)]


def _intensity(fields: list[str]) -> list[float]:
    _, value = fields
    return [float(value)]


def _rows(
    path: Path, columns: str, read: Callable[[list[str]], list[float]]
) -> Iterator[tuple[str, list[float]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        term, *fields = line.rstrip("\r").split("\t")
        try:
            scores = read(fields)
            if not all(0 <= score <= 1 for score in scores):
                raise ValueError
        except ValueError:
            if number == 1 and not any(map(_is_number, fields)):  # a header
                continue
            raise UserError(
                f"{path}, line {number}: {line.strip()[:80]!r} does not have the columns {columns} "
                f"(separated by tabs, values 0..1). {GET_THEM}"
            ) from None
        yield term, scores


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
