"""Readers of pairs of stories with human similarity: EmpathicStories and its Roman-Urdu sister.

Shen et al., EMNLP 2023; Manzoor et al., EMNLP 2024. Both sides of a pair are alike (`symmetric`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from empo.corpora import Rejection
from empo.corpora.csv_rows import Row, read_csv
from empo.corpora.labelled import Example, LabelledCorpus, group_of
from empo.rating import Dimension, RatingInput
from empo.records import UserError, file_facts

ASPECTS = ("event", "emotion", "moral", "empathy")
"""What two stories can be similar in."""
STEPS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""The scores that a person could give."""
URDU_ASPECTS = ("event", "emotion", "empathy")
URDU_STORIES = "cleaned_urdu_stories.csv"
URDU_SCORES = "Urdu_Dataset_Annotation.csv"

_TEXTS = {
    "story": ("story_A", "story_B"),
    "summary": ("story_A_summary", "story_B_summary"),
}
_PERSONS = (1, 2, 3, 4)


def read_stories(path: str | Path, text: str = "story") -> LabelledCorpus:
    """EmpathicStories pairs: 1 to 4 in steps of 0.5 for event, emotion, moral and empathy.

    `text` is "story" or "summary". The two texts are context and response. Pairs that share a story
    directly or by way of other pairs have one group, named by the text of its first story in the
    order of the alphabet; `check_apart` compares two corpora. In the published files nearly all hang
    together (`counts` gives the largest group), so such a file cannot be split by story and serves
    as a whole. A missing label is left out of the example and counted. Rejected: pairs with an
    empty text, or without any label.

    Raises UserError for a missing column or a label that is not one of STEPS.
    """
    if text not in _TEXTS:
        raise UserError(f"text={text!r}: the stories can be read as {' or '.join(_TEXTS)}.")
    columns = {aspect: f"similarity_{aspect}_human_AGG" for aspect in ASPECTS}
    # the groups are those of the stories, whichever text is read
    needed = dict.fromkeys((*_TEXTS["story"], *_TEXTS[text], *columns.values()))
    rows = read_csv(path, tuple(needed))
    counts: Counter[str] = Counter()
    labels = [
        {
            aspect: value
            for aspect, column in columns.items()
            if (value := row.level(column, STEPS)) is not None
        }
        for row in rows
    ]
    counts["missing labels"] = sum(len(ASPECTS) - len(found) for found in labels)
    examples, rejected = _examples(rows, Path(path).stem, _TEXTS[text], labels, counts)
    return LabelledCorpus(
        str(path),
        "stories",
        tuple(Dimension(aspect, 1.0, 4.0, "interval", STEPS) for aspect in ASPECTS),
        examples,
        rejected,
        len(rows),
        [file_facts(path)],
        dict(counts),
        symmetric=True,
    )


def read_urdu(folder: str | Path) -> LabelledCorpus:
    """Roman-Urdu story pairs; event, emotion and empathy are the means of four people's scores.

    Row i of the annotation file belongs to row i of the stories. Rejected: pairs with an empty
    text. The agreement of the four: `empo agreement --wide 'Person_{rater}_{aspect}_score'`.

    Raises UserError for a missing file or column, another number of rows in the two files, a score
    that is missing or not one of STEPS.
    """
    stories, scores = _urdu_rows(folder)
    labels = [
        {
            aspect: sum(_score(row, person, aspect) for person in _PERSONS) / len(_PERSONS)
            for aspect in URDU_ASPECTS
        }
        for row in scores
    ]
    counts: Counter[str] = Counter()
    stem = Path(URDU_STORIES).stem
    examples, rejected = _examples(stories, stem, _TEXTS["story"], labels, counts)
    return LabelledCorpus(
        str(folder),
        "urdu",
        tuple(Dimension(aspect, 1.0, 4.0, "interval") for aspect in URDU_ASPECTS),
        examples,
        rejected,
        len(stories),
        [file_facts(Path(folder) / name) for name in (URDU_STORIES, URDU_SCORES)],
        dict(counts),
        symmetric=True,
    )


