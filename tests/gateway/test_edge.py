"""What every answer has in common: request ids, security headers, HEAD, CORS, counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.edge import Edge, cross_origin
from gateway.ingest import App
from headrace import telemetry
from headrace.registry import Pipelines
from tests.gateway.system import Gateway, gateway_settings, running
from tests.servers import Servers

ORIGIN = "https://dashboard.example"


@pytest.fixture
async def open_gateway(servers: Servers, pipelines: Pipelines, namespace: str) -> AsyncIterator[Gateway]:
    settings = gateway_settings(servers.nats_url, namespace, cors_origins=[ORIGIN])
    async with running(settings, pipelines) as gateway:
        yield gateway


async def test_a_sane_request_id_is_kept_and_told_to_the_service(gateway: Gateway) -> None:
    gateway.auth.says("me", {})
    _, _, headers = await gateway.ask(
        "GET", "/v1/auth/me", key=gateway.key(), headers={"X-Request-Id": "build-7.step:2_a"}
    )

    assert headers["X-Request-Id"] == "build-7.step:2_a"
    assert gateway.auth.last("me")[1]["X-Request-Id"] == "build-7.step:2_a"


@pytest.mark.parametrize("given", ["", "has space", "é", "x" * 129, '"><script>'])
async def test_a_request_id_that_is_not_sane_is_replaced(gateway: Gateway, given: str) -> None:
    _, _, headers = await gateway.ask("GET", "/healthz", headers={"X-Request-Id": given})

    assert len(headers["X-Request-Id"]) == 36


async def test_answers_cannot_be_framed_sniffed_or_cached(gateway: Gateway) -> None:
    _, _, headers = await gateway.ask("GET", "/v1/pipelines", key=gateway.key())

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Server" not in headers


async def test_head_is_get_without_the_body(gateway: Gateway) -> None:
    _, body, of_get = await gateway.ask("GET", "/version")
    status, nothing, of_head = await gateway.ask("HEAD", "/version")

    assert (status, nothing) == (200, b"")
    assert of_head["Content-Length"] == of_get["Content-Length"] == str(len(body))


async def test_requests_are_counted_by_route_and_never_by_path(gateway: Gateway) -> None:
    def counted(route: str, method: str, status: str) -> float:
        labels = {"route": route, "method": method, "status": status}
        return telemetry.REGISTRY.get_sample_value("headrace_http_requests_total", labels) or 0.0

    one = "/v1/documents/{pipeline}/{id}"
    before = counted(one, "GET", "401"), counted("unmatched", "GET", "404"), counted("/version", "other", "405")
    await gateway.ask("GET", "/v1/documents/searches/17")
    await gateway.ask("GET", "/no/such/place")
    await gateway.ask("PROPFIND", "/version")
    after = counted(one, "GET", "401"), counted("unmatched", "GET", "404"), counted("/version", "other", "405")

    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]


async def test_browsers_on_a_known_origin_may_call_even_the_hot_route(open_gateway: Gateway) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    wanted = {"Access-Control-Request-Headers": "authorization,content-type,idempotency-key"}
    status, _, headers = await open_gateway.ask("OPTIONS", "/v1/documents/searches", headers={**asked, **wanted})
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert "Access-Control-Allow-Credentials" not in headers

    _, _, headers = await open_gateway.ask("POST", "/v1/documents/searches", headers={"Origin": ORIGIN})
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Location" in headers["Access-Control-Expose-Headers"]


async def test_browsers_on_other_origins_may_not(open_gateway: Gateway, gateway: Gateway) -> None:
    for one in (open_gateway, gateway):
        _, _, headers = await one.ask("GET", "/version", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in headers


async def test_without_origins_nothing_is_wrapped() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None: ...

    assert cross_origin(app, ()) is app


async def test_an_answer_that_was_begun_is_not_begun_again(gateway: Gateway) -> None:
    async def breaks(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    sent = await _sent(Edge(breaks, gateway.door), {})
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_door_that_drains_closes_its_connections(gateway: Gateway) -> None:
    async def answers(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    gateway.door.draining = True
    try:
        sent = await _sent(Edge(answers, gateway.door), {})
    finally:
        gateway.door.draining = False
    assert (b"connection", b"close") in sent[0]["headers"]


async def _sent(app: App, more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an application sends for one request."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": [], **more}
    await app(scope, receive, send)
    return sent
