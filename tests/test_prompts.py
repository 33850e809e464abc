"""Dialogues as tokens: Zephyr's format to the byte, a mask of the listener's tokens, nothing cut."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from empo.dialogues import Dialogue, Turn
from empo.models import ModelSource, load_tokenizer
from empo.prompts import LENGTH_CONTROLLED_MESSAGE, SYSTEM_MESSAGE, ZEPHYR_TEMPLATE, ChatFormat
from empo.records import UserError
from empo.small_models import train_tokenizer

PUBLISHED = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
    "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' "
    "+ message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ "
    "'<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and "
    "add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
"""The template in tokenizer_config.json of the Zephyr models."""

PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
"""Another template, which does not say which tokens are the listener's."""

MARKED = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

TEXTS = ["I lost my cat today.", "I am so sorry to hear that. What happened?", "How are you?"]
MESSAGES = [
    {"role": "user", "content": "I lost my cat."},
    {"role": "assistant", "content": "I am so sorry! 😢"},
    {"role": "user", "content": "He was très old."},
    {"role": "assistant", "content": "That hurts."},
    {"role": "user", "content": "Yes."},
]


def new_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = train_tokenizer(TEXTS * 20, 330)
    tokenizer.chat_template = ZEPHYR_TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return new_tokenizer()


@pytest.fixture(scope="module")
def chat(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    return ChatFormat(tokenizer, system_message="Be kind.")


def rendered(chat: ChatFormat, ids: list[int]) -> str:
    return chat.tokenizer.decode(ids)


# --- rendering ---


@pytest.mark.parametrize("generation_prompt", [False, True])
@pytest.mark.parametrize("turns", [1, 2, 3, 5])
@pytest.mark.parametrize("system", ["Be kind.", None])
def test_rendering_equals_zephyrs_own_template_byte_for_byte(
    tokenizer: PreTrainedTokenizerBase, system: str | None, turns: int, generation_prompt: bool
) -> None:
    chat = ChatFormat(tokenizer, "zephyr", system)
    messages = [{"role": "system", "content": system}] if system else []
    expected = tokenizer.apply_chat_template(
        [*messages, *MESSAGES[:turns]],
        chat_template=PUBLISHED,
        add_generation_prompt=generation_prompt,
        tokenize=False,
    )
    assert chat.render(MESSAGES[:turns], generation_prompt) == expected
    assert expected.startswith("<|system|>\nBe kind.</s>\n" if system else "<|user|>\nI lost my")
    assert expected.endswith("<|assistant|>\n" if generation_prompt else "</s>\n")


def test_the_saved_template_is_zephyrs_without_markers(chat: ChatFormat) -> None:
    assert "generation %}" not in chat.plain_template
    for turns in (1, 2, 5):
        same = [
            chat.tokenizer.apply_chat_template(
                MESSAGES[:turns], chat_template=t, add_generation_prompt=True, tokenize=False
            )
            for t in (chat.plain_template, PUBLISHED)
        ]
        assert same[0] == same[1]


@pytest.mark.parametrize("template", [PUBLISHED, None], ids=["published", "saved by us"])
def test_a_model_with_the_plain_template_is_accepted_for_training(
    tmp_path: Path, chat: ChatFormat, template: str | None
) -> None:
    own = new_tokenizer()
    own.chat_template = template or chat.plain_template
    own.save_pretrained(tmp_path)
    again = ChatFormat(AutoTokenizer.from_pretrained(tmp_path), system_message="Be kind.")
    assert again.dialogue(MESSAGES) == chat.dialogue(MESSAGES)
    assert again.sha256 == chat.sha256


def test_the_digest_changes_with_template_and_system_message(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "own.jinja").write_text(MARKED)
    digests = {
        ChatFormat(tokenizer, "zephyr", SYSTEM_MESSAGE).sha256,
        ChatFormat(tokenizer, "zephyr", LENGTH_CONTROLLED_MESSAGE).sha256,
        ChatFormat(tokenizer, "zephyr", None).sha256,
        ChatFormat(tokenizer, str(tmp_path / "own.jinja"), SYSTEM_MESSAGE).sha256,
    }
    assert len(digests) == 4


# --- tokens and mask ---


def test_the_mask_covers_content_and_end_of_every_listener_turn_and_nothing_else(
    chat: ChatFormat,
) -> None:
    encoded = chat.dialogue(MESSAGES)
    runs: list[list[int]] = []
    before = 0
    for token, inside in zip(encoded.ids, encoded.mask, strict=True):
        if inside and not before:
            runs.append([])
        if inside:
            runs[-1].append(token)
        before = inside
    assert [rendered(chat, run) for run in runs] == ["I am so sorry! 😢</s>", "That hurts.</s>"]
    assert all(run.count(chat.eos) == 1 and run[-1] == chat.eos for run in runs)
    outside = [t for t, inside in zip(encoded.ids, encoded.mask, strict=True) if not inside]
    assert rendered(chat, outside) == (
        "<s><|system|>\nBe kind.</s>\n<|user|>\nI lost my cat.</s>\n<|assistant|>\n\n<|user|>\n"
        "He was très old.</s>\n<|assistant|>\n\n<|user|>\nYes.</s>"
    )


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5])
def test_a_text_begins_once_and_ends_on_its_last_turn(chat: ChatFormat, turns: int) -> None:
    bos = chat.tokenizer.bos_token_id
    for ids in (chat.dialogue(MESSAGES[:turns]).ids, chat.prompt(MESSAGES[:turns])):
        assert ids[0] == bos and ids.count(bos) == 1
    ids = chat.dialogue(MESSAGES[:turns]).ids
    assert ids[-1] == chat.eos and ids.count(chat.eos) == turns + 1  # with the system message


