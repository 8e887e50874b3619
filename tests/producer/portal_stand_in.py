"""A portal that is none: behaves like Socrata's SODA 2 API over rows in memory, and misbehaves on demand.

python -m tests.producer.portal_stand_in PIPELINE [--port N] [--seconds S] [--fail SHARE]
serves the sample of a pipeline for a while, to try `headrace produce --socrata` with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from producer.samples import sample
from producer.sources import read

# Returns a response instead of the portal's own, or None to let it answer; gets the number of the request.
Fault = Callable[[int, web.Request], Awaitable[web.StreamResponse | None]]
PATH = "/resource/w7w3-xahh.json"


class PortalStandIn:
    """Rows have ids that say nothing about their order; without `$order` they come in another order each time."""

    def __init__(self, rows: int, fault: Fault | None = None) -> None:
        ids = random.Random(rows)
        self.rows = sorted(
            (self.row(number, f"row-{ids.getrandbits(64):016x}") for number in range(rows)), key=lambda row: row[":id"]
        )
        self.fault = fault
        self.requests = 0
        self.counts = 0
        self.most_at_once = 0
        self.tokens: set[str | None] = set()
        self.queries: list[dict[str, str]] = []
        self.most_rows = 50_000
        self.url = ""
        self._under_way = 0

    @staticmethod
    def row(number: int, identity: str) -> dict[str, Any]:
        status = "Active" if number % 3 else "Expired"
        return {":id": identity, ":version": "rv-1", "n": str(number), "license_status": status}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return await self._answer(self.requests, request)
        finally:
            self._under_way -= 1

    async def _answer(self, number: int, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.queries.append(query)
        self.tokens.add(request.headers.get("X-App-Token"))
        if self.fault and (answer := await self.fault(number, request)) is not None:
            return answer
        rows = self.rows
        if where := query.get("$where"):
            if where != "license_status='Active'":
                return refusal(400, f"Could not parse SoQL query '{where}'")
            rows = [row for row in rows if row["license_status"] == "Active"]
        if query.get("$select") == "count(*)":
            self.counts += 1
            return web.json_response([{"count": str(len(rows))}])
        if query.get("$order") != ":id":
            rows = random.sample(rows, len(rows))
        if query.get("$select") != ":*,*":
            rows = [{name: value for name, value in row.items() if not name.startswith(":")} for row in rows]
        start = int(query.get("$offset", "0"))
        return web.json_response(rows[start : start + min(self.most_rows, int(query.get("$limit", "1000")))])


def refusal(status: int, message: str, **headers: str) -> web.Response:
    body = json.dumps({"code": "query.soql.no-such-column", "error": True, "message": message})
    return web.Response(status=status, text=body, content_type="application/json", headers=headers)


async def truncated(request: web.Request) -> web.StreamResponse:
    """Answer half of a JSON text as if it was whole."""
    return web.Response(text='[{":id":"row-1","n":"1"},{":id":"ro', content_type="application/json")


async def broken_off(request: web.Request) -> web.StreamResponse:
    """End the connection in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b'[{"n":"1"},')
    assert request.transport is not None
    request.transport.abort()
    return response


@asynccontextmanager
async def portal(rows: int, fault: Fault | None = None, port: int = 0) -> AsyncIterator[PortalStandIn]:
    server = PortalStandIn(rows, fault)
    app = web.Application()
    app.add_routes([web.get(PATH, server.answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}{PATH}"
    try:
        yield server
    finally:
        await runner.cleanup()


async def _serve_sample(pipeline: str, port: int, seconds: float, fail_share: float) -> None:
    path = sample(pipeline)
    if path is None:
        raise SystemExit(f"pipeline {pipeline!r} has no sample")

    async def fault(_: int, _request: web.Request) -> web.StreamResponse | None:
        return refusal(503, "Our bad", **{"Retry-After": "0"}) if random.random() < fail_share else None

    found = [row.document for row in read(pipeline, path) if row.document]
    async with portal(0, fault, port) as server:
        server.rows = [{":id": f"row-{number:06}", **document} for number, document in enumerate(found)]
        print(server.url, flush=True)
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fail", type=float, default=0.0)
    wanted = parser.parse_args()
    asyncio.run(_serve_sample(wanted.pipeline, wanted.port, wanted.seconds, wanted.fail))
