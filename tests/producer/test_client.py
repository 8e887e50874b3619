"""Both clients keep the same promises, whatever the server does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from producer.client import CLIENTS, Target, client_for
from producer.outcome import SendError
from tests.producer.stand_in import PIPELINE, drop, garbage, problem, stand_in

both = pytest.mark.parametrize("kind", CLIENTS)


def target(url: str, token: str = "t0ken") -> Target:
    return Target(url, f"/v1/documents/{PIPELINE}", token)


@both
async def test_a_document_goes_with_its_key_type_token_and_preference(kind: str) -> None:
    seen: list[web.Request] = []

    async def look(_: int, request: web.Request) -> None:
        seen.append(request)

    async with stand_in(look) as server, client_for(kind, target(server.url), timeout_seconds=5) as client:
        single = await client.post("k-1", b'{"n":1}', bulk=False, wait_seconds=7)
        many = await client.post("k-2", b'{"n":1}\n{"n":2}', bulk=True)

    assert (single.status, many.status) == (200, 202)
    assert seen[0].headers["Authorization"] == "Bearer t0ken"
    assert [request.headers["Idempotency-Key"] for request in seen] == ["k-1", "k-2"]
    assert [request.headers["Content-Type"] for request in seen] == ["application/json", "application/x-ndjson"]
    assert [request.headers.get("Prefer") for request in seen] == ["wait=7", None]
    assert set(server.ids) == {"k-1", "k-2/0", "k-2/1"}


@both
async def test_connections_are_used_again(kind: str) -> None:
    ports: list[object] = []

    async def look(_: int, request: web.Request) -> None:
        ports.append(request.transport.get_extra_info("peername"))  # type: ignore[union-attr]

    async with stand_in(look) as server, client_for(kind, target(server.url), timeout_seconds=5) as client:
        for number in range(20):
            await client.post(f"k-{number}", b"{}", bulk=False)

    assert len(ports) == 20
    assert len(set(ports)) == 1


@both
async def test_a_connection_that_the_server_closes_is_replaced(kind: str) -> None:
    async def close(_: int, request: web.Request) -> web.Response:
        answer = problem(503, "overloaded", [], retry_after="3")
        answer.force_close()
        return answer

    async with stand_in(close) as server, client_for(kind, target(server.url), timeout_seconds=5) as client:
        answers = [await client.post(f"k-{number}", b"{}", bulk=False) for number in range(5)]

    assert [(answer.status, answer.retry_after_seconds) for answer in answers] == [(503, 3.0)] * 5


@both
@pytest.mark.parametrize(("fault", "reason"), [(drop, "connection_lost"), (garbage, "not_http")])
async def test_an_answer_that_is_none_has_unknown_outcome(
    kind: str, fault: Callable[[web.Request], Awaitable[web.StreamResponse]], reason: str
) -> None:
    async with (
        stand_in(lambda _, request: fault(request)) as server,
        client_for(kind, target(server.url), timeout_seconds=5) as client,
    ):
        with pytest.raises(SendError) as caught:
            await client.post("k", b"{}", bulk=False)

    assert caught.value.unknown
    assert caught.value.reason == reason


@both
async def test_a_server_that_does_not_answer_is_given_up(kind: str) -> None:
    release = asyncio.Event()

    async def hang(_: int, request: web.Request) -> None:
        await release.wait()

    async with stand_in(hang) as server, client_for(kind, target(server.url), timeout_seconds=0.2) as client:
        with pytest.raises(SendError) as caught:
            await client.post("k", b"{}", bulk=False)
        release.set()

    assert (caught.value.reason, caught.value.unknown) == ("timeout", True)


@both
async def test_where_nobody_listens_nothing_was_sent(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with client_for(kind, target(url), timeout_seconds=5) as client:
            with pytest.raises(SendError) as caught:
                await client.post("k", b"{}", bulk=False)

    assert (caught.value.reason, caught.value.unknown) == ("connection_refused", False)
