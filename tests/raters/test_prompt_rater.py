"""A prompted rater: what is asked, what is cut, both orders, the wording chosen, the folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_server import Server
from tiny_language_models import untrained, write_tokenizer

from empo.corpora.labelled import Example
from empo.dialogues import Turn
from empo.raters.asking import Asking
from empo.raters.chat_models import ChatAnswer, ChatQuestion
from empo.raters.folder import RaterConfig, attest, weights_digest
from empo.raters.loading import LazyRater, load_rater
from empo.raters.prompt_questions import NOTHING, QuestionWriter, Shot
from empo.raters.prompt_rater import KIND, PromptRater
from empo.raters.prompt_selection import Selected, macro_f1, select_prompt, squared_error
from empo.raters.prompt_templates import Asked, Wording
from empo.raters.settings import RaterSettings
from empo.rating import Dimension, RatingInput, checked
from empo.records import Message, UserError, read_json, write_json

WARM = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
NEAR = Dimension("near", 1, 4, "interval")
OF_WARMTH = Asked(
    "warmth", "Rate.", "Warm is warm.", ((0.0, "none"), (1.0, "weak"), (2.0, "strong"))
)
OF_NEAR = Asked("near", "Rate.", "Near.", tuple((float(k), str(k)) for k in range(1, 5)))
REPLY = Wording("{task} {definition} {options}", "{dimension} | {context} | {response}")
PAIR = Wording("{task} {options}", "A: {first}\nB: {second}")


class Scripted:
    """A chat model that answers by a function of the last message; a word is a token."""

    limit: int | None = None

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        self.answer = answer
        self.asked: list[ChatQuestion] = []

    def length(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        self.asked += questions
        said = [self.answer(question.messages[-1].content) for question in questions]
        return [
            ChatAnswer(question.allowed.index(text))
            if text in question.allowed
            else ChatAnswer(None, None, (str(text),))
            for text, question in zip(said, questions, strict=True)
        ]


def rater(
    model: Scripted, item: str = "response", shots: Any = None, **changed: Any
) -> PromptRater:
    stories = item == "stories"
    settings = {"item": item, "turns": 2, "max_length": 10_000, "variant": "v", "note": None}
    config = RaterConfig(KIND, "judge", (NEAR if stories else WARM,), settings | changed)
    asked, wording = (OF_NEAR, PAIR) if stories else (OF_WARMTH, REPLY)
    return PromptRater(model, config, Asking(wording, (asked,), shots or {}, {}), {})


def by_word(text: str) -> str | None:
    return next((level for level in ("weak", "strong") if level in text.split("|")[-1]), "none")


# --- what is asked and answered ---


def test_answers_become_levels_and_blank_responses_get_none() -> None:
    model = Scripted(by_word)
    pairs = [RatingInput("Hello.", text) for text in ("very strong", "", "so weak", "well")]
    ratings = checked(rater(model).score(pairs), 4)
    assert np.array_equal(ratings.scores[:, 0], [2, np.nan, 1, 0], equal_nan=True)
    assert ratings.n_valid.tolist() == [1, 0, 1, 1] and not ratings.parse_failed.any()
    assert len(model.asked) == 3 and ratings.probabilities == (None,)
    system, user = model.asked[0].messages
    assert system.content == "Rate. Warm is warm. none, weak, strong"
    assert user.content == "warmth | Hello. | very strong"


def test_an_unreadable_answer_is_a_flag_and_a_warning_and_no_score() -> None:
    ratings = rater(Scripted(lambda text: "perhaps" if "b" in text[-1] else "weak")).score(
        [RatingInput("x", "a"), RatingInput("x", "b")]
    )
    assert ratings.parse_failed.tolist() == [False, True] and math.isnan(ratings.scores[1, 0])
    assert (
        "to 1 of 2 inputs the model gave answers that cannot be read, such as 'perhaps'"
        in (ratings.warnings[-1])
    )


def test_only_the_last_turns_are_read_and_named_where_there_are_several() -> None:
    model = Scripted(by_word)
    turns = (Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"))
    rater(model).score([RatingInput(turns, "r")])
    rater(model, turns=0).score([RatingInput(turns, "r")])
    rater(model, turns=1).score([RatingInput(turns, "r")])
    contexts = [asked.messages[-1].content.split(" | ")[1] for asked in model.asked]
    assert contexts == ["Listener: two\nSpeaker: three", NOTHING, "three"]


def test_examples_stand_before_the_question() -> None:
    model = Scripted(by_word)
    shots = {"warmth": [Shot(RatingInput("c", "d"), "strong"), Shot(RatingInput("", "e"), "none")]}
    rater(model, shots=shots).score([RatingInput("x", "y")])
    (asked,) = model.asked
    assert [(m.role, m.content) for m in asked.messages[1:]] == [
        ("user", "warmth | c | d"),
        ("assistant", "strong"),
        ("user", f"warmth | {NOTHING} | e"),
        ("assistant", "none"),
        ("user", "warmth | x | y"),
    ]


def test_braces_in_a_text_are_text() -> None:
    model = Scripted(by_word)
    rater(model).score([RatingInput("{task} {nothing}", "{response}")])
    assert model.asked[0].messages[-1].content == "warmth | {task} {nothing} | {response}"


# --- what is too long ---


@pytest.mark.parametrize("room", range(10, 24))
def test_a_context_loses_its_beginning_and_the_response_nothing(room: int) -> None:
    """The system message has 7 words, the user's 3 beside the texts: 10 + context + response."""
    model = Scripted(by_word)
    context, response = " ".join("abcdefghij"), "r s t"
    ratings = rater(model, max_length=room).score([RatingInput(context, response)])
    kept = room - 7 - 3 - 3
    if kept < 1:  # "(nothing)" is a word, too
        assert model.asked == [] and math.isnan(ratings.scores[0, 0])
        assert f"1 of 1 inputs do not fit into max_length {room}" in ratings.warnings[-1]
        return
    said = model.asked[0].messages[-1].content.split(" | ")
    assert said[2] == response
    assert said[1] == (context if kept >= 10 else context[-(2 * kept - 1) :])
    assert ratings.truncated.tolist() == [kept < 10] and not ratings.response_truncated.any()


