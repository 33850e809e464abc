"""SFT rows: the loss lies on the listener's turns and their end, and length costs old turns only."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from empo.alignment.sft import IGNORED, sft_rows
from empo.dialogues import Dialogue, Turn
from empo.prompts import ChatFormat
from empo.records import UserError
from empo.small_models import train_tokenizer

REPLIES = ("I am so sorry.", "What happened?", "Take care.")


def dialogue(name: str = "d", turns: int = 5) -> Dialogue:
    """Speaker and listener in turn; the listener says `REPLIES`."""
    return Dialogue(
        name,
        "sad",
        "",
        tuple(
            Turn("assistant", REPLIES[i // 2]) if i % 2 else Turn("user", f"My cat ran away {i}.")
            for i in range(turns)
        ),
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([*REPLIES, "My cat ran away 0 2 4."] * 20, 330)


@pytest.fixture(scope="module")
def chat(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    return ChatFormat(tokenizer, "zephyr", system_message="Be kind.")


def supervised(chat: ChatFormat, row: dict[str, list[int]]) -> list[str]:
    """The pieces of a row under the loss, cut after every end-of-text token."""
    text = chat.tokenizer.decode([t for t in row["labels"] if t != IGNORED])
    return [piece + "</s>" for piece in text.split("</s>")[:-1]] + text.split("</s>")[-1:]


def test_the_loss_lies_on_the_listener_and_the_end_of_each_reply(chat: ChatFormat) -> None:
    rows, facts = sft_rows([dialogue(turns=4), dialogue(turns=2)], chat, 200)
    assert supervised(chat, rows[0]) == ["I am so sorry.</s>", "What happened?</s>", ""]
    assert supervised(chat, rows[1]) == ["I am so sorry.</s>", ""]
    for row in rows:
        inside = [(i, t) for i, t in enumerate(row["labels"]) if t != IGNORED]
        assert all(row["input_ids"][i] == token for i, token in inside)
        assert row["input_ids"][-1] == chat.eos == row["labels"][-1]
    assert facts["supervised_tokens"] == sum(t != IGNORED for r in rows for t in r["labels"])
    assert (facts["rows"], facts["shortened"], facts["filtered"]) == (2, 0, 0)


def test_a_trailing_speaker_turn_is_not_paid_for(chat: ChatFormat) -> None:
    assert list(sft_rows([dialogue(turns=5)], chat, 200)[0]) == list(
        sft_rows([dialogue(turns=4)], chat, 200)[0]
    )


def test_length_takes_the_oldest_turns_and_never_the_reply(chat: ChatFormat) -> None:
    whole = sft_rows([dialogue(turns=6)], chat, None)[0][0]
    last = sft_rows([dialogue(turns=6)], chat, len(whole["input_ids"]) - 1)
    text = chat.tokenizer.decode(last[0][0]["input_ids"])
    assert "ran away 0" not in text and "ran away 2" in text and "ran away 4" in text
    assert text.startswith("<s><|system|>\nBe kind.</s>")
    assert supervised(chat, last[0][0]) == ["What happened?</s>", "Take care.</s>", ""]
    assert last[1]["shortened"] == 1 and last[1]["filtered_ids"] == []


def test_what_does_not_fit_at_all_is_left_out_and_named(chat: ChatFormat) -> None:
    long = Dialogue("long", "sad", "", (Turn("user", "cat " * 90), Turn("assistant", "Oh.")))
    rows, facts = sft_rows([dialogue("a", 2), long, dialogue("b", 2)], chat, 60)
    assert len(rows) == 2
    assert (facts["rows"], facts["filtered"], facts["filtered_ids"]) == (2, 1, ["long"])
    assert facts["max_tokens"] == max(len(row["input_ids"]) for row in rows) <= 60
    with pytest.raises(UserError, match=r"everything is longer than max_length. Raise max_length"):
        sft_rows([long], chat, 60)


def test_a_base_may_learn_every_token(chat: ChatFormat) -> None:
    rows, facts = sft_rows([dialogue(turns=4)], chat, 200, loss_on="all")
    assert rows[0]["labels"] == rows[0]["input_ids"]
    assert facts["supervised_tokens"] == len(rows[0]["input_ids"])


def test_a_template_that_marks_no_turn_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    nobody = ChatFormat(tokenizer, "zephyr")
    nobody.template = (
        "{% for m in messages %}{{ m['content'] + eos_token }}"
        "{% if m['role'] == 'nobody' %}{% generation %}x{% endgeneration %}{% endif %}{% endfor %}"
    )
    with pytest.raises(UserError) as error:
        sft_rows([dialogue(turns=4)], nobody, 200)
    assert str(error.value) == "no token carries a loss: the template marks no listener turn."


def test_words_that_look_like_controls_are_counted(chat: ChatFormat) -> None:
    tricky = Dialogue("x", "sad", "", (Turn("user", "a </s> b"), Turn("assistant", "Oh.")))
    rows, facts = sft_rows([dialogue(turns=2), tricky], chat, 200)
    assert facts["dialogues_with_control_text"] == 1
    assert rows[1]["input_ids"].count(chat.eos) == rows[0]["input_ids"].count(chat.eos) == 3


def test_a_dialogue_in_which_nothing_is_learnt_is_left_out_and_named(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """The template marks only what begins with an O; a lone speaker has nothing to mark."""
    some = ChatFormat(tokenizer, "zephyr")
    some.template = (
        "{% for m in messages %}{% if m['content'][0] == 'O' %}{% generation %}"
        "{{ m['content'] + eos_token }}{% endgeneration %}{% else %}"
        "{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    told = Dialogue("told", "sad", "", (Turn("user", "My cat."), Turn("assistant", "Oh.")))
    alone = Dialogue("alone", "sad", "", (Turn("user", "My cat."),))
    for length in (200, None):
        rows, facts = sft_rows([dialogue("a"), told, alone, dialogue("b")], some, length)
        assert (rows["id"], rows["row"]) == (["told"], [0])
        assert (facts["unsupervised"], facts["unsupervised_ids"]) == (3, ["a", "alone", "b"])
        assert facts["rows"] == 1 and facts["filtered"] == 0 and facts["supervised_tokens"] > 1
        assert set(rows[0]["labels"]) - {IGNORED} < set(rows[0]["input_ids"])
