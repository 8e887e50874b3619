"""Connections are accepted as they come: a crowd at once, and again after there were no descriptors."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from gateway.server import listen, serving
from headrace.settings import GatewaySettings

CROWD = 200
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_crowd_is_accepted_within_a_few_turns_of_the_loop_that_the_product_runs_on() -> None:
    async def main() -> int:
        listener = listen("127.0.0.1", 0)
        turns = 0

        def turn() -> None:
            # As long as under load; else the test would not tell one accept each turn from many.
            nonlocal turns
            turns += 1
            time.sleep(0.001)
            ticking[0] = asyncio.get_running_loop().call_soon(turn)

        async with serving(app, listener, GatewaySettings()):
            # In one turn, so that all wait to be accepted at its end.
            crowd = [asked(listener.getsockname()) for _ in range(CROWD)]
            loop = asyncio.get_running_loop()
            ticking = [loop.call_soon(turn)]
            answers = await asyncio.gather(*(loop.sock_recv(one, 100) for one in crowd))
            ticking[0].cancel()
            assert {answer[:12] for answer in answers} == {b"HTTP/1.1 204"}
            for one in crowd:
                one.close()
        return turns

    assert uvloop.run(main()) < CROWD / 2


def asked(address: Any) -> socket.socket:
    """Return a client that has sent its request."""
    client = socket.create_connection(address)
    client.sendall(REQUEST)
    client.setblocking(False)
    return client


class Short(socket.socket):
    """A listening socket in a process that has no descriptor left at first."""

    failures = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_without_descriptors_it_waits_and_serves_once_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server._ACCEPT_AGAIN_SECONDS", 0.01)
    with Short(fileno=listen("127.0.0.1", 0).detach()) as listener:
        async with serving(app, listener, GatewaySettings()):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")
            writer.close()
    assert not listener.failures
