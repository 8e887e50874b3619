"""A gateway that is none: answers as the contract says, keeps what it accepts in memory, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from producer.target import Headrace

# Returns a response instead of the stand-in's own, or None to let it answer; gets the number of the request.
Fault = Callable[[int, web.Request], Awaitable[web.StreamResponse | None]]

PIPELINE = "things"


class StandIn:
    """Documents with `"bad": true` are refused. `lose` and `double` make its stores break their promise."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.requests = 0
        self.keys: list[str] = []
        self.ids: dict[str, str] = {}  # Idempotency-Key to id, of what was accepted
        self.bodies: list[Any] = []
        self.lose = 0
        self.double = 0
        self.url = ""

    @property
    def headrace(self) -> Headrace:
        return Headrace(self.url, token="t0ken")

    async def post(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        number = self.requests
        body = await request.read()
        if self.fault and (answer := await self.fault(number, request)) is not None:
            return answer
        key = request.headers["Idempotency-Key"]
        if request.headers["Content-Type"] == "application/x-ndjson":
            return self._many(key, body.splitlines())
        self.keys.append(key)
        errors = self._errors(body)
        if errors:
            return problem(422, "invalid_document", errors)
        state = "stored" if "wait=" in request.headers.get("Prefer", "") else "accepted"
        return web.json_response(
            {"id": self._accept(key, body), "status": state, "links": {}}, status=200 if state == "stored" else 202
        )

    def _many(self, key: str, lines: Sequence[bytes]) -> web.StreamResponse:
        items: list[dict[str, Any]] = []
        for index, line in enumerate(lines):
            errors = self._errors(line)
            items.append({"status": 422, "errors": errors} if errors else {"id": self._accept(f"{key}/{index}", line)})
        accepted = sum("id" in item for item in items)
        answer = {"accepted": accepted, "rejected": len(items) - accepted, "items": items}
        if not accepted:
            return problem(422, "invalid_document", [], items=items)
        return web.json_response(answer, status=202 if accepted == len(items) else 207)

    def _accept(self, key: str, body: bytes) -> str:
        self.bodies.append(json.loads(body))
        return self.ids.setdefault(key, str(uuid.uuid5(uuid.NAMESPACE_URL, key)))

    @staticmethod
    def _errors(body: bytes) -> list[dict[str, str]]:
        try:
            document = json.loads(body)
        except ValueError:
            return [{"pointer": "", "code": "json_invalid", "message": "This is not JSON."}]
        if not document.get("bad"):
            return []
        return [{"pointer": f"/lines/{document.get('n', 0)}/amount", "code": "missing", "message": "It is required."}]

    async def ledger(self, request: web.Request) -> web.Response:
        accepted = len(self.ids)
        stored = max(0, accepted - self.lose) + (self.double if accepted else 0)
        line = {
            "accepted": accepted,
            "stored": {"documents": stored, "facts": stored},
            "dead": 0,
            "discarded": 0,
            "in_flight": 0,
            "duplicates": 0,
            "balanced": True,
        }
        return web.json_response({"pipelines": {PIPELINE: line}})

    async def pipeline(self, request: web.Request) -> web.Response:
        if request.match_info["pipeline"] != PIPELINE:
            return problem(404, "unknown_pipeline", [])
        return web.json_response({"name": PIPELINE, "mode": "event", "example": {"n": 1}})

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "stand-in"})


class FakeStore:
    """A store that has the ids it is given, each as often as it is given."""

    def __init__(self, name: str, ids: Iterable[bytes] = ()) -> None:
        self.name = name
        self.held = list(ids)

    async def rows(self, ids: Sequence[bytes]) -> list[bytes]:
        asked = set(ids)
        return [one for one in self.held if one in asked]


def problem(
    status: int, code: str, errors: list[dict[str, str]], *, retry_after: str | None = None, **more: Any
) -> web.Response:
    return web.json_response(
        {"type": f"urn:problem:{code}", "title": code, "status": status, "code": code, "errors": errors, **more},
        status=status,
        content_type="application/problem+json",
        headers={"Retry-After": retry_after} if retry_after else {},
    )


async def drop(request: web.Request) -> web.StreamResponse:
    """End the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def garbage(request: web.Request) -> web.StreamResponse:
    """Answer something that is not HTTP."""
    assert request.transport is not None
    request.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await asyncio.sleep(0)
    request.transport.close()
    return web.Response()


@asynccontextmanager
async def stand_in(fault: Fault | None = None) -> AsyncIterator[StandIn]:
    server = StandIn(fault)
    app = web.Application(client_max_size=1 << 26)
    app.add_routes(
        [
            web.post("/v1/documents/{pipeline}", server.post),
            web.get("/v1/ledger", server.ledger),
            web.get("/v1/pipelines/{pipeline}", server.pipeline),
            web.get("/version", server.version),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()
