"""A chat model behind an OpenAI-compatible endpoint: asked once, every answer kept.

The `openai` package sends and retries (429, 5xx, timeouts, lost connections; Retry-After is
honoured). Here are the bounds on how much is asked at once and per minute, the file of answers, the
reading of them, and the count of what it costs.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from empo.process import Stopped, StopRequest, stop_when_saved
from empo.raters.answer_store import AnswerStore, Said, default_answers, key_of
from empo.raters.chat_models import ANSWER_TOKENS, ChatAnswer, ChatQuestion
from empo.raters.endpoint_requests import Access, client_of, said_by, why_not
from empo.records import Message, UserError
from empo.redaction import HIDDEN, redacted

if TYPE_CHECKING:
    import openai

BYTES_PER_TOKEN = 3
"""For the length of a prompt whose tokenizer is not here; English text has more bytes per token."""
REMINDER = (
    "This is not one of the allowed answers. Reply with exactly one of the following and nothing "
    "else, no explanation and no punctuation: {options}"
)
"""What is said after an answer that cannot be read; it is said once."""
_POLL = 0.2


@dataclasses.dataclass
class Usage:
    """What was asked and what came back, since the endpoint was opened.

    `kept` answers were in the file before; what they had cost is counted apart.
    """

    asked: int = 0
    kept: int = 0
    kept_input_tokens: int = 0
    kept_output_tokens: int = 0
    unread: int = 0
    given_up: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def cost(self, access: Access) -> float | None:
        """The price of the tokens of what was asked; None without both prices."""
        return _price(access, self.input_tokens, self.output_tokens)

    def kept_cost(self, access: Access) -> float | None:
        """What the kept answers had cost, at the prices of today; None without both prices."""
        return _price(access, self.kept_input_tokens, self.kept_output_tokens)

    def facts(self, access: Access) -> dict[str, Any]:
        """All counts, `cost` and `kept_cost`."""
        costs = {"cost": self.cost(access), "kept_cost": self.kept_cost(access)}
        return {**dataclasses.asdict(self), **costs}

    def summary(self, access: Access) -> str:
        """All of it in a line."""
        cost, kept_cost = self.cost(access), self.kept_cost(access)
        kept = f" (which had cost {kept_cost:.4f})" if kept_cost else ""
        return (
            f"{self.asked:,} requests answered, {self.kept:,} answers from the file{kept}; "
            f"{self.unread:,} answers were not allowed ones, {self.given_up:,} questions without an "
            f"answer that can be read; {self.input_tokens:,} tokens read, {self.output_tokens:,} "
            f"written{'' if cost is None else f', cost {cost:.4f}'}"
        )


def _price(access: Access, read: int, written: int) -> float | None:
    if access.input_price is None or access.output_price is None:
        return None
    return (read * access.input_price + written * access.output_price) / 1e6


class Endpoint:
    """A chat model by its name at an address.

    `request` are the fields of every request beside model and messages (temperature, max_tokens).
    `limit` is None: nobody says what a prompt may measure; lengths are reckoned from bytes.

    An answer that is none of the allowed ones is answered with REMINDER, once; what cannot be read
    then either is no answer. Both texts are kept.
    """

    limit: int | None = None

    def __init__(
        self,
        model: str,
        base_url: str,
        request: Mapping[str, Any],
        access: Access,
        answers: str | Path | None = None,
    ) -> None:
        """Open the file of answers (default: in the user's cache folder); nothing is asked yet.

        Raises UserError where the file cannot be used.
        """
        self.model, self.base_url, self.request = model, base_url, dict(request)
        self.access = access
        self.usage = Usage()
        self.served: set[str] = set()
        self._counted: set[bytes] = set()
        self._store = AnswerStore(answers or default_answers())
        self._gate = _Gate(access.requests_per_minute)
        self._client: openai.OpenAI | None = None
        self._key = ""

    def length(self, messages: Sequence[Message]) -> int:
        """About the tokens of a prompt, with room for the answer."""
        total = sum(len(message.content.encode()) for message in messages)
        return -(-total // BYTES_PER_TOKEN) + 8 * len(messages) + ANSWER_TOKENS

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        """Answers in the order of the questions; each was asked once, ever.

        Raises UserError where the key is missing, the package is not installed, the endpoint does
        not know the model, refuses, or is gone; `Stopped` on SIGTERM or Ctrl-C, when what is
        under way has been answered.
        """
        asked_before = self.usage.asked
        first = self._said([question.messages for question in questions])
        choices = [
            read_answer(said, question.allowed)
            for said, question in zip(first, questions, strict=True)
        ]
        again = [i for i, choice in enumerate(choices) if choice is None]
        second = self._said([_reminded(questions[i], first[i]) for i in again])
        unread: dict[int, tuple[str, ...]] = {}
        for i, said in zip(again, second, strict=True):
            choices[i] = read_answer(said, questions[i].allowed)
            unread[i] = (first[i].text,) if choices[i] is not None else (first[i].text, said.text)
        self.usage.unread += sum(map(len, unread.values()))
        self.usage.given_up += sum(choice is None for choice in choices)
        if self.usage.asked > asked_before:
            print(f"{self.model}: {self.usage.summary(self.access)}", file=sys.stderr)
        return [ChatAnswer(choice, None, unread.get(i, ())) for i, choice in enumerate(choices)]

    def _said(self, conversations: Sequence[tuple[Message, ...]]) -> list[Said]:
        """What was said to each, from the file or asked now."""
        keys = [key_of(self.model, self.base_url, c, self.request) for c in conversations]
        known = self._store.read(keys)
        missing = {k: c for k, c in zip(keys, conversations, strict=True) if k not in known}
        for key in known.keys() - self._counted:
            self.usage.kept += 1
            self.usage.kept_input_tokens += known[key].input_tokens
            self.usage.kept_output_tokens += known[key].output_tokens
        self._counted.update(keys)
        if missing:
            self._ask(missing)
            known |= self._store.read(list(missing))
        self.served |= {said.served for said in known.values() if said.served}
        return [known[key] for key in keys]

    def _ask(self, missing: Mapping[bytes, tuple[Message, ...]]) -> None:
        """Ask everything, `concurrency` questions at a time, until a signal or a failure."""
        client = self._opened()
        todo = iter(missing.items())
        under_way: set[Future[None]] = set()
        failure: Exception | None = None
        answered = 0
        bar = tqdm(total=len(missing), desc=self.model, unit="answer", delay=2, leave=False)
        with _stop_requested() as stop, ThreadPoolExecutor(self.access.concurrency) as pool, bar:
            while True:
                while len(under_way) < self.access.concurrency:
                    going_on = failure is None and stop.number is None
                    entry = next(todo, None) if going_on else None
                    if entry is None:
                        break
                    under_way.add(pool.submit(self._ask_one, client, *entry))
                if not under_way:
                    break
                done, under_way = wait(under_way, _POLL, FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    failure = failure or error
                    answered += error is None
                    bar.update(error is None)
                if stop.number is not None or failure is not None:
                    self._gate.hurry()
        self._gate.calm()
        left = len(missing) - answered
        if left and stop.number is not None:
            raise Stopped(stop.number, f"Answers that came are kept in {self._store.path}")
        if failure is not None:
            raise self._refusal(failure, left, len(missing)) from None

    def _ask_one(self, client: openai.OpenAI, key: bytes, messages: Sequence[Message]) -> None:
        said = said_by(
            client,
            {
                "model": self.model,
                "messages": [message.model_dump() for message in messages],
                **self.request,
            },
        )
        said = dataclasses.replace(said, text=self._hidden(said.text))
        self._store.write(key, said)
        with self._gate.lock:
            self.usage.asked += 1
            self.usage.input_tokens += said.input_tokens
            self.usage.output_tokens += said.output_tokens

    def _opened(self) -> openai.OpenAI:
        """The client, made when something has to be asked and not before."""
        if self._client is None:
            self._client, self._key = client_of(self.base_url, self.access, self._gate.wait)
        return self._client

    def _refusal(self, error: Exception, left: int, of: int) -> Exception:
        """The failure as an error of the user's where it is one; what is kept, and what is missing."""
        reason = why_not(error, self.model, self.base_url, self.access)
        if reason is None:
            return error
        return UserError(
            f"{self._hidden(reason)} {left:,} of {of:,} questions have no answer yet; those that were "
            f"answered are kept in {self._store.path}, and the same command goes on with what is "
            "missing."
        )

    def _hidden(self, text: str) -> str:
        return redacted(text.replace(self._key, HIDDEN) if self._key else text)


def read_answer(said: Said, allowed: Sequence[str]) -> int | None:
    """The allowed answer that a text is; None where it is not exactly one of them.

    Upper case, white space around it, quotation marks or asterisks around it and one full stop are
    overlooked, and numbers are compared as numbers; anything else is another answer.
    """
    if not said.well_formed:
        return None
    text = said.text.strip().strip("\"'`*").strip().removesuffix(".").strip().casefold()
    plain = [answer.casefold() for answer in allowed]
    if text in plain:
        return plain.index(text)
    numbers = [_number(answer) for answer in plain]
    number = _number(text)
    return None if number is None or number not in numbers else numbers.index(number)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def _reminded(question: ChatQuestion, said: Said) -> tuple[Message, ...]:
    reminder = REMINDER.format(options=", ".join(question.allowed))
    if said.well_formed and said.text.strip():
        spoken = Message(role="assistant", content=said.text)
        return (*question.messages, spoken, Message(role="user", content=reminder))
    *before, last = question.messages  # roles take turns: some endpoints insist on it
    return (*before, Message(role="user", content=f"{last.content}\n\n{reminder}"))


class _Gate:
    """Lets one request through at a time, so many a minute; retries count."""

    def __init__(self, per_minute: float | None) -> None:
        self.lock = threading.Lock()
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._hurried = threading.Event()

    def wait(self, _request: Any) -> None:
        """Wait for the next place; when the run is about to end nobody waits."""
        if not self._seconds:
            return
        with self.lock:
            now = time.monotonic()
            place = max(now, self._next)
            self._next = place + self._seconds
        self._hurried.wait(place - now)

    def hurry(self) -> None:
        """Let everybody through."""
        self._hurried.set()

    def calm(self) -> None:
        """Go back to the pace."""
        self._hurried.clear()


@contextmanager
def _stop_requested() -> Iterator[StopRequest]:
    """As `stop_when_saved`; other threads than the first get no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    with stop_when_saved("the questions under way are answered") as request:
        yield request
