"""Health, metrics, the books, and who is alive."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import Request, Response

from gateway import overview
from gateway.access import EVERYBODY, scoped
from gateway.answers.operations import Alive, Ledger, Mesh, Readiness, Version
from gateway.problems import problem
from gateway.readiness import Readiness as Ready
from gateway.routing import JSON, Routes, passed
from gateway.sampled import Sampled
from headrace import __version__
from headrace.errors import UnavailableError

_SAMPLE_SECONDS: Final = 1.0
_TEXT: Final = {"schema": {"type": "string"}}


def add(routes: Routes) -> None:
    door = routes.door
    readiness = Ready(door)
    mesh = Sampled(lambda: overview.look(door), _SAMPLE_SECONDS)
    metrics = Sampled(lambda: overview.metrics(door), _SAMPLE_SECONDS)
    version = msgspec.json.encode({"name": "headrace", "version": __version__})

    @routes.add(
        "GET",
        "/",
        "welcome",
        tag="operations",
        summary="Welcome",
        access=EVERYBODY,
        content={"text/plain": _TEXT},
    )
    async def welcome() -> Response:
        """What this is, for who opens the bare address."""
        return Response("Welcome to Headrace. /docs lists what there is.\n", media_type="text/plain")

    @routes.add(
        "GET",
        "/v1/ledger",
        "showLedger",
        tag="operations",
        summary="The books",
        access=scoped("analytics:read"),
        answer=Ledger,
        problems=(
            *("analytics_unavailable", "mongo_unavailable", "postgres_unavailable"),
            *("jetstream_unavailable", "ledger_pending"),
        ),
    )
    async def ledger() -> Response:
        """What became of every document that was ever accepted, counted from the stores a moment ago.

        Counting takes a while where there is much. Who needs what is true after a moment repeats the request until `at`
        is no earlier than the first answer's `asked_at`.
        """
        return passed(await door.ask("analytics", "ledger"))

    @routes.add(
        "GET",
        "/v1/mesh",
        "showMesh",
        tag="operations",
        summary="Who is alive",
        access=scoped("analytics:read"),
        answer=Mesh,
        problems=("nats_unavailable", "jetstream_unavailable"),
    )
    async def live() -> Response:
        """Every process, the lag of every stage and the fill of every stream, as of a second ago at most."""
        return Response(await mesh.value(), media_type=JSON)

    @routes.add(
        "GET",
        "/healthz",
        "showHealth",
        tag="operations",
        summary="Alive?",
        access=EVERYBODY,
        answer=Alive,
    )
    async def healthz() -> Response:
        """The process answers. It says nothing about what it depends on."""
        return Response(b'{"status":"alive"}', media_type=JSON)

    @routes.add(
        "GET",
        "/readyz",
        "showReadiness",
        tag="operations",
        summary="Ready to accept documents?",
        access=EVERYBODY,
        answer=Readiness,
        problems=("not_ready",),
    )
    async def readyz(request: Request) -> Response:
        """200 where documents are accepted: `ready`, or `degraded` while something else is away, such as a store.

        503 where they are not, with the reasons; the problem holds `checks` too.
        """
        state = await readiness.state()
        if not state.blockers:
            return Response(msgspec.json.encode({"status": state.status, "checks": state.checks}), media_type=JSON)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in state.blockers.items())
        error = UnavailableError(
            f"No document can be accepted: {reasons}.", code="not_ready", retry_after_seconds=_SAMPLE_SECONDS
        )
        body, headers = problem(error, request.state.request_id, checks=state.checks)
        return Response(body, error.status, {name.decode(): value.decode() for name, value in headers})

    @routes.add(
        "GET",
        "/metrics",
        "showMetrics",
        tag="operations",
        summary="Metrics of the whole mesh",
        access=EVERYBODY,
        content={"text/plain": _TEXT, overview.OPENMETRICS: _TEXT},
    )
    async def exposed(request: Request) -> Response:
        """Every live process's, by `service` and `instance`, as of a second ago at most."""
        body, media_type = (await metrics.value()).for_accept(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})

    @routes.add(
        "GET",
        "/version",
        "showVersion",
        tag="operations",
        summary="Which Headrace is this",
        access=EVERYBODY,
        answer=Version,
    )
    async def told() -> Response:
        """Name and version."""
        return Response(version, media_type=JSON)
