"""An untrained scoring language model: what its answers become, and what gets none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parent))
from tiny_language_models import untrained, write_tokenizer

from empo.raters.answers import answer_log_probs
from empo.raters.rewards import transformed
from empo.raters.scoring_lm import Question, ScoringLM, scoring_config
from empo.raters.scoring_templates import Templates
from empo.rating import Dimension, RatingInput

TOKENIZER = write_tokenizer()
MODEL = untrained(TOKENIZER)
LEVELS = (0.0, 1.5, 4.0)
MOOD = Dimension("mood", 0.0, 5.0, "interval", LEVELS)
SHORT = {"standard": "{context}[{text}] {label}?", "contrastive": "{first} {second} {label}?"}
EXPLAINS = {"explained": "{first} {second} {label}?"}
PAIRS = [
    RatingInput("", "a fine day"),
    RatingInput("", " "),
    RatingInput("", "awful " * 60 + "day"),
]


def rater(item: str = "response", dimension: Dimension = MOOD, **changed: Any) -> ScoringLM:
    own = {"item": item, "turns": 1, "max_length": 90, "explanation_tokens": 0, "as_values": False}
    config = scoring_config("tiny", [dimension], own | changed)
    templates = Templates(item, SHORT | EXPLAINS)
    return ScoringLM(MODEL, TOKENIZER, config, templates, device="cpu")


def test_a_response_that_does_not_fit_has_no_score_unless_it_may_be_cut() -> None:
    found = rater().score(PAIRS)
    assert np.isfinite(found.scores[:, 0]).tolist() == [True, False, False]
    assert found.n_valid.tolist() == [1, 0, 0] and not found.response_truncated.any()
    assert found.warnings[-1] == (
        "Rater tiny: 1 of 3 inputs do not fit into 90 tokens and have no score, or not in every "
        "dimension."
    )
    cut = rater(cut_item=True).score(PAIRS)
    assert np.isfinite(cut.scores[:, 0]).tolist() == [True, False, True]
    assert cut.response_truncated.tolist() == [False, False, True]
    assert not any("do not fit" in warning for warning in cut.warnings)


def test_probabilities_are_those_of_the_answers_among_each_other() -> None:
    found = rater().score(PAIRS)
    (table,) = found.probabilities
    prompt = rater().prompts.scored(PAIRS[0], rater().tables[0]).text
    logs = answer_log_probs(MODEL, TOKENIZER, [prompt], ["0", "1", "2"])[0]
    np.testing.assert_allclose(table[0], np.exp(logs) / np.exp(logs).sum())
    assert found.scores[0, 0] == LEVELS[table[0].argmax()]
    assert np.isnan(table[1:]).all()
    expected = transformed(found, "mood", "expected")
    assert expected[0] == pytest.approx(table[0] @ np.array(LEVELS))
    told = rater("stories", explanation_tokens=5).score([RatingInput("a", "b")])
    assert told.probabilities == (None,)


class Spelled(ScoringLM):
    """Writes what it is told, a token per character, in the room that it is given."""

    def completions(
        self, prompts: Sequence[str], max_new_tokens: int, batch_size: int
    ) -> list[str]:
        return [self.told[:max_new_tokens] for _ in prompts]


def spelled(told: str, levels: tuple[float, ...]) -> Spelled:
    tokenizer = deepcopy(TOKENIZER)
    each = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [each, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert len(tokenizer("Score: 07", add_special_tokens=False).input_ids) == 9
    own = {"item": "stories", "turns": 0, "max_length": 150, "as_values": True}
    dimensions = [Dimension("event", 0, 10_000, "interval", levels)]
    config = scoring_config("tiny", dimensions, own | {"explanation_tokens": 4})
    templates = Templates("stories", dict.fromkeys(SHORT | EXPLAINS, "{first} {second} {label}?"))
    found = Spelled(MODEL, tokenizer, config, templates, device="cpu")
    found.told = told
    return found


def test_there_is_room_for_the_longest_answer_however_it_is_tokenised() -> None:
    levels = (1.0, 100.25, 9999.5)
    found = spelled("Why.\nScore: 0100.25", levels).score([RatingInput("a", "b")])
    assert found.scores.tolist() == [[100.25]]
    whole = "higher than: 9999.50 and 0100.25"
    question = Question(RatingInput("", "a"), RatingInput("", "b"), 0)
    assert spelled(whole, levels).compared([question]) == [(9999.5, 100.25)]
    assert spelled(f"{whole} or so", levels).compared([question]) == [None]
