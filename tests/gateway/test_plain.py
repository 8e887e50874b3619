"""The plain case of the hot route: one answer for one request, in order, whatever else the connection carries."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.ingest import Ingest
from gateway.plain import PlainPosts
from headrace.errors import UnavailableError
from headrace.registry import Pipelines
from tests.gateway.system import Gateway, gateway_settings, running
from tests.gateway.test_ingest import JSON, LINE, on_disk
from tests.servers import Servers, until

SECONDS = 20


@dataclass
class Wire:
    """A connection spoken to in bytes."""

    gateway: Gateway
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str

    def request(self, body: bytes, *headers: str, path: str = "/v1/documents/invoices", method: str = "POST") -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: gateway",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the next answer: status, headers, body."""
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> bool:
        """Return whether the server ends the connection, and says nothing more."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def wire_to(gateway: Gateway) -> AsyncIterator[Wire]:
    """Open a connection whose key the gateway has met before."""
    key = gateway.key("documents:write", "documents:read", subject="ada")
    status, *_ = await gateway.ask("POST", "/v1/documents/invoices", key=key, data=line(0), headers=JSON)
    assert status == 202
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    try:
        yield Wire(gateway, reader, writer, key)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def wire(gateway: Gateway) -> AsyncIterator[Wire]:
    async with wire_to(gateway) as wire:
        yield wire


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the pipelines of the requests that went the general way."""
    seen: list[str] = []
    accept = Ingest.accept

    async def noted(ingest: Ingest, name: str, *arguments: Any) -> Any:
        seen.append(name)
        return await accept(ingest, name, *arguments)

    monkeypatch.setattr(Ingest, "accept", noted)
    return seen


def line(number: int, **changes: Any) -> bytes:
    return json.dumps({**LINE, "InvoiceNo": str(number), **changes}).encode()


async def test_a_plain_post_needs_no_task_and_gets_the_answer_that_any_post_gets(wire: Wire, tasks: list[str]) -> None:
    wire.send(
        wire.request(line(1), "X-Request-Id: mine"), wire.request(line(1), "X-Request-Id: mine", "Origin: http://a")
    )
    plain, general = await wire.answer(), await wire.answer()

    assert tasks == ["invoices"]
    assert (plain[0], set(plain[1])) == (general[0], set(general[1]))
    assert plain[0] == 202
    assert plain[1]["x-request-id"] == "mine"
    found = json.loads(plain[2])
    assert found["links"]["self"] == plain[1]["location"]
    assert found["id"] in {envelope.id for envelope in await on_disk(wire.gateway)}


async def test_answers_come_in_the_order_of_pipelined_requests(wire: Wire) -> None:
    wanted = []
    for number in range(40):
        match number % 4:
            case 0:
                wanted.append(422)
                wire.send(wire.request(line(number, Quantity="six"), f"X-Request-Id: n{number}"))
            case 1:
                wanted.append(401)
                request = wire.request(b"", f"X-Request-Id: n{number}", path="/v1/pipelines", method="GET")
                wire.send(request.replace(b"Bearer hr_", b"Bearer hr-"))
            case _:
                wanted.append(202)
                wire.send(wire.request(line(number), f"X-Request-Id: n{number}"))
    answers = [await wire.answer() for _ in wanted]

    assert [status for status, *_ in answers] == wanted
    assert [headers["x-request-id"] for _, headers, _ in answers] == [f"n{number}" for number in range(40)]


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_a_request_may_come_in_pieces(wire: Wire, size: int) -> None:
    request = wire.request(line(1))
    for start in range(0, len(request), size):
        wire.send(request[start : start + size])
        await wire.writer.drain()
        await asyncio.sleep(0)

    assert (await wire.answer())[0] == 202


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (line(1, Country=None), (), 422, "invalid_document"),
        (b"{", (), 400, "malformed_json"),
        (b"[]", (), 422, "invalid_document"),
        (b'"text"', (), 422, "invalid_document"),
        (b"", (), 400, "malformed_json"),
        (line(1), ("Content-Type: text/csv",), 415, "unsupported_media_type"),
        (line(1), ("Content-Encoding: gzip",), 415, "unsupported_encoding"),
        (line(1), (f"Idempotency-Key: {'k' * 256}",), 400, "invalid_header"),
        (line(1), ("Authorization: Bearer nobody",), 401, "invalid_token"),
    ],
)
async def test_what_is_not_plain_is_answered_as_ever(
    wire: Wire, body: bytes, headers: tuple[str, ...], status: int, code: str
) -> None:
    wire.send(wire.request(body, *headers), wire.request(line(2)))
    found, _, said = await wire.answer()

    assert (found, json.loads(said)["code"]) == (status, code)
    assert (await wire.answer())[0] == 202


