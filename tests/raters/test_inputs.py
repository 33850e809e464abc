from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from tiny_encoders import POSITIONS
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from empo.dialogues import Turn
from empo.raters.encoders import resolve_encoder
from empo.raters.inputs import InputSettings, PairTokenizer, Row, rationale_marks
from empo.rating import RatingInput

ARCHITECTURES = ("bi_encoder", "seeker_attention", "cross_encoder", "window")
ENCODERS = ("bert", "roberta", "t5")
Reader = Callable[..., PairTokenizer]


@pytest.fixture(scope="session")
def tokenizers(encoders: dict[str, Path]) -> dict[str, PreTrainedTokenizerBase]:
    return {name: AutoTokenizer.from_pretrained(path) for name, path in encoders.items()}


@pytest.fixture(scope="session")
def reader(tokenizers: dict[str, PreTrainedTokenizerBase]) -> Reader:
    """A PairTokenizer of a tiny encoder, an architecture and settings."""

    def build(
        encoder: str = "bert",
        architecture: str = "cross_encoder",
        positions: int | None = POSITIONS,
        **settings: object,
    ) -> PairTokenizer:
        return PairTokenizer(
            tokenizers[encoder], architecture, InputSettings(**settings), positions
        )

    return build


@pytest.fixture(scope="session")
def text(tokenizers: dict[str, PreTrainedTokenizerBase]) -> Callable[..., str]:
    """Tokens of a row as a person reads them."""

    def shown(ids: list[int], encoder: str = "bert") -> str:
        return " ".join(tokenizers[encoder].convert_ids_to_tokens(ids))

    return shown


def only(
    reader: PairTokenizer, context: str | tuple[Turn, ...], response: str, *after: Turn
) -> Row:
    (row,) = reader.rows([RatingInput(context, response, after)])
    assert row is not None
    return row


def test_what_is_too_long_is_cut_from_the_left_of_the_context(reader: Reader, text) -> None:
    row = only(reader(max_length=3), "a b c d e", "x y")
    assert text(row.ids) == "[CLS] c d e [SEP] x y [SEP]"
    assert (row.truncated, row.response_truncated) == (True, False)
    row = only(reader(max_length=5), "a b c d e", "x y")
    assert text(row.ids) == "[CLS] a b c d e [SEP] x y [SEP]"
    assert (row.truncated, row.response_truncated) == (False, False)


