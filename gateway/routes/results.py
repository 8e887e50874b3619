"""/results: what a pipeline has counted, readable, and the latest of its documents."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, Final

import msgspec
from fastapi import Request, Response

from gateway.access import session_of, signed_in
from gateway.door import Door
from gateway.pages.analysis import Read, read
from gateway.pages.page import page
from gateway.pages.shown import SLOTS, documents_table, number, shown
from gateway.routing import Routes
from headrace.errors import HeadraceError, UnavailableError
from headrace.pipeline import Pipeline
from headrace.registry import pipeline_named

_LATEST: Final = 10
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def add(routes: Routes) -> None:
    door = routes.door

    @routes.page("GET", "/results", "listResults", signed_in())
    async def listed(request: Request) -> Response:
        may = session_of(request).principal.may
        mine = [pipeline for name, pipeline in sorted(door.pipelines.items()) if may("analytics:read", name)]
        lead = "What was computed from the documents, as of now."
        return page(request, "list.html", title="Results", lead=lead, pipelines=mine)

    @routes.page("GET", "/results/{pipeline}", "showResults", signed_in("analytics:read"))
    async def results(request: Request, pipeline: str) -> Response:
        known, principal = pipeline_named(door.pipelines, pipeline), session_of(request).principal
        may_read = principal.may("documents:read", pipeline)
        metrics, (analysis, not_analysed), latest, (tiles, said) = await asyncio.gather(
            _ask(door, "metrics", {"pipeline": pipeline, "limit": SLOTS}),
            _analysis(door, known),
            _latest(door, known) if may_read else _nothing(),
            # The books are of all pipelines, so a narrowed scope is not enough for them, here as in the API.
            _books(door, pipeline) if principal.may("analytics:read") else _no_books(),
        )
        by_name = {answer["metric"]: answer for answer in metrics["metrics"]}
        return page(
            request,
            "results.html",
            pipeline=known,
            tiles=tiles,
            books=said,
            metrics=[shown(metric, by_name[metric.name]) for metric in known.metrics if metric.name in by_name],
            analysis=analysis,
            not_analysed=not_analysed,
            latest=None if latest is None else documents_table(known, latest["items"]),
            may_write=principal.may("documents:write", pipeline),
        )


async def _ask(door: Door, endpoint: str, asked: dict[str, Any] | None = None) -> Any:
    return _decode((await door.ask("analytics", endpoint, asked)).body)


async def _analysis(door: Door, pipeline: Pipeline) -> tuple[Read | None, str]:
    """Return what the pipeline's analysis found, or why there is nothing of it to show."""
    if pipeline.analysis is None:
        return None, ""
    try:
        answer = await _ask(door, "analysis", {"pipeline": pipeline.name})
    except HeadraceError as error:
        # The counts are there all the same.
        return None, error.detail
    return read(pipeline, answer), ""


async def _latest(door: Door, pipeline: Pipeline) -> Any:
    return await _ask(door, "documents", {"pipeline": pipeline.name, "limit": _LATEST})


async def _books(door: Door, pipeline: str) -> tuple[list[tuple[str, str]], str]:
    """Return a pipeline's documents by what became of them, and what there is to say where they cannot be told."""
    try:
        books = (await _ask(door, "ledger"))["pipelines"].get(pipeline)
    except UnavailableError as error:
        return [], f"How many documents there are cannot be told now: {error.detail}"
    if books is None:
        return [("Accepted", "0")], ""
    stored = min(books["stored"].values(), default=0)
    told = {
        "Accepted": books["accepted"],
        "Stored": stored,
        "On their way": books["in_flight"],
        "Repeats": books["duplicates"],
        "Refused": books["dead"],
    }
    return [(name, number(value)) for name, value in told.items()], ""


async def _nothing() -> None:
    return None


async def _no_books() -> tuple[list[tuple[str, str]], str]:
    return [], ""
