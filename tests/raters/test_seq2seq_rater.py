"""Rank classification: against likelihoods taken one answer at a time, saved, loaded, refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_seq2seq import untrained, write_tokenizer

from empo.corpora.epitome import DIMENSIONS
from empo.dialogues import Turn
from empo.raters.folder import RATER_CONFIG, RaterConfig
from empo.raters.inputs import InputSettings
from empo.raters.instructions import load_instructions
from empo.raters.loading import load_rater
from empo.raters.seq2seq_rater import INSTRUCTIONS, KIND, Seq2SeqRater, label_token
from empo.rating import RatingInput
from empo.records import UserError, read_json, write_json

PAIRS = [
    RatingInput("I lost my job today.", "How was it?"),
    RatingInput(
        (Turn("user", "It was awful."), Turn("assistant", "Okay."), Turn("user", "Hm")), "no"
    ),
    RatingInput(
        "Fine.", "I lost my job, too, and the day was poor. " * 3, (Turn("user", "great"),)
    ),
    RatingInput("Fine.", "   "),
]


def rater(label_tokens: bool = False, instruct: bool = True, **inputs: Any) -> Seq2SeqRater:
    tokenizer = write_tokenizer()
    instructions = load_instructions(DIMENSIONS)
    if label_tokens:
        tokens = [label_token(option) for option in ("none", "weak", "strong")]
        tokenizer.add_tokens(tokens, special_tokens=True)
    model = untrained(tokenizer)
    how = InputSettings(**{"max_length": 120, "turns": 3, "following": 1} | inputs)
    settings = {"inputs": dataclasses.asdict(how), "instruct": instruct}
    settings["label_tokens"] = label_tokens
    config = RaterConfig(KIND, "tiny", DIMENSIONS, settings)
    return Seq2SeqRater(model, tokenizer, config, instructions, weights="w", device="cpu")


def brute_force(own: Seq2SeqRater, pair: RatingInput, d: int) -> list[float]:
    """The likelihood of each answer by the model's own loss, one by one, without padding."""
    (row,) = own.questions.readers[d].rows([pair])
    found = []
    for option in own.questions.options[d]:
        with torch.no_grad():
            loss = own.model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([option])).loss
        found.append(-loss.item() * len(option))
    return found


@pytest.mark.parametrize("label_tokens", [False, True])
def test_the_level_is_the_answer_with_the_highest_likelihood(label_tokens: bool) -> None:
    own = rater(label_tokens)
    likely = np.array([[brute_force(own, pair, d) for d in range(3)] for pair in PAIRS[:3]])
    lengths = [len(option) for option in own.questions.options[0]]
    assert (set(lengths) == {2}) == label_tokens  # a token and the end, or words of several
    powers = np.exp(likely - likely.max(axis=2, keepdims=True))
    expected = powers / powers.sum(axis=2, keepdims=True)
    assert np.ptp(expected, axis=2).min() > 1e-3 and np.ptp(expected, axis=0).max() > 1e-3
    for batch_size in (1, 2, 64):
        ratings = own.score(PAIRS, batch_size=batch_size)
        np.testing.assert_array_equal(ratings.scores[:3], likely.argmax(axis=2).astype(float))
        for d in range(3):
            np.testing.assert_allclose(ratings.probabilities[d][:3], expected[:, d], atol=1e-4)
        assert np.isnan(ratings.scores[3]).all() and ratings.n_valid.tolist() == [1, 1, 1, 0]
    assert own.score([]).scores.shape == (0, 3)


