"""Readers of the WASSA 2024 shared task: perceived empathy of dialogues, turns, essays.

Track 1 judges a person in a dialogue, track 2 every turn, track 3 the essay that a person wrote on
a news article (Giorgi et al. 2024; Omitaomu et al. 2022). The article becomes the background of an
input. The files are quoted csv with backslash escapes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from empo.corpora import Rejection
from empo.corpora.articles import read_articles
from empo.corpora.csv_rows import Row, header_of, read_csv
from empo.corpora.labelled import Example, LabelledCorpus, group_of
from empo.corpora.stories import story_groups
from empo.dialogues import Turn
from empo.rating import Dimension, RatingInput
from empo.records import UserError, file_facts

Incomplete = Literal["drop", "keep"]
"""What becomes of a row that misses one of its track's labels: dropped, or kept with the others."""

Scale = tuple[str, float, float]
"""Column, lowest and highest value of a label."""

DIALOGUES: dict[str, Scale] = {
    "perceived_empathy": ("this_persons_perceived_empathy_of_other_person", 1.0, 7.0)
}
"""Track 1."""
TURNS: dict[str, Scale] = {
    "emotion_intensity": ("Emotion", 0.0, 5.0),
    "empathy": ("Empathy", 0.0, 5.0),
    "polarity": ("EmotionalPolarity", 0.0, 2.0),
}
"""Track 2."""
SELF_DISCLOSURE: dict[str, Scale] = {"self_disclosure": ("SelfDisclosure", 1.0, 5.0)}
"""In the training file of track 2 only, and no label of the task: a row without it is complete."""
ESSAYS: dict[str, Scale] = {
    "empathy": ("person_empathy", 1.0, 7.0),
    "distress": ("person_distress", 1.0, 7.0),
}
"""Track 3."""

_ESCAPE = "\\"
_MISSING = ("", "null", "unknown", "nan")
_ID = ("conversation_id", "article_id")


def read_wassa_turns(
    path: str | Path,
    articles: str | Path | None = None,
    incomplete: Incomplete = "drop",
    before: int | None = None,
) -> LabelledCorpus:
    """Track 2: one example per turn: emotion intensity, empathy, polarity, and self-disclosure.

    The turn is the response (assistant), the turns before it are the context (its speaker is the
    assistant there, too, the other person the user), at most `before` of them, None: all. The group
    is the dialogue, named by its text. A value outside its scale counts as missing. Rejected: an
    empty text; a missing label (`incomplete`: "drop", official), or no label at all ("keep").
    `articles` is a csv of articles (`read_articles`).

    Raises UserError for a missing column, a label that is no number, a turn that stands there
    twice, an article that the file of articles does not have.
    """
    scales = TURNS | (SELF_DISCLOSURE if "SelfDisclosure" in header_of(path) else {})
    rows = _dialogue_rows(path, [column for column, _, _ in scales.values()])
    record = _Record(path, "wassa_turns", scales, incomplete, articles, TURNS)
    record.counts["dialogues"] = len(rows)
    for dialogue, turns in rows.items():
        record.reject_empty(turns, "text")
        spoken = [row for row in turns if row.text("text")]
        group = group_of(row.text("text") for row in spoken)
        for place, row in enumerate(spoken):
            start = 0 if before is None else max(0, place - before)
            speaker = _speaker(row)
            context = tuple(_turn(other, speaker) for other in spoken[start:place])
            pair = RatingInput(context, row.text("text"), (), record.article(row))
            record.add(f"{dialogue}:{row.text('turn_id')}", group, pair, row)
    return record.corpus(sum(map(len, rows.values())), [path])


