"""`empo rate`: score pairs of context and response with a rater, from file to file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from empo.dialogues import Turn
from empo.rating import RatingInput, Ratings, checked
from empo.records import (
    RATINGS_SCHEMA,
    UserError,
    file_facts,
    finite,
    read_jsonl,
    shown,
    write_json,
    write_jsonl,
)
from empo.runs import alone, now, versions
from empo.settings import option, parse


@dataclass
class RateSettings:
    """Settings of `empo rate`."""

    rater: list[str] = option(
        help="rater folders; several of the same dimensions are averaged, others stand side by side"
    )
    input: str = option(
        help="jsonl with context, response and optionally id, following and background"
    )
    output: str = option(help="jsonl with a line of scores per input")
    cache: str | None = option(
        None, help="SQLite file with earlier scores (default: in the user's cache folder)"
    )
    batch_size: int = option(32, help="inputs per batch")
    device: str | None = option(None, help="cpu, cuda, ... (default: cuda where there is one)")
    seed: int = option(0, help="kept in the manifest; nothing here is random")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = [] if self.batch_size > 0 else [f"--batch-size: {self.batch_size} is too small."]
        written = {Path(name).resolve() for name in (self.output, manifest_of(self.output))}
        if Path(self.input).resolve() in written:
            found.append(
                f"--output: {self.output} would be written over the input; choose another one."
            )
        if Path(self.output).is_dir():
            found.append(f"--output: {self.output} is a folder; give the name of a jsonl file.")
        return found


def manifest_of(output: str) -> str:
    """Path of the manifest of a file of ratings."""
    return f"{output}.manifest.json"


def rate_command(argv: Sequence[str]) -> int:
    """Score pairs with a rater; what was scored before comes from a cache.

    Every input line has `response` and `context` (a text, or messages with role and content, as in
    a responses file). Every output line has scores, probabilities, flags and the rater's signature.
    The score of a dimension with levels is the most probable level. A blank response gets no score.

    Example: empo rate --rater runs/raters/epitome --input responses.jsonl --output ratings.jsonl
    """
    (settings,) = parse(
        argv, RateSettings, prog="empo rate", description=rate_command.__doc__ or ""
    )
    ids, pairs = read_pairs(settings.input)
    output = Path(settings.output)
    with alone(output.with_name(f".{output.name}.lock"), output):
        return _rate(settings, ids, pairs)


def _rate(settings: RateSettings, ids: Sequence[str], pairs: Sequence[RatingInput]) -> int:
    """Score the pairs, write ratings and manifest, say what was found."""
    from empo.raters.combined import CachedRater
    from empo.raters.loading import load_raters
    from empo.raters.rating_store import default_store

    rater = CachedRater(
        load_raters(settings.rater, settings.device), settings.cache or default_store()
    )
    ratings = checked(rater.score(pairs, batch_size=settings.batch_size), len(pairs))
    Path(manifest_of(settings.output)).unlink(missing_ok=True)  # it is there with its ratings only
    write_jsonl(settings.output, rows(ids, ratings))
    unscored = int(np.isnan(ratings.scores).any(axis=1).sum())
    counts = {
        "inputs": len(pairs),
        "from_cache": rater.hits,
        "unscored": unscored,
        "context_truncated": int(ratings.truncated.sum()),
        "response_truncated": int(ratings.response_truncated.sum()),
    }
    write_json(
        manifest_of(settings.output),
        {
            "schema": RATINGS_SCHEMA,
            "created": now(),
            "versions": versions(),
            "seed": settings.seed,
            "input": file_facts(settings.input),
            "signature": ratings.signature,
            "warnings": list(ratings.warnings),
            "counts": counts,
        },
    )
    for warning in ratings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()))
    for d, dimension in enumerate(ratings.dimensions):
        values = ratings.scores[:, d]
        if np.isfinite(values).any():
            print(
                f"  {dimension.name}: mean {np.nanmean(values):.3f} ± {np.nanstd(values):.3f} on "
                f"{dimension.low:g} to {dimension.high:g}"
            )
    print(settings.output)
    return 0


def read_pairs(path: str | Path) -> tuple[list[str], list[RatingInput]]:
    """Ids (the line number where there is none) and inputs of a jsonl file.

    Raises UserError naming line and field.
    """
    ids, pairs = [], []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if "response" not in row:
            raise UserError(f"{where}, field 'response': missing.")
        response = row["response"]
        if not isinstance(response, str):
            raise UserError(
                f"{where}, field 'response': a text is expected, not {shown(response)}."
            )
        if "context" not in row:
            raise UserError(
                f"{where}, field 'context': missing. For a response to nothing write an empty text."
            )
        context = row["context"]
        if not isinstance(context, str):
            context = _turns(context, f"{where}, field 'context'")
        following = _turns(row.get("following", []), f"{where}, field 'following'")
        background = row.get("background", "")
        if not isinstance(background, str):
            raise UserError(f"{where}, field 'background': a text is expected, not {background!r}.")
        ids.append(str(row.get("id", number)))
        pairs.append(RatingInput(context, response, following, background))
    return ids, pairs


def rows(ids: Sequence[str], ratings: Ratings) -> list[dict[str, Any]]:
    """One JSON object per input; a score that could not be made is null."""
    names = [dimension.name for dimension in ratings.dimensions]
    return [
        {
            "id": name,
            "scores": {n: finite(ratings.scores[i, d]) for d, n in enumerate(names)},
            "probabilities": {
                n: None if p is None or not np.isfinite(p[i]).all() else p[i].tolist()
                for n, p in zip(names, ratings.probabilities, strict=True)
            },
            "truncated": bool(ratings.truncated[i]),
            "response_truncated": bool(ratings.response_truncated[i]),
            "parse_failed": bool(ratings.parse_failed[i]),
            "n_valid": int(ratings.n_valid[i]),
            "signature": ratings.signature,
        }
        for i, name in enumerate(ids)
    ]


def _turns(messages: Any, where: str) -> tuple[Turn, ...]:
    if not isinstance(messages, list):
        raise UserError(
            f"{where}: a text or a list of messages is expected, not {shown(messages)}."
        )
    turns = []
    for message in messages:
        if isinstance(message, dict) and message.get("role") == "system":
            continue  # instructions are no turn
        known = isinstance(message, dict) and message.get("role") in ("user", "assistant")
        if not known or not isinstance(message.get("content"), str):
            raise UserError(
                f"{where}: a message needs role ('user' or 'assistant') and content, but it is "
                f"{shown(message)}."
            )
        turns.append(Turn(message["role"], message["content"]))
    return tuple(turns)