def test_what_fits_in_one_dimension_alone_is_counted_and_has_no_flag() -> None:
    """The wording of the other one is 20 words longer; a blank reply lacks its scores anyway."""
    model = Scripted(by_word)
    long = Asked("patience", "Rate.", "so " * 20, OF_WARMTH.answers)
    other = Dimension("patience", 0, 2, "ordinal", (0.0, 1.0, 2.0))
    settings = {"item": "response", "turns": 0, "max_length": 29, "variant": "v", "note": None}
    config = RaterConfig(KIND, "judge", (WARM, other), settings)
    judge = PromptRater(model, config, Asking(REPLY, (OF_WARMTH, long), {}, {}), {})
    ratings = judge.score([RatingInput("", "so weak"), RatingInput("", " ")])
    assert np.array_equal(ratings.scores[0], [1, np.nan], equal_nan=True)
    assert ratings.n_valid.tolist() == [1, 0]
    assert not (ratings.truncated | ratings.response_truncated | ratings.parse_failed).any()
    assert ratings.warnings[-1] == (
        "Rater judge: 1 of 2 inputs do not fit into max_length 29 and have no score, or not in every "
        "dimension."
    )


def test_a_name_is_cut_with_a_word_and_an_empty_context_is_not_cut() -> None:
    """10 words beside the texts, 1 of the response, then `Listener: two three / Speaker: four`."""
    turns = (Turn("assistant", "two three"), Turn("user", "four"))
    found = []
    for room in (16, 15, 14, 13):
        model = Scripted(by_word)
        ratings = rater(model, max_length=room).score([RatingInput(turns, "r")])
        context = model.asked[0].messages[-1].content.split(" | ")[1]
        found.append((context, bool(ratings.truncated[0])))
    assert found == [
        ("Listener: two three\nSpeaker: four", False),
        ("three\nSpeaker: four", True),
        ("three\nSpeaker: four", True),
        ("Speaker: four", True),
    ]
    for context in ("", " \n", (), (Turn("user", ""), Turn("assistant", " "))):
        ratings = rater(Scripted(by_word), max_length=12).score([RatingInput(context, "r")])
        assert not ratings.truncated.any() and ratings.n_valid.tolist() == [1]