def read_wassa_dialogues(
    path: str | Path,
    articles: str | Path | None = None,
    incomplete: Incomplete = "drop",
    dialogues: str | Path | None = None,
) -> LabelledCorpus:
    """Track 1: one example per person of a dialogue: how empathic the other one seemed to them.

    The context is the whole dialogue: the turns of the person who judges are the user's, those of
    the other one the assistant's; the response is all that the other one said. The turns stand in
    the file of track 2 (`dialogues`; by default the one of the same split beside `path`). The group
    is the dialogue, named by its text. Rejected: dialogues that this file does not have, persons
    that they do not have, a missing label.

    Raises UserError as `read_wassa_turns`, and where the file of turns cannot be found.
    """
    beside = Path(path).with_name(Path(path).name.replace("trac1_CONVD", "trac2_CONVT"))
    source = Path(dialogues) if dialogues is not None else beside
    if not source.is_file() or source == Path(path):
        raise UserError(
            f"{path}: track 1 has no turns; they stand in the file of track 2, and {source} is not "
            "there. Put trac2_CONVT_*.csv of the same split beside it."
        )
    spoken = _dialogue_rows(source, [])
    rows = read_csv(path, (*_ID, DIALOGUES["perceived_empathy"][0]), _ESCAPE)
    person = _person_column(path, rows[0])
    record = _Record(path, "wassa_dialogues", DIALOGUES, incomplete, articles, DIALOGUES)
    for row in rows:
        dialogue, judge = row.required("conversation_id"), row.required(person)
        turns = [turn for turn in spoken.get(dialogue, []) if turn.text("text")]
        name = f"{dialogue}:{judge}"
        if not turns:
            record.reject(name, f"no turn of the dialogue in {source.name}", row)
            continue
        speakers = {_speaker(turn) for turn in turns}
        if judge not in speakers or len(speakers) < 2:
            record.reject(name, "the dialogue lacks one of its two persons", row)
            continue
        # the judge is the user: seen from the other one
        context = tuple(
            Turn("user" if _speaker(turn) == judge else "assistant", turn.text("text"))
            for turn in turns
        )
        said = "\n".join(turn.text for turn in context if turn.role == "assistant")
        group = group_of(turn.text for turn in context)
        record.add(name, group, RatingInput(context, said, (), record.article(row)), row)
    return record.corpus(len(rows), [path, source])


def read_wassa_essays(
    path: str | Path, articles: str | Path | None = None, incomplete: Incomplete = "drop"
) -> LabelledCorpus:
    """Track 3: one example per essay: empathy and distress of its writer, 1 to 7.

    The essay is the response, the context is empty. The group joins the essays of one conversation
    and equal essays: a person may talk about an article more than once.

    Raises UserError as `read_wassa_turns`.
    """
    columns = (*_ID, "person_id", "person_essay", *(c for c, _, _ in ESSAYS.values()))
    rows = read_csv(path, columns, _ESCAPE)
    record = _Record(path, "wassa_essays", ESSAYS, incomplete, articles, ESSAYS)
    record.reject_empty(rows, "person_essay")
    written = [row for row in rows if row.text("person_essay")]
    of = story_groups(
        [(f"conversation {r.required('conversation_id')}", r.text("person_essay")) for r in written]
    )
    texts: defaultdict[int, set[str]] = defaultdict(set)
    for row, group in zip(written, of, strict=True):
        texts[group].add(row.text("person_essay"))
    record.counts["repeated essays"] = len(written) - len(set().union(*texts.values()))
    for row, group in zip(written, of, strict=True):
        pair = RatingInput("", row.text("person_essay"), (), record.article(row))
        name = f"{row.text('conversation_id')}:{row.required('person_id')}"
        record.add(name, group_of(sorted(texts[group])), pair, row)
    return record.corpus(len(rows), [path])


READERS: Mapping[str, tuple[Callable[..., LabelledCorpus], str]] = {
    "wassa_turns": (read_wassa_turns, "a csv of WASSA 2024, track 2: Emotion, Empathy, ..."),
    "wassa_dialogues": (read_wassa_dialogues, f"track 1: {DIALOGUES['perceived_empathy'][0]}"),
    "wassa_essays": (read_wassa_essays, "track 3: person_essay, person_empathy, person_distress"),
}
"""Reader and looks of every track."""


def wassa_schema(header: Sequence[str]) -> str | None:
    """The track whose columns a csv has, None where it is none."""
    tracks = {"wassa_turns": TURNS, "wassa_dialogues": DIALOGUES, "wassa_essays": ESSAYS}
    for name, scales in tracks.items():
        if {*_ID, *(column for column, _, _ in scales.values())} <= set(header):
            return name
    return None


