"""An index behind the server: its answers are the index's own, and the page shows them to people."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from paritas import Encoder
from paritas.engine.bundle.directory import Bundle
from paritas.engine.index import VectorIndex
from paritas.serving.searching import Searcher
from tests.unit.engine.failing import failing
from tests.unit.serving.running import command, free_port, running

TEXTS = ["the river", "a city in the north", "<script>alert(1)</script>", "word " * 200]
TITLES = ["River", "City & sea", "<b>bold</b>", ""]
IDS = ["1", "2", "3", "a/long one"]


def index_of(encoder: Encoder) -> VectorIndex:
    index = VectorIndex(encoder)
    index.add(IDS, encoder.encode(TEXTS, role="passage"), titles=TITLES, texts=TEXTS)
    return index


@pytest.fixture(scope="module")
def index(bert: Encoder) -> VectorIndex:
    return index_of(bert)


@pytest.fixture(scope="module")
def client(bert: Encoder, mpnet: Encoder, index: VectorIndex) -> Iterator[httpx2.Client]:
    # The model of the index need not be the first.
    with running({"mpnet": mpnet, "bert": bert}, searcher=Searcher(index, "bert")) as client:
        yield client


def search(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/v1/search", json=fields)


def test_answers_are_the_indexs_own(client: httpx2.Client, bert: Encoder, index: VectorIndex) -> None:
    queries = ["where is the river", "north"]
    for role, k in (("query", 2), ("passage", 10)):
        found = search(client, queries=queries, k=k, role=role)
        assert found.status_code == 200, found.text
        answers = index.search(bert.encode(queries, role=role), k)
        assert [[hit["id"] for hit in hits] for hits in found.json()["answers"]] == [
            [hit.id for hit in hits] for hits in answers
        ]
        assert found.json()["answers"][0][0] == {
            "id": answers[0][0].id,
            "score": answers[0][0].score,
            "title": answers[0][0].title,
            "text": answers[0][0].text,
        }
    plain = search(client, queries=queries).json()
    assert plain["model"] == "bert"
    assert plain["answers"] == search(client, queries=queries, role="query", k=10).json()["answers"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"queries": []}, 400, "there are no texts"),
        ({"queries": "one"}, 400, "queries: Expected `array`, got `str`"),
        ({"queries": ["a"], "k": 0}, 400, "k is 0; expected 1 to 1000"),
        ({"queries": ["a"], "k": 1001}, 400, "k is 1001; expected 1 to 1000"),
        (
            {"queries": ["a"] * 11, "k": 1000},
            413,
            "11 queries with k 1000; expected 10000 documents or fewer",
        ),
        ({"queries": ["a"], "role": "x"}, 400, "bert has no role 'x'"),
        ({"queries": ["a"], "index": "x"}, 400, "index"),
    ],
)
def test_bad_input_is_told(client: httpx2.Client, fields: dict[str, Any], status: int, message: str) -> None:
    answer = search(client, **fields)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.shown: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_the_page_shows_answers_and_runs_nothing_that_a_text_holds(client: httpx2.Client) -> None:
    empty = client.get("/search")
    assert (empty.status_code, "li" in Page(empty.text).tags) == (200, False)
    answer = client.get("/search", params={"q": '"><script>alert(2)</script>'})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Page(answer.text)
    assert page.tags.count("li") == 4
    assert not {"script", "b", "img", "link"} & set(page.tags)
    shown = " ".join(page.shown)
    for text in ("<script>alert(1)</script>", "City & sea", "<b>bold</b>", "a/long one", " ms, by bert"):
        assert text in shown, text
    assert "http" not in answer.text


def test_the_page_says_what_is_wrong(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = failing(bundles["tiny-bert"], monkeypatch)
    with (
        Encoder(bundles["tiny-bert"].directory) as other,
        running({"bert": encoder}, searcher=Searcher(index_of(other), "bert")) as client,
    ):
        answer = client.get("/search", params={"q": "the blue sky"})
        assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html; charset=utf-8")
        assert 'role="alert"' in answer.text
        assert 'value="the blue sky"' in answer.text


def test_a_browser_is_asked_for_the_key(bert: Encoder, index: VectorIndex) -> None:
    with running({"bert": bert}, searcher=Searcher(index, "bert"), keys=("first", "the key")) as client:
        refused = client.get("/search", params={"q": "a"}, headers={"Authorization": ""})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        elsewhere = client.post("/v1/search", json={"queries": ["a"]}, headers={"Authorization": ""})
        assert (elsewhere.status_code, elsewhere.headers["www-authenticate"]) == (401, "Bearer")
        page = client.get("/docs", headers={"Authorization": ""})
        assert page.headers["www-authenticate"].startswith("Basic realm=")
        for password, status in (("the key", 200), ("another", 401)):
            given = base64.b64encode(f"anybody:{password}".encode()).decode()
            answer = client.get("/search", params={"q": "a"}, headers={"Authorization": f"Basic {given}"})
            assert answer.status_code == status


def test_without_an_index_there_is_no_search(bert: Encoder) -> None:
    with running({"bert": bert}) as client:
        assert search(client, queries=["a"]).status_code == 404
        assert client.get("/search").status_code == 404


def test_an_index_of_shorter_vectors_is_searched_by_shorter_ones(bert: Encoder) -> None:
    with Encoder(bert.bundle, truncate_dim=4) as short:
        index = index_of(short)
        expected = index.search(short.encode(["north"], role="query"), 10)[0]
    with running({"bert": bert}, searcher=Searcher(index, "bert")) as client:
        found = search(client, queries=["north"]).json()["answers"][0]
        assert [hit["id"] for hit in found] == [hit.id for hit in expected]


def test_an_index_of_another_precision_keeps_it_unready_with_the_reason(
    bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(bert)
    monkeypatch.setattr(type(bert), "family", "int8")
    with running({"bert": bert}, searcher=Searcher(index, "bert"), ready=False) as client:
        until = time.monotonic() + 30
        while client.get("/readyz").json()["reasons"].get("bert"):
            assert time.monotonic() < until
        assert "was made with precision fp32" in client.get("/readyz").json()["reasons"]["index"]
        assert search(client, queries=["a"]).status_code == 503
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_the_command_finds_the_model_of_an_index(
    tmp_path: Path, bert: Encoder, bundles: dict[str, Bundle], index: VectorIndex
) -> None:
    index.save(tmp_path / "ours.index")
    given = [str(bundles["tiny-mpnet"].directory), "--index", str(tmp_path / "ours.index")]
    process = command(tmp_path, *given, "--port", str(free_port()))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2, told
    assert "was made by tiny-bert, which is none of tiny-mpnet; serve it too" in told
    process = command(tmp_path, given[0], "--index", str(tmp_path / "none"))
    _, told = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in told) == (2, False), told
