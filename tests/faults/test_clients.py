"""Clients that hold connections and say nothing, or come and go in crowds: the others do not notice."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Books
from tests.faults.journal import OK
from tests.faults.payload import PIPELINE
from tests.faults.producer import sending
from tests.faults.stack import Stack
from tests.faults.test_links import answers
from tests.servers import until

# Longer than it takes any machine to open all of them.
SETTINGS = {"HEADRACE_GATEWAY__HEADER_SECONDS": "40"}
IDLE = 2000
STORM = 500
# Sockets to other services, which may come and go meanwhile.
FEW = 16


@pytest.mark.long
async def test_idle_and_slow_connections_and_a_storm_cost_the_others_nothing_and_are_closed(
    stack: Stack, books: Books
) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > IDLE + STORM, "raise the limit of open files, `ulimit -n 4096`"
    address = urlsplit(stack.url)
    before = descriptors(stack)
    async with books.producers(singles=2, bulks=1) as producers:
        async with sending(producers, per_second=50):
            open_ones = [await asyncio.open_connection(address.hostname, address.port) for _ in range(IDLE)]
            for number, (_, writer) in enumerate(open_ones):
                if number % 2:
                    writer.write(b"POST /v1/documents/%b HTTP/1.1\r\nHost: slow\r\nX-" % PIPELINE.encode())
            await until(lambda: descriptors(stack) >= before + IDLE)
            since = [one.accepted for one in producers]
            for _ in range(STORM):
                _, writer = await asyncio.open_connection(address.hostname, address.port)
                reset(writer)
            await until(lambda: all(one.accepted > then for one, then in zip(producers, since, strict=True)))
            assert descriptors(stack) >= before + IDLE
            # The gateway lets go of them by itself.
            ends = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in open_ones)), 90)
        refused = [one for producer in producers for one in answers(producer) if one.result != OK]
    for _, writer in open_ones:
        writer.close()

    assert refused == []
    assert {end[:12] for end in ends} == {b"HTTP/1.1 408"}
    await until(lambda: descriptors(stack) <= before + FEW)
    await books.hold()


def descriptors(stack: Stack) -> int:
    return len(os.listdir(f"/proc/{stack.pids['gateway']}/fd"))


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a client does that crashes."""
    held: socket.socket = writer.get_extra_info("socket")
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
