"""GET routes of the pipelines' own: metrics and documents in the shapes that the pipelines' authors gave them.

An answer that is kept is dropped as soon as a sink has stored anything new of its pipeline, and all of them whenever
the bus was away, since news may have been missed. What is to be kept is asked of the stores themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import msgspec
from fastapi import Request, Response

from gateway.access import EVERYBODY, scoped
from gateway.door import Door
from gateway.parameters import asked, described
from gateway.problems import internal
from gateway.routes.analytics import FRESH, STORE_PROBLEMS
from gateway.routing import JSON, Handler, Routes
from headrace import telemetry
from headrace.cache import Cache
from headrace.document import json_text
from headrace.errors import HeadraceError
from headrace.pipeline import Pipeline
from headrace.views import Answering, Intake, Listing, Lookup, Question, Report, Route, View, moment_now

log = telemetry.logger(__name__)

# Sums are exact, and stay so on their way through a shape.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


class ViewError(HeadraceError):
    """A pipeline's route cannot be served; the message names the pipeline and what stands in the way."""

    default_code = "view_refused"


@dataclass(frozen=True, slots=True)
class Made:
    """An answer, and its ETag."""

    body: bytes
    tag: str


def add(routes: Routes) -> None:
    """Add every view; after all other routes, since each must find its path free.

    Raises:
        ViewError: two routes would answer at one path.
    """
    door = routes.door
    public = door.settings.gateway.public_views
    cache = _cache(door)
    owners: dict[str, str] = {}
    intakes: dict[str, str] = {}
    for pipeline in door.pipelines.values():
        for view in pipeline.views:
            name = f"view {view.path!r} of pipeline {pipeline.name!r}"
            taken = _taken(routes, view, owners, intakes)
            if taken:
                raise ViewError(f"The path of {name} is taken by {taken}; give it another.")
            if isinstance(view, Intake):
                intakes[view.path] = name
                continue
            assert isinstance(view, Answering)
            owners[view.path] = name
            routes.add(
                "GET",
                view.path,
                operation_of(view),
                tag="views",
                summary=view.summary or f"{view.path} of {pipeline.name}",
                access=EVERYBODY if public else scoped(scope_of(view), pipeline.name),
                content={JSON: {"schema": {"description": "as the pipeline's author shaped it"}}},
                cached=True,
                problems=_problems(view),
                errors=view.errors,
                parameters=described(view.parameters, view.path_names),
            )(_handler(door, cache, pipeline, view))


def operation_of(view: Route) -> str:
    """Return the name of a route's operation."""
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{'view' if view.method == 'GET' else 'send'}{view.path}").rstrip("_")


def scope_of(view: Route) -> str:
    """Return the scope that a route needs."""
    match view:
        case Intake():
            return "documents:write"
        case Listing():
            return "documents:read"
    return "analytics:read"


def _taken(routes: Routes, view: Route, owners: dict[str, str], intakes: dict[str, str]) -> str | None:
    """Return who has a path already. What takes documents may share one with what answers."""
    there = routes.at(view.path)
    if isinstance(view, Intake):
        if view.path in intakes:
            return intakes[view.path]
        # Headrace's own, whatever its method: the hot route, for one, is not among them.
        return None if there is None or there.path in owners else f"Headrace's own {there.path}"
    return None if there is None else owners.get(there.path, f"Headrace's own {there.path}")


def _problems(view: Answering) -> tuple[str, ...]:
    stores = ("analytics_unavailable", "mongo_unavailable", "answer_too_large")
    found = stores if isinstance(view, Listing) else STORE_PROBLEMS
    return (*found, "invalid_request", "invalid_value") if view.parameters.model_fields else found


def _cache(door: Door) -> Cache[Made]:
    cache: Cache[Made] = Cache(0.0)
    door.receipts.on_stored.append(cache.drop)
    door.bus.on_disconnect.append(cache.drop_all)
    door.bus.on_reconnect.append(cache.drop_all)
    return cache


