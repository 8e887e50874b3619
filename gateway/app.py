"""The gateway's FastAPI application: every route but the hot one, which stands before it (gateway/ingest.py)."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from gateway import openapi, problems
from gateway.door import Door
from gateway.edge import Edge
from gateway.ingest import PREFIX
from gateway.intake import intakes
from gateway.routes import (
    analyses,
    analytics,
    audit,
    auth,
    dead,
    docs,
    documents,
    forms,
    jobs,
    login,
    operations,
    pipelines,
    results,
    schemas,
    views,
)
from gateway.routing import Routes, access_of, declared
from headrace.errors import RequestError


def build(door: Door) -> FastAPI:
    """Return the application.

    Raises:
        ViewError: a pipeline's view cannot have its path.
        LookupError: a route does not say who may use it.
    """
    app = FastAPI(
        # What FastAPI would measure and trace by itself, headrace/telemetry.py does once for all.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Edge, door=door)
    problems.install(app)
    for status in (404, 405):
        app.add_exception_handler(status, _not_here)
    app.state.intakes = intakes(door.pipelines)
    routes = Routes(app, door)
    for module in (
        *(auth, audit, documents, pipelines, schemas, analytics, analyses, dead, jobs, operations, docs),
        *(login, forms, results),
        views,
    ):
        module.add(routes)
    for route in declared(app):
        access_of(route)
    # Takes a few tenths of a second, which no running request should have to wait for.
    app.state.openapi = msgspec.json.encode(openapi.describe(app, door.pipelines))
    return app


async def _not_here(request: Request, error: Exception) -> Response:
    """Answer 405 with every method that the path takes, else 404.

    Starlette names the methods of the first route only, and knows nothing of the hot route.
    """
    assert isinstance(error, HTTPException)
    path = request.url.path
    there = [route for route in declared(request.app) if route.path_regex.match(path)]
    taken = {method for route in there for method in route.methods or ()}
    if "GET" in taken:
        taken.add("HEAD")
    if (there and path.startswith(PREFIX) and "/" not in path[len(PREFIX) :]) or path in request.app.state.intakes:
        taken.add("POST")
    if not taken:
        return problems.response(request, problems.of_http(request, error))
    allowed = ", ".join(sorted(taken))
    problem = RequestError(
        f"{path[:200]} does not take {request.method}; it takes {allowed}.", code="method_not_allowed", status=405
    )
    answer = problems.response(request, problem)
    answer.headers["Allow"] = allowed
    return answer
