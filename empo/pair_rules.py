"""How the pairs of a DPO training came about, as its run.json says it: rule, raters, exchanges.

Named without a place, so that models, results and reports can carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from empo.records import misfit


class PairRule(TypedDict):
    """What was chosen and rejected, and of how many exchanges.

    `source`: opposite, the human reply is chosen and replies to the opposite emotion are rejected;
    sampled, both are the policy's own. `candidates` are as many replies as were chosen from;
    `choose` is which of them is rejected (of samples: the worst, and the best is chosen).
    `on_topic`: nearest contexts that candidates came from. `margin` in units of the scores.
    `at_equal_length`: scores without what they owe to length. `raters` and `dimensions` are those
    that chose; empty where none did. `exchanges` were trained on; left out were those
    `without_pairs` and the `too_long`. None: not known, or none.
    """

    source: Literal["opposite", "sampled"]
    candidates: int | None
    choose: Literal["random", "hardest", "easiest", "worst"]
    rejected: int
    on_topic: int | None
    margin: float | None
    at_equal_length: bool
    raters: list[str]
    dimensions: list[str]
    exchanges: int | None
    without_pairs: int
    too_long: int | None


class _Rater(TypedDict):
    name: str


class _Judge(TypedDict):
    dimensions: NotRequired[list[str]]
    raters: NotRequired[list[_Rater]]
    length_effect: NotRequired[dict[str, Any]]


class _BestOf(_Judge):
    n: NotRequired[int]


class _OnTopic(TypedDict):
    nearest: NotRequired[int]


class _Mining(TypedDict):
    candidates: NotRequired[int]
    choose: NotRequired[Literal["random", "hardest", "easiest"]]
    rejected: NotRequired[int]
    margin: NotRequired[float | None]
    on_topic: NotRequired[_OnTopic | None]
    judge: NotRequired[_Judge | None]


class _Sampled(TypedDict):
    best_of: NotRequired[_BestOf | None]
    margin: NotRequired[float | None]
    rejected: NotRequired[int]


class _Pairs(TypedDict):
    mining: NotRequired[_Mining | None]
    sampled: NotRequired[_Sampled | None]
    exchanges_without_pairs: NotRequired[int]


class _Rows(TypedDict):
    rows: NotRequired[int]
    filtered: NotRequired[int]


class _Lengths(TypedDict):
    train: NotRequired[_Rows]


class _Settings(TypedDict):
    rejected_per_prompt: NotRequired[int]


class _Facts(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    command: str
    settings: NotRequired[_Settings]
    lengths: NotRequired[_Lengths]
    pairs: NotRequired[_Pairs | None]
    reward: NotRequired[list[_Rater]]


_FACTS = TypeAdapter(_Facts)


def pair_rule(facts: Mapping[str, Any]) -> PairRule | None:
    """The rule of a training by the facts of its run.json; None where it trained on no pairs.

    Raises UserError where a field of the facts is of another type.
    """
    if facts.get("command") != "dpo":
        return None
    try:
        known = _FACTS.validate_python(dict(facts))
    except ValidationError as error:
        raise misfit("run.json of the model", error, "Restore the file.") from None
    pairs, train = known.get("pairs") or {}, known.get("lengths", {}).get("train", {})
    mining, sampled = pairs.get("mining") or {}, pairs.get("sampled")
    judge: Mapping[str, Any] = (mining if sampled is None else {}).get("judge") or {}
    if sampled is not None:
        judge = sampled.get("best_of") or {}
    rule = PairRule(
        source="opposite" if sampled is None else "sampled",
        candidates=mining.get("candidates", 1) if sampled is None else judge.get("n"),
        choose=mining.get("choose", "random") if sampled is None else "worst",
        rejected=known.get("settings", {}).get("rejected_per_prompt", 1),
        on_topic=(mining.get("on_topic") or {}).get("nearest"),
        margin=mining.get("margin") if sampled is None else sampled.get("margin"),
        at_equal_length="length_effect" in judge,
        raters=[],
        dimensions=[],
        exchanges=train.get("rows"),
        without_pairs=pairs.get("exchanges_without_pairs", 0),
        too_long=train.get("filtered"),
    )
    if rule["choose"] != "random" or rule["margin"] is not None:  # else scores were only noted
        raters = judge.get("raters") or known.get("reward", [])
        rule |= {
            "raters": [rater["name"] for rater in raters],
            "dimensions": judge.get("dimensions", []),
        }
    return rule


def named(rule: PairRule) -> str:
    """A rule in a few words: random; hardest of 4, by levels (explorations); on-policy, ..."""
    several = rule["candidates"] is not None and rule["candidates"] > 1
    text = f"{rule['choose']} of {rule['candidates']}" if several else rule["choose"]
    if rule["source"] == "sampled":
        text = f"on-policy, best against {text}"
    if rule["on_topic"] is not None:
        text += f", on topic ({rule['on_topic']} nearest)"
    if rule["margin"] is not None:
        text += f", margin {rule['margin']:g}"
    if rule["raters"]:
        text += f", by {' + '.join(rule['raters'])}"
    if rule["dimensions"]:
        text += f" ({' + '.join(rule['dimensions'])})"
    return text + ", at equal length" * rule["at_equal_length"]
