"""Reader of ESConv: which support strategies a turn uses (Liu et al., ACL 2021)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empo.corpora import Rejection
from empo.corpora.labelled import Example, LabelledCorpus, group_of
from empo.corpora.windows import window
from empo.dialogues import Role, Turn
from empo.rating import Dimension
from empo.records import UserError, file_facts, read_jsonl, shown

SPLITS = ("train", "valid", "test")
STRATEGIES = {
    "Question": "question",
    "Restatement or Paraphrasing": "restatement_or_paraphrasing",
    "Reflection of feelings": "reflection_of_feelings",
    "Self-disclosure": "self_disclosure",
    "Affirmation and Reassurance": "affirmation_and_reassurance",
    "Providing Suggestions": "providing_suggestions",
    "Information": "information",
}
"""The seven strategies that are tasks, and their dimensions."""
OTHERS = "Others"
"""The eighth strategy; no task (Xu and Jiang 2024)."""
STAGES = {
    "stage_exploration": ("question", "restatement_or_paraphrasing"),
    "stage_comforting": (
        "reflection_of_feelings",
        "self_disclosure",
        "affirmation_and_reassurance",
    ),
    "stage_action": ("providing_suggestions", "information"),
}
"""The strategies of each of the three stages of support (Liu et al. 2021).

Their framework lets some strategies, self-disclosure for one, serve several stages. Here each
strategy counts for one stage, a reading of ours that is also common in work on ESConv.
"""

_ROLES: dict[str, Role] = {"usr": "user", "sys": "assistant"}


@dataclass
class _Utterance:
    """A turn while neighbours of one side are merged into it."""

    role: Role
    texts: list[str]
    strategies: set[str] = field(default_factory=set)


def read_esconv(
    source: str | Path,
    split: str | None = None,
    before: int = 3,
    after: int = 3,
    stages: bool = False,
) -> LabelledCorpus:
    """ESConv: one example per supporter turn, yes (1) or no (0) for each of seven strategies.

    `source` is a jsonl file or a folder with train.jsonl, valid.jsonl and test.jsonl, of which
    `split` chooses one (all by default). Neighbouring turns of one side are merged first, joined by
    a blank, so a turn can have several strategies; a turn whose only strategy is Others has none
    and stays. The window holds up to `before` merged turns before the target and up to `after`
    after it (seeker = user, supporter = assistant). `stages` adds three derived yes/no dimensions,
    see STAGES. The group is the dialogue, named by its text (`group_of`).

    Rejected: dialogues with an empty turn or without a supporter turn. `rows` are dialogues.

    Raises UserError for a missing file, a row without a list `dialog`, an unknown speaker or
    strategy.
    """
    names = (*STRATEGIES.values(), *(STAGES if stages else ()))
    counts: Counter[str] = Counter()
    examples: list[Example] = []
    rejected: list[Rejection] = []
    paths = _files(Path(source), split)
    rows = 0
    for path in paths:
        for line, row in read_jsonl(path):
            rows += 1
            name = f"{path.stem}:{line}"
            utterances = _merged(row, f"{path}, line {line}", counts)
            if isinstance(utterances, str):
                rejected.append(Rejection(name, utterances, f"{path.name} line {line}"))
                continue
            turns = [Turn(u.role, " ".join(u.texts)) for u in utterances]
            group = group_of(turn.text for turn in turns)
            for place, utterance in enumerate(utterances):
                if utterance.role != "assistant":
                    continue
                used = {STRATEGIES[name] for name in utterance.strategies - {OTHERS}}
                counts["supporter turns with several strategies"] += len(used) > 1
                counts["supporter turns with Others alone, no to all"] += not used
                present = used | {name for name, members in STAGES.items() if used & set(members)}
                labels = {name: float(name in present) for name in names}
                target = window(turns, place, before, after)
                examples.append(Example(f"{name}:{place + 1}", group, target, labels))
    return LabelledCorpus(
        str(source),
        "esconv",
        tuple(Dimension(name, 0.0, 1.0, "binary", (0.0, 1.0)) for name in names),
        examples,
        rejected,
        rows,
        [file_facts(path) for path in paths],
        dict(counts),
        derived=tuple(STAGES) if stages else (),
    )


def _files(source: Path, split: str | None) -> list[Path]:
    if source.is_file():
        if split is not None:
            raise UserError(
                f"{source}: this is one file, so there is no split {split!r} to choose."
            )
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder. Check the path.")
    if split is not None and split not in SPLITS:
        raise UserError(f"split {split!r}: ESConv has {', '.join(SPLITS)}.")
    wanted = [f"{name}.jsonl" for name in (SPLITS if split is None else (split,))]
    missing = [name for name in wanted if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source}: the folder lacks {', '.join(missing)}.")
    return [source / name for name in wanted]


def _merged(row: dict[str, Any], where: str, counts: Counter[str]) -> list[_Utterance] | str:
    """The dialogue with neighbouring turns of one side as one, or why it is rejected."""
    dialog = row.get("dialog")
    if not isinstance(dialog, list) or not all(isinstance(turn, dict) for turn in dialog):
        raise UserError(f"{where}, field 'dialog': a list of turns is expected.")
    utterances: list[_Utterance] = []
    reason = ""
    for number, turn in enumerate(dialog, start=1):
        place = f"{where}, turn {number}"
        speaker = turn.get("speaker")
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise UserError(
                f"{place}, field 'speaker': {shown(speaker)} is neither 'usr' nor 'sys'."
            )
        strategy = turn.get("strategy")
        if speaker == "sys" and strategy not in (*STRATEGIES, OTHERS):
            raise UserError(
                f"{place}, field 'strategy': {shown(strategy)} is unknown; known are "
                f"{', '.join((*STRATEGIES, OTHERS))}."
            )
        text = turn.get("text")
        if not isinstance(text, str):
            raise UserError(f"{place}, field 'text': {shown(text)} is no text.")
        if not text.strip():
            reason = "empty turn"
        if not utterances or utterances[-1].role != _ROLES[speaker]:
            utterances.append(_Utterance(_ROLES[speaker], []))
        utterances[-1].texts.append(text.strip())
        if speaker == "sys":
            utterances[-1].strategies.add(strategy)
    counts["turns before merging"] += len(dialog)
    counts["turns merged into the one before"] += len(dialog) - len(utterances)
    if not any(utterance.role == "assistant" for utterance in utterances):
        reason = reason or "no supporter turn"
    return reason or utterances
