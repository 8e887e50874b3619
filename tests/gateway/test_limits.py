"""Headers and trailers have an end: no client can fill the gateway's memory with them."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from gateway.server import _Trailers
from tests.gateway.system import Gateway


async def test_headers_without_end_are_answered_431_and_closed(gateway: Gateway) -> None:
    url = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
    answer = asyncio.create_task(reader.read())
    with contextlib.suppress(ConnectionError):
        for number in range(100):
            writer.write(b"X-%d: %b\r\n" % (number, b"a" * 4096))
            await writer.drain()
            await asyncio.sleep(0.002)
            if answer.done():
                break
    async with asyncio.timeout(5):
        answered = await answer
    writer.close()

    assert answered.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answered
    status, _, _ = await gateway.ask("GET", "/healthz")
    assert status == 200


def test_trailers_are_not_kept() -> None:
    trailers = _Trailers()
    trailers.append((b"a", b"b"))

    assert trailers == []
