"""Reader of EPITOME: three mechanisms of empathy in peer support (Sharma et al., EMNLP 2020)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from empo.corpora import Rejection
from empo.corpora.csv_rows import Row, read_csv
from empo.corpora.labelled import Example, LabelledCorpus
from empo.rating import MECHANISMS, Dimension, RatingInput
from empo.records import UserError, file_facts

FILES = dict(
    zip(
        MECHANISMS,
        ("emotional-reactions-reddit.csv", "interpretations-reddit.csv", "explorations-reddit.csv"),
        strict=True,
    )
)
"""The file of each mechanism."""
LEVELS = (0.0, 1.0, 2.0)
"""None, weak, strong."""
DIMENSIONS = tuple(Dimension(name, 0.0, 2.0, "ordinal", LEVELS) for name in MECHANISMS)
EMPATHY = Dimension("empathy", 0.0, 3.0, "ordinal", (0.0, 1.0, 2.0, 3.0))
"""Derived: the sum of the three levels, capped at 3 (four classes, Shayan)."""

_COLUMNS = ("sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales")
_SETTLED = "conflicts in {}, settled by the majority"
_TIED = "conflicts in {}, tied, the higher level taken"
_SPACED = "texts that differ between rows in white space only"
_MASKED = "texts that lack the word reddit in a row, the longer one taken"
_LOOSE = "rationale parts that the response does not hold literally"
_NOT_COMPARED = re.compile(r"(?:sub)?reddit|\s+", re.IGNORECASE)


def settle(levels: Sequence[float]) -> tuple[float, bool]:
    """The level of an input that was judged several times, and whether the vote was tied.

    The majority; on a tie the highest of the most frequent levels.
    """
    votes = Counter(levels)
    most = max(votes.values())
    winners = [level for level, count in votes.items() if count == most]
    return max(winners), len(winners) > 1


def read_epitome(folder: str | Path, derived: bool = True) -> LabelledCorpus:
    """EPITOME's Reddit part: one example per (seeker post, response), 0 to 2 per mechanism.

    The three files are joined by (sp_id, rp_id). Keys that occur several times become one example:
    the level is the majority's, on a tie the higher one (an annotator who saw the mechanism has
    found something to point at); `counts` says how many were settled which way. The rationales are
    those of the first row with that level. Runs of white space become one blank in texts and
    rationales, because the files differ in them; the file of emotional reactions also lacks the
    word (sub)reddit in some texts, and then the longer text is taken. `derived` adds the dimension
    `empathy`.

    The group is the seeker post. Rejected, with the reason: keys that are not in all three files,
    texts that differ otherwise, an empty post or response.

    Raises UserError for a missing file or column, an unknown or missing level, a missing id.
    """
    folder = Path(folder)
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: not an EPITOME folder, missing: {', '.join(missing)}.")
    judged: dict[tuple[str, str], dict[str, list[Row]]] = {}
    counts: Counter[str] = Counter()
    total = 0
    for mechanism, name in FILES.items():
        rows = read_csv(folder / name, _COLUMNS)
        total += len(rows)
        for row in rows:
            row.required("level")
            row.level("level", LEVELS)
            key = (row.required("sp_id"), row.required("rp_id"))
            judged.setdefault(key, {}).setdefault(mechanism, []).append(row)
        counts[f"rows of {mechanism}"] = len(rows)
        counts[f"repeated rows of {mechanism}"] = len(rows) - len(
            [key for key, files in judged.items() if mechanism in files]
        )
        counts.update({_SETTLED.format(mechanism): 0, _TIED.format(mechanism): 0})
    counts.update({_SPACED: 0, _MASKED: 0, _LOOSE: 0})
    examples: list[Example] = []
    rejected: list[Rejection] = []
    for (post, response), files in judged.items():
        example = _example(post, response, files, derived, counts)
        if isinstance(example, Example):
            examples.append(example)
        else:
            rows = [row for rows in files.values() for row in rows]
            detail = ", ".join(f"{row.path.name} line {row.line}" for row in rows)
            rejected.append(Rejection(f"{post}_{response}", example, detail))
    return LabelledCorpus(
        str(folder),
        "epitome",
        (*DIMENSIONS, EMPATHY) if derived else DIMENSIONS,
        examples,
        rejected,
        total,
        [file_facts(folder / name) for name in FILES.values()],
        dict(counts),
        derived=(EMPATHY.name,) if derived else (),
    )


def _example(
    post: str,
    response: str,
    files: dict[str, list[Row]],
    derived: bool,
    counts: Counter[str],
) -> Example | str:
    """The example of these rows, or the reason why it is rejected."""
    absent = [FILES[mechanism] for mechanism in MECHANISMS if mechanism not in files]
    if absent:
        return f"not in {', '.join(absent)}"
    rows = [row for rows in files.values() for row in rows]
    texts = {}
    for column, name in (("seeker_post", "seeker post"), ("response_post", "response")):
        if not all(row.text(column) for row in rows):
            return f"empty {name}"
        if len({_NOT_COMPARED.sub("", row.text(column)) for row in rows}) > 1:
            return f"the {name} differs between the rows"
        spaced = {" ".join(row.text(column).split()) for row in rows}
        if len(spaced) > 1:
            counts[_MASKED] += 1
        elif len({row.text(column) for row in rows}) > 1:
            counts[_SPACED] += 1
        texts[column] = max(spaced, key=len)
    labels: dict[str, float] = {}
    rationales: dict[str, tuple[str, ...]] = {}
    for mechanism in MECHANISMS:
        levels = [float(row.text("level")) for row in files[mechanism]]
        level, tied = settle(levels)
        if len(set(levels)) > 1:
            counts[_TIED.format(mechanism) if tied else _SETTLED.format(mechanism)] += 1
        labels[mechanism] = level
        parts = _parts(files[mechanism][levels.index(level)].text("rationales"))
        counts[_LOOSE] += sum(part not in texts["response_post"] for part in parts)
        if parts:
            rationales[mechanism] = parts
    if derived:
        labels[EMPATHY.name] = min(sum(labels.values()), EMPATHY.high)
    pair = RatingInput(texts["seeker_post"], texts["response_post"])
    return Example(f"{post}_{response}", post, pair, labels, rationales)


def _parts(rationales: str) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in rationales.split("|"))
    return tuple(part for part in parts if part)
