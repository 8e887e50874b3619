"""What became of a publication: stored, surely not, or unknown; and never a ghost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.settings import Settings
from headrace.topology import RAW, Topology, ensure
from tests.messaging.blocks import block, send, stored_ids
from tests.servers import Servers, until


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(UnavailableError) as caught:
        yield
    assert caught.value.code == code


@contextlib.asynccontextmanager
async def publishing(settings: Settings, timeout_seconds: float) -> AsyncIterator[tuple[Bus, Publisher]]:
    async with connect(settings, "test") as bus, open_publisher(bus, timeout_seconds) as publisher:
        await ensure(bus, settings)
        yield bus, publisher


async def test_what_is_acknowledged_is_in_the_stream(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    blocks = [block() for _ in range(20)]
    acks = await asyncio.gather(*(send(publisher, topology, one) for one in blocks))

    assert [ack.seq for ack in acks] == list(range(1, 21))
    assert {ack.stream for ack in acks} == {topology.stream(RAW)}
    assert await stored_ids(bus, topology) == [one.id for one in blocks]


async def test_the_same_message_id_again_is_a_duplicate(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    one = block()

    assert not (await send(publisher, topology, one)).duplicate
    assert (await send(publisher, topology, one)).duplicate
    assert await stored_ids(bus, topology) == [one.id]


async def test_a_full_stream_refuses_and_stores_nothing(
    bus: Bus, publisher: Publisher, topology: Topology, settings: Settings
) -> None:
    small = settings.model_copy(update={"streams": settings.streams.model_copy(update={"raw_max_bytes": 1 << 16})})
    await ensure(bus, small)
    fits, too_much = block(size_bytes=60_000), block(size_bytes=60_000)
    await send(publisher, topology, fits)

    with pytest.raises(UnavailableError) as caught:
        await send(publisher, topology, too_much)

    assert caught.value.code == "stream_full"
    assert caught.value.retry_after_seconds
    assert await stored_ids(bus, topology) == [fits.id]


async def test_what_could_not_be_dead_lettered_is_refused(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    with refused("jetstream_refused"):
        await send(publisher, topology, block(size_bytes=700_000))

    assert await stored_ids(bus, topology) == []


async def test_without_a_stream_nothing_is_promised(publisher: Publisher) -> None:
    with refused("jetstream_unavailable"):
        await publisher.publish("nobody.takes.this", b"", {})


async def test_more_than_the_server_takes_is_refused(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    with refused("block_too_large"):
        await send(publisher, topology, block(size_bytes=bus.client.max_payload + 1))

    assert await stored_ids(bus, topology) == []


async def test_nothing_waits_once_it_is_answered(bus: Bus, publisher: Publisher, topology: Topology) -> None:
    with refused("jetstream_unavailable"):
        await publisher.publish("nobody.takes.this", b"", {})
    await send(publisher, topology, block())
    given_up = asyncio.create_task(send(publisher, topology, block()))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])

    assert publisher._waiting == {}


async def test_a_server_that_is_silent_leaves_the_outcome_unknown_at_the_deadline(
    harmed: Settings, nats_server: Servers
) -> None:
    async with publishing(harmed, 0.5) as (bus, publisher):
        topology = Topology(harmed.namespace)
        one = block()
        os.kill(nats_server.pids["nats"], signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                with refused("outcome_unknown"):
                    await send(publisher, topology, one)
        finally:
            os.kill(nats_server.pids["nats"], signal.SIGCONT)

        assert (await send(publisher, topology, one)).duplicate, "it was stored all the same, and only once"
        assert await stored_ids(bus, topology) == [one.id]


async def test_where_nothing_is_confirmed_one_write_at_a_time_is_tried_until_one_is(
    harmed: Settings, nats_server: Servers
) -> None:
    async with publishing(harmed, 0.5) as (bus, publisher):
        topology = Topology(harmed.namespace)
        lost, spared, trial, after = [block() for _ in range(3)], block(), block(), block()
        os.kill(nats_server.pids["nats"], signal.SIGSTOP)
        try:
            await asyncio.gather(*(send(publisher, topology, one) for one in lost), return_exceptions=True)
            silent = publisher.silent
            publisher._timeout_seconds = 30
            trying = asyncio.create_task(send(publisher, topology, trial))
            await until(lambda: len(publisher._waiting) == 1)
            with refused("jetstream_unavailable"):
                await send(publisher, topology, spared)
        finally:
            os.kill(nats_server.pids["nats"], signal.SIGCONT)
        await trying
        await send(publisher, topology, after)

        assert silent
        assert not publisher.silent
        assert await stored_ids(bus, topology) == [*(one.id for one in lost), trial.id, after.id]


async def test_more_than_the_socket_takes_meets_the_deadline_too(harmed: Settings, nats_server: Servers) -> None:
    async with publishing(harmed, 0.5) as (_, publisher):
        os.kill(nats_server.pids["nats"], signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(
                    *(send(publisher, Topology(harmed.namespace), block(size_bytes=500_000)) for _ in range(40)),
                    return_exceptions=True,
                )
        finally:
            os.kill(nats_server.pids["nats"], signal.SIGCONT)

        assert {getattr(outcome, "code", None) for outcome in outcomes} == {"outcome_unknown"}


async def test_a_broken_connection_leaves_the_outcome_unknown_at_once_and_then_refuses(
    harmed: Settings, nats_server: Servers
) -> None:
    async with publishing(harmed, 60) as (bus, publisher):
        topology = Topology(harmed.namespace)
        known = block()
        await send(publisher, topology, known)
        os.kill(nats_server.pids["nats"], signal.SIGSTOP)
        in_flight = [block() for _ in range(3)]
        waiting = [asyncio.create_task(send(publisher, topology, one)) for one in in_flight]
        await until(lambda: len(publisher._waiting) == 3)
        os.kill(nats_server.pids["nats"], signal.SIGKILL)
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert [getattr(outcome, "code", None) for outcome in outcomes] == ["outcome_unknown"] * 3

        ghosts = [block() for _ in range(3)]
        for ghost in ghosts:
            if not bus.connected:
                with refused("nats_unavailable"):
                    await send(publisher, topology, ghost)
        await nats_server.serves("nats")
        await until(lambda: bus.connected)
        await bus.client.flush()
        after = block()
        await send(publisher, topology, after)

        stored = await stored_ids(bus, topology)
        assert stored[0] == known.id
        assert stored[-1] == after.id
        assert set(stored[1:-1]) <= {one.id for one in in_flight}, "what was refused is never stored later"


async def test_while_disconnected_nothing_is_kept_for_later(harmed: Settings, nats_server: Servers) -> None:
    async with publishing(harmed, 5) as (bus, publisher):
        topology = Topology(harmed.namespace)
        await nats_server.stop("nats")
        await until(lambda: not bus.connected)
        for _ in range(20):
            with refused("nats_unavailable"):
                await send(publisher, topology, block())
        await nats_server.start("nats")
        await until(lambda: bus.connected)
        await bus.client.flush()

        assert await stored_ids(bus, topology) == []
