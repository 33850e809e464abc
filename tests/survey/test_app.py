"""The pages over real HTTP: consent first, once, in order, by one browser, from our own pages."""

from __future__ import annotations

import hmac
import http.client
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_survey import BOX, SLIDERS, Browser, in_thread, tokens

from empo.survey import forms
from empo.survey.app import HEADERS
from empo.survey.plan import read_plan
from empo.survey.store import Store

VALUES = (0, 33, 50, 100)


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with in_thread(folder) as port:
        yield port


def rows(folder: Path, query: str = "SELECT participant, place, ratings FROM answers") -> list:
    database = sqlite3.connect(folder / "answers.sqlite")
    found = database.execute(query).fetchall()
    database.close()
    return found


def test_the_whole_way(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[1])
    page = person.agree()
    assert (page.status, page.headers["location"]) == (303, f"{person.link}/instructions")
    cookie = page.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=lax", f"path={person.link}".lower(), "max-age=2592000"):
        assert part in cookie
    assert "secure" not in cookie, "the address of this survey is http"
    assert "See an example" in person.get("/instructions").text
    assert "half marathon" in person.get("/example").text
    assert person.get("/done").headers["location"].endswith("/instructions")
    batch = read_plan(folder)["batches"][1]
    for number, (item, system) in enumerate(batch["places"], start=1):
        page = person.get(f"/item/{number}")
        assert f"Reply {number} of 6" in page.text
        reply = read_plan(folder)["items"][item]["responses"][system]
        assert reply.split("<")[0].strip() in page.text
        page = person.answer(number, VALUES, box=number % 2 == 0)
        there = "done" if number == 6 else f"item/{number + 1}"
        assert (page.status, page.headers["location"]) == (303, f"{person.link}/{there}")
    found = {place: json.loads(ratings) for _, place, ratings in rows(folder)}
    assert found == {
        place: {**dict(zip(SLIDERS, VALUES, strict=True)), BOX: place % 2} for place in range(6)
    }
    page = person.get("/done")
    (code,) = re.findall(r"[0-9A-F]{5}-[0-9A-F]{5}", page.text)
    assert rows(folder, "SELECT code FROM codes") == [(code,)]
    assert code in person.get("/done").text
    assert "by computer programs that learn to answer" in page.text
    assert page.text.count("ada@example.org") == 2, "in the debriefing and below it"
    made_of_the_link = hmac.digest(
        Store(folder / "answers.sqlite").key, b"code" + tokens(folder)[1].encode(), "sha256"
    )
    assert code.replace("-", "") != made_of_the_link.hex()[:10].upper()
    assert person.get().headers["location"].endswith("/done")


