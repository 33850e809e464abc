"""An OpenAI-compatible server on this machine, with what can go wrong on request, for tests."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a key of the tests that is shown nowhere"


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion of 100 tokens read and 2 written."""
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "served-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2},
        **more,
    }


class Trouble:
    """What a request gets in place of an answer: a status and body, silence, or a hang-up."""

    def __init__(
        self,
        status: int = 200,
        body: str = "{}",
        headers: Iterable[tuple[str, str]] = (),
        seconds: float = 0.0,
        hang_up: bool = False,
    ) -> None:
        self.status, self.body, self.headers = status, body, list(headers)
        self.seconds, self.hang_up = seconds, hang_up


class Server:
    """Answers with what `reply` makes of the messages: a text, None, or a `Trouble`.

    `sent` counts requests by the text of their last message, `answered` those that got a text;
    `times` are those of arrival.
    """

    def __init__(self, reply: Callable[[list[dict[str, str]]], Any], port: int = 0) -> None:
        self.reply = reply
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.times: list[float] = []
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.port = self._http.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def total(self) -> int:
        """Requests that came."""
        return sum(self.sent.values())


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            last = body["messages"][-1]["content"]
            with server.lock:
                server.sent[last] += 1
                server.bodies.append(body)
                server.keys.add(self.headers.get("Authorization"))
                server.times.append(time.monotonic())
            found = server.reply(body["messages"])
            if not isinstance(found, Trouble):
                with server.lock:
                    server.answered[last] += 1
                found = Trouble(body=json.dumps(completion(found)))
            time.sleep(found.seconds)
            if found.hang_up:
                self.close_connection = True
                self.connection.close()
                return
            data = found.body.encode()
            self.send_response(found.status)
            for name, value in found.headers:
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle(self) -> None:
            with suppress(OSError):  # the client has gone: it timed out
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