def test_two_alike_texts_lose_their_ends_to_the_same_number_of_words() -> None:
    model = Scripted(lambda text: "2")
    pair = RatingInput("a b c d e f", "u v w")
    ratings = rater(model, "stories", max_length=16).score([pair])  # 5 + 2 + nine words
    assert model.asked[0].messages[-1].content == "A: a b c d e f\nB: u v w"
    assert not ratings.truncated.any()
    ratings = rater(model, "stories", max_length=11).score([pair])
    assert model.asked[2].messages[-1].content == "A: a b\nB: u v"
    assert model.asked[3].messages[-1].content == "A: u v\nB: a b"
    assert ratings.truncated.all() and ratings.response_truncated.all()


# --- both orders ---


def first_decides(text: str) -> str:
    """A judge who looks at the first story alone: its number of words is the score."""
    return str(len(text.split("\n")[0].split()) - 1)


def test_both_orders_are_asked_and_a_judge_of_the_first_one_is_seen() -> None:
    judge = rater(Scripted(first_decides), "stories")
    texts = [("a", "b c d"), ("a b", "c d"), ("a b c d", "e"), ("a b", "c d e")]
    pairs = [RatingInput(*both) for both in texts]
    judged = judge.judged(pairs)
    assert judged.scores[:, :, 0].tolist() == [[1, 2, 4, 2], [3, 2, 1, 3]]
    ratings = judge.score(pairs)
    assert ratings.scores[:, 0].tolist() == [2, 2, 2.5, 2.5] and set(ratings.n_valid) == {2}
    assert judged.swaps((NEAR,)) == {
        "near": {
            "n": 4,
            "share_that_differ": 3 / 4,
            "mean_absolute_difference": (2 + 0 + 3 + 1) / 4,
        }
    }
    assert rater(Scripted(by_word)).judged([RatingInput("a", "b")]).swaps((WARM,)) == {}


def test_one_unreadable_order_leaves_the_other_one() -> None:
    judge = rater(Scripted(lambda t: "3" if t.startswith("A: a") else "?"), "stories")
    ratings = judge.score([RatingInput("a", "b"), RatingInput("c", "c")])
    assert ratings.scores[0, 0] == 3 and math.isnan(ratings.scores[1, 0])
    assert ratings.n_valid.tolist() == [1, 0] and ratings.parse_failed.all()
    swaps = judge.judged([RatingInput("a", "b")]).swaps((NEAR,))["near"]
    assert swaps == {"n": 0, "share_that_differ": None, "mean_absolute_difference": None}


# --- the wording is chosen, examples are drawn ---


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = write_tokenizer()
    untrained(tokenizer, 600).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def examples(n: int, label: Callable[[int], dict[str, float]]) -> list[Example]:
    return [
        Example(
            f"e{i}",
            f"g{i}",
            RatingInput(f"I lost my job {i}", "How was it? " * (1 + i % 3)),
            label(i),
        )
        for i in range(n)
    ]


OWN = """
response:
  plain: {system: '{options}', user: '{context} {response} {dimension}'}
  annotator: {system: '{definition} {options}', user: '{response}'}
  steps: {system: '{task}', user: '{response} {options} Score:'}
dimensions:
  warmth: {task: day, definition: it was, answers: {0: 'awful', 1: 'okay', 2: 'great'}}
"""


