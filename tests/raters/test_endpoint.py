"""An endpoint that fails in every way: nothing is lost, nothing is asked twice, no key is shown."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import KEY, Server, Trouble, completion

from empo.process import Stopped
from empo.raters.answer_store import Said
from empo.raters.chat_models import ChatQuestion
from empo.raters.endpoint import Endpoint, read_answer
from empo.raters.endpoint_requests import Access
from empo.records import Message, UserError

LEVELS = ("none", "weak", "strong")
QUICK = Access(key_variable="TEST_KEY_NAME", concurrency=4, timeout=5.0, retries=3)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY_NAME", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(reply: Callable[[list[dict[str, str]]], Any], port: int = 0) -> Server:
        servers.append(Server(reply, port).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def questions(n: int, first: int = 0) -> list[ChatQuestion]:
    """Number i is to be answered with the level i % 3."""
    return [
        ChatQuestion((Message(role="user", content=f"question {i}"),), LEVELS)
        for i in range(first, first + n)
    ]


def right(messages: list[dict[str, str]]) -> str:
    return LEVELS[int(messages[0]["content"].split()[1]) % 3]


def endpoint(server: Server, folder: Path, **changed: Any) -> Endpoint:
    access = dataclasses.replace(QUICK, **changed)
    request = {"temperature": 0, "max_tokens": 16}
    return Endpoint("m", server.base_url, request, access, folder / "answers.sqlite")


def choices(model: Endpoint, asked: list[ChatQuestion]) -> list[int | None]:
    return [answer.choice for answer in model.answers(asked, 8)]


def test_answers_come_in_the_order_of_the_questions_and_are_asked_for_once(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow_first(messages: list[dict[str, str]]) -> str:
        time.sleep(0.2 if messages[0]["content"] == "question 0" else 0.0)
        return right(messages)

    server = serve(slow_first)
    model = endpoint(server, tmp_path, input_price=2.0, output_price=10.0)
    asked = [*questions(20), *questions(3)]  # three stand there twice
    assert choices(model, asked) == [i % 3 for i in [*range(20), *range(3)]]
    assert server.total == 20 and set(server.sent.values()) == {1}
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 16)
    assert server.keys == {f"Bearer {KEY}"} and model.served == {"served-model"}
    usage = model.usage
    assert (usage.asked, usage.kept, usage.input_tokens, usage.output_tokens) == (20, 0, 2000, 40)
    assert usage.cost(model.access) == pytest.approx((2000 * 2 + 40 * 10) / 1e6)
    assert "20 requests answered" in (said := capsys.readouterr().err) and "cost 0.0044" in said
    again = endpoint(server, tmp_path)
    assert choices(again, asked) == [i % 3 for i in [*range(20), *range(3)]]
    assert server.total == 20 and again.usage.asked == 0 and again.usage.kept == 20
    assert again.usage.cost(again.access) is None and capsys.readouterr().err == ""
    assert choices(again, asked) and again.usage.kept == 20, "each is counted once"
    half = endpoint(server, tmp_path, input_price=2.0, output_price=10.0)
    choices(half, questions(25))
    choices(half, questions(25))
    assert (half.usage.asked, half.usage.kept, half.usage.kept_input_tokens) == (5, 20, 2000)
    facts = half.usage.facts(half.access)
    assert (facts["cost"], facts["kept_cost"]) == (
        pytest.approx((500 * 2 + 10 * 10) / 1e6),
        pytest.approx((2000 * 2 + 40 * 10) / 1e6),
    )
    assert "20 answers from the file (which had cost 0.0044);" in capsys.readouterr().err
    for changed in ("model", "base_url", "request"):
        other = endpoint(server, tmp_path)
        new = {"model": "n", "base_url": f"{server.base_url}/", "request": {"temperature": 1}}
        setattr(other, changed, new[changed])
        choices(other, questions(1))
        assert other.usage.asked == 1, f"another {changed} is another question"


def test_whatever_goes_wrong_on_the_way_is_tried_again(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    troubles = {
        "question 0": Trouble(429, headers=[("Retry-After", "1")]),
        "question 1": Trouble(500),
        "question 2": Trouble(seconds=0.8),
        "question 3": Trouble(hang_up=True),
        "question 4": Trouble(503, headers=[("Retry-After", "0.05")]),
    }
    times: dict[str, list[float]] = {}

    def fails_once(messages: list[dict[str, str]]) -> Any:
        name = messages[0]["content"]
        times.setdefault(name, []).append(time.monotonic())
        return troubles.pop(name, None) or right(messages)

    server = serve(fails_once)
    model = endpoint(server, tmp_path, timeout=0.4, concurrency=8)
    assert choices(model, questions(10)) == [i % 3 for i in range(10)]
    assert troubles == {}
    assert {server.sent[f"question {i}"] for i in range(5)} == {2}
    assert {server.sent[f"question {i}"] for i in range(5, 10)} == {1}
    first, second = times["question 0"]
    assert second - first >= 0.95, (
        "Retry-After asks for a second; the own pause would be half of it"
    )


def cut_off(text: str) -> Trouble:
    """A completion that ended for want of tokens."""
    body = completion(text)
    body["choices"][0]["finish_reason"] = "length"
    return Trouble(body=json.dumps(body))


@pytest.mark.parametrize(
    ("malformed", "kept"),
    [
        ("I would say weak", "I would say weak"),
        (None, ""),
        (Trouble(body="{no json"), "{no json"),
        (Trouble(body='{"choices": []}'), '{"choices": []}'),
        (cut_off("strong"), "strong"),
        (Trouble(400, body='{"error": {"message": "x", "code": "content_filter"}}'), "refused"),
    ],
    ids=["a sentence", "no text", "no JSON", "no choices", "cut off", "refused for its content"],
)
def test_an_answer_that_is_none_is_asked_for_once_more_and_then_flagged(
    malformed: Any,
    kept: str,
    serve: Callable[..., Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def reply(messages: list[dict[str, str]]) -> Any:
        number = int(messages[0]["content"].split()[1])
        reminded = "not one of the allowed answers" in messages[-1]["content"]
        return malformed if number == 1 or (number == 2 and not reminded) else right(messages)

    server = serve(reply)
    model = endpoint(server, tmp_path)
    found = model.answers(questions(4), 8)
    assert [answer.choice for answer in found] == [0, None, 2, 0]
    assert [len(answer.unread) for answer in found] == [0, 2, 1, 0]
    assert all(text.startswith(kept) for answer in found for text in answer.unread)
    assert server.total == 6 and (model.usage.unread, model.usage.given_up) == (3, 1)
    assert "3 answers were not allowed ones, 1 questions without" in capsys.readouterr().err
    roles = {tuple(m["role"] for m in body["messages"]) for body in server.bodies}
    spoken = ("user", "assistant", "user") if malformed == kept else ("user",)
    assert roles == {("user",), spoken}
    again = endpoint(server, tmp_path)
    assert again.answers(questions(4), 8) == found and server.total == 6


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        *[("weak", 1), (" Weak.\n", 1), ('"strong"', 2), ("**none**", 0), ("`weak`", 1)],
        *[("", None), ("weakly", None), ("weak or strong", None), ("1", None), ("wea", None)],
    ],
)
def test_what_counts_as_an_answer(text: str, choice: int | None) -> None:
    assert read_answer(Said(text, True), LEVELS) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [("1.0", 0), ("1", 0), ("1.50", 1), ("1.5.", 1), ("2", None), ("-1", None), ("nan", None)],
)
def test_numbers_are_compared_as_numbers(text: str, choice: int | None) -> None:
    assert read_answer(Said(text, True), ("1.0", "1.5")) == choice
    assert read_answer(Said(text, False), ("1.0", "1.5")) is None


def test_an_endpoint_that_goes_away_costs_nothing_that_was_answered(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    def until_seven(messages: list[dict[str, str]]) -> Any:
        with server.lock:
            gone = sum(server.answered.values()) >= 7
        return Trouble(hang_up=True) if gone else right(messages)

    server = serve(until_seven)
    model = endpoint(server, tmp_path, retries=0, concurrency=1)
    with pytest.raises(UserError) as told:
        model.answers(questions(20), 8)
    text = str(told.value)
    assert "no connection after 1 tries" in text and "13 of 20 questions have no answer" in text
    assert "answers.sqlite, and the same command goes on with what is missing" in text
    first = set(server.answered)
    server.reply = right
    assert choices(endpoint(server, tmp_path), questions(20)) == [i % 3 for i in range(20)]
    assert len(first) == 7 and all(server.sent[name] == 1 for name in first)
    assert set(server.answered.values()) == {1} and len(server.answered) == 20


def test_ctrl_c_waits_for_what_is_under_way_and_a_restart_asks_the_rest(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    def stops(messages: list[dict[str, str]]) -> str:
        if messages[0]["content"] == "question 9":
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return right(messages)

    server = serve(stops)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match=r"stopped by SIGINT. Answers that came are kept in .*sqlite"):
        endpoint(server, tmp_path).answers(questions(40), 8)
    assert signal.getsignal(signal.SIGINT) is handler
    assert 10 <= server.total < 40
    server.reply = right
    assert choices(endpoint(server, tmp_path), questions(40)) == [i % 3 for i in range(40)]
    assert len(server.sent) == 40 and set(server.sent.values()) == {1}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (
            404,
            "model_not_found",
            "it does not know the model 'm' (404: .*Check the name .`encoder`",
        ),
        (401, "invalid_api_key", "the key is refused .* environment variable TEST_KEY_NAME"),
        (400, "context_length_exceeded", "longer than the model can read .* Lower `max_length`"),
        (422, "x", "it refuses the request .* Check the fields of `request`"),
        (500, "x", "it answers 500 after 1 tries .* lower `concurrency`"),
        (429, "insufficient_quota", "it answers 429 after 1 tries"),
    ],
)
def test_a_refusal_is_one_message_that_says_what_to_do_and_no_key(
    status: int,
    code: str,
    expected: str,
    serve: Callable[..., Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = json.dumps({"error": {"message": f"no, {KEY}", "code": code}})
    server = serve(lambda messages: Trouble(status, body))
    with pytest.raises(UserError, match=expected.replace("(404", r"\(404")) as told:
        endpoint(server, tmp_path, retries=0, concurrency=1).answers(questions(3), 8)
    assert server.total == 1 and "3 of 3 questions have no answer yet" in str(told.value)
    shown = capsys.readouterr()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in str(told.value) + shown.out + shown.err
    assert not any(KEY.encode() in data for data in files)


def test_a_key_that_a_model_repeats_is_not_kept(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(lambda messages: f"the key is {KEY}")
    (answer,) = endpoint(server, tmp_path).answers(questions(1), 8)
    assert answer.unread == ("the key is <hidden>",) * 2
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in data for data in files)


def test_without_key_or_package_nothing_is_asked(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(right)
    monkeypatch.delenv("TEST_KEY_NAME")
    with pytest.raises(UserError, match="variable TEST_KEY_NAME with the key of .* is not set"):
        endpoint(server, tmp_path).answers(questions(1), 8)
    assert choices(endpoint(server, tmp_path, key_variable=None), questions(1)) == [0]
    assert server.total == 1
    assert choices(endpoint(server, tmp_path), questions(1)) == [0], "a kept answer needs no key"
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install empo\[api\]"):
        endpoint(server, tmp_path).answers(questions(2), 8)


def test_so_many_requests_a_minute_retries_counted(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    left = [Trouble(503, headers=[("Retry-After", "0.01")])] * 2
    server = serve(lambda messages: left.pop() if left else right(messages))
    model = endpoint(server, tmp_path, requests_per_minute=600.0)
    assert choices(model, questions(4)) == [0, 1, 2, 0]
    assert server.total == 6
    assert max(server.times) - min(server.times) >= 0.45, "six requests have five gaps of 0.1 s"


def test_lengths_are_reckoned_on_the_safe_side(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    model = endpoint(serve(right), tmp_path)
    assert model.length([Message(role="user", content="x" * 300)]) == 100 + 8 + 16
