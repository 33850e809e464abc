"""Raters around raters: scores kept in a file, the mean of several raters, raters side by side.

All three are raters themselves, so they can be nested: a cache around an ensemble, or an ensemble
of caches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from empo.raters.rating_store import RatingStore, ratings_of
from empo.rating import Dimension, Rater, RatingInput, Ratings, checked
from empo.records import UserError

CHUNK = 256
"""Inputs that are scored before they are written to the cache: what an interruption can cost."""

_FLAGS = ("truncated", "response_truncated", "parse_failed")


class SignedRater(Rater, Protocol):
    """A rater whose signature is known before it scores.

    It may also have an attribute `warnings`, a tuple of sentences: those that all of its ratings
    carry, whatever the inputs.
    """

    signature: str


class CachedRater:
    """A rater whose ratings are kept in a SQLite file and made only once.

    A rating is found again under its rater's signature and dimensions and the input's turns (with
    roles), response, following turns and background; so one file can serve many raters. Everything is kept as
    it was, to the last bit of a float64: scores, probabilities, flags, NaN too; a rater that draws
    at random keeps its first answer. The `warnings` of the rater are asked of it anew, since
    evidence can change without the weights; further ones of a call are kept with its inputs.

    Inputs that are not there go to the rater in chunks, and each chunk is written when it is done:
    what an interrupted run has scored is there for the next. Processes can share the file. The
    scores of a rater that depend on the batch (in the last bits) are those of the batch in which
    the input was first scored.

    `hits` and `misses` count the inputs of the last call: answered from the file, or as the repeat
    of another input; and scored by the rater.
    """

    def __init__(self, rater: SignedRater, path: str | Path) -> None:
        """Open or create the file.

        Raises UserError where it is no cache, one of another schema, or cannot be written.
        """
        self.rater = rater
        self.store = RatingStore(path)
        self.dimensions: tuple[Dimension, ...] = tuple(rater.dimensions)
        self.hits = self.misses = 0

    @property
    def signature(self) -> str:
        """The rater's own."""
        return self.rater.signature

    @property
    def warnings(self) -> tuple[str, ...]:
        """The rater's own."""
        return _standing_warnings([self.rater])

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order.

        Raises UserError where the rater's ratings do not carry its signature and dimensions, or
        the file cannot be read or written.
        """
        made_by = json.dumps([self.signature, [d.facts() for d in self.dimensions]])
        keys = [_key(made_by, pair) for pair in pairs]
        rows = self.store.read(keys)
        missing = {k: p for k, p in zip(keys, pairs, strict=True) if k not in rows}
        size = max(CHUNK, batch_size)
        todo = list(missing)
        chunks = [todo[start : start + size] for start in range(0, len(todo), size)]
        bar = tqdm(total=len(todo), desc="rating", unit="input", delay=2, leave=False)
        for some in chunks:
            ratings = _scored(self.rater, [missing[key] for key in some], batch_size)
            standing = set(self.warnings)
            self.store.write(some, ratings, [w for w in ratings.warnings if w not in standing])
            rows |= self.store.read(some)  # another process may have been first
            bar.update(len(some))
        bar.close()
        self.misses = len(missing)
        self.hits = len(pairs) - len(missing)
        ordered = [rows[key] for key in keys]
        return ratings_of(ordered, self.dimensions, self.signature, self.warnings)


class EnsembleRater:
    """The mean of several raters of the same dimensions.

    Scores are means over the members that could score an input, probabilities likewise (None where
    a member gives none). In an ordinal or binary dimension with levels whose probabilities all
    members give, the score is the level of the largest mean probability, so that it is a level as
    with any rater that classifies. Without probabilities it is the mean of the members' levels,
    which can lie between two levels. `n_valid` counts the members that scored; flags are set where
    one member sets them; warnings are united.
    """

    def __init__(self, raters: Sequence[SignedRater]) -> None:
        """Raises UserError where dimensions differ, or a rater is there twice or not at all."""
        if not raters:
            raise UserError("an ensemble needs at least one rater.")
        self.raters = tuple(raters)
        self.dimensions: tuple[Dimension, ...] = tuple(raters[0].dimensions)
        for place, rater in enumerate(raters[1:], start=2):
            if tuple(rater.dimensions) != self.dimensions:
                raise UserError(
                    f"an ensemble needs raters of the same dimensions. Rater 1 has "
                    f"{_shown(self.dimensions)}; rater {place} has {_shown(rater.dimensions)}."
                )
        signatures = [rater.signature for rater in raters]
        if twice := [s for s in signatures if signatures.count(s) > 1]:
            raise UserError(
                f"an ensemble counts each rater once, but two have the signature {twice[0]!r}."
            )

    @property
    def signature(self) -> str:
        """The members' signatures and what is made of them."""
        return f"mean of {len(self.raters)}: {' + '.join(r.signature for r in self.raters)}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all members."""
        return _standing_warnings(self.raters)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        members = [_scored(rater, pairs, batch_size) for rater in self.raters]
        scores = _known_mean([member.scores for member in members])
        probabilities: list[np.ndarray | None] = []
        for d, dimension in enumerate(self.dimensions):
            tables = [member.probabilities[d] for member in members]
            if any(table is None for table in tables):
                probabilities.append(None)
                continue
            # a member that gives no score has no say, whatever its probabilities are
            unscored = [np.isnan(member.scores[:, d]) for member in members]
            mean = _known_mean(
                [np.where(no[:, None], np.nan, t) for no, t in zip(unscored, tables, strict=True)]
            )
            probabilities.append(mean)
            if dimension.levels is not None and dimension.kind != "interval":
                level = np.asarray(dimension.levels)[np.argmax(np.nan_to_num(mean), axis=1)]
                scores[:, d] = np.where(np.isfinite(mean).all(axis=1), level, scores[:, d])
        scored = [np.isfinite(member.scores).any(axis=1) for member in members]
        return _united(self, members, scores, probabilities, np.sum(scored, axis=0))


