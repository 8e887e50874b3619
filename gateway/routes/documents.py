"""GET /v1/documents: where one document is, and pages of stored ones. Documents come in by gateway/ingest.py."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query, Request, Response

from gateway.access import scoped
from gateway.answers.documents import DocumentPage, DocumentState
from gateway.parameters import given
from gateway.routing import Routes, page, passed
from headrace.registry import pipeline_named

_STORE_PROBLEMS: Final = ("analytics_unavailable", "mongo_unavailable", "postgres_unavailable", "answer_too_large")
_OF_THE_PAGE: Final = frozenset({"limit", "cursor", "sort"})


def add(routes: Routes) -> None:
    door = routes.door

    @routes.add(
        "GET",
        "/v1/documents/{pipeline}",
        "listDocuments",
        tag="documents",
        summary="List stored documents",
        access=scoped("documents:read"),
        answer=DocumentPage,
        problems=(
            *("unknown_pipeline", "invalid_request", "unknown_field", "invalid_value", "invalid_cursor"),
            *_STORE_PROBLEMS,
        ),
        shown=False,
    )
    async def listed(
        request: Request,
        pipeline: str,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(min_length=1)] = None,
        sort: str | None = None,
    ) -> Response:
        """Newest first, unless `sort` says otherwise. Every other parameter is a field and the value it must have."""
        pipeline_named(door.pipelines, pipeline)
        # Whether these fields exist is for analytics to judge.
        filters = {name: value for name, value in given(request).items() if name not in _OF_THE_PAGE}
        asked = {"pipeline": pipeline, "limit": limit, "cursor": cursor, "sort": sort, "filters": filters}
        reply = await door.ask("analytics", "documents", asked)
        return page(reply, request.url.path, {"limit": str(limit), **({"sort": sort} if sort else {}), **filters})

    @routes.add(
        "GET",
        "/v1/documents/{pipeline}/{id}",
        "showDocument",
        tag="documents",
        summary="What became of a document",
        access=scoped("documents:read"),
        answer=DocumentState,
        problems=("unknown_pipeline", "document_not_found", *_STORE_PROBLEMS),
        shown=False,
    )
    async def shown(pipeline: str, id: str) -> Response:  # noqa: A002  # the path's own word
        """On its way, stored (in which stores), or dead and why."""
        pipeline_named(door.pipelines, pipeline)
        return passed(await door.ask("analytics", "document", {"pipeline": pipeline, "id": id}))