def story_groups(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """For each pair of stories the index of the first pair of its group.

    Two pairs are in one group where a chain of pairs with a common story joins them (connected
    components of the graph whose nodes are stories and whose edges are pairs).
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    node: dict[str, int] = {}
    for story in (story for pair in pairs for story in pair):
        node.setdefault(story, len(node))
    ends = np.array([[node[a], node[b]] for a, b in pairs], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (ends[:, 0], ends[:, 1])), shape=(len(node),) * 2)
    component = connected_components(graph, directed=False)[1]
    first: dict[int, int] = {}
    return [first.setdefault(int(component[a]), place) for place, (a, _) in enumerate(ends)]


def check_apart(train: LabelledCorpus, test: LabelledCorpus) -> None:
    """Raise UserError where a text of one corpus of stories is also in the other.

    The names of the groups do not show it where a file has only a part of a group.
    """
    here, there = (
        {text for e in corpus.examples for text in (e.input.context, e.input.response)}
        for corpus in (train, test)
    )
    if shared := sorted(here & there):
        raise UserError(
            f"{train.source}, {test.source}: texts of stories in both: {len(shared)}, the first "
            f"{shared[0][:60]!r}. Scores on them would show memory, not rating: leave out the pairs "
            "with them in one of the two."
        )


def _examples(
    rows: Sequence[Row],
    stem: str,
    columns: tuple[str, str],
    labels: Sequence[dict[str, float]],
    counts: Counter[str],
) -> tuple[list[Example], list[Rejection]]:
    """One example per usable pair; counts the stories and the groups of those that are used."""
    used: list[int] = []
    rejected: list[Rejection] = []
    for place, row in enumerate(rows):
        if not all(row.text(column) for column in (*_TEXTS["story"], *columns)):
            reason = "empty text"
        elif not labels[place]:
            reason = "no label"
        else:
            used.append(place)
            continue
        rejected.append(Rejection(f"{stem}:{place + 1}", reason, f"line {row.line}"))
    a, b = _TEXTS["story"]
    pairs = [(rows[place].text(a), rows[place].text(b)) for place in used]
    groups = story_groups(pairs) if pairs else []
    smallest: dict[int, str] = {}
    for pair, group in zip(pairs, groups, strict=True):
        smallest[group] = min(*pair, smallest.get(group, pair[0]))
    names = {group: group_of([story]) for group, story in smallest.items()}
    counts["stories"] = len({story for pair in pairs for story in pair})
    counts["groups of pairs that share stories"] = len(set(groups))
    counts["pairs in the largest group"] = max(Counter(groups).values(), default=0)
    examples = [
        Example(
            f"{stem}:{place + 1}",
            names[group],
            RatingInput(rows[place].text(columns[0]), rows[place].text(columns[1])),
            labels[place],
        )
        for place, group in zip(used, groups, strict=True)
    ]
    return examples, rejected


def _urdu_rows(folder: str | Path) -> tuple[list[Row], list[Row]]:
    """The rows of both files."""
    columns = [f"Person_{p}_{aspect}_score" for p in _PERSONS for aspect in URDU_ASPECTS]
    stories = read_csv(Path(folder) / URDU_STORIES, _TEXTS["story"])
    scores = read_csv(Path(folder) / URDU_SCORES, columns)
    if len(stories) != len(scores):
        raise UserError(
            f"{folder}: {URDU_STORIES} has {len(stories)} rows and {URDU_SCORES} {len(scores)}; "
            "they belong together row by row, so one of them is not whole."
        )
    return stories, scores


def _score(row: Row, person: int, aspect: str) -> float:
    column = f"Person_{person}_{aspect}_score"
    row.required(column)
    return float(row.level(column, STEPS))
