"""EPITOME: three files joined, repeated rows settled, what does not fit rejected or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empo.corpora.epitome import FILES, read_epitome, settle
from empo.rating import MECHANISMS, RatingInput
from empo.records import UserError

HEADER = ["sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"]
POST, REPLY = "My dog died.", "Oh no. I feel for you. How old was he?"
Folder = Callable[..., Path]


@pytest.fixture
def folder(write_csv: Callable[..., Path], tmp_path: Path) -> Folder:
    """Write the three files: the same rows [sp, rp, post, reply, level, rationales] unless given."""

    def write(rows: list[list[object]], **others: list[list[object]]) -> Path:
        for mechanism, name in FILES.items():
            write_csv(f"epitome/{name}", [HEADER, *others.get(mechanism, rows)])
        return tmp_path / "epitome"

    return write


def row(level: object, rationales: str = "", reply: str = REPLY, post: str = POST) -> list[object]:
    return ["s1", "r1", post, reply, level, rationales]


def test_three_files_become_one_example(folder: Folder) -> None:
    source = folder(
        [row(2, "Oh no.| I feel  for you. | |")],
        interpretations=[row(0)],
        explorations=[row(2, "How old was he?|")],
    )
    corpus = read_epitome(source)
    (example,) = corpus.examples
    assert (example.id, example.group) == ("s1_r1", "s1")
    assert example.input == RatingInput(POST, REPLY)
    assert example.labels == {
        "emotional_reactions": 2.0,
        "interpretations": 0.0,
        "explorations": 2.0,
        "empathy": 3.0,  # 4, capped
    }
    assert example.rationales == {
        "emotional_reactions": ("Oh no.", "I feel for you."),
        "explorations": ("How old was he?",),
    }
    assert corpus.rows == 3
    assert [file["file"] for file in corpus.files] == list(FILES.values())
    assert corpus.derived == ("empathy",)
    assert [d.name for d in corpus.dimensions] == [*MECHANISMS, "empathy"]
    assert corpus.dimensions[0].levels == (0.0, 1.0, 2.0)
    assert corpus.dimensions[3].levels == (0.0, 1.0, 2.0, 3.0)
    plain = read_epitome(source, derived=False)
    assert [d.name for d in plain.dimensions] == list(plain.examples[0].labels) == list(MECHANISMS)
    assert plain.derived == ()


@pytest.mark.parametrize(
    "levels, expected",
    [
        ([1.0], (1.0, False)),
        ([0.0, 0.0, 2.0], (0.0, False)),
        ([0.0, 2.0], (2.0, True)),
        ([2.0, 1.0, 0.0], (2.0, True)),
        ([2.0, 0.0, 0.0, 1.0, 1.0], (1.0, True)),
    ],
)
def test_the_majority_settles_and_a_tie_goes_up(
    levels: list[float], expected: tuple[float, bool]
) -> None:
    assert settle(levels) == expected


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1), st.randoms())
def test_the_order_of_the_rows_settles_nothing(levels: list[float], random: object) -> None:
    shuffled = random.sample(levels, len(levels))
    assert settle(shuffled) == settle(levels)
    assert levels.count(settle(levels)[0]) == max(map(levels.count, levels))


def test_repeated_rows_are_settled_and_counted_per_mechanism(folder: Folder) -> None:
    source = folder(
        [row(0), row(1, "Oh no."), row(1, "I feel for you.")],
        interpretations=[row(2, "I feel for you."), row(0)],
        explorations=[row(1)],
    )
    corpus = read_epitome(source)
    (example,) = corpus.examples
    assert [example.labels[name] for name in MECHANISMS] == [1.0, 2.0, 1.0]
    assert example.rationales == {
        "emotional_reactions": ("Oh no.",),  # the first row with the level that was settled on
        "interpretations": ("I feel for you.",),
    }
    found = {name: count for name, count in corpus.counts.items() if count}
    assert found == {
        "rows of emotional_reactions": 3,
        "repeated rows of emotional_reactions": 2,
        "conflicts in emotional_reactions, settled by the majority": 1,
        "rows of interpretations": 2,
        "repeated rows of interpretations": 1,
        "conflicts in interpretations, tied, the higher level taken": 1,
        "rows of explorations": 1,
    }
    assert "  conflicts in explorations, settled by the majority: 0\n" in corpus.summary()


def test_texts_that_differ_in_spacing_or_by_the_word_reddit_are_one(folder: Folder) -> None:
    source = folder(
        [row(1, "We  are here", reply="We  are here on Reddit.")],
        emotional_reactions=[row(1, "gone", reply="We are here on .")],
        explorations=[row(0, reply="We are here on Reddit.", post="My  dog died.")],
    )
    corpus = read_epitome(source)
    (example,) = corpus.examples
    assert example.input == RatingInput(POST, "We are here on Reddit.")
    assert example.rationales["interpretations"] == ("We are here",)
    assert corpus.counts["texts that differ between rows in white space only"] == 1
    assert corpus.counts["texts that lack the word reddit in a row, the longer one taken"] == 1
    assert corpus.counts["rationale parts that the response does not hold literally"] == 1


@pytest.mark.parametrize(
    "rows, others, reason, detail",
    [
        (
            [row(0)],
            {"explorations": [["s2", "r2", POST, REPLY, 0, ""]]},
            "not in explorations-reddit.csv",
            "emotional-reactions-reddit.csv line 2, interpretations-reddit.csv line 2",
        ),
        (
            [row(0, reply=" ")],
            {},
            "empty response",
            "emotional-reactions-reddit.csv line 2, interpretations-reddit.csv line 2, "
            "explorations-reddit.csv line 2",
        ),
        (
            [row(0)],
            {"emotional_reactions": [row(0), row(0, post="")]},
            "empty seeker post",
            "emotional-reactions-reddit.csv line 2, emotional-reactions-reddit.csv line 3, "
            "interpretations-reddit.csv line 2, explorations-reddit.csv line 2",
        ),
        (
            [row(0)],
            {"interpretations": [row(0, reply="Oh yes.")]},
            "the response differs between the rows",
            "emotional-reactions-reddit.csv line 2, interpretations-reddit.csv line 2, "
            "explorations-reddit.csv line 2",
        ),
    ],
)
def test_what_does_not_fit_together_is_rejected(
    folder: Folder,
    rows: list[list[object]],
    others: dict[str, list[list[object]]],
    reason: str,
    detail: str,
) -> None:
    corpus = read_epitome(folder(rows, **others))
    rejection = corpus.rejected[0]
    assert (rejection.id, rejection.reason, rejection.detail) == ("s1_r1", reason, detail)
    assert corpus.examples == []


@pytest.mark.parametrize(
    "bad, message",
    [
        (row(3), "line 2, field 'level': '3' is not one of 0, 1, 2."),
        (row("weak"), "line 2, field 'level': 'weak' is no number."),
        (row(" "), "line 2, field 'level': ' ' is empty, and every row needs it."),
        (["", "r1", POST, REPLY, 0, ""], "line 2, field 'sp_id': '' is empty"),
        (["s1", "", POST, REPLY, 0, ""], "line 2, field 'rp_id': '' is empty"),
    ],
)
def test_a_bad_field_is_refused(folder: Folder, bad: list[object], message: str) -> None:
    source = folder([row(0)], interpretations=[bad])
    with pytest.raises(UserError) as error:
        read_epitome(source)
    assert str(error.value).startswith(f"{source / 'interpretations-reddit.csv'}, {message}")


def test_a_missing_file_or_column_is_named(folder: Folder, tmp_path: Path) -> None:
    source = folder([row(0)])
    (source / "explorations-reddit.csv").write_text("sp_id,rp_id,seeker_post\na,b,c\n")
    with pytest.raises(UserError, match="the columns response_post, level, rationales are missing"):
        read_epitome(source)
    (source / "explorations-reddit.csv").unlink()
    with pytest.raises(UserError, match="not an EPITOME folder, missing: explorations-reddit.csv."):
        read_epitome(source)


def test_the_real_corpus(real: Path) -> None:
    corpus = read_epitome(real / "epitome")
    assert corpus.rows == 3 * 3_084
    assert len(corpus.examples) == 3_023
    assert corpus.rejected == []
    assert len({example.id for example in corpus.examples}) == 3_023
    assert corpus.facts()["groups"] == 2_979
    for mechanism, majority, tied in zip(MECHANISMS, (0, 0, 1), (10, 10, 4), strict=True):
        assert corpus.counts[f"rows of {mechanism}"] == 3_084
        assert corpus.counts[f"repeated rows of {mechanism}"] == 61
        settled = corpus.counts[f"conflicts in {mechanism}, settled by the majority"]
        raised = corpus.counts[f"conflicts in {mechanism}, tied, the higher level taken"]
        assert (settled, raised) == (majority, tied)
    assert corpus.facts()["labels"] == {
        "emotional_reactions": {"0": 2_003, "1": 869, "2": 151},
        "interpretations": {"0": 1_584, "1": 114, "2": 1_325},
        "explorations": {"0": 2_549, "1": 102, "2": 372},
        "empathy": {"0": 685, "1": 570, "2": 1_268, "3": 500},
    }
