"""The search page in a real Chromium: by keyboard alone, on a narrow screen, and without any other host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from paritas import Encoder
from paritas.serving.searching import Searcher
from tests.unit.serving.running import running
from tests.unit.serving.test_search import index_of

pytestmark = pytest.mark.page

QUESTION = "where is the river"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ["PARITAS_CHROMIUM"], args=["--no-sandbox"]
        )
        print("Chromium", browser.version)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def client(bert: Encoder) -> Iterator[httpx2.Client]:
    with running({"bert": bert}, searcher=Searcher(index_of(bert), "bert")) as client:
        yield client


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_question_is_answered_without_a_mouse(
    chromium: Any, client: httpx2.Client, width: int, scheme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    told: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("dialog", lambda dialog: told.append(dialog.message))
    page.goto(f"{client.base_url}/search")
    page.wait_for_selector("#q:focus")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector("li")
    assert page.locator("#q").input_value() == QUESTION
    assert page.title() == f"{QUESTION} – Search"
    assert "4 nearest documents" in page.get_by_role("status").inner_text()
    assert page.locator("li h2 span:first-child").all_inner_texts()[:1] != [""]
    # What a text holds is shown and does not run; nothing is wider than the screen; no host but ours.
    assert page.get_by_text("<script>alert(1)</script>").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert told == []
    assert all(url.startswith(str(client.base_url)) for url in requests)
    context.close()


def test_the_whole_of_a_long_text_is_opened_by_the_keyboard(chromium: Any, client: httpx2.Client) -> None:
    page = chromium.new_page()
    page.goto(f"{client.base_url}/search?q=word")
    hidden = page.locator("details p")
    assert not hidden.is_visible()
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    hidden.wait_for(state="visible")
    page.close()


def test_a_browser_asks_for_the_key(chromium: Any, bert: Encoder) -> None:
    with running({"bert": bert}, searcher=Searcher(index_of(bert), "bert"), keys=("the key",)) as client:
        context = chromium.new_context(http_credentials={"username": "me", "password": "the key"})
        page = context.new_page()
        answer = page.goto(f"{client.base_url}/search?q=river")
        assert (answer.status, page.locator("li").count()) == (200, 4)
        context.close()