def test_nothing_is_kept_without_consent(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    page = person.get()
    assert page.status == 200 and "set-cookie" not in page.headers
    assert "Some replies are written by computer programs; we do not say which." in page.text
    assert "ada@example.org" in page.text and "about 5 minutes" in page.text
    for path in ("/instructions", "/example", "/item/1", "/done"):
        assert person.get(path).status == 403
    ratings = dict(zip(SLIDERS, VALUES, strict=True))
    assert person.post("/item/1", {"stamp": page.stamp, **ratings}).status == 403
    refused = person.post("/consent", {"stamp": page.stamp})
    assert refused.status == 422 and "Please tick the box" in refused.text
    assert person.post("/consent", {"stamp": page.stamp, "agree": "yes"}).status == 422
    assert person.post("/consent", {"agree": 1}).status == 403
    assert rows(folder) == []
    assert rows(folder, "SELECT count(*) FROM participants WHERE session IS NOT NULL") == [(0,)]


def test_a_second_browser_is_refused_and_the_first_goes_on(folder: Path, port: int) -> None:
    first, second = (Browser(port, tokens(folder)[0]) for _ in range(2))
    early = second.get().stamp
    first.agree()
    first.answer(1, VALUES)
    page = second.get()
    assert page.status == 403 and "This link is in use" in page.text
    assert second.post("/consent", {"stamp": early, "agree": 1}).status == 403
    assert second.get("/item/2").status == 403
    stamp = first.get("/item/2").stamp
    ratings = dict(zip(SLIDERS, VALUES, strict=True))
    assert second.post("/item/2", {"stamp": stamp, **ratings}).status == 403
    other = Browser(port, tokens(folder)[1])
    other.agree()
    second.cookie = other.cookie
    assert second.get("/item/2").status == 403, "a cookie of another link"
    assert first.get().headers["location"].endswith("/item/2")
    assert len(rows(folder)) == 1


def test_consent_whose_confirmation_was_lost_can_be_sent_again(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    form = {"stamp": person.get().stamp, "agree": 1}
    other = {"stamp": person.get().stamp, "agree": 1}
    person.post("/consent", form)
    first, person.cookie = person.cookie, ""
    assert person.get().status == 403
    assert person.post("/consent", other).status == 403, "another page of consent"
    assert person.post("/consent", form).status == 303
    assert person.cookie == first and person.answer(1, VALUES).status == 303


def test_an_answer_stays_as_it_is(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    form = {"stamp": person.get("/item/1").stamp, **dict(zip(SLIDERS, VALUES, strict=True))}
    assert person.post("/item/1", form).status == 303
    before = rows(folder)
    assert person.post("/item/1", form).status == 303, "a double click is no error"
    changed = person.post("/item/1", form | {SLIDERS[0]: 99})
    assert changed.status == 409 and "rated already" in changed.text
    assert person.post("/item/1", form | {SLIDERS[0]: 999}).status == 409
    page = person.get("/item/1")
    assert "Your ratings stay as they are" in page.text and "<form" not in page.text
    assert ">33<" in page.text
    assert rows(folder) == before


def test_a_link_that_was_replaced_says_so(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    form = {"stamp": person.get("/item/1").stamp, **dict(zip(SLIDERS, VALUES, strict=True))}
    Store(folder / "answers.sqlite").add_links([1], {1: 6})
    for page in (person.get(), person.post("/item/1", form)):
        assert page.status == 410 and "This link was replaced" in page.text
    assert rows(folder) == []


def test_items_come_in_their_order(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    for path in ("/item/2", "/item/6", "/item/7", "/item/0"):
        assert person.get(path).headers["location"] == f"{person.link}/instructions"
    stamp = person.get("/item/1").stamp
    form = dict(zip(SLIDERS, VALUES, strict=True))
    assert person.post("/item/2", {"stamp": stamp, **form}).status == 403, "a stamp of another page"
    assert rows(folder) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({SLIDERS[1]: ""}, "Not answered yet: move or click this slider."),
        ({SLIDERS[1]: "101"}, "This takes a whole number from 0 to 100."),
        ({SLIDERS[1]: "-1"}, "This takes a whole number from 0 to 100."),
        ({SLIDERS[1]: "nan"}, "This takes a whole number from 0 to 100."),
        ({BOX: "maybe"}, "Something is missing"),
    ],
)
def test_values_that_cannot_be_come_back_with_a_remedy(
    folder: Path, port: int, fields: dict[str, str], message: str
) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    stamp = person.get("/item/1").stamp
    form = {"stamp": stamp, **dict(zip(SLIDERS, VALUES, strict=True))}
    page = person.post("/item/1", form | fields)
    assert page.status == 422 and message in page.text
    assert 'value="50"' in page.text, "what was right is still in the form"
    del form[SLIDERS[2]]
    assert person.post("/item/1", form).status == 422
    assert rows(folder) == []


def test_the_seconds_are_those_since_a_page_was_first_opened(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(forms.time, "time", lambda: clock[0])
    person = Browser(port, tokens(folder)[0])
    person.agree()
    person.get("/item/1")
    clock[0] += 30
    stamp = person.get("/item/1").stamp
    clock[0] += 10
    form = dict(zip(SLIDERS, VALUES, strict=True))
    page = person.post("/item/1", {"stamp": stamp, **form, SLIDERS[0]: ""})
    assert page.status == 422
    clock[0] += 2
    assert person.post("/item/1", {"stamp": page.stamp, **form}).status == 303
    clock[0] += 5
    stamp = person.get("/item/2").stamp
    clock[0] += 7
    assert person.post("/item/2", {"stamp": stamp, **form}).status == 303
    assert rows(folder, "SELECT seconds FROM answers ORDER BY place") == [(42.0,), (7.0,)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_forms_of_other_sites_are_refused(folder: Path, port: int, headers: dict[str, str]) -> None:
    person = Browser(port, tokens(folder)[0])
    consent = {"stamp": person.get().stamp, "agree": 1}
    assert person.post("/consent", consent, headers).status == 403
    person.agree()
    form = {"stamp": person.get("/item/1").stamp, **dict(zip(SLIDERS, VALUES, strict=True))}
    page = person.post("/item/1", form, headers)
    assert page.status == 403 and "did not come from the page itself" in page.text
    assert f'href="{person.link}"' in page.text, "a way on"
    assert rows(folder) == []


def test_a_form_without_a_stamp_of_this_server_is_refused(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    form = dict(zip(SLIDERS, VALUES, strict=True))
    stamp = person.get("/item/1").stamp
    forged = f"{int(stamp.split('.')[0]) - 50}.{stamp.partition('.')[2]}"
    for wrong in ({}, {"stamp": ""}, {"stamp": forged}):
        assert person.post("/item/1", {**form, **wrong}).status == 403
    assert rows(folder) == []


@pytest.mark.parametrize(
    ("body", "status"), [(b"x" * 20_000, 413), (b"a=1&a=2", 400), (b"\xff\xfe", 400), (b"", 403)]
)
def test_bodies_that_are_no_form_of_ours(folder: Path, port: int, body: bytes, status: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    assert person.post("/item/1", body).status == status
    assert rows(folder) == []


def test_texts_are_escaped_and_systems_hidden(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    plan = read_plan(folder)
    for number, (item, _) in enumerate(plan["batches"][0]["places"], start=1):
        page = person.get(f"/item/{number}")
        assert "Story" in page.text and "<b>&amp;" not in page.text
        assert "&lt;b&gt;&amp;amp;&lt;/b&gt;" in page.text
        assert page.text.count("<script") == 1
        for secret in (*plan["systems"], plan["items"][item]["id"], "single", "mixed"):
            assert secret not in page.text
        person.answer(number, VALUES)
    for path in ("", "/item/1", "/done", "/nothing"):
        assert "xq" not in person.get(path).text


def test_every_page_has_the_headers(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    pages = [person.get(), person.agree(), person.get("/item/1"), person.get("/none")]
    pages += [
        person.get("/item/x"),
        person.get("/static/survey.css"),
        person.get("/static/../app.py"),
    ]
    for page in pages:
        assert {key: page.headers[key] for key in HEADERS} == HEADERS
    assert [page.status for page in pages] == [200, 303, 200, 404, 404, 200, 404]
    assert "unsafe" not in HEADERS["content-security-policy"]
    for page in pages[:4]:
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"\sstyle=|\son\w+=|https?://", page.text), "the policy forbids them"


def test_unknown_links_and_methods(folder: Path, port: int) -> None:
    stranger = Browser(port, "x" * 32)
    for path in ("", "/item/1", "/done"):
        page = stranger.get(path)
        assert page.status == 404 and "Check that the whole link was copied" in page.text
    assert stranger.post("/consent", {"agree": 1}).status == 404
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("DELETE", f"/s/{tokens(folder)[0]}")
    assert connection.getresponse().status == 405


def test_nothing_of_a_person_is_kept(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    person.answer(1, VALUES)
    person.post("/item/2", {"stamp": person.get("/item/2").stamp}, {"User-Agent": "Strange/7.7"})
    content = b"".join(file.read_bytes() for file in folder.iterdir() if "links" not in file.name)
    for trace in ("127.0.0.1:" + str(port), "Strange/7.7", person.cookie.split("=")[1]):
        assert trace.encode() not in content
    tables = dict(rows(folder, "SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    columns = {name: [c[1] for c in rows(folder, f"PRAGMA table_info({name})")] for name in tables}
    assert columns == {
        "secrets": ["name", "value"],
        "participants": ["id", "batch", "link", "session", "replaced_by"],
        "answers": ["participant", "place", "ratings", "seconds"],
        "codes": ["code"],
    }


def test_a_store_that_cannot_be_written_says_try_again(folder: Path, port: int) -> None:
    person = Browser(port, tokens(folder)[0])
    person.agree()
    stamp = person.get("/item/1").stamp
    database = sqlite3.connect(folder / "answers.sqlite")
    database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    database.close()
    form = {"stamp": stamp, **dict(zip(SLIDERS, VALUES, strict=True))}
    page = person.post("/item/1", form)
    assert page.status == 503 and "send it again in a minute" in page.text
    database = sqlite3.connect(folder / "answers.sqlite")
    database.execute("DROP TRIGGER full")
    database.close()
    assert person.post("/item/1", form).status == 303
