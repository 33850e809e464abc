"""Raters around raters: a cache that changes no bit, ensembles, raters side by side.

Run as a script (`test_combined.py CACHE FIRST LAST [DIES_AFTER]`) it rates some inputs through a
cache, as the processes of the tests do.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.dialogues import Turn
from empo.raters.combined import CHUNK, CachedRater, EnsembleRater, JoinedRater
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError

NAN = np.nan
WARMTH = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
LENGTH = Dimension("length", 0, 1000, "interval")


class Letters:
    """A rater of one's own: levels and probabilities from letters, thirds of the length.

    A response without text gets no score. It counts what it is asked, and can die on the way.
    """

    dimensions = (WARMTH, LENGTH)

    def __init__(self, signature: str = "letters@1", dies_after: int | None = None) -> None:
        self.signature = signature
        self.warnings: tuple[str, ...] = ("letters are no measure",)
        self.asked: list[list[RatingInput]] = []
        self.dies_after = dies_after

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        if self.dies_after is not None and len(self.asked) == self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked.append(list(pairs))
        counts = np.array([[1 + pair.response.count(c) for c in "abc"] for pair in pairs], float)
        probabilities = counts / counts.sum(axis=1, keepdims=True)
        blank = np.array([not pair.response for pair in pairs])
        probabilities[blank] = NAN
        levels = np.where(blank, NAN, np.argmax(np.nan_to_num(probabilities), axis=1))
        lengths = [len(pair.response) / 3 + len(pair.turns) + len(pair.following) for pair in pairs]
        return Ratings.of(
            self.dimensions,
            np.stack([levels, lengths], axis=1),
            self.signature,
            probabilities=[probabilities, None],
            warnings=self.warnings,
            truncated=[len(pair.prompt) > 3 for pair in pairs],
            response_truncated=[len(pair.response) > 5 for pair in pairs],
            parse_failed=blank,
            n_valid=[2 + len(pair.prompt) for pair in pairs],
        )


def inputs(first: int, last: int) -> list[RatingInput]:
    """Inputs that all differ, some of them blank."""
    return [
        RatingInput(f"say {i}", "abcab"[: i % 5] + str(i) * (i % 7 > 0)) for i in range(first, last)
    ]


def assert_same(first: Ratings, second: Ratings) -> None:
    """Equal in every field and bit."""
    for field in dataclasses.fields(Ratings):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "probabilities":
            assert len(a) == len(b)
            for p, q in zip(a, b, strict=True):
                assert (p is None) == (q is None)
                if p is not None:
                    np.testing.assert_array_equal(p, q, strict=True)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=True, err_msg=field.name)
        else:
            assert a == b, field.name


# --- the cache ---


def test_cached_ratings_are_the_rater_s_to_the_bit(tmp_path: Path) -> None:
    pairs = inputs(0, 40)
    expected = Letters().score(pairs)
    assert np.isnan(expected.scores).any()
    assert expected.parse_failed.any()
    rater = Letters()
    cached = CachedRater(rater, tmp_path / "deep" / "ratings.sqlite")
    assert (cached.dimensions, cached.signature) == (rater.dimensions, rater.signature)
    assert_same(cached.score(pairs), expected)
    assert (cached.hits, cached.misses) == (0, 40)
    assert_same(cached.score(pairs), expected)
    assert (cached.hits, cached.misses) == (40, 0)
    assert len(rater.asked) == 1
    other = Letters()
    again = CachedRater(other, tmp_path / "deep" / "ratings.sqlite")
    assert_same(again.score(pairs), expected)
    assert other.asked == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), max_size=20),
    st.lists(st.integers(0, 12), max_size=20),
    st.integers(1, 9),
)
def test_any_order_and_repeats_give_what_the_rater_gives(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int], batch_size: int
) -> None:
    pool = inputs(0, 13)
    rater = Letters()
    cached = CachedRater(rater, tmp_path_factory.mktemp("cache") / "c.sqlite")
    for places in (first, second):
        pairs = [pool[i] for i in places]
        found = cached.score(pairs, batch_size=batch_size)
        assert cached.hits + cached.misses == len(pairs)
        if pairs:
            assert_same(found, Letters().score(pairs))
        else:
            assert len(found) == 0
    asked = [pair for call in rater.asked for pair in call]
    assert len(asked) == len(set(asked)) == len({*first, *second})


def test_what_makes_two_inputs_different(tmp_path: Path) -> None:
    user, assistant = Turn("user", "x"), Turn("assistant", "x")
    pairs = [
        RatingInput((user,), "a"),
        RatingInput((assistant,), "a"),
        RatingInput((user, user), "a"),
        RatingInput((user,), "b"),
        RatingInput((user,), "a", (user,)),
        RatingInput((user,), "a", (assistant,)),
        RatingInput((user,), "a", (), "an article"),
        RatingInput((), "a"),
        RatingInput("x\n", "a"),
        RatingInput("x", "\na"),
        RatingInput("\ud800", "ä"),  # half a surrogate pair, as broken files have them
    ]
    rater = Letters()
    cached = CachedRater(rater, tmp_path / "c.sqlite")
    cached.score(pairs)
    assert cached.misses == len(pairs)
    cached.score([RatingInput("x", "a")])  # a text is one turn of the speaker
    assert cached.hits == 1


def test_signature_and_dimensions_are_part_of_the_key(tmp_path: Path) -> None:
    pairs = inputs(0, 3)
    path = tmp_path / "c.sqlite"
    CachedRater(Letters("letters@1"), path).score(pairs)
    for changed in (Letters("letters@2"), Letters("letters@1")):
        if changed.signature == "letters@1":
            changed.dimensions = (WARMTH, dataclasses.replace(LENGTH, high=2000))
        cached = CachedRater(changed, path)
        found = cached.score(pairs)
        assert cached.misses == 3
        assert (found.signature, found.dimensions) == (changed.signature, changed.dimensions)


def test_the_rater_s_warnings_are_those_of_today(tmp_path: Path) -> None:
    rater = Letters()
    cached = CachedRater(rater, tmp_path / "c.sqlite")
    cached.score(inputs(0, 2))
    rater.warnings = ()
    assert cached.score(inputs(0, 2)).warnings == cached.warnings == ()


class Judge:
    """A rater with a warning of the call, and no attribute for it."""

    dimensions = (LENGTH,)
    signature = "judge"

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        odd = [pair.response for pair in pairs if "?" in pair.response]
        return Ratings.of(
            self.dimensions,
            np.ones((len(pairs), 1)),
            "judge",
            warnings=[f"asked back: {odd}"] * bool(odd),
        )


def test_warnings_of_a_call_are_kept_with_its_inputs(tmp_path: Path) -> None:
    plain, odd = RatingInput("", "a"), RatingInput("", "b?")
    cached = CachedRater(Judge(), tmp_path / "c.sqlite")
    cached.score([plain])
    cached.score([odd])
    assert cached.score([plain]).warnings == ()
    assert cached.score([plain, odd]).warnings == ("asked back: ['b?']",)


def test_chunks_are_kept_as_they_are_done(tmp_path: Path) -> None:
    class Fails(Letters):
        def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().score(pairs, batch_size=batch_size)

    pairs = inputs(0, 3 * CHUNK)
    with pytest.raises(KeyboardInterrupt):
        CachedRater(Fails(), tmp_path / "c.sqlite").score(pairs)
    cached = CachedRater(Letters(), tmp_path / "c.sqlite")
    assert_same(cached.score(pairs), Letters().score(pairs))
    assert (cached.hits, cached.misses) == (2 * CHUNK, CHUNK)


def test_a_batch_larger_than_a_chunk_stays_whole(tmp_path: Path) -> None:
    rater = Letters()
    CachedRater(rater, tmp_path / "c.sqlite").score(inputs(0, CHUNK + 50), batch_size=CHUNK + 9)
    assert [len(call) for call in rater.asked] == [CHUNK + 9, 41]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature": "letters@3"}, "announces the signature 'letters@1', but its ratings carry"),
        ({"dimensions": (WARMTH, dataclasses.replace(LENGTH, name="size"))}, "its ratings have"),
        ({"scores": np.full((3, 2), 5.0)}, "lies outside its range 0 to 2"),
        ({"scores": np.ones((2, 2))}, r"scores of shape \(2, 2\) for 3 inputs"),
    ],
)
def test_ratings_that_are_not_what_was_announced_are_not_kept(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    class Wrong(Letters):
        def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
            return dataclasses.replace(super().score(pairs), **change)

    for wrapped in (
        CachedRater(Wrong(), tmp_path / "c.sqlite"),
        EnsembleRater([Wrong()]),
        JoinedRater([Wrong()]),
    ):
        with pytest.raises(UserError, match=message):
            wrapped.score(inputs(0, 3))
    cached = CachedRater(Letters(), tmp_path / "c.sqlite")
    cached.score(inputs(0, 3))
    assert cached.misses == 3


# --- the cache and other processes ---


def started(*words: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    processes = [started(path, 0, 2500), started(path, 1000, 3500)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    cached = CachedRater(Letters(), path)
    assert_same(cached.score(inputs(0, 3500)), Letters().score(inputs(0, 3500)))
    assert cached.misses == 0


def test_a_killed_process_leaves_what_it_has_done(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    process = started(path, 0, 5 * CHUNK, 3)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    cached = CachedRater(Letters(), path)
    pairs = inputs(0, 5 * CHUNK)
    assert_same(cached.score(pairs), Letters().score(pairs))
    assert (cached.hits, cached.misses) == (3 * CHUNK, 2 * CHUNK)


def test_a_file_that_another_process_keeps_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sqlite"
    cached = CachedRater(Letters(), path)
    cached.score(inputs(0, 2))
    monkeypatch.setattr("empo.sqlite_file.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cached.score(inputs(0, 2))  # reading goes on
    with pytest.raises(UserError, match="another process has kept the file locked"):
        cached.score(inputs(0, 3))
    other.close()
    cached.score(inputs(0, 3))
    assert cached.misses == 1


# --- files that are no cache ---


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE letters (sender TEXT)")


def another_schema(path: Path) -> None:
    CachedRater(Letters(), path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")


def damaged(path: Path) -> None:
    CachedRater(Letters(), path).score(inputs(0, 200))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("x"), "this is no cache of ratings, or a damaged one"),
        (lambda path: path.write_text("score\n" * 999), "Delete it, with the files of the same"),
        (
            another_database,
            "a SQLite database, but no cache of ratings (application id 0). Move it",
        ),
        (another_schema, "has the schema 7, and this version reads 1. Delete it"),
        (damaged, "this is no cache of ratings, or a damaged one"),
        (lambda path: path.mkdir(), "the cache of ratings cannot be used (unable to open"),
    ],
)
def test_a_file_that_is_no_cache_is_named_and_left_alone(
    tmp_path: Path, make: Any, message: str
) -> None:
    path = tmp_path / "c.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError) as error:
        CachedRater(Letters(), path).score(inputs(0, 200))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert before is None or path.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="its folder cannot be made"):
        CachedRater(Letters(), tmp_path / "file" / "c.sqlite")


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").touch()
    cached = CachedRater(Letters(), tmp_path / "c.sqlite")
    assert_same(cached.score(inputs(0, 5)), Letters().score(inputs(0, 5)))
    assert os.listdir(tmp_path) == ["c.sqlite"]


# --- ensembles ---


class Fixed:
    """A rater that gives what it was made with, whatever the inputs."""

    def __init__(
        self,
        name: str,
        scores: Any,
        *,
        dimensions: Sequence[Dimension] = (WARMTH,),
        probabilities: Sequence[Any] | None = None,
        **flags: Any,
    ) -> None:
        self.signature = name
        self.dimensions = tuple(dimensions)
        self.warnings = (f"warning of {name}", "warning of all")
        if probabilities is not None:
            probabilities = [None if p is None else np.array(p, float) for p in probabilities]
        self.ratings = Ratings.of(
            dimensions, scores, name, probabilities=probabilities, warnings=self.warnings, **flags
        )

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        return self.ratings


TWO = inputs(0, 2)
FOUR = inputs(0, 4)


def test_the_mean_goes_over_members_that_scored() -> None:
    a = Fixed("a", [10, 10, NAN, NAN], dimensions=[LENGTH], truncated=[True, False, False, False])
    b = Fixed("b", [20, NAN, 30, NAN], dimensions=[LENGTH], parse_failed=[False, True, False, True])
    found = EnsembleRater([a, b]).score(FOUR)
    np.testing.assert_array_equal(found.scores[:, 0], [15, 10, 30, NAN])
    assert found.n_valid.tolist() == [2, 1, 1, 0]
    assert found.truncated.tolist() == [True, False, False, False]
    assert found.parse_failed.tolist() == [False, True, False, True]
    assert found.probabilities == (None,)
    assert found.signature == EnsembleRater([a, b]).signature == "mean of 2: a + b"
    assert found.warnings == ("warning of a", "warning of all", "warning of b")


def test_levels_with_probabilities_are_the_level_of_the_largest_mean() -> None:
    # the levels 0 and 2 have the mean 1, but the mean probabilities .45 .1 .45+ say 2
    a = Fixed("a", [0, 0], probabilities=[[[0.5, 0.1, 0.4], [0.9, 0.1, 0.0]]])
    b = Fixed("b", [2, NAN], probabilities=[[[0.3, 0.1, 0.6], [0.0, 0.0, 1.0]]])
    found = EnsembleRater([a, b]).score(TWO)
    assert found.scores[:, 0].tolist() == [2, 0]  # b scored the second one not: no say
    np.testing.assert_allclose(found.probabilities[0], [[0.4, 0.1, 0.5], [0.9, 0.1, 0.0]])


def test_levels_without_probabilities_of_all_are_the_mean_of_the_levels() -> None:
    a = Fixed("a", [0, 1], probabilities=[[[0.5, 0.1, 0.4], [0.1, 0.9, 0.0]]])
    b = Fixed("b", [1, 1])
    found = EnsembleRater([a, b]).score(TWO)
    assert found.scores[:, 0].tolist() == [0.5, 1]
    assert found.probabilities == (None,)


def test_an_interval_with_levels_stays_a_mean() -> None:
    dimension = Dimension("similarity", 1, 2, "interval", (1.0, 2.0))
    members = [
        Fixed(name, [score], dimensions=[dimension], probabilities=[[[0.2, 0.8]]])
        for name, score in (("a", 1), ("b", 2))
    ]
    found = EnsembleRater(members).score(TWO[:1])
    assert found.scores.tolist() == [[1.5]]
    np.testing.assert_allclose(found.probabilities[0], [[0.2, 0.8]])


def test_nobody_scored_means_no_score_and_no_probability() -> None:
    members = [Fixed(name, [NAN, 1], probabilities=[[[NAN] * 3, [0, 1, 0]]]) for name in ("a", "b")]
    found = EnsembleRater(members).score(TWO)
    np.testing.assert_array_equal(found.scores[:, 0], [NAN, 1])
    np.testing.assert_array_equal(found.probabilities[0], [[NAN] * 3, [0, 1, 0]])
    assert found.n_valid.tolist() == [0, 2]


def test_an_ensemble_of_one_is_that_one() -> None:
    alone = Letters().score(FOUR)
    found = EnsembleRater([Letters()]).score(FOUR)
    np.testing.assert_array_equal(found.scores, alone.scores)
    np.testing.assert_array_equal(found.probabilities[0], alone.probabilities[0])


def test_ensembles_that_are_refused() -> None:
    with pytest.raises(UserError, match="needs at least one rater"):
        EnsembleRater([])
    other = Fixed("b", [1], dimensions=[dataclasses.replace(WARMTH, levels=(0.0, 2.0))])
    with pytest.raises(UserError) as error:
        EnsembleRater([Fixed("a", [1]), other])
    assert str(error.value) == (
        "an ensemble needs raters of the same dimensions. Rater 1 has warmth (ordinal, 0 to 2, "
        "levels 0, 1, 2); rater 2 has warmth (ordinal, 0 to 2, levels 0, 2)."
    )
    with pytest.raises(UserError, match="two have the signature 'a'"):
        EnsembleRater([Fixed("a", [1]), Fixed("a", [1])])


# --- side by side ---


def test_raters_side_by_side() -> None:
    a = Fixed("a", [1, NAN], probabilities=[[[0, 1, 0], [NAN] * 3]], n_valid=[4, 0])
    b = Fixed("b", [7, 8], dimensions=[LENGTH], n_valid=[3, 2], truncated=[False, True])
    joined = JoinedRater([a, b])
    found = joined.score(TWO)
    assert joined.dimensions == found.dimensions == (WARMTH, LENGTH)
    np.testing.assert_array_equal(found.scores, [[1, 7], [NAN, 8]])
    np.testing.assert_array_equal(found.probabilities[0], a.ratings.probabilities[0])
    assert found.probabilities[1] is None
    assert found.n_valid.tolist() == [3, 2]
    assert found.truncated.tolist() == [False, True]
    assert found.signature == joined.signature == "a | b"
    assert found.warnings == joined.warnings == ("warning of a", "warning of all", "warning of b")


def test_joined_raters_that_are_refused() -> None:
    with pytest.raises(UserError, match="there is no rater"):
        JoinedRater([])
    members = [Fixed("a", [1]), Fixed("b", [1], dimensions=[LENGTH]), Letters()]
    with pytest.raises(UserError, match="'warmth' stands in rater 1 and in rater 3"):
        JoinedRater(members)


def test_wrappers_can_be_nested(tmp_path: Path) -> None:
    size = dataclasses.replace(LENGTH, name="size")
    ensemble = EnsembleRater([Letters("letters@1"), Letters("letters@2")])
    joined = JoinedRater([ensemble, Fixed("f", [1, 2, 3, 4], dimensions=[size])])
    cached = CachedRater(joined, tmp_path / "c.sqlite")
    expected = joined.score(FOUR)
    assert_same(cached.score(FOUR), expected)
    assert_same(cached.score(FOUR), expected)
    assert cached.hits == 4


if __name__ == "__main__":
    cache, first, last, *dies_after = sys.argv[1:]
    rater = Letters(dies_after=int(dies_after[0]) if dies_after else None)
    CachedRater(rater, cache).score(inputs(int(first), int(last)))