def _handler(door: Door, cache: Cache[Made], pipeline: Pipeline, view: Answering) -> Handler:
    async def shaped(request: Request) -> Response:
        question = Question(asked(request, view.parameters), moment_now())

        async def make() -> Made:
            body = await _made(door, pipeline, view, question, request.state.request_id)
            return Made(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

        if view.cache_seconds:
            # With the day, so that "the last days" never are those of yesterday.
            key = (view.path, question.now.date(), question.parameters.model_dump_json())
            made = await cache.get(pipeline.name, key, make, seconds=view.cache_seconds)
        else:
            made = await make()
        headers = {**FRESH, "ETag": made.tag}
        if made.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(made.body, headers=headers, media_type=JSON)

    kept = ""
    if view.cache_seconds:
        kept = f" Kept for {view.cache_seconds:g} s, or until anything new is stored."
    shaped.__doc__ = f"{_about(pipeline, view)}, in a shape of the pipeline's own.{kept}"
    return shaped


def _about(pipeline: Pipeline, view: Answering) -> str:
    match view:
        case View():
            return f"The metric `{view.metric}` of `{pipeline.name}`, whole"
        case Report():
            return f"Of `{pipeline.name}`: {', '.join(f'`{name}`' for name in view.metrics)}"
        case Lookup():
            return f"One key of the metric `{view.metric}` of `{pipeline.name}`"
    return f"Stored documents of `{pipeline.name}`"


async def _made(door: Door, pipeline: Pipeline, view: Answering, question: Question, request_id: str) -> bytes:
    """Return the answer as JSON.

    Raises:
        HeadraceError: analytics or its stores are away; or the author's shape has a bug, which is in the log.
    """
    given = await _given(door, pipeline, view, question)
    shape = cast("Callable[..., Any]", view.shape)  # type: ignore[attr-defined]  # of each kind what `_given` gives
    try:
        return _encode(shape(*given))
    except Exception:
        log.exception("view_failed", pipeline=pipeline.name, path=view.path, request_id=request_id)
        raise internal(request_id) from None


async def _given(door: Door, pipeline: Pipeline, view: Answering, question: Question) -> tuple[Any, ...]:
    """Return what a view's shape is to be called with."""
    match view:
        case View():
            return (await _metric(door, pipeline, view, view.metric),)
        case Report():
            answers = await asyncio.gather(*(_metric(door, pipeline, view, name) for name in view.metrics))
            return dict(zip(view.metrics, answers, strict=True)), question
        case Lookup():
            return await _at_key(door, pipeline, view, question), question
        case Listing():
            return await _documents(door, pipeline, view, question), question
    raise TypeError(f"{type(view).__name__} answers nothing")


async def _metric(door: Door, pipeline: Pipeline, view: Answering, name: str) -> Any:
    asking: dict[str, Any] = {"pipeline": pipeline.name, "metric": name, "limit": None}
    if view.cache_seconds:
        asking["fresh"] = True
    return _decode((await door.ask("analytics", "metric", asking)).body)


async def _at_key(door: Door, pipeline: Pipeline, view: Lookup, question: Question) -> Any:
    values = question.parameters.model_dump(mode="json")
    key = [None if values[name] is None else _text(values[name]) for name in view.key]
    asking = {"pipeline": pipeline.name, "metric": view.metric, "key": key}
    return _decode((await door.ask("analytics", "metric.key", asking)).body)["found"]


async def _documents(door: Door, pipeline: Pipeline, view: Listing, question: Question) -> Any:
    values = question.parameters.model_dump(mode="json")
    limit = view.limit if view.per_page is None else values["per_page"]
    asking = {
        "pipeline": pipeline.name,
        "limit": limit,
        "skip": 0 if view.per_page is None else (values["page"] - 1) * limit,
        "sort": view.sort,
        "filters": {name: _text(values[name]) for name in view.where if values[name] is not None},
        "present": view.present,
        "fields": view.fields,
    }
    return _decode((await door.ask("analytics", "documents.rows", asking)).body)


def _text(value: Any) -> str:
    """Return a parameter as keys and filters have it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json_text(value).decode()
