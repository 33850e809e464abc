"""Two raters that learn from different groups of one corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empo.corpora.labelled import Example, LabelledCorpus
from empo.raters.apart import cut_groups, unseen_by
from empo.raters.settings import RaterSettings
from empo.rating import Dimension, RatingInput
from empo.records import UserError
from empo.runs import Run

FILES = [{"file": "a.csv", "sha256": "1" * 64}]


def examples(n: int = 12) -> list[Example]:
    """Two examples in every group; the last group is judged in `clear` alone."""
    return [
        Example(
            id=f"{g}{half}",
            group=f"g{g}",
            input=RatingInput("?", "!"),
            labels={"clear" if g == n - 1 else "warm": 1.0},
        )
        for g in range(n)
        for half in "ab"
    ]


def corpus(files: list[dict[str, str]] = FILES) -> LabelledCorpus:
    scale = ("ordinal", (0.0, 1.0))
    dimensions = tuple(Dimension(name, 0.0, 1.0, *scale) for name in ("warm", "clear"))
    return LabelledCorpus("a.csv", "s", dimensions, examples(), [], 24, files)


def rater(folder: Path, command: str = "rater", status: str = "complete", **settings: Any) -> Path:
    run = Run.start(folder, command, settings)
    run.check_identity({"data": [FILES]})
    run.save(status=status)
    return folder


def groups(found: list[Example]) -> set[str]:
    return {example.group for example in found}


def test_what_another_rater_drew_is_left_out(tmp_path: Path) -> None:
    whole = examples()
    other = rater(tmp_path / "r", limit=5, split_seed=3)
    left = unseen_by(other, corpus(), RaterSettings(data="a"))
    assert groups(left) == groups(whole) - groups(cut_groups(whole, 5, 3))
    assert len(left) == 14 and left == [e for e in whole if e in left]
    third = rater(tmp_path / "s", limit=4, split_seed=0, apart_from=str(other))
    rest = unseen_by(third, corpus(), RaterSettings(data="a"))
    assert groups(rest) == groups(whole) - groups(cut_groups(left, 4, 0))


def test_groups_without_a_label_of_the_other_rater_were_not_seen(tmp_path: Path) -> None:
    other = rater(tmp_path / "r", dimensions=["warm"])
    assert groups(unseen_by(other, corpus(), RaterSettings(data="a"))) == {"g11"}


@pytest.mark.parametrize(
    ("made", "files", "said"),
    [
        ({"limit": 99}, FILES, "has seen all 12 groups. Train it with `limit`"),
        ({"limit": 3}, [{"file": "a.csv", "sha256": "2" * 64}], "differs in the files of its data"),
        (
            {"limit": 3, "incomplete": "keep"},
            FILES,
            "differs in incomplete",
        ),
        ({"limit": 3, "command": "dpo"}, FILES, "is no run of recipes/rater.py"),
        ({"limit": 3, "status": "running"}, FILES, "this run has not ended"),
    ],
)
def test_a_rater_that_one_cannot_be_apart_from(
    tmp_path: Path, made: dict[str, Any], files: list[dict[str, str]], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        unseen_by(rater(tmp_path / "r", **made), corpus(files), RaterSettings(data="a"))


def test_no_rater_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run of recipes/rater.py"):
        unseen_by(tmp_path, corpus(), RaterSettings(data="a"))


def test_a_test_corpus_is_no_group_to_leave_out() -> None:
    settings = RaterSettings(data="a", test="b", apart_from="c")
    assert (
        "apart_from: it leaves out groups of `data`, not of a test corpus." in settings.problems()
    )
