"""Cards of models say how their pairs were made."""

import pytest

from empo.cards import model_card

JUDGE = {"dimensions": ["warmth"], "raters": [{"name": "levels"}]}
ROUND = {"best_of": {"n": 8, "dimensions": ["warmth"], "length_effect": {}}, "margin": None}


def aligned(reward=(), **pairs):
    """The card of a DPO model as one paragraph of summary, and all of it."""
    facts = {
        "name": "model",
        "command": "dpo",
        "settings": {},
        "versions": {},
        "lengths": {
            "train": {"rows": 626, "mean_tokens": 9, "shortened": 0, "filtered": 0},
        },
        "reward": [{"name": name, "weights": "ab"} for name in reward],
        "pairs": {"exchanges_without_pairs": 174, "mining": None, "sampled": None, **pairs},
    }
    card = model_card(facts)
    return card.split("# model\n\n")[1].split("\n")[0], card


def test_the_card_of_drawn_pairs_says_so_and_no_more():
    assert aligned()[0] == (
        "Aligned by DPO: the human reply preferred to a reply given to a speaker with the opposite "
        "emotion, drawn anew every epoch."
    )


def test_the_card_of_a_round_says_that_both_replies_are_the_policys_own():
    summary, card = aligned(["levels"], sampled=ROUND)
    assert summary == (
        "Aligned by DPO: of 8 replies that the policy itself gave to a context, the best preferred to "
        "one of the worst, as ranked by levels (warmth), without the effect of length. No human reply "
        "was preferred. That rater's scores are no measure of this model. Reward: levels."
    )
    assert "opposite emotion" not in card
    apart, _ = aligned(["a", "b"], sampled=ROUND | {"margin": 0.5})
    assert "one of the worst at least 0.5 below it, as ranked by a and b (warmth)" in apart
    assert "Those raters' scores are no measure" in apart


@pytest.mark.parametrize(
    "mining, said",
    [
        (
            {"candidates": 4, "choose": "hardest", "judge": JUDGE},
            ", the best of 4 candidates drawn anew every epoch, as scored by levels (warmth). That",
        ),
        ({"candidates": 4, "choose": "easiest", "judge": JUDGE}, ", the worst of 4 candidates "),
        (
            {"candidates": 4, "margin": 0.25, "judge": JUDGE},
            ", one of 4 candidates drawn anew every epoch, where the human reply scores at least 0.25 "
            "more, as scored by levels (warmth). That rater's scores are no measure of this model.",
        ),
        (
            {"candidates": 1, "choose": "random", "on_topic": {"nearest": 32}},
            ", out of the 32 whose contexts are most alike, drawn anew every epoch.",
        ),
    ],
    ids=["hardest", "easiest", "margin", "on topic"],
)
def test_the_card_of_mined_pairs_says_how_they_were_chosen(mining, said):
    summary, card = aligned(mining=mining)
    assert summary.startswith(
        "Aligned by DPO: the human reply preferred to a reply given to a speaker"
    )
    assert said in summary
    assert "- pairs: 626 exchanges trained on; 174 were left out that have none\n" in card
