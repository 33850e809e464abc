"""Settings of scoring language models: combinations that cannot work are said all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empo.raters.scoring_settings import SCORING_FIELDS
from empo.raters.settings import RaterSettings, unfit
from empo.records import UserError

LM: dict[str, Any] = {"data": "x", "architecture": "scoring_lm", "loss": "answer"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": "mse"}, "architecture scoring_lm and loss answer belong together"),
        ({"families": ["role_play"]}, "families: a rater needs standard (or explained)"),
        ({"families": ["standard", "standard"]}, "families: one stands there twice."),
        ({"families": ["standard", "explained"]}, "families: standard and explained answer one"),
        ({"explanations": "e.jsonl"}, "explanations: only the family explained learns them."),
        ({"families": ["explained"], "item": "stories"}, "explanations: missing; recipes/expl"),
        (
            {"families": ["standard", "contrastive"], "item": "stories"},
            "families: stories have standard and explained only.",
        ),
        ({"anchors": 1}, "anchors: 0 or more, and above 0 only with the family contrastive."),
        ({"pair_quota": 0}, "pair_quota: 0 is too few."),
        ({"pair_keep": [0.5, 1.0]}, "pair_keep: three probabilities are expected"),
        ({"pair_keep": [0.5, 1.0, 2.0]}, "pair_keep: three probabilities are expected"),
        ({"lora_dropout": 1.0}, "lora_r, lora_alpha, lora_dropout: 0 or more"),
        ({"hidden_size": 30, "heads": 4}, "hidden_size must be a multiple of heads"),
        ({"pooling": "mean"}, "pooling: only raters of levels have this"),
    ],
)
def test_what_cannot_work_is_said(changed: dict[str, Any], message: str) -> None:
    assert RaterSettings(**LM).problems() == []
    assert message in " ".join(RaterSettings(**LM | changed).problems())


def test_settings_of_a_language_model_do_nothing_for_an_encoder() -> None:
    assert RaterSettings(data="x", lora_r=4, anchors=2).problems() == [
        "anchors, lora_r: only the architecture scoring_lm has this."
    ]
    assert unfit("cross_encoder", "answer") == (
        "architecture scoring_lm and loss answer belong together; give both."
    )
    facts = RaterSettings(data="x").facts()
    assert not SCORING_FIELDS & facts.keys() and facts["architecture"] == "cross_encoder"
    assert RaterSettings(**LM).facts()["families"] == ["standard"]


def test_templates_and_explanations_are_looked_at_before_data_are(tmp_path: Path) -> None:
    RaterSettings(**LM).check_templates()
    own = tmp_path / "own.yaml"
    own.write_text("response: {standard: '{label} {contxt}'}")
    with pytest.raises(
        UserError, match="own.yaml, response, standard: the placeholder {contxt} is"
    ):
        RaterSettings(**LM, templates=str(own)).check_templates()
    with pytest.raises(UserError, match="role_play has no template for the item 'stories'"):
        RaterSettings(**LM, item="stories", families=["role_play"]).check_templates()
    with pytest.raises(UserError, match=r"gone.jsonl: no such file"):
        RaterSettings(**LM, explanations="gone.jsonl").check_templates()