async def test_a_bulk_a_wait_and_an_event_go_the_general_way(wire: Wire, tasks: list[str]) -> None:
    event = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: s", "ce-type: t")
    wire.send(wire.request(b"[" + line(1) + b"]"), wire.request(line(2), *event))

    assert [(await wire.answer())[0] for _ in range(2)] == [202, 202]
    assert tasks == ["invoices"] * 2


async def test_a_key_stands_for_one_document(wire: Wire, tasks: list[str]) -> None:
    for body in (line(1), line(1), line(2)):
        wire.send(wire.request(body, "Idempotency-Key: k"))
    answers = [await wire.answer() for _ in range(3)]

    assert [status for status, *_ in answers] == [202, 202, 409]
    assert json.loads(answers[0][2]) == json.loads(answers[1][2])
    # What is known at the door is looked at in the general way.
    assert len(tasks) == 2


async def test_a_document_whose_client_hung_up_is_on_disk_all_the_same(wire: Wire) -> None:
    before = len(await on_disk(wire.gateway))
    wire.send(wire.request(line(1)))
    await wire.writer.drain()
    wire.writer.close()

    async with asyncio.timeout(SECONDS):
        while len(await on_disk(wire.gateway)) == before:  # noqa: ASYNC110  # what is on disk sets no event of ours
            await asyncio.sleep(0.02)
    await until(lambda: wire.gateway.door.committer.in_flight == 0)


async def test_a_write_that_fails_is_a_problem_with_retry_after(
    wire: Wire, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_arguments: Any) -> None:
        raise UnavailableError("The stream is full.", code="stream_full", retry_after_seconds=3)

    monkeypatch.setattr(wire.gateway.door.committer, "_publish", refused)
    wire.send(wire.request(line(1)))
    status, headers, body = await wire.answer()

    assert (status, json.loads(body)["code"]) == (503, "stream_full")
    assert (headers["retry-after"], headers["content-type"]) == ("3", "application/problem+json")
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    assert tasks == []


async def test_a_failure_that_nobody_foresaw_is_a_500_without_its_words(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_arguments: Any) -> None:
        raise LookupError("inner words")

    monkeypatch.setattr(wire.gateway.door.committer, "_publish", broken)
    wire.send(wire.request(line(1)))
    status, _, body = await wire.answer()

    assert status == 500
    assert b"inner words" not in body


async def test_while_draining_an_answer_is_the_last_of_its_connection(
    wire: Wire, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire.gateway.door, "draining", True)
    wire.send(wire.request(line(1)))
    status, headers, _ = await wire.answer()

    assert (status, headers["connection"]) == (202, "close")
    assert tasks == []
    assert await wire.closed()


async def test_a_connection_that_asks_for_nothing_more_is_closed(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    # The least there is: five seconds.
    settings = gateway_settings(servers.nats_url, namespace, header_seconds=0.5)
    async with running(settings, pipelines) as gateway, wire_to(gateway) as wire:
        wire.send(wire.request(line(1)))
        assert (await wire.answer())[0] == 202

        assert await wire.closed()


async def test_a_body_that_does_not_come_is_answered_in_time(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    settings = gateway_settings(servers.nats_url, namespace, body_seconds=0.5)
    async with running(settings, pipelines) as gateway, wire_to(gateway) as wire:
        wire.send(wire.request(line(1))[:-5])
        status, _, body = await wire.answer()

        assert (status, json.loads(body)["code"]) == (408, "too_slow")
        assert await wire.closed()


async def test_a_body_larger_than_the_limit_is_refused_from_its_head(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    settings = gateway_settings(servers.nats_url, namespace, body_max_bytes=1024)
    async with running(settings, pipelines) as gateway, wire_to(gateway) as wire:
        wire.send(wire.request(line(1, Description="x" * 2000))[:-1000])
        status, _, body = await wire.answer()

        assert (status, json.loads(body)["code"]) == (413, "too_large")


async def test_a_connection_that_is_just_open_when_the_server_ends_has_its_first_request_answered(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    async with running(gateway_settings(servers.nats_url, namespace), pipelines) as gateway, wire_to(gateway) as wire:
        connection = await connection_of(wire)
        gateway.door.draining = True
        connection.shutdown()
        wire.send(wire.request(line(1)))
        status, headers, _ = await wire.answer()

        assert (status, headers["connection"]) == (202, "close")
        assert await wire.closed()


async def test_a_connection_that_asks_for_nothing_when_the_server_ends_is_closed(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    async with running(gateway_settings(servers.nats_url, namespace), pipelines) as gateway, wire_to(gateway) as wire:
        (await connection_of(wire)).shutdown()

        assert await wire.closed()


async def connection_of(wire: Wire) -> PlainPosts:
    """Return the gateway's end of a connection, once it has been accepted."""
    here = wire.writer.get_extra_info("sockname")

    def found() -> list[PlainPosts]:
        return [one for one in gc.get_objects() if isinstance(one, PlainPosts) and one.client == here]

    await until(lambda: bool(found()))
    return found()[0]
