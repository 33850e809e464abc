"""Specificity: how rare the words of a response are (normalised inverse document frequency).

nidf(w) = (ln max_c - ln c_w) / (ln max_c - ln min_c), where c_w is the number of utterances of a
corpus that contain w (See et al., NAACL 2019; section 4.4 of the EmPO paper): 0 for the most
frequent word, 1 for the rarest and for words that the corpus does not have. The counts are a JSON
table, built once.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from empo.dialogues import Dialogue
from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.length import characters
from empo.metrics.statistics import describe, histogram
from empo.records import NIDF_SCHEMA, Response, UserError, misfit, read_json, shown


class NidfTable(TypedDict):
    """The content of a table file: in how many documents (utterances) each word token occurs."""

    schema: str
    tokens: str
    turns: str
    dialogues: int
    documents: int
    corpus_sha256: str
    counts: dict[str, int]


def nidf(responses: Sequence[Response], table: NidfTable, seed: int = 0) -> MetricResult:
    """Mean NIDF over the set of word tokens of a response (0..1); none for a blank response.

    unseen: share of the responses' different words that the table does not have; they count as 1, so
    that invented words raise the mean.
    """
    counts = table["counts"]
    most, least = math.log(max(counts.values())), math.log(min(counts.values()))

    def score(token: str) -> float:
        count = counts.get(token)
        return 1.0 if count is None else (most - math.log(count)) / (most - least)

    scores = np.full(len(responses), np.nan)
    words = unseen = 0
    for i, response in enumerate(responses):
        # sorted: the sum over a set must not depend on the hash seed of the process
        if tokens := sorted(set(word.word_tokens(response.response))):
            scores[i] = sum(map(score, tokens)) / len(tokens)
            words += len(tokens)
            unseen += sum(token not in counts for token in tokens)
    described = describe(scores, characters(responses), seed)
    described["unseen"] = unseen / words if words else None
    if not words:
        described.setdefault("reasons", {})["unseen"] = "no response has a word"
    return MetricResult(
        name="nidf",
        n=len(responses),
        values=described | {"histogram": histogram(scores, bins=40)},
        per_response={"nidf": scores},
        signature=(
            f"mean over the set of tokens, unseen = 1; table of {table['documents']:,} documents "
            f"({table['turns']}), corpus {table['corpus_sha256'][:12]}; {table['tokens']}"
        ),
    )


def build_table(dialogues: Iterable[Dialogue], all_turns: bool = False) -> NidfTable:
    """Count in how many utterances each word token occurs.

    Every turn but the last of a dialogue is a document (a trailing speaker turn is a last turn),
    or every turn with `all_turns`. Raises UserError where the counts cannot tell words apart.
    """
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    number = documents = 0
    for dialogue in dialogues:
        number += 1
        for turn in dialogue.turns if all_turns else dialogue.turns[:-1]:
            counts.update(set(word.word_tokens(turn.text)))
            digest.update(turn.text.encode() + b"\n")
            documents += 1
    if len(set(counts.values())) < 2:
        raise UserError(
            f"{documents} utterances of {number} dialogues are too few for a NIDF table: all words "
            "occur in equally many. Give a larger corpus."
        )
    return NidfTable(
        schema=NIDF_SCHEMA,
        tokens=word.SIGNATURE,
        turns="all turns" if all_turns else "all turns but the last",
        dialogues=number,
        documents=documents,
        corpus_sha256=digest.hexdigest(),
        counts=dict(sorted(counts.items())),
    )


def load_table(path: str | Path) -> NidfTable:
    """Read a table; UserError where the file is none or was made with other word tokens."""
    table: Any = read_json(path)
    remedy = "Build one with `empo nidf-table`."
    if not isinstance(table, dict) or table.get("schema") != NIDF_SCHEMA:
        raise UserError(f"{path}: this is no NIDF table of the schema {NIDF_SCHEMA!r}. {remedy}")
    try:
        table = TypeAdapter(NidfTable).validate_python(table)
    except ValidationError as error:
        raise misfit(str(path), error, remedy) from None
    if table["tokens"] != word.SIGNATURE:
        raise UserError(
            f"{path}, field 'tokens': the table counts other word tokens ({shown(table['tokens'])}) "
            f"than this version makes ({word.SIGNATURE!r}). {remedy}"
        )
    counts = set(table["counts"].values())
    if len(counts) < 2 or min(counts) < 1:
        raise UserError(f"{path}, field 'counts': needs different counts of 1 or more. {remedy}")
    return table