def test_a_template_that_writes_the_beginning_itself_gives_it_once(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "own.jinja").write_text("{{ bos_token }}" + MARKED)
    chat = ChatFormat(tokenizer, str(tmp_path / "own.jinja"))
    for encoded in (chat.dialogue(MESSAGES).ids, chat.prompt(MESSAGES)):
        assert encoded.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_adds_no_beginning_gets_none(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import processors

    own = new_tokenizer()
    own.backend_tokenizer.post_processor = processors.ByteLevel()
    chat = ChatFormat(own)
    assert own.bos_token_id is not None
    assert own.bos_token_id not in chat.dialogue(MESSAGES).ids + chat.prompt(MESSAGES)


def assert_prompt_and_completion_join(chat: ChatFormat, context: list, reply: str) -> None:
    whole = chat.dialogue([*context, {"role": "assistant", "content": reply}])
    prompt, completion = chat.prompt(context), list(chat.completion(reply))
    assert prompt + completion == whole.ids
    assert whole.mask[-len(completion) :] == [1] * len(completion)
    assert completion[-1] == chat.eos and completion.count(chat.eos) == 1


@pytest.mark.parametrize("turns", [1, 3, 5])
@pytest.mark.parametrize(
    "reply", ["That hurts.", "😢", "1", "'s", "très", "...", "a\n\nb", "</s> x"]
)
def test_prompt_and_completion_are_the_dialogue(chat: ChatFormat, turns: int, reply: str) -> None:
    assert_prompt_and_completion_join(chat, MESSAGES[:turns], reply)


SPEECH = st.text(min_size=1, max_size=30).map(str.strip).filter(bool) | st.lists(
    st.sampled_from(
        ["</s>", "<s>", "<|user|>", "<|assistant|>", "<", "|", ">", "s", "/", "a", " "]
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: "".join(parts).strip()).filter(bool)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPEECH, min_size=1, max_size=4), SPEECH)
def test_any_speech_keeps_the_structure_of_the_dialogue(texts: list[str], reply: str) -> None:
    chat = ANY
    roles = ("user", "assistant")
    if len(texts) % 2 == 0:
        texts = texts[:-1]
    context = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    assert_prompt_and_completion_join(chat, context, reply)
    ids = chat.prompt(context)
    one = chat.tokenizer.convert_tokens_to_ids
    assert ids.count(one("<s>")) == 1
    assert ids.count(one("</s>")) == len(texts)
    assert ids.count(one("<|user|>")) == (len(texts) + 1) // 2
    assert ids.count(one("<|assistant|>")) == (len(texts) + 1) // 2
    assert ids.count(one("<|system|>")) == ids.count(one("<pad>")) == 0


