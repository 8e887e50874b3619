"""The hot route and the connection itself answer with the same security headers as everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.parser import BytesParser
from urllib.parse import urlsplit

import msgspec
import pytest

from gateway.hardened import HEADERS
from tests.gateway.system import Gateway

PATH = "/v1/documents/invoices"
EXPECTED = {name.decode(): value.decode() for name, value in HEADERS}


def body(gateway: Gateway) -> bytes:
    return msgspec.json.encode(gateway.door.pipelines["invoices"].example)


def hardened(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers.get(name, "") for name in EXPECTED}


async def test_every_answer_of_the_hot_route_has_them(gateway: Gateway) -> None:
    key, sent = gateway.key("documents:write"), body(gateway)
    json = {"Content-Type": "application/json"}
    # The second is answered by the connection itself, since the key is known by then.
    answers = [await gateway.ask("POST", PATH, key=key, data=sent, headers=json) for _ in range(2)]
    answers += [
        await gateway.ask("POST", PATH, key=key, data=b"[%b]" % sent, headers=json),
        await gateway.ask("POST", PATH, key=key, data=b"{}", headers=json),
        await gateway.ask("POST", PATH, data=sent, headers=json),
        await gateway.ask("POST", "/v1/documents/nosuch", key=key, data=sent, headers=json),
    ]

    assert [status for status, _, _ in answers] == [202, 202, 202, 422, 401, 404]
    for _, _, headers in answers:
        assert hardened(headers) == EXPECTED


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"this is no HTTP\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"X-A: %b\r\n" % (b"a" * 4000) * 20, b"HTTP/1.1 431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rInjected: b\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            b"HTTP/1.1 400 Bad Request",
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    ],
    ids=["no http", "endless", "bare CR", "NUL", "smuggled", "two lengths", "negative"],
)
async def test_what_is_no_http_is_refused_with_them(gateway: Gateway, sent: bytes, line: bytes) -> None:
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(sent)
    async with asyncio.timeout(5):
        first = (await reader.readuntil(b"\r\n")).rstrip()
        rest = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.read()
    writer.close()

    headers = BytesParser().parsebytes(rest)
    assert first == line
    assert hardened(dict(headers.items())) == EXPECTED
    assert msgspec.json.decode(answer)["request_id"] == headers["x-request-id"]
