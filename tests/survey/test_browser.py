"""A person in a real browser: the whole batch, a server that is killed, another browser."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_survey import BOX, SLIDERS, Served, in_thread, tokens

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install 'empo[test]')"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context()
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    yield opened
    context.close()


def sliders(page: Any) -> Any:
    return page.locator("input[type=range]")


def begin(page: Any, url: str) -> None:
    page.goto(url)
    page.check("input[name=agree]")
    for button in ("button", "a.button", "a.button"):
        with page.expect_navigation():
            page.click(button)


def rate(page: Any, number: int, given: dict[int, dict[str, int]]) -> None:
    """Rate the item on the page by keyboard, mouse and value; `given` notes what was given."""
    assert "of 6" in page.inner_text("h1") and str(number) in page.inner_text("h1")
    found = sliders(page)
    found.nth(0).fill(str(10 * number))
    found.nth(1).focus()
    page.keyboard.press("End")
    found.nth(2).click(position={"x": found.nth(2).bounding_box()["width"] / 2, "y": 20})
    found.nth(3).focus()
    page.keyboard.press("Home")
    values = [10 * number, 100, 50, 0]
    if number % 2:
        page.check("input[type=checkbox]")
    given[number - 1] = {**dict(zip(SLIDERS, values, strict=True)), BOX: number % 2}
    with page.expect_navigation():
        page.click("#ratings button")


def stored(folder: Path) -> dict[int, dict[str, int]]:
    database = sqlite3.connect(folder / "answers.sqlite")
    rows = database.execute("SELECT place, ratings FROM answers ORDER BY place").fetchall()
    database.close()
    return {place: json.loads(ratings) for place, ratings in rows}


def test_a_batch_with_a_killed_server_and_a_second_browser(
    page: Any, chromium: Any, served: Served
) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    given: dict[int, dict[str, int]] = {}
    url = f"http://127.0.0.1:{served.port}/s/{tokens(served.folder)[0]}"
    begin(page, url)
    for number in (1, 2, 3):
        rate(page, number, given)
    assert stored(served.folder) == given

    found = sliders(page)
    for i in range(4):
        found.nth(i).fill("77")
    served.kill()
    page.click("#ratings button")
    page.wait_for_url("chrome-error://**")
    assert stored(served.folder) == given
    served.start()
    page.goto(url)
    rate(page, 4, given)

    other = chromium.new_context().new_page()
    assert other.goto(url).status == 403
    assert "This link is in use" in other.inner_text("main")
    other.context.close()

    served.kill()
    served.start()
    rate(page, 5, given)
    rate(page, 6, given)
    assert "Thank you" in page.inner_text("h1") and page.inner_text("#code")
    assert stored(served.folder) == given
    page.goto(f"{url}/item/2")
    assert "stay as they are" in page.inner_text("main") and sliders(page).count() == 0
    assert not [text for text in problems if "ERR_" not in text], "nothing breaks the page's policy"


def test_a_slider_that_nobody_touched_is_not_answered(page: Any, folder: Path) -> None:
    with in_thread(folder) as port:
        begin(page, f"http://127.0.0.1:{port}/s/{tokens(folder)[0]}")
        sent = []
        page.on("request", lambda request: sent.append(request.method))
        assert [s.get_attribute("aria-valuetext") for s in sliders(page).all()] == [
            "not answered yet"
        ] * 4
        sliders(page).nth(0).fill("30")
        sliders(page).nth(2).focus()
        page.keyboard.press("Space")
        page.click("#ratings button")
        wrong = page.locator("fieldset .wrong")
        assert wrong.count() == 2 and "POST" not in sent
        assert (
            page.evaluate("document.activeElement.getAttribute('aria-describedby')")
            == f"wrong-{SLIDERS[1]}"
        )
        assert sliders(page).nth(0).get_attribute("aria-valuetext") == "30"
        for i in (1, 3):
            sliders(page).nth(i).focus()
            page.keyboard.press("ArrowRight")
        assert wrong.count() == 0
        page.click("#ratings button")
        page.wait_for_url("**/item/2")
    assert stored(folder) == {0: dict(zip(SLIDERS, (30, 51, 50, 51), strict=True)) | {BOX: 0}}


def test_it_works_without_javascript_and_by_keyboard(chromium: Any, folder: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    with in_thread(folder) as port:
        page.goto(f"http://127.0.0.1:{port}/s/{tokens(folder)[0]}")
        for keys in (("Tab", "Space", "Tab", "Enter"), ("Tab", "Enter"), ("Tab", "Enter")):
            with page.expect_navigation():
                for key in keys:
                    page.keyboard.press(key)
        assert page.url.endswith("/item/1") and sliders(page).count() == 0
        for value in "1234":
            page.keyboard.press("Tab")
            page.keyboard.type(value)
        for key in ("Tab", "Space", "Tab", "Enter"):
            page.keyboard.press(key)
        page.wait_for_url("**/item/2")
    context.close()
    assert stored(folder) == {0: dict(zip(SLIDERS, (1, 2, 3, 4), strict=True)) | {BOX: 1}}


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (320, 600)])
def test_no_page_is_wider_than_the_screen_and_all_have_names(
    chromium: Any, folder: Path, width: int, height: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": height})
    page = context.new_page()

    def check() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
        assert page.get_attribute("html", "lang") == "en" and page.title()
        for control in page.locator("button, .button, input:not([type=hidden])").all():
            box = control.bounding_box()
            assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= width

    with in_thread(folder) as port:
        page.goto(f"http://127.0.0.1:{port}/s/{tokens(folder)[0]}")
        check()
        page.check("input[name=agree]")
        for _ in range(3):
            with page.expect_navigation():
                page.click("button, a.button")
            check()
        for i in range(4):
            assert page.get_by_role("slider").nth(i).get_attribute("aria-label")
            sliders(page).nth(i).fill("1")
        for button in ("#ratings button", "nav a"):
            with page.expect_navigation():
                page.click(button)
            check()
    context.close()