ANY = ChatFormat(new_tokenizer(), system_message=None)


@pytest.mark.parametrize(
    "control", ["</s>", "<s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"]
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_control_text_in_an_utterance_never_becomes_a_control_token(
    chat: ChatFormat, control: str, role: str
) -> None:
    def dialogue(word: str) -> list[dict[str, str]]:
        changed = [dict(message) for message in MESSAGES]
        next(m for m in changed if m["role"] == role)["content"] = f"I said {word} to him"
        return changed

    assert chat.contains_control_text(f"x{control}y") and not chat.contains_control_text("<x>")
    token = chat.tokenizer.convert_tokens_to_ids(control)
    plain, odd = chat.dialogue(dialogue("that")), chat.dialogue(dialogue(control))
    assert odd.ids.count(token) == plain.ids.count(token)
    assert f"I said {control[0]} {control[1:]} to him" in rendered(chat, odd.ids)
    assert chat.prompt(dialogue(control)).count(token) == chat.prompt(dialogue("that")).count(token)


def test_role_markers_of_a_template_that_are_no_tokens_are_control_text_too(
    tmp_path: Path,
) -> None:
    # Zephyr's markers are plain text to Mistral's tokenizer
    own = train_tokenizer(TEXTS, 300)
    (tmp_path / "own.jinja").write_text(MARKED.replace("m['role'] + ': '", "'[INST]'"))
    chat = ChatFormat(own, str(tmp_path / "own.jinja"))
    text = chat.render([{"role": "user", "content": "say [INST] now"}])
    assert chat.contains_control_text("[INST]") and "say [ INST] now" in text


def test_blanks_that_a_tokenizer_added_as_tokens_are_ordinary_text() -> None:
    own = new_tokenizer()
    own.add_tokens([AddedToken("  ", normalized=False, special=False)])
    assert not ChatFormat(own).contains_control_text("two  blanks")


# --- length ---


def test_a_dialogue_gives_up_its_oldest_turns_in_twos(chat: ChatFormat) -> None:
    messages = MESSAGES[:4]
    whole, last = chat.dialogue(messages), chat.dialogue(messages[2:])
    assert chat.fitting_dialogue(messages, len(whole.ids)) == (whole, 0)
    assert chat.fitting_dialogue(messages, len(whole.ids) - 1) == (last, 2)
    assert chat.fitting_dialogue(messages, len(last.ids)) == (last, 2)
    assert chat.fitting_dialogue(messages, len(last.ids) - 1) == (None, 0)


def test_a_prompt_gives_up_its_oldest_turns_and_never_its_last(chat: ChatFormat) -> None:
    sizes = {dropped: len(chat.prompt(MESSAGES[dropped:])) for dropped in (0, 2, 4)}
    assert sizes[0] > sizes[2] > sizes[4]
    for dropped, size in sizes.items():
        assert chat.fitting_prompt(MESSAGES, size) == (chat.prompt(MESSAGES[dropped:]), dropped)
    assert chat.fitting_prompt(MESSAGES, sizes[0] - 1)[1] == 2
    assert chat.fitting_prompt(MESSAGES, sizes[4] - 1) == (None, 0)


@pytest.mark.parametrize("length", range(20, 80, 4))
def test_a_reply_is_never_cut(chat: ChatFormat, length: int) -> None:
    encoded, _ = chat.fitting_dialogue(MESSAGES[:4], length)
    reply = list(chat.completion("That hurts."))
    if encoded is None:
        assert length < len(chat.dialogue(MESSAGES[2:4]).ids)
    else:
        assert len(encoded.ids) <= length
        assert encoded.ids[-len(reply) :] == reply
        assert rendered(chat, encoded.ids).startswith("<s><|system|>\nBe kind.</s>\n<|user|>\n")


# --- what is refused ---


def test_a_tokenizer_without_chat_template_is_refused_with_what_to_set() -> None:
    own = new_tokenizer()
    own.chat_template = None
    own.name_or_path = "some/model"
    with pytest.raises(UserError) as error:
        ChatFormat(own)
    assert str(error.value) == (
        "the tokenizer of some/model has no chat template. "
        "Set `chat_template: zephyr`, or the path of a .jinja file."
    )
    assert ChatFormat(own, "zephyr").dialogue(MESSAGES) == ChatFormat(new_tokenizer()).dialogue(
        MESSAGES
    )


def test_a_template_without_markers_is_refused_for_training_only() -> None:
    own = new_tokenizer()
    own.chat_template = PLAIN
    with pytest.raises(UserError, match="does not mark the listener's tokens with") as error:
        ChatFormat(own)
    assert "Set `chat_template: zephyr`, or a copy of the template" in str(error.value)
    chat = ChatFormat(own, training=False)
    assert rendered(chat, chat.prompt(MESSAGES[:1])).endswith("</s>user: I lost my cat.</s>")


def test_a_template_that_refuses_a_system_message_is_not_taken_for_zephyrs() -> None:
    own = new_tokenizer()
    own.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + MARKED
    )
    chat = ChatFormat(own, system_message=None)
    assert chat.render(MESSAGES[:1]) == "user: I lost my cat.</s>"


