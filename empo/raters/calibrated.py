"""Contrastive calibration: an item is scored beside training items whose labels are known.

For every level some anchors with that label are drawn; the model compares the item with each, and
what it gives to the item is averaged (Li, Rusnachenko and Liang, WASSA 2024).
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field, FiniteFloat, PositiveInt

from empo.corpora.dimensions import Strict, validated
from empo.corpora.labelled import Example
from empo.dialogues import Role, Turn
from empo.raters.folder import RATER_CONFIG, RaterConfig, weights_digest
from empo.raters.scoring_lm import KIND as BASE_KIND
from empo.raters.scoring_lm import TEMPLATES, UNSAVED, Question, ScoringLM
from empo.rating import Dimension, Rater, RatingInput, Ratings
from empo.records import UserError, read_json, write_json

KIND = "calibrated"
ANCHORS = "anchors.json"
"""File of a rater folder with the training items that others are compared with."""

TELLING = 5
"""Words from which on a turn tells a dialogue; "How are you?" stands in many."""
_WORD = re.compile(r"\w+")


class ComparingRater(Rater, Protocol):
    """A rater that can also score two items side by side."""

    def compared(
        self, questions: Sequence[Question], batch_size: int = 32
    ) -> Sequence[tuple[float, float] | None]:
        """Scores of both items of every question, in native units; None where there is none."""
        ...


@dataclass(frozen=True)
class Anchors:
    """How anchors are drawn: so many per level and dimension, from a pool of training examples.

    `weights` "uniform": all levels count alike, as published, which draws scores to the middle of
    the scale; "prior": as often as they occur in the pool. `order` says which of the two comes
    first: at random, or both orders, each an answer of its own.
    """

    pool: Sequence[Example]
    per_level: int = 1
    weights: Literal["uniform", "prior"] = "uniform"
    order: Literal["random", "both"] = "random"
    seed: int = 0


class CalibratedRater:
    """A base rater's comparisons of an item with anchors of every level, averaged.

    Anchors never come from the item's own dialogue: a group that has the same response, or a text of
    at least `TELLING` words that stands in the item's response or in a turn before it (case, spaces
    and punctuation do not count). What is drawn depends on seed, item and dimension alone. `n_valid` are the
    answers behind the dimension with the fewest; an item without a valid answer in a dimension keeps
    the base rater's score there and is flagged `parse_failed`. `counts` add up what was asked, what
    was valid, how many scores were kept (`fallback`), and the levels of an item that had no anchor
    outside its dialogue (`no anchor`); ratings that lost answers or levels say so.
    """

    def __init__(
        self,
        base: ComparingRater,
        anchors: Anchors,
        *,
        name: str,
        signature: str,
        warnings: Sequence[str] = (),
        config: RaterConfig | None = None,
    ) -> None:
        self.base, self.anchors, self.config = base, anchors, config
        self.name, self.signature, self.warnings = name, signature, tuple(warnings)
        self.dimensions: tuple[Dimension, ...] = tuple(base.dimensions)
        self.counts: Counter[str] = Counter()
        self._by_level: list[dict[float, list[Example]]] = []
        for dimension in self.dimensions:
            found: defaultdict[float, list[Example]] = defaultdict(list)
            for example in anchors.pool:
                if dimension.name in example.labels:
                    found[example.labels[dimension.name]].append(example)
            if not found:
                raise UserError(f"{name}: no anchor has a label of {dimension.name!r}.")
            self._by_level.append(dict(sorted(found.items())))
        self._groups: defaultdict[str, set[str]] = defaultdict(set)
        for example in anchors.pool:
            for text in _told(example.input):
                self._groups[text].add(example.group)

    @classmethod
    def of(cls, base: ScoringLM, pool: Sequence[Example], **how: Any) -> CalibratedRater:
        """The rater around a base that is not saved yet; `how` are the fields of Anchors."""
        anchors = Anchors(list(pool), **how)
        facts = {f.name: getattr(anchors, f.name) for f in dataclasses.fields(Anchors)}
        kept = {name: value for name, value in facts.items() if name != "pool"}
        settings = {**base.config.settings, "anchors": kept}
        return cls._with(
            base, anchors, dataclasses.replace(base.config, kind=KIND, settings=settings), UNSAVED
        )

    @classmethod
    def _with(
        cls, base: ScoringLM, anchors: Anchors, config: RaterConfig, weights: str
    ) -> CalibratedRater:
        return cls(
            base,
            anchors,
            name=config.name,
            signature=config.signature(weights),
            warnings=config.warnings(weights),
            config=config,
        )

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        standard = self.base.score(pairs, batch_size=batch_size)
        questions: list[Question] = []
        asked: list[tuple[int, int, float, bool]] = []  # item, dimension, level, item comes first
        lacking = 0
        for i, pair in enumerate(pairs):
            if not np.isfinite(standard.scores[i]).any():
                continue  # blank, or too long
            own = set().union(*(self._groups.get(text, set()) for text in _told(pair)))
            for d in range(len(self.dimensions)):
                drawn = self._drawn(pair, d, own)
                lacking += len(self._by_level[d]) - len({level for level, _, _ in drawn})
                for level, anchor, first in drawn:
                    pieces = (pair, anchor.input) if first else (anchor.input, pair)
                    questions.append(Question(*pieces, d))
                    asked.append((i, d, level, first))
        answers = self.base.compared(questions, batch_size)
        given: defaultdict[tuple[int, int], defaultdict[float, list[float]]]
        given = defaultdict(lambda: defaultdict(list))
        for (i, d, level, first), answer in zip(asked, answers, strict=True):
            if answer is not None:
                given[i, d][level].append(answer[0 if first else 1])
        scores = standard.scores.copy()
        valid = np.zeros(scores.shape, int)
        for (i, d), by_level in given.items():
            weights = [self._weight(d, level) for level in by_level]
            scores[i, d] = np.average([np.mean(own) for own in by_level.values()], weights=weights)
            valid[i, d] = sum(map(len, by_level.values()))
        scored = np.isfinite(standard.scores)
        fallback = scored & (valid == 0)
        found = {"asked": len(asked), "valid": int(valid.sum()), "fallback": int(fallback.sum())}
        found["no anchor"] = lacking
        self.counts.update(found)
        return Ratings.of(
            self.dimensions,
            scores,
            self.signature,
            warnings=tuple(
                dict.fromkeys(
                    (*self.warnings, *standard.warnings, *self._lost(found, int(scored.sum())))
                )
            ),
            truncated=standard.truncated,
            response_truncated=standard.response_truncated,
            parse_failed=fallback.any(axis=1) | standard.parse_failed,
            n_valid=valid.min(axis=1) if len(pairs) else np.zeros(0, int),
        )

    def _lost(self, found: dict[str, int], scores: int) -> list[str]:
        lost = []
        if found["valid"] < found["asked"]:
            lost.append(
                f"Rater {self.name}: of {found['asked']:,} comparisons with anchors {found['valid']:,} "
                f"gave a readable answer; {found['fallback']:,} of {scores:,} scores had none and are "
                "those without calibration."
            )
        if found["no anchor"]:
            lost.append(
                f"Rater {self.name}: {found['no anchor']:,} times a level had no anchor outside the "
                f"item's own dialogue and was left out of the average; {scores:,} scores."
            )
        return lost

    def _drawn(self, pair: RatingInput, d: int, own: set[str]) -> list[tuple[float, Example, bool]]:
        """Level, anchor, and whether the item comes first, of every comparison."""
        text = "\n".join([*(turn.text for turn in pair.turns), pair.response, str(d)])
        digest = hashlib.sha256(f"{self.anchors.seed}\n{text}".encode()).hexdigest()
        rng = random.Random(digest)
        found = []
        for level, examples in self._by_level[d].items():
            others = [example for example in examples if example.group not in own]
            for anchor in rng.sample(others, min(self.anchors.per_level, len(others))):
                orders = (True, False) if self.anchors.order == "both" else (rng.random() < 0.5,)
                found += [(level, anchor, first) for first in orders]
        return found

    def _weight(self, d: int, level: float) -> float:
        return float(len(self._by_level[d][level])) if self.anchors.weights == "prior" else 1.0

    def save(self, folder: str | Path) -> None:
        """Write the base, the anchors and, last, rater_config.json."""
        folder = Path(folder)
        self.base.save(folder)
        (folder / RATER_CONFIG).unlink()
        write_json(
            folder / ANCHORS, [_facts(example, self.dimensions) for example in self.anchors.pool]
        )
        dataclasses.replace(self.config, evidence=None).write(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> CalibratedRater:
        """The rater that `save` wrote.

        Raises UserError as `ScoringLM.load`, and where its anchors, how they are drawn, or the
        template that compares are missing or wrong.
        """
        config = RaterConfig.read(folder)
        base = ScoringLM.load(folder, device)
        base.config = dataclasses.replace(config, kind=BASE_KIND)
        base.warnings = ()  # those of the whole are the calibrated rater's
        if "contrastive" not in base.templates.texts:
            raise UserError(
                f"{Path(folder) / TEMPLATES}, texts: contrastive is missing, and anchors are compared "
                "with it."
            )
        where = f"{Path(folder) / RATER_CONFIG}, settings, anchors: the anchors cannot be read"
        how = validated(_Drawing, config.settings.get("anchors"), where)
        anchors = Anchors(_pool(Path(folder) / ANCHORS), **how.model_dump())
        try:
            return cls._with(base, anchors, config, weights_digest(folder))
        except UserError as error:
            raise UserError(f"{Path(folder) / ANCHORS}: {error}") from None


def _told(pair: RatingInput) -> set[str]:
    """What tells the dialogue of an item: its response, marked, and its longer texts, normalised."""
    response, *before = (
        " ".join(_WORD.findall(text.casefold())) or text.strip()  # an emoji alone
        for text in (pair.response, *(turn.text for turn in pair.turns))
    )
    longer = {text for text in (response, *before) if len(text.split()) >= TELLING}
    return longer | {f"response: {response}"}


def _facts(example: Example, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """An anchor as JSON; its background plays no part in comparisons."""
    return {
        "id": example.id,
        "group": example.group,
        "context": [[turn.role, turn.text] for turn in example.input.turns],
        "response": example.input.response,
        "labels": {d.name: example.labels[d.name] for d in dimensions if d.name in example.labels},
    }


class _Drawing(Strict):
    per_level: PositiveInt
    weights: Literal["uniform", "prior"]
    order: Literal["random", "both"]
    seed: int


class _Anchor(Strict):
    id: str
    group: str
    context: list[Annotated[tuple[Role, str], Field(strict=False)]]  # JSON has lists
    response: str
    labels: dict[str, FiniteFloat]


def _pool(path: Path) -> list[Example]:
    """The anchors of a file. Raises UserError naming the anchor and the field that is wrong."""
    saved = read_json(path)
    if not isinstance(saved, list):
        raise UserError(f"{path}: a list of anchors is expected, not {type(saved).__name__}.")
    found = []
    for number, facts in enumerate(saved, start=1):
        anchor = validated(_Anchor, facts, f"{path}, anchor {number}")
        turns = tuple(Turn(role, text) for role, text in anchor.context)
        pair = RatingInput(turns, anchor.response)
        found.append(Example(anchor.id, anchor.group, pair, anchor.labels))
    return found