def chosen(base: Path | str, folder: Path, validation: list[Example], **given: Any) -> Selected:
    """With the model in the folder `base`, or at that address."""
    where = {"base_url": base} if isinstance(base, str) else {"encoder": str(base)}
    common = {"data": "-", "architecture": "prompt", "loss": "none", "max_length": 400}
    (folder / "own.yaml").write_text(OWN)
    common["prompts"] = str(folder / "own.yaml")
    settings = RaterSettings(**(common | where | given))
    return select_prompt(
        examples(30, lambda i: {"warmth": i % 3} if i % 5 else {}),
        validation,
        [WARM],
        settings,
        {"use_cpu": True},
        seed=given.get("seeds", [1])[0],
        name="judge",
        symmetric=False,
    )


def test_the_wording_that_does_best_on_validation_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The endpoint is right when it is asked by `annotator`, and once unreadable by `steps`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    words = ("awful", "okay", "great")

    def reply(messages: list[dict[str, str]]) -> str:
        right = words[messages[1]["content"].count("How was it?") - 1]
        if "it was" in messages[0]["content"]:
            return right
        return "hm" if "Score:" in messages[1]["content"] and right == "great" else "okay"

    validation = examples(12, lambda i: {"warmth": i % 3} if i != 4 else {})
    reached = {"encoder": "m", "key_variable": None, "seeds": [1]}
    with Server(reply) as server:
        found = chosen(server.base_url, tmp_path, validation, **reached)
        told = found.rater.score([e.input for e in validation])
        gold = [e.labels.get("warmth") for e in validation]
        assert [s for s, g in zip(told.scores[:, 0], gold, strict=True) if g is not None] == [
            g for g in gold if g is not None
        ]
        asked = server.total
        limited = chosen(server.base_url, tmp_path, validation, development=5, **reached)
        assert server.total == asked, "five of the twelve have been asked before"
    assert (found.facts["variant"], found.score, found.orders(validation)) == ("annotator", 1.0, {})
    tried = found.facts["variants"]
    assert {name: entry["dimensions"]["warmth"]["n"] for name, entry in tried.items()} == {
        "plain": 11,
        "annotator": 11,
        "steps": 11,
    }
    # of 4 awful, 3 okay and 4 great all are called okay: F1 2 * 3 / (11 + 3), mean with 0 and 0
    assert tried["plain"]["score"] == pytest.approx(6 / 14 / 3)
    steps = tried["steps"]["dimensions"]["warmth"]
    assert steps["unread"] == 4, "one question without its context, four examples"
    assert steps["macro_f1"] == pytest.approx(6 / 10 / 3)
    assert "wording steps: warmth macro_f1 0.2000, n 11, 4 unread" in capsys.readouterr().out
    assert limited.facts["development"] == 5
    facts = found.held_out(validation)
    assert facts["served"] == ["served-model"] and facts["usage"]["asked"] == asked
    assert facts["usage"]["given_up"] == 1 and facts["usage"]["cost"] is None
    assert facts["usage"]["input_tokens"] == 100 * asked and facts["usage"]["kept"] == 0


def test_macro_f1_takes_an_unread_answer_for_a_wrong_one() -> None:
    """Level 0: precision 1, recall 1/2, F1 2/3. Level 2: precision 1/2, recall 1, F1 2/3."""
    gold = np.array([0.0, 0.0, 2.0])
    assert macro_f1(gold, np.array([0.0, 2.0, 2.0]), WARM.levels) == pytest.approx(2 / 3)
    assert macro_f1(gold, np.array([0.0, np.nan, 2.0]), WARM.levels) == pytest.approx(5 / 6)
    assert macro_f1(gold, np.full(3, np.nan), WARM.levels) == 0


def test_the_squared_error_of_an_unread_answer_is_the_largest_possible() -> None:
    """On 1 to 4: off by 1 and, for a label of 1.5, by 2.5 where nothing was read."""
    gold = np.array([2.0, 1.5])
    assert squared_error(gold, np.array([3.0, 1.5]), NEAR) == 1 / 2
    assert squared_error(gold, np.array([3.0, np.nan]), NEAR) == (1 + 6.25) / 2


