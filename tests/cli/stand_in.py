"""A gateway that is none: keeps documents in memory and answers as the contract says, or as a test wants it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from aiohttp import web

TOKEN = "t0ken"
PIPELINE = "things"
_START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@dataclass
class StandIn:
    """Documents with `"bad": true` are refused.

    Attributes:
        natural_key: what the pipeline names as its key.
        failures: statuses that the next POSTs get instead of an answer.
        most_bytes: a larger body gets 413.
        posts: (Idempotency-Key, media type, documents) of every POST that was looked at.
        items: what is listed, oldest first.
    """

    natural_key: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    most_bytes: int = 1 << 24
    posts: list[tuple[str | None, str, list[Any]]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=lambda: {"nats": {"ok": True}})
    ledger: dict[str, Any] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: ["refine"])
    oldest_seconds: float = 0.0
    ledger_calls: int = 0
    url: str = ""

    def store(self, seconds: float, **document: Any) -> str:
        """Put a document among the listed ones, received so long after the start; return its id."""
        identity = str(uuid5(NAMESPACE_URL, json.dumps([seconds, document])))
        at = (_START + timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.items.append({"id": identity, "received_at": at, "document": document})
        self.items.sort(key=lambda item: str(item["received_at"]))
        return identity

    async def post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.failures:
            status = self.failures.pop(0)
            return problem(status, "unavailable", "Not now.", headers={"Retry-After": "0"})
        if len(body) > self.most_bytes:
            return problem(413, "too_large", f"The body is larger than {self.most_bytes} bytes.")
        bulk = request.content_type != "application/json" or body[:1] == b"["
        lines = [line for line in body.split(b"\n") if line.strip()]
        documents = [_decoded(line) for line in lines] if request.content_type != "application/json" else _decoded(body)
        documents = documents if isinstance(documents, list) else [documents]
        key = request.headers.get("Idempotency-Key")
        self.posts.append((key, request.content_type, documents))
        waits = "wait=" in request.headers.get("Prefer", "")
        items = [
            self._item(document, f"{key}/{number}" if bulk else key, waits=waits)
            for number, document in enumerate(documents)
        ]
        if not bulk:
            if "id" not in items[0]:
                return problem(422, "invalid_document", "Refused.", errors=items[0]["errors"])
            return web.json_response({"id": items[0]["id"], "status": "accepted", "links": {}}, status=202)
        refused = sum("id" not in item for item in items)
        answer = {"accepted": len(items) - refused, "rejected": refused, "items": items}
        status = 202 if not refused else 207 if refused < len(items) else 422
        return web.json_response(answer, status=status)

    def _item(self, document: Any, key: str | None, *, waits: bool) -> dict[str, Any]:
        if not isinstance(document, dict) or document.get("bad"):
            rule = {"pointer": "/bad", "code": "forbidden", "message": "Be good."}
            return {"status": 422, "code": "invalid_document", "errors": [rule]}
        return {"id": str(uuid5(NAMESPACE_URL, str(key))), **({"status": "stored"} if waits else {})}

    async def listed(self, request: web.Request) -> web.StreamResponse:
        assert request.query["sort"] == "-received_at"
        start = int(request.query.get("cursor", "0"))
        end = start + min(3, int(request.query["limit"]))
        newest_first = self.items[::-1]
        return web.json_response(
            {"items": newest_first[start:end], "next": str(end) if end < len(newest_first) else None}
        )

    async def shown(self, request: web.Request) -> web.StreamResponse:
        found = [item for item in self.items if item["id"] == request.match_info["id"]]
        if not found:
            return problem(404, "document_not_found", "Pipeline 'things' has accepted no document of this id.")
        return web.json_response({**found[0], "status": "stored"})

    async def pipeline(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name != PIPELINE:
            return problem(404, "unknown_pipeline", f"There is no pipeline {name!r}; there are: {PIPELINE}.")
        return web.json_response({"name": PIPELINE, "key": self.natural_key})

    async def pipelines(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [{"name": PIPELINE}]})

    async def ready(self, _request: web.Request) -> web.StreamResponse:
        well = all(check["ok"] for check in self.checks.values())
        body = {"status": "ready" if well else "degraded", "checks": self.checks}
        return web.json_response(body, status=200 if well else 503)

    async def books(self, _request: web.Request) -> web.StreamResponse:
        self.ledger_calls += 1
        at = (_START + timedelta(seconds=self.ledger_calls)).isoformat()
        return web.json_response({"pipelines": self.ledger, "at": at, "backlog": {}})

    async def mesh(self, _request: web.Request) -> web.StreamResponse:
        worker = {"name": "workers", "id": "w" * 32, "version": "1", "pid": 7, "requests": 0, "errors": 0}
        consumer = {"name": "refine", "stream": "RAW", "pending_blocks": 1, "ack_pending_blocks": 0}
        return web.json_response(
            {
                "services": [{**worker, "since": _START.isoformat(), "stages": self.stages}],
                "consumers": [{**consumer, "oldest_pending_seconds": self.oldest_seconds}],
                "streams": [{"name": "RAW", "fill": 0.25}],
                "at": _START.isoformat(),
            }
        )

    async def dead(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response([])

    async def version(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"name": "headrace", "version": "9.9.9"})


def line(accepted: int, stored: int, *, balanced: bool = True) -> dict[str, Any]:
    """Return a pipeline's line of the ledger."""
    sinks = {"documents": stored, "facts": stored}
    rest = {"dead": 0, "discarded": 0, "duplicates": 0, "in_flight": accepted - stored}
    return {"accepted": accepted, "stored": sinks, **rest, "balanced": balanced}


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> web.StreamResponse:
    return web.json_response({"status": status, "code": code, "detail": detail, **more}, status=status, headers=headers)


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@web.middleware
async def _authenticated(request: web.Request, handler: Any) -> web.StreamResponse:
    if request.path.startswith("/v1/") and request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return problem(401, "invalid_token", "The token is not one of ours.")
    answer: web.StreamResponse = await handler(request)
    return answer


@asynccontextmanager
async def serving(stand_in: StandIn) -> AsyncIterator[StandIn]:
    """Serve it on a free loopback port."""
    app = web.Application(middlewares=[_authenticated], client_max_size=1 << 30)
    app.add_routes(
        [
            web.post("/v1/documents/{name}", stand_in.post),
            web.get("/v1/documents/{name}", stand_in.listed),
            web.get("/v1/documents/{name}/{id}", stand_in.shown),
            web.get("/v1/pipelines", stand_in.pipelines),
            web.get("/v1/pipelines/{name}", stand_in.pipeline),
            web.get("/readyz", stand_in.ready),
            web.get("/v1/ledger", stand_in.books),
            web.get("/v1/mesh", stand_in.mesh),
            web.get("/v1/dead-letters/groups", stand_in.dead),
            web.get("/version", stand_in.version),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield stand_in
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(text) for text in self.out.splitlines()]


async def start(
    folder: Path, *arguments: str, stdin: int | None = None, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start `headrace` in a folder, with nothing in its environment but what is given."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli.main", *arguments),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(stdin), 120)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def headrace(
    folder: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run `headrace` to its end."""
    pipe = None if stdin is None else asyncio.subprocess.PIPE
    return await ended(await start(folder, *arguments, stdin=pipe, environment=environment), stdin)