class _Record:
    """What a reader has found so far: examples, rejections, counts."""

    def __init__(
        self,
        path: str | Path,
        schema: str,
        scales: Mapping[str, Scale],
        incomplete: Incomplete,
        articles: str | Path | None,
        required: Mapping[str, Scale],
    ) -> None:
        if incomplete not in ("drop", "keep"):
            raise UserError(f"incomplete={incomplete!r}: rows that miss a label: drop or keep.")
        self.path, self.schema, self.scales = path, schema, scales
        self.incomplete, self.required = incomplete, required
        self.articles, self._texts = articles, None if articles is None else read_articles(articles)
        self.examples: list[Example] = []
        self.lines: dict[str, int] = {}
        self.rejected: list[Rejection] = []
        self.counts: Counter[str] = Counter()

    def article(self, row: Row) -> str:
        """The article of a row; empty where no articles were given."""
        if self._texts is None:
            return ""
        name = row.required("article_id")
        if name not in self._texts:
            raise row.refused(
                "article_id",
                f"is not in {self.articles}, which has {len(self._texts)} articles. Give the file "
                "of this corpus, or none.",
            )
        return self._texts[name]

    def reject(self, name: str, reason: str, row: Row) -> None:
        """Count a row that is not used."""
        self.rejected.append(Rejection(name, reason, f"line {row.line}"))

    def reject_empty(self, rows: Sequence[Row], column: str) -> None:
        """Count the rows without a text."""
        for row in rows:
            if not row.text(column):
                self.reject(row.text("conversation_id"), f"empty {column}", row)

    def add(self, name: str, group: str, pair: RatingInput, row: Row) -> None:
        """An example with the labels of the row, or its rejection; UserError where it is there twice."""
        if name in self.lines:
            raise row.refused(
                "conversation_id",
                f"stands with the same person on line {self.lines[name]} already.",
            )
        self.lines[name] = row.line
        labels = {}
        for dimension, (column, low, high) in self.scales.items():
            if row.text(column).lower() in _MISSING:
                self.counts[f"{dimension}: no value"] += 1
                continue
            value = float(row.number(column))
            if low <= value <= high:
                labels[dimension] = value
            else:
                self.counts[f"{dimension}: outside {low:g} to {high:g}, taken as missing"] += 1
        if missing := [dimension for dimension in self.required if dimension not in labels]:
            self.counts["rows that miss a label of the task"] += 1
            if self.incomplete == "drop" or len(missing) == len(self.required):
                self.reject(name, f"no {', '.join(missing)}", row)
                return
        self.examples.append(Example(f"{Path(self.path).stem}:{name}", group, pair, labels))

    def corpus(self, rows: int, files: Sequence[str | Path]) -> LabelledCorpus:
        """All of it; a dimension without any label is left out, the size of every level table told."""
        dimensions = []
        for name, (_, low, high) in self.scales.items():
            levels = {example.labels[name] for example in self.examples if name in example.labels}
            if levels:
                self.counts[f"{name}: different labels"] = len(levels)
                dimensions.append(Dimension(name, low, high, "interval"))
        if self.articles is None:
            self.counts["examples without an article"] = len(self.examples)
        read = [*files, *([self.articles] if self.articles is not None else [])]
        facts: list[dict[str, Any]] = [file_facts(file) for file in read]
        return LabelledCorpus(
            str(self.path),
            self.schema,
            tuple(dimensions),
            self.examples,
            self.rejected,
            rows,
            facts,
            dict(self.counts),
        )


def _dialogue_rows(path: str | Path, columns: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of every dialogue of a file of track 2, in the order of their turns."""
    rows = read_csv(path, (*_ID, "turn_id", "text", *columns), _ESCAPE)
    if not {"speaker", "speaker_id"} & rows[0].fields.keys():
        raise UserError(f"{path}: the column speaker (or speaker_id) is missing.")
    found: dict[str, dict[float, Row]] = {}
    for row in rows:
        row.required("turn_id")
        turns = found.setdefault(row.required("conversation_id"), {})
        number = float(row.number("turn_id"))
        if number in turns:
            raise row.refused("turn_id", f"stands on line {turns[number].line} already.")
        turns[number] = row
    return {name: [row for _, row in sorted(turns.items())] for name, turns in found.items()}


def _speaker(row: Row) -> str:
    """The id of the person who speaks; `Person 1` is the one whose id stands in person_id_1."""
    said = row.required("speaker" if "speaker" in row.fields else "speaker_id")
    column = f"person_id_{said.removeprefix('Person ')}"
    return row.text(column) if said.startswith("Person ") and column in row.fields else said


def _turn(row: Row, speaker: str) -> Turn:
    return Turn("assistant" if _speaker(row) == speaker else "user", row.text("text"))


def _person_column(path: str | Path, row: Row) -> str:
    for name in ("person_id", "person_id_1"):
        if name in row.fields:
            return name
    raise UserError(f"{path}: the column person_id (or person_id_1) is missing.")