def test_one_example_per_level_from_train_drawn_by_the_seed(base: Path, tmp_path: Path) -> None:
    validation = examples(6, lambda i: {"warmth": i % 3})
    drawn = {
        seed: chosen(base, tmp_path, validation, shots="few", seeds=[seed]).rater.asking.shots
        for seed in (1, 2, 3)
    }
    train = {e.input: e.labels for e in examples(30, lambda i: {"warmth": i % 3} if i % 5 else {})}
    for shots in drawn.values():
        assert sorted(shot.answer for shot in shots["warmth"]) == ["awful", "great", "okay"]
        for shot in shots["warmth"]:
            assert (
                OF_WARMTH.values[["awful", "okay", "great"].index(shot.answer)]
                == (train[shot.input]["warmth"])
            )
    assert drawn[1] != drawn[2] or drawn[1] != drawn[3]
    assert drawn[1] == chosen(base, tmp_path, validation, shots="few", seeds=[1]).rater.asking.shots
    zero = chosen(base, tmp_path, validation, seeds=[1])
    assert zero.rater.asking.shots == {"warmth": []} and zero.facts["shots"] == {"warmth": []}


def test_more_tokens_than_the_model_reads_are_refused(base: Path, tmp_path: Path) -> None:
    settings = {"architecture": "prompt", "loss": "none", "encoder": str(base), "max_length": 601}
    settings["prompts"] = str(tmp_path / "own.yaml")
    (tmp_path / "own.yaml").write_text(OWN)
    one = examples(3, lambda i: {"warmth": i})
    with pytest.raises(UserError, match="max_length: 601 is more than the 600 tokens"):
        select_prompt(
            one, one, [WARM], RaterSettings(data="-", **settings), {"use_cpu": True},
            seed=1, name="j", symmetric=False,
        )  # fmt: skip


# --- the folder ---


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Path:
    validation = examples(6, lambda i: {"warmth": i % 3})
    rater = chosen(base, tmp_path, validation, shots="few", seeds=[1]).rater
    rater.save(tmp_path / "judge")
    return tmp_path / "judge"


PAIRS = [RatingInput("I lost my job", "that was awful"), RatingInput("hello", "How was it?")]


def test_a_saved_rater_gives_the_same_scores_and_says_what_it_is(
    saved: Path, base: Path, tmp_path: Path
) -> None:
    validation = examples(6, lambda i: {"warmth": i % 3})
    before = chosen(base, tmp_path, validation, shots="few", seeds=[1]).rater.score(PAIRS)
    rater = load_rater(saved, "cpu")
    after = rater.score(PAIRS)
    assert np.array_equal(before.scores, after.scores)
    assert np.allclose(before.probabilities[0], after.probabilities[0], atol=1e-6)
    assert np.allclose(after.probabilities[0].sum(axis=1), 1)
    levels = np.array(WARM.levels)[after.probabilities[0].argmax(axis=1)]
    assert after.scores[:, 0].tolist() == levels.tolist()
    identity = weights_digest(base)
    for part in ("judge@", "(prompt; warmth;", '"shots": "few"', identity, "max_length"):
        assert part in rater.signature
    assert str(base) not in rater.signature, "where a model lies is nobody's business"
    assert "nothing shows that it beats a constant" in rater.warnings[0]
    lazy = LazyRater(saved)
    assert lazy.signature == rater.signature and lazy._loaded is None
    assert not list(saved.glob("*.safetensors"))