@pytest.mark.parametrize(
    "template, told",
    [
        ("zefyr", "chat_template: 'zefyr' is neither one of zephyr nor a .jinja file."),
        ("nowhere.jinja", "nowhere.jinja: no such file. Check the path."),
    ],
)
def test_an_unknown_template_is_refused(
    tokenizer: PreTrainedTokenizerBase, template: str, told: str
) -> None:
    with pytest.raises(UserError) as error:
        ChatFormat(tokenizer, template)
    assert str(error.value) == told


def test_a_tokenizer_without_end_of_text_is_refused() -> None:
    own = new_tokenizer()
    own.eos_token = None
    with pytest.raises(UserError, match="has no end-of-text token"):
        ChatFormat(own)


# --- padding ---


def saved_without_padding(folder: Path) -> ModelSource:
    own = new_tokenizer()
    own.pad_token = None
    own.save_pretrained(folder)
    return ModelSource(str(folder))


def test_a_padding_token_that_ends_texts_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="empo.models"):
        loaded = load_tokenizer(saved_without_padding(tmp_path))
    assert loaded.pad_token == loaded.eos_token == "</s>"
    assert f"{tmp_path}: the padding token is the end-of-text token (</s>)." in caplog.text


def test_a_tokenizer_with_its_own_padding_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new_tokenizer().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="empo.models"):
        assert load_tokenizer(ModelSource(str(tmp_path))).pad_token == "<pad>"
    assert caplog.text == ""


def test_labels_hold_the_end_of_text_where_padding_is_the_same_token(tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from empo.alignment.sft import sft_rows

    own = load_tokenizer(saved_without_padding(tmp_path))
    turns = [Turn(message["role"], message["content"]) for message in MESSAGES[:4]]
    dialogues = [Dialogue("a", "sad", "", tuple(turns)), Dialogue("b", "sad", "", tuple(turns[:2]))]
    rows, _ = sft_rows(dialogues, ChatFormat(own), None)
    batch = DataCollatorForLanguageModeling(pad_token_id=own.pad_token_id)(list(rows))
    ends = (batch["labels"] == own.eos_token_id).sum(dim=1)
    assert ends.tolist() == [2, 1]  # one per listener turn, none for padding
    padded = batch["input_ids"].shape[1] - len(rows[1]["input_ids"])
    assert padded > 0 and (batch["labels"][1, -padded:] == -100).all()