def test_the_model_reads_the_instruction_then_the_window_with_its_turn_marked() -> None:
    own = rater()
    (row,) = own.questions.readers[2].rows(PAIRS[1:2])
    text = own.tokenizer.decode(row.ids, skip_special_tokens=True)
    assert text == (
        f"{own.instructions['explorations'].text} |speaker: It was awful.|listener: Okay.|"
        "speaker: Hm|reply, listener:no"
    )
    start, stop = row.target
    assert own.tokenizer.decode(row.ids[start:stop]) == "no"
    (row,) = own.questions.readers[0].rows(PAIRS[2:3])
    assert own.tokenizer.decode(row.ids).endswith("day was poor. |speaker: great")
    (row,) = rater(instruct=False).questions.readers[2].rows(PAIRS[:1])
    text = own.tokenizer.decode(row.ids, skip_special_tokens=True)
    assert text == "speaker: I lost my job today.|reply, listener:How was it?"


def test_a_label_token_in_a_text_is_plain_text() -> None:
    own = rater(label_tokens=True)
    (new,) = {option[0] for option in own.questions.options[0][:1]}
    (row,) = own.questions.readers[0].rows([RatingInput("<none>", "<none> weak")])
    assert new not in row.ids and own.tokenizer.decode(row.ids).count("<none>") == 2


def test_what_is_too_long_is_cut_from_the_context_or_has_no_score() -> None:
    own = rater(max_length=40)
    long = RatingInput("I lost my job. " * 20, "How was it?")
    ratings = own.score([long, PAIRS[0]])
    assert ratings.truncated.tolist() == [True, False] and np.isfinite(ratings.scores).all()
    (row,) = own.questions.readers[0].rows([long])
    assert "How was it?" in own.tokenizer.decode(row.ids)
    own.tokenizer.model_max_length = 300  # as Flan-T5's 512: instruction, window and special tokens
    short = Seq2SeqRater(
        own.model, own.tokenizer, own.config, own.instructions, weights="w", device="cpu"
    )
    ratings = short.score([RatingInput("Fine.", "I lost my job. " * 40), PAIRS[0]])
    assert np.isnan(ratings.scores[0]).all() and np.isfinite(ratings.scores[1]).all()


def test_a_saved_rater_is_loaded_as_it_was(tmp_path: Path) -> None:
    own = rater(label_tokens=True)
    own.save(tmp_path)
    again = load_rater(tmp_path, "cpu")
    assert isinstance(again, Seq2SeqRater)
    for kept, found in zip(
        own.score(PAIRS).probabilities, again.score(PAIRS).probabilities, strict=True
    ):
        np.testing.assert_array_equal(kept, found)
    assert "nothing shows that it beats a constant" in again.warnings[0]
    signature = again.signature
    changed = read_json(tmp_path / INSTRUCTIONS)
    changed["explorations"]["task"] = "Any question?"
    write_json(tmp_path / INSTRUCTIONS, changed)
    assert load_rater(tmp_path, "cpu").signature != signature


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda saved: saved.pop("explorations"),
            "instructions.json, explorations: the instruction is",
        ),
        (lambda saved: saved["explorations"]["options"].pop(), "one answer per level is expected"),
        (lambda saved: saved["explorations"].pop("task"), "explorations, field 'task'"),
        (
            lambda saved: saved["explorations"].update(template="{task} {x}"),
            "the placeholder {x} is unknown",
        ),
    ],
)
def test_instructions_that_do_not_fit_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    rater().save(tmp_path)
    saved = read_json(tmp_path / INSTRUCTIONS)
    change(saved)
    write_json(tmp_path / INSTRUCTIONS, saved)
    with pytest.raises(UserError) as error:
        load_rater(tmp_path, "cpu")
    assert said in str(error.value)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    own = rater()
    own.save(tmp_path)
    config = read_json(tmp_path / RATER_CONFIG)
    config["settings"]["instruct"] = "yes"
    write_json(tmp_path / RATER_CONFIG, config)
    with pytest.raises(UserError, match="settings, instruct: true or false"):
        load_rater(tmp_path, "cpu")
    own.save(tmp_path)
    (tmp_path / INSTRUCTIONS).unlink()
    with pytest.raises(UserError, match=INSTRUCTIONS):
        load_rater(tmp_path, "cpu")