def test_evidence_holds_until_something_that_moves_a_score_is_changed(saved: Path) -> None:
    shown = {"difference": 0.3, "interval": [0.2, 0.4]}
    entry = {"warmth": {"metric": "macro_f1", "constant": shown, "length": shown}}
    attest(saved, {"n": 50, "groups": 50, "drawn": "groups", "notes": [], "dimensions": entry})
    assert load_rater(saved, "cpu").warnings == ()
    access = read_json(saved / "model_access.json")
    write_json(saved / "model_access.json", access | {"further": "no matter"})
    assert LazyRater(saved).warnings == ()
    prompts = read_json(saved / "prompts.json")
    prompts["asked"][0]["definition"] = "it was not"
    write_json(saved / "prompts.json", prompts)
    assert "its evidence belongs to other weights" in LazyRater(saved).warnings[0]


def test_another_or_a_missing_model_is_told(saved: Path, base: Path, tmp_path: Path) -> None:
    access = saved / "model_access.json"
    write_json(access, {"path": str(tmp_path / "gone")})
    with pytest.raises(UserError, match="field 'path': there is no model in .*gone. Write there"):
        load_rater(saved, "cpu")
    tokenizer = write_tokenizer()
    untrained(tokenizer, 500).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    write_json(access, {"path": str(tmp_path / "other")})
    with pytest.raises(UserError, match="another model than the rater was made with .digest"):
        load_rater(saved, "cpu")
    write_json(access, {})
    with pytest.raises(UserError, match="model_access.json: a field is missing or unknown .*path"):
        load_rater(saved, "cpu")


def test_a_hub_model_without_a_commit_is_refused(saved: Path) -> None:
    prompts = read_json(saved / "prompts.json")
    prompts["model"]["identity"] = "unknown"
    write_json(saved / "prompts.json", prompts)
    write_json(saved / "model_access.json", {"path": "owner/name"})
    told = "which commit of owner/name the rater was made with is not known.* make the rater again"
    with pytest.raises(UserError, match=told):
        load_rater(saved, "cpu")


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("prompts.json", {"schema": "x"}, "field 'schema': 'x', but this version reads"),
        ("prompts.json", {"wording": {"system": "s"}}, "field 'wording.user': Field required"),
        ("prompts.json", {"asked": []}, "its dimensions are not those of the rater"),
        ("prompts.json", {"model": {}}, "a field is missing or unknown"),
        ("rater_config.json", {"settings": {"item": "essay"}}, "settings, turns: int is expected"),
        (
            "rater_config.json",
            {"settings": {"item": "essay", "turns": 1, "max_length": 9, "variant": "v"}},
            "settings, item: 'essay' is unknown; response or stories is expected",
        ),
        *[
            (
                "rater_config.json",
                {
                    "settings": {"item": "response", "turns": 1, "max_length": 9, "variant": "v"}
                    | {name: number}
                },
                f"settings, {name}: {number} is too few; at least {number + 1}",
            )
            for name, number in (("turns", -1), ("max_length", 0))
        ],
    ],
)
def test_a_damaged_folder_is_told(
    file: str, change: dict[str, Any], expected: str, saved: Path
) -> None:
    facts = json.loads((saved / file).read_text()) | change
    (saved / file).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=expected):
        load_rater(saved, "cpu")


def test_the_writer_reads_what_the_model_counts(base: Path) -> None:
    """With real tokens: what is kept fits, and one word more would not."""
    from empo.raters.chat_models import load_local

    model = load_local(str(base), device="cpu")
    context = " ".join(f"word{i}" for i in range(60))
    pair = RatingInput(context, "How was it?")
    writer = QuestionWriter(model, "response", REPLY, 1, 200)
    fitted = writer.question(pair, OF_WARMTH)
    kept = fitted.question.messages[-1].content.split(" | ")[1]
    assert fitted.context_cut and context.endswith(kept) and kept != context
    assert model.length(fitted.question.messages) <= 200
    longer = " ".join(context.split()[-len(kept.split()) - 1 :])
    more = QuestionWriter(model, "response", REPLY, 1, 10_000).question(
        RatingInput(longer, "How was it?"), OF_WARMTH
    )
    assert model.length(more.question.messages) > 200
