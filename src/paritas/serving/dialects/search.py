"""Where an index is given: `POST /v1/search` for programs, and a page at `/search` for people."""

from __future__ import annotations

import time
from typing import Annotated, Any

from jinja2 import Environment, PackageLoader
from litestar import Request, Response, Router, get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct
from msgspec.structs import asdict

from paritas.serving.answers import answer, described, truncation
from paritas.serving.dialects import own
from paritas.serving.keys import BROWSER
from paritas.serving.refusals import refused
from paritas.serving.service import Found, Service

# The page has no script, and none may come into it by a title or a text; styles are its own.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_ON_PAGE = 10

_page = Environment(
    loader=PackageLoader("paritas.serving", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template("search.html")


class SearchRequest(Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/search`."""

    queries: list[str]
    """One or more."""
    k: int = 10
    """Documents to return for each."""
    role: str | None = None
    """The queries' role; query where the model has it."""


class Document(Struct):
    """A document that was found."""

    id: str
    score: float
    """Larger is nearer."""
    title: str
    text: str


class SearchStats(Struct):
    """What was done for a request."""

    tokens: int
    truncated: int
    encode_s: float
    search_s: float


class SearchAnswer(Struct):
    """The answer of `POST /v1/search`."""

    model: str
    answers: list[list[Document]]
    """Of each query, the nearest first."""
    stats: SearchStats


def router(service: Service) -> Router:
    """Return the routes."""

    @post(
        "/v1/search",
        status_code=200,
        operation_id="search",
        exception_handlers={Exception: own.told},
        responses=described(SearchAnswer, own.Problem),
    )
    async def search(data: JSONBody[SearchRequest], request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return the documents nearest to each query."""
        found = await service.search(request, data.queries, data.k, role=data.role)
        return answer(
            {
                "model": found.queries.model,
                "answers": [[asdict(hit) for hit in hits] for hits in found.answers],
                "stats": {
                    "tokens": found.queries.stats.tokens,
                    "truncated": found.queries.stats.truncated,
                    "encode_s": round(found.queries.stats.total_s, 6),
                    "search_s": round(found.search_s, 6),
                },
            },
            headers=truncation(found.queries.stats),
        )

    def told(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        """Show what is wrong, beside the question."""
        refusal = refused(error)
        question = request.query_params.get("q", "")
        shown = _shown(service, question=question, fault=refusal.message)
        shown.status_code = refusal.status
        shown.headers.update(refusal.headers)
        return shown

    @get("/search", opt={BROWSER: True}, include_in_schema=False, exception_handlers={Exception: told})
    async def page(
        request: Request[Any, Any, Any], q: Annotated[str, QueryParameter()] = ""
    ) -> Response[bytes]:
        """Show a form, and the documents nearest to a question."""
        begun = time.perf_counter()
        found = await service.search(request, [q], _ON_PAGE) if q.strip() else None
        return _shown(service, question=q, found=found, took_s=time.perf_counter() - begun)

    return Router("/", route_handlers=[search, page], tags=["paritas"])


def _shown(
    service: Service, *, question: str, found: Found | None = None, took_s: float = 0.0, fault: str = ""
) -> Response[bytes]:
    assert service.searcher is not None
    content = _page.render(
        question=question,
        fault=fault,
        hits=found.answers[0] if found is not None else None,
        took_ms=1000 * took_s,
        documents=len(service.searcher.index),
        model=service.searcher.model,
    )
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
    }
    return Response(content.encode(), media_type="text/html", headers=headers)