class JoinedRater:
    """Raters of different dimensions side by side, as one rater of all dimensions.

    Flags are set where one member sets them; `n_valid` is the smallest of those members that
    scored; warnings are united.
    """

    def __init__(self, raters: Sequence[SignedRater]) -> None:
        """Raises UserError where a dimension stands in two raters, or there is no rater."""
        if not raters:
            raise UserError("there is no rater to put side by side with others.")
        self.raters = tuple(raters)
        self.dimensions: tuple[Dimension, ...] = tuple(d for r in raters for d in r.dimensions)
        owner: dict[str, int] = {}
        for place, rater in enumerate(raters, start=1):
            for dimension in rater.dimensions:
                if owner.setdefault(dimension.name, place) != place:
                    raise UserError(
                        f"the dimension {dimension.name!r} stands in rater "
                        f"{owner[dimension.name]} and in rater {place}. Side by side each "
                        "dimension comes from one rater; leave one of them out."
                    )

    @property
    def signature(self) -> str:
        """The members' signatures."""
        return " | ".join(rater.signature for rater in self.raters)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all members."""
        return _standing_warnings(self.raters)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        members = [_scored(rater, pairs, batch_size) for rater in self.raters]
        scores = np.concatenate([member.scores for member in members], axis=1)
        probabilities = [table for member in members for table in member.probabilities]
        n_valid = np.array([member.n_valid for member in members])
        fewest = np.where(n_valid > 0, n_valid, np.iinfo(int).max).min(axis=0)
        n_valid = np.where((n_valid > 0).any(axis=0), fewest, 0)
        return _united(self, members, scores, probabilities, n_valid)


def _scored(rater: SignedRater, pairs: Sequence[RatingInput], batch_size: int) -> Ratings:
    """The rater's ratings, if they are in range and carry the signature and dimensions it announced."""
    ratings = checked(rater.score(pairs, batch_size=batch_size), len(pairs))
    if ratings.dimensions != tuple(rater.dimensions):
        raise UserError(
            f"the rater announces {_shown(rater.dimensions)}, but its ratings have "
            f"{_shown(ratings.dimensions)}. ({ratings.signature})"
        )
    if ratings.signature != rater.signature:
        raise UserError(
            f"the rater announces the signature {rater.signature!r}, but its ratings carry "
            f"{ratings.signature!r}. Both must name what makes the scores."
        )
    return ratings


def _key(made_by: str, pair: RatingInput) -> bytes:
    before, after = ([(t.role, t.text) for t in side] for side in (pair.turns, pair.following))
    background = [pair.background] if pair.background else []
    text = f"{made_by}\n{json.dumps([before, pair.response, after, *background])}"
    return hashlib.sha256(text.encode()).digest()


def _united(
    rater: EnsembleRater | JoinedRater,
    members: Sequence[Ratings],
    scores: np.ndarray,
    probabilities: Sequence[np.ndarray | None],
    n_valid: np.ndarray,
) -> Ratings:
    return Ratings.of(
        rater.dimensions,
        scores,
        rater.signature,
        probabilities=probabilities,
        warnings=tuple(dict.fromkeys(text for member in members for text in member.warnings)),
        n_valid=n_valid,
        **{name: np.any([getattr(m, name) for m in members], axis=0) for name in _FLAGS},
    )


def _known_mean(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the tables, shape (n, k) each, without NaN; NaN where all are NaN."""
    stacked = np.stack(tables)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)


def _standing_warnings(raters: Sequence[Rater]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(w for rater in raters for w in getattr(rater, "warnings", ())))


def _shown(dimensions: Sequence[Dimension]) -> str:
    texts = []
    for d in dimensions:
        levels = "" if d.levels is None else f", levels {', '.join(f'{x:g}' for x in d.levels)}"
        texts.append(f"{d.name} ({d.kind}, {d.low:g} to {d.high:g}{levels})")
    return "; ".join(texts)
