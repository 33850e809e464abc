import pytest

from empo.pair_rules import named, pair_rule
from empo.records import UserError

JUDGE = {
    "dimensions": ["warmth"], "value": "score", "low": 0.0, "high": 2.0,
    "raters": [{"name": "levels", "weights": "ab", "signature": "levels@ab"}],
}  # fmt: skip
RANDOM = {
    "candidates": 1,
    "choose": "random",
    "rejected": 1,
    "margin": None,
    "on_topic": None,
    "judge": None,
}
SAMPLED = {
    "responses": {"file": "samples.jsonl", "sha256": "ab"},
    "best_of": {"n": 8, "dimensions": ["warmth"], "value": "score"},
    "margin": None,
    "rejected": 1,
}


def trained(pairs=None, reward=None, **settings):
    """What matters here of a run.json of DPO: 70 exchanges trained on, 3 too long."""
    facts = {
        "command": "dpo",
        "settings": {"pairs": "private/pairs", **settings},
        "lengths": {"train": {"rows": 70, "filtered": 3, "mean_tokens": 1.5}},
    }
    if pairs is not None:
        facts["pairs"] = {"folder": "private/pairs", "exchanges_without_pairs": 27, **pairs}
    return facts | ({"reward": reward} if reward else {})


def mined(**changed):
    return trained({"mining": RANDOM | changed, "sampled": None})


@pytest.mark.parametrize(
    "facts, name",
    [
        (trained(), "random"),
        (trained({"mining": None, "sampled": None}), "random"),
        (mined(on_topic={"nearest": 32, "encoder": {}}), "random, on topic (32 nearest)"),
        (mined(candidates=4, judge=JUDGE), "random of 4"),  # scores were only noted
        (mined(candidates=4, choose="hardest", judge=JUDGE), "hardest of 4, by levels (warmth)"),
        (
            mined(candidates=4, margin=0.25, judge=JUDGE | {"length_effect": {"slope": 1.0}}),
            "random of 4, margin 0.25, by levels (warmth), at equal length",
        ),
        (
            trained({"mining": None, "sampled": SAMPLED}, [{"name": "a"}, {"name": "b"}]),
            "on-policy, best against worst of 8, by a + b (warmth)",
        ),
    ],
    ids=["drawn", "filed", "on topic", "scored", "hardest", "margin", "on-policy"],
)
def test_arms_are_told_apart_by_their_rule(facts, name):
    rule = pair_rule(facts)
    assert named(rule) == name
    assert (rule["exchanges"], rule["too_long"]) == (70, 3)
    assert rule["without_pairs"] == (27 if "pairs" in facts else 0)
    assert "private" not in str(rule)


def test_how_many_are_rejected_is_that_of_the_training():
    assert pair_rule(trained())["rejected"] == 1
    assert pair_rule(trained(rejected_per_prompt=4))["rejected"] == 4


def test_a_training_without_pairs_has_no_rule():
    assert pair_rule({"command": "sft", "pairs": 3}) is None
    assert pair_rule({}) is None


def test_a_run_that_tells_nothing_of_its_rows():
    rule = pair_rule({"command": "dpo"})
    assert (named(rule), rule["exchanges"], rule["too_long"]) == ("random", None, None)


@pytest.mark.parametrize(
    "pairs, field",
    [
        ({"mining": {"choose": "best"}}, "pairs.mining.choose"),
        ({"sampled": {"margin": "wide"}}, "pairs.sampled.margin"),
        ({"mining": 3}, "pairs.mining"),
    ],
)
def test_a_fact_of_another_type_is_named(pairs, field):
    with pytest.raises(
        UserError, match=f"run.json of the model, field '{field}': .* Restore the file"
    ):
        pair_rule(trained(pairs))
