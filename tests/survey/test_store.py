"""Answers in SQLite: once, after consent, in order, and there after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from empo.records import UserError
from empo.survey.store import Answer, Store

FIRST = Answer(0, {"a": 1, "b": 0}, 2.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_an_answer_needs_consent_and_the_next_place(path: Path) -> None:
    store = Store.create(path)
    (token,) = store.add_links([7])
    person = store.participant(token)
    assert (person.batch, person.session) == (7, None)
    assert store.keep(person.id, FIRST) is None and store.answers(person.id) == []
    assert store.consent(person.id, "mine")
    assert not store.consent(person.id, "another's"), "a second browser comes too late"
    assert store.participant(token).is_of("mine")
    assert not store.participant(token).is_of("other") and not store.participant(token).is_of(None)
    assert store.keep(person.id, Answer(1, {"a": 1}, 1)) is None
    assert store.keep(person.id, FIRST) == FIRST
    other = Answer(0, {"a": 99, "b": 1}, 9)
    assert store.keep(person.id, other) == FIRST and store.answers(person.id) == [FIRST]
    assert store.keep(99, FIRST) is None
    assert store.progress() == [(person.id, 7, True, 1, False)]


def test_a_new_link_replaces_those_of_its_batch_that_are_not_whole(path: Path) -> None:
    store = Store.create(path)
    found = store.add_links([1, 1, 2])
    for person in (1, 2):
        store.consent(person, "mine")
        store.keep(person, FIRST)
    store.keep(1, Answer(1, {"a": 1}, 1.0))
    new, newer = store.add_links([1, 1], {1: 2, 2: 2})
    assert [row[-1] for row in store.progress()] == [False, True, False, True, False]
    assert store.participant(found[1]).replaced and store.participant(new).replaced
    assert not store.participant(newer).replaced
    assert store.keep(2, Answer(1, {"a": 1}, 1.0)) is None, "its answers count no more"
    assert len(store.answers(2)) == 1, "and are kept"


def test_links_cannot_be_guessed_and_are_not_in_the_file(path: Path) -> None:
    store = Store.create(path)
    found = store.add_links(range(200))
    assert len(set(found)) == 200 and {len(token) for token in found} == {32}
    cookie = "c" * 40
    store.consent(1, cookie)
    store.close()
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(token.encode() in content for token in [*found, cookie])


def test_codes_do_not_tell_whose_they_are(path: Path) -> None:
    store = Store.create(path)
    cookies = [f"cookie{i}" for i in range(5)]
    given = [store.code(cookie) for cookie in cookies]
    assert given == [store.code(cookie) for cookie in cookies] and len(set(given)) == 5
    assert store.codes() == sorted(given)
    columns = sqlite3.connect(path).execute("SELECT * FROM codes").description
    assert [column[0] for column in columns] == ["code"]


def test_threads_that_send_the_same_answer_store_one(path: Path) -> None:
    store = Store.create(path)
    store.add_links([1])
    store.consent(1, "mine")
    sent = [Answer(0, {"a": value}, 1.0) for value in range(40)]
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda answer: store.keep(1, answer), sent))
    assert len({answer.ratings["a"] for answer in kept}) == 1
    assert store.answers(1) == [kept[0]]


@pytest.mark.parametrize("after", [1, 7, 23])
def test_what_was_confirmed_before_a_kill_is_there(path: Path, after: int) -> None:
    Store.create(path).close()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store = Store(path)
            store.add_links([1])
            store.consent(1, "mine")
            for place in range(1000):
                store.keep(1, Answer(place, {"a": place}, 1.0))
                os.write(write, b".")
        finally:
            os._exit(1)
    os.close(write)
    confirmed = 0
    while confirmed < after:
        confirmed += len(os.read(read, after - confirmed))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 1000):
        confirmed += len(more)
    answers = Store(path).answers(1)
    assert confirmed <= len(answers) <= confirmed + 1, "one may be stored and not confirmed"
    assert [answer.ratings["a"] for answer in answers] == list(range(len(answers)))


def test_files_that_hold_no_answers_are_refused(path: Path) -> None:
    with pytest.raises(UserError, match="no such file. Make it with `empo survey build`"):
        Store(path)
    path.write_text("not a database, but long enough to be taken for one")
    with pytest.raises(UserError, match="the answers cannot be read or written"):
        Store(path)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()
    with pytest.raises(UserError, match="this holds no answers of a survey"):
        Store(path)


def test_another_schema_is_refused(path: Path) -> None:
    Store.create(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 1")
    database.close()
    with pytest.raises(UserError, match="reads answers of schema 2 only"):
        Store(path)
