"""Two hundred people at once against the real command: every answer once, and how long they wait."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sqlite3
import time
from pathlib import Path

import pytest
from small_survey import BOX, SLIDERS, Served, build, tokens

aiohttp = pytest.importorskip(
    "aiohttp", reason="aiohttp is not installed (pip install 'empo[test]')"
)

PEOPLE, ITEMS = 200, 6
STAMP = re.compile(r'name="stamp" value="([^"]+)"')


class Person:
    """Somebody who answers a whole batch, now and then sending a form twice at once."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        self.url = f"http://127.0.0.1:{port}/s/{token}"
        self.rng = random.Random(seed)
        self.given: dict[int, dict[str, int]] = {}
        self.waited: list[float] = []
        self.code = ""

    async def take_part(self) -> None:
        timeout = aiohttp.ClientTimeout(total=300)
        jar = aiohttp.CookieJar(unsafe=True)  # else none for an address without a name
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as self.session:
            await self.send(
                "/consent", {"stamp": await self.stamp(""), "agree": 1}, "/instructions"
            )
            for place in range(ITEMS):
                values = [self.rng.randint(0, 100) for _ in SLIDERS]
                ratings = {**dict(zip(SLIDERS, values, strict=True)), BOX: 1}
                form = {"stamp": await self.stamp(f"/item/{place + 1}"), **ratings}
                there = "/done" if place == ITEMS - 1 else f"/item/{place + 2}"
                twice = 2 if self.rng.random() < 0.1 else 1
                sent = [self.send(f"/item/{place + 1}", form, there) for _ in range(twice)]
                await asyncio.gather(*sent)
                self.given[place] = ratings
            text = await self.get("/done")
            (self.code,) = re.findall(r"[0-9A-F]{5}-[0-9A-F]{5}", text)

    async def stamp(self, path: str) -> str:
        return STAMP.search(await self.get(path))[1]

    async def get(self, path: str) -> str:
        begun = time.perf_counter()
        async with self.session.get(self.url + path) as response:
            text = await response.text()
            assert response.status == 200, text
        self.waited.append(time.perf_counter() - begun)
        return text

    async def send(self, path: str, form: dict, there: str) -> None:
        begun = time.perf_counter()
        async with self.session.post(self.url + path, data=form, allow_redirects=False) as response:
            assert response.status == 303, await response.text()
            assert response.headers["location"].endswith(there)
        self.waited.append(time.perf_counter() - begun)


@pytest.mark.slow
def test_two_hundred_people_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"items": 12, "batch": ITEMS, "block": 2, "ratings": 34}
    served = Served(build(tmp_path / "survey", **options))
    links = tokens(served.folder)[:PEOPLE]
    assert len(links) == PEOPLE
    people = [Person(served.port, token, seed) for seed, token in enumerate(links)]

    async def everybody() -> None:
        await asyncio.gather(*(person.take_part() for person in people))

    begun = time.perf_counter()
    asyncio.run(everybody())
    seconds = time.perf_counter() - begun
    code, printed = served.stop()
    assert code == 143 and "error" not in printed
    database = sqlite3.connect(served.folder / "answers.sqlite")
    rows = database.execute("SELECT participant, place, ratings FROM answers").fetchall()
    codes = [code for (code,) in database.execute("SELECT code FROM codes")]
    database.close()
    assert len(rows) == PEOPLE * ITEMS
    found = {(who, place): json.loads(ratings) for who, place, ratings in rows}
    assert found == {
        (who, place): ratings
        for who, person in enumerate(people, start=1)
        for place, ratings in person.given.items()
    }
    assert sorted(codes) == sorted(person.code for person in people) and len(set(codes)) == PEOPLE
    waited = sorted(w for person in people for w in person.waited)
    p50, p95 = (waited[int(share * len(waited))] for share in (0.5, 0.95))
    with capsys.disabled():
        print(
            f"\n{PEOPLE} people at once, {len(waited):,} requests in {seconds:.1f} s on "
            f"{os.cpu_count()} cores shared with the people: median {p50:.3f} s, 95 % {p95:.3f} s, "
            f"longest {waited[-1]:.3f} s"
        )