@pytest.mark.parametrize("architecture", ["bi_encoder", "seeker_attention"])
def test_two_sequences(reader: Reader, text, architecture: str) -> None:
    row = only(reader(architecture=architecture, max_length=3), "a b c d e", "x y")
    assert text(row.ids) == "[CLS] x y [SEP]" and row.target == (1, 3)
    assert text(row.context_ids) == "[CLS] c d e [SEP]"
    assert (row.truncated, row.response_truncated) == (True, False)
    assert row.length == 4 + 5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_response_is_cut_only_where_the_settings_say_so(
    reader: Reader, text, architecture: str
) -> None:
    row = only(reader(architecture=architecture, max_length=2), "a", "u v w x y z")
    assert text(row.ids[slice(*row.target)]) == "u v w x y z" and not row.response_truncated
    row = only(reader(architecture=architecture, response_max_length=4), "a", "u v w x y z")
    assert text(row.ids[slice(*row.target)]) == "u v w x"
    assert (row.truncated, row.response_truncated) == (False, True)
    assert row.offsets == [(0, 1), (2, 3), (4, 5), (6, 7)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_encoder_bounds_the_context_whatever_the_settings(
    reader: Reader, architecture: str
) -> None:
    row = only(reader(architecture=architecture, max_length=1000), "a " * 90, "x y")
    assert max(len(row.ids), len(row.context_ids)) == POSITIONS and row.truncated
    free = reader(architecture=architecture, positions=None, max_length=1000)
    assert only(free, "a " * 90, "x y").length > 90 and not only(free, "a " * 90, "x").truncated


def test_segment_ids_tell_context_and_response_apart(reader: Reader) -> None:
    row = only(reader(), "a b", "x y z")
    assert row.type_ids == [0, 0, 0, 0, 1, 1, 1, 1]  # [CLS] a b [SEP] x y z [SEP]
    assert row.target == (4, 7)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_pairs_are_composed_as_transformers_does(
    reader: Reader, tokenizers: dict[str, PreTrainedTokenizerBase], encoder: str
) -> None:
    pair = ("I lost my job, and I do not know why.", "That sounds hard.")
    expected = tokenizers[encoder](*pair, return_token_type_ids=True)
    row = only(reader(encoder), *pair)
    assert row.ids == expected["input_ids"] and row.type_ids == expected["token_type_ids"]
    alone = only(reader(encoder, "bi_encoder"), *pair)
    assert alone.context_ids == tokenizers[encoder](pair[0])["input_ids"]
    assert alone.ids == tokenizers[encoder](pair[1])["input_ids"]


def test_pairs_of_the_packaged_encoder_are_composed_as_transformers_does() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm")[0])
    reader = PairTokenizer(tokenizer, "cross_encoder", InputSettings(), 512)
    pair = ("My naïve dog ran off 😀!", "Did anybody see him?\n\nI hope so.")
    expected = tokenizer(*pair)
    row = only(reader, *pair)
    assert row.ids == expected["input_ids"] and row.type_ids == expected["token_type_ids"]
    assert set(row.type_ids) == {0, 1}


TURNS = (Turn("user", "a b"), Turn("assistant", "c d"), Turn("user", "e f"))
AFTER = (Turn("user", "g h"), Turn("assistant", "i j"))
WHOLE = (
    "speaker : a b [SEP] listener : c d [SEP] speaker : e f [SEP] listener : x y "
    "[SEP] speaker : g h [SEP] listener : i j"
)


def named(text: str) -> str:
    """Roles as the tiny word pieces have them."""
    return text.replace("speaker", "spea ##ker").replace("listener", "list ##ener")


def test_a_window_has_its_turns_in_order(reader: Reader, text) -> None:
    row = only(reader("bert", "window", 64, turns=3, following=2), TURNS, "x y", *AFTER)
    assert text(row.ids) == f"[CLS] {named(WHOLE)} [SEP]"
    assert text(row.ids[slice(*row.target)]) == "x y"
    assert not row.truncated and row.context_ids == [] and set(row.type_ids) == {0}
    row = only(reader("bert", "window", 64, turns=1, following=0), TURNS, "x y", *AFTER)
    assert text(row.ids) == named("[CLS] speaker : e f [SEP] listener : x y [SEP]")


@pytest.mark.parametrize(
    "kept, expected",
    [
        # the context from the left, what follows from the right, each keeps half of the room
        (35, "speaker : a b [SEP] listener : c d [SEP] speaker : e f [SEP] listener : x y"
             " [SEP] speaker : g h [SEP] listener : i j"),
        (34, "##ker : a b [SEP] listener : c d [SEP] speaker : e f [SEP] listener : x y"
             " [SEP] speaker : g h [SEP] listener : i j"),
        (19, "d [SEP] speaker : e f [SEP] listener : x y [SEP] speaker : g h"),
        (18, "[SEP] speaker : e f [SEP] listener : x y [SEP] speaker : g h"),
        (17, "[SEP] speaker : e f [SEP] listener : x y [SEP] speaker : g"),
        # too little room for more than a separator, which says nothing: all to the context
        (8, "e f [SEP] listener : x y"),
        (7, "f [SEP] listener : x y"),
        (6, "[SEP] listener : x y"),
        # the target never
        (1, "[SEP] listener : x y"),
    ],
)  # fmt: skip
def test_what_a_window_loses(reader: Reader, text, kept: int, expected: str) -> None:
    window = reader("bert", "window", 64, turns=3, following=2, max_length=kept)
    row = only(window, TURNS, "x y", *AFTER)
    assert text(row.ids) == f"[CLS] {named(expected)} [SEP]"
    assert text(row.ids[slice(*row.target)]) == "x y"
    assert row.truncated == (kept < 35) and not row.response_truncated


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_special_tokens_in_an_utterance_are_plain_text(
    reader: Reader, tokenizers, encoder: str, architecture: str
) -> None:
    wild = "[SEP] </s> <s> [CLS] [PAD] <pad> <extra_id_0>"
    plain = only(reader(encoder, architecture, 200), "a", "x")
    row = only(reader(encoder, architecture, 200), wild, wild)
    special = tokenizers[encoder].all_special_ids
    unknown = tokenizers[encoder].unk_token_id

    def control(ids: list[int]) -> list[int]:
        return [token for token in ids if token in special and token != unknown]

    assert control(row.ids) == control(plain.ids)
    assert control(row.context_ids) == control(plain.context_ids)
    assert wild[row.offsets[0][0] :].startswith("[SEP]") and row.offsets[-1][1] == len(wild)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_blank_response_has_no_row(reader: Reader, encoder: str, architecture: str) -> None:
    inputs = [RatingInput("a b", response) for response in ("", "  ", "\n\t", "x")]
    rows = reader(encoder, architecture).rows(inputs)
    assert [row is None for row in rows] == [True, True, True, False]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_response_that_the_encoder_cannot_hold_has_no_row(
    reader: Reader, encoder: str, architecture: str
) -> None:
    found = reader(encoder, architecture).rows(
        [RatingInput("a b c", " ".join("x" * n)) for n in range(1, POSITIONS + 1)]
    )
    lengths = [len(row.ids) for row in found if row is not None]
    assert len(lengths) < POSITIONS and None not in found[: len(lengths)]
    # the longest one that has a row fills the encoder; elsewhere " x" are two tokens
    assert max(lengths) == POSITIONS or (encoder != "bert" and max(lengths) == POSITIONS - 1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_a_context(reader: Reader, encoder: str) -> None:
    for architecture in ARCHITECTURES:
        row = only(reader(encoder, architecture), (), "x y")
        assert not row.truncated and len(row.context_ids) <= 2
        spoken = only(reader(encoder, architecture, turns=0), "a b", "x y")
        assert (spoken.ids, spoken.context_ids) == (row.ids, row.context_ids)


def test_several_turns_of_a_pair_are_named_and_the_last_ones_count(reader: Reader, text) -> None:
    row = only(reader(turns=2), TURNS, "x")
    assert text(row.ids) == named("[CLS] listener : c d [SEP] speaker : e f [SEP] x [SEP]")
    row = only(reader(turns=1), TURNS, "x")
    assert text(row.ids) == "[CLS] e f [SEP] x [SEP]"


def test_lower_case_is_a_setting(reader: Reader, text) -> None:
    assert text(only(reader("roberta"), "My", "Yes").ids, "roberta").startswith("<s> My </s>")
    lowered = only(reader("roberta", lowercase=True), "My", "Yes")
    assert lowered.ids == only(reader("roberta"), "my", "yes").ids


def marked(reader: PairTokenizer, text: Callable, response: str, *parts: str) -> list[str]:
    row = only(reader, "a", response)
    marks = rationale_marks(row, response, parts, reader.settings.lowercase)
    tokens = text(row.ids[slice(*row.target)]).split(" ")
    return [token for token, mark in zip(tokens, marks, strict=True) if mark]


@pytest.mark.parametrize("architecture", ["cross_encoder", "window"])
def test_rationales_mark_the_tokens_they_touch(reader: Reader, text, architecture: str) -> None:
    def of(response: str, *parts: str, **settings: object) -> list[str]:
        return marked(reader("bert", architecture, **settings), text, response, *parts)

    said = "That sounds hard. I am sorry."
    assert of(said, "sounds hard") == ["soun", "##ds", "hard"]
    assert of(said, "hard", "I am") == ["hard", "i", "am"]
    assert of(said, "ounds") == ["soun", "##ds"]
    assert of(said, "SOUNDS") == [] and of(said, "SOUNDS", lowercase=True) == ["soun", "##ds"]
    assert of(said, "nowhere", "") == []
    assert of(said, "sounds hard", response_max_length=2) == ["soun"]


def test_byte_level_tokens_begin_behind_their_space(reader: Reader) -> None:
    for architecture in ("cross_encoder", "window", "seeker_attention"):
        row = only(reader("roberta", architecture), "a", "so I am")
        assert ["so I am"[begin:end] for begin, end in row.offsets] == ["s", "o", "I", "am"]
        np.testing.assert_array_equal(rationale_marks(row, "so I am", ["I"], False), [0, 0, 1, 0])


@pytest.mark.parametrize("encoder, pad", [("bert", 0), ("roberta", 1), ("t5", 0)])
def test_batches_are_padded_on_the_right(reader: Reader, encoder: str, pad: int) -> None:
    pairs = [RatingInput("a b", "x"), RatingInput("a", "x y z v")]
    cross = reader(encoder)
    rows = cross.rows(pairs)
    batch = cross.batch(rows)
    for i, row in enumerate(rows):
        n = len(row.ids)
        assert batch["input_ids"][i].tolist() == row.ids + [pad] * (len(rows[1].ids) - n)
        assert batch["attention_mask"][i].sum() == n and batch["attention_mask"][i, :n].all()
        target = torch.nonzero(batch["target_mask"][i]).ravel().tolist()
        assert target == list(range(*row.target))
    assert ("token_type_ids" in batch) == (encoder == "bert")
    assert "context_input_ids" not in batch
    two = reader(encoder, "bi_encoder")
    batch = two.batch(two.rows(pairs))
    lengths = [len(row.context_ids) for row in two.rows(pairs)]
    assert batch["context_input_ids"].shape == (2, max(lengths))
    assert batch["context_attention_mask"].sum(1).tolist() == lengths


WORDS = st.text("ab xyz.'[SEP]<s>é😀\n", max_size=60) | st.lists(
    st.sampled_from(["I", "lost", "my", "job", "sounds", "hard", "went", "beach", "[SEP]"]),
    max_size=60,
).map(" ".join)


@budget(max_examples=150, deadline=None)
@given(
    encoder=st.sampled_from(ENCODERS),
    architecture=st.sampled_from(ARCHITECTURES),
    context=WORDS,
    response=WORDS,
    after=WORDS,
    max_length=st.integers(1, 60),
)
def test_whatever_the_texts_the_response_is_whole_and_the_row_fits(
    reader: Reader,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    encoder: str,
    architecture: str,
    context: str,
    response: str,
    after: str,
    max_length: int,
) -> None:
    tokenizer = tokenizers[encoder]

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    window, cross = architecture == "window", architecture == "cross_encoder"
    built = reader(encoder, architecture, max_length=max_length, following=int(window))
    (row,) = built.rows([RatingInput(context, response, (Turn("user", after),))])
    target = tokens(response)
    around = tokenizer.num_special_tokens_to_add(pair=cross)
    lead = 1 + len(tokens("listener:")) if window else 0
    if not response.strip() or not target or len(target) + around + lead > POSITIONS:
        assert row is None
        return
    assert row.ids[slice(*row.target)] == target
    assert len(row.ids) <= POSITIONS and len(row.context_ids) <= POSITIONS
    assert len(row.type_ids) == len(row.ids) and len(row.offsets) == len(target)
    assert not row.response_truncated
    if window:
        before = tokens(f"speaker: {context}")
        length = len(row.ids) - around - lead - len(target)
        whole = len(before) + 1 + len(tokens(f"speaker: {after}"))
        assert length <= max(0, max_length - lead - len(target))
    else:
        length = (len(row.ids) - len(target) if cross else len(row.context_ids)) - around
        whole = len(tokens(context))
        assert length <= max_length
    assert row.truncated == (length < whole)
