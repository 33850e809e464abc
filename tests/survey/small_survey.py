"""A small survey of composed replies, served by the real command or in a thread."""

from __future__ import annotations

import csv
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import uvicorn

from empo.survey.app import Survey
from empo.survey_commands import survey_command

SLIDERS = (
    "emotion_understanding",
    "situational_appropriateness",
    "contextual_naturalness",
    "conversational_engagingness",
)
BOX = "consistency_and_fluency"
EMOTIONS = ("joyful", "sad", "proud")


def write_responses(
    path: Path, system: str, exchanges: int = 12, emotions: Sequence[str] = EMOTIONS
) -> Path:
    """A responses file of one system; exchange i has the emotion i mod 3."""
    with path.open("w") as file:
        for i in range(exchanges):
            row = {
                "id": f"conv:{i}",
                "emotion": emotions[i % len(emotions)],
                "context": [{"role": "user", "content": f"Story {i} <b>&amp;</b>"}],
                "reference": f"I hear you, {i}.",
                "response": f"Answer of {i} {'on and on ' * len(system)}<script>alert({i})</script>",
                "system": system,
            }
            file.write(json.dumps(row) + "\n")
    return path


def build(folder: Path, systems: Sequence[str] = ("xqa", "xqbb"), **options: object) -> Path:
    """Build a survey of 6 items in batches of 6 through the command; returns its folder."""
    files = [str(write_responses(folder.parent / f"{name}.jsonl", name)) for name in systems]
    given = {"items": 6, "batch": 6, "block": 2, "human": "true", "contact": "Ada, ada@example.org"}
    words = [f"--{k.replace('_', '-')}={v}" for k, v in (given | options).items()]
    assert survey_command(["build", "--responses", *files, "--output", str(folder), *words]) == 0
    return folder


def tokens(folder: Path) -> list[str]:
    """The secret parts of a survey's links, in the order of the batches."""
    with (folder / "links.csv").open() as file:
        return [row["link"].rsplit("/", 1)[1] for row in csv.DictReader(file)]


class Page:
    """A response: status, headers in lower case, text, and the forms' hidden stamp."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    @property
    def stamp(self) -> str:
        found = re.search(r'name="stamp" value="([^"]+)"', self.text)
        assert found, self.text
        return found[1]


class Browser:
    """What a browser does with one site: keeps its cookie, sends Origin with forms."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.link = port, f"/s/{token}"
        self.cookie = ""

    def get(self, path: str = "") -> Page:
        return self._send("GET", path, None, {})

    def post(
        self,
        path: str,
        fields: Mapping[str, object] | bytes,
        headers: Mapping[str, str] | None = None,
    ) -> Page:
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        sent = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"http://127.0.0.1:{self.port}",
            "Sec-Fetch-Site": "same-origin",
        }
        return self._send("POST", path, body, sent | dict(headers or {}))

    def agree(self) -> Page:
        return self.post("/consent", {"stamp": self.get().stamp, "agree": 1})

    def answer(self, number: int, values: Sequence[object], box: bool = True) -> Page:
        fields = dict(zip(SLIDERS, values, strict=True)) | ({BOX: 1} if box else {})
        return self.post(f"/item/{number}", {"stamp": self.get(f"/item/{number}").stamp, **fields})

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Page:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {k: v for k, v in headers.items() if v} | (
            {"Cookie": self.cookie} if self.cookie else {}
        )
        path = path if path.startswith("/static") else self.link + path
        connection.request(method, path, body, sent)
        page = Page(connection.getresponse())
        connection.close()
        if "set-cookie" in page.headers:
            self.cookie = page.headers["set-cookie"].split(";")[0]
        return page


@contextmanager
def in_thread(folder: Path) -> Iterator[int]:
    """The application of a survey behind uvicorn in a thread; yields its port."""
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(Survey(folder).app(), log_level="error", access_log=False, lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    try:
        yield place.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        place.close()


class Served:
    """`empo survey serve` as a process, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as place:
            self.port = place.getsockname()[1]
        self.folder = folder
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "empo.cli", "survey", "serve", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("serving on"), line + self.process.stdout.read()
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> tuple[int, str]:
        """Ask it to stop; its exit code and what it printed since the start."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), self.process.stdout.read()
