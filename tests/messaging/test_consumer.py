"""Blocks in a worker's hands: kept while it works, back when it dies, settled when it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from headrace.document import new_id
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.consumer import BlockConsumer, Delivery, open_consumer
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.settings import Settings
from headrace.topology import RAW, STAGES, Topology, ensure
from tests.messaging.blocks import block, send
from tests.servers import Servers, until

REFINE = STAGES["refine"]


def with_workers(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"workers": settings.workers.model_copy(update=changes)})


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """Settings under which JetStream soon gives a block to another."""
    return with_workers(settings, ack_wait_seconds=0.6)


@pytest.fixture
async def consumer(bus: Bus, settings: Settings) -> AsyncIterator[BlockConsumer]:
    async with open_consumer(bus, settings, REFINE) as consumer:
        yield consumer


async def taken(consumer: BlockConsumer, blocks: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < blocks:
            found += await consumer.take(10**6, blocks - len(found))
    return found


async def info(bus: Bus, topology: Topology) -> Any:
    return await bus.client.jetstream().consumer_info(topology.stream(RAW), "refine")


async def settled(bus: Bus, topology: Topology) -> None:
    """Return when no block is before the stage or in its hands."""
    async with asyncio.timeout(20):
        while True:
            found = await info(bus, topology)
            if not (found.num_pending or found.num_ack_pending):
                return
            await asyncio.sleep(0.02)


async def test_blocks_come_in_order_and_once(
    bus: Bus, publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    blocks = [block(documents=n % 3 + 1) for n in range(500)]
    for one in blocks:
        await send(publisher, topology, one)
    found = await taken(consumer, 500)
    for delivery in found:
        await delivery.ack()
    await settled(bus, topology)

    assert [delivery.block for delivery in found] == blocks
    assert {(d.attempt, d.bare) for d in found} == {(1, False)}
    assert (await info(bus, topology)).delivered.consumer_seq == 500


async def test_the_journal_gets_headers_and_no_bodies(
    bus: Bus, publisher: Publisher, topology: Topology, settings: Settings
) -> None:
    one = block(documents=7)
    await send(publisher, topology, one)
    async with open_consumer(bus, settings, STAGES["journal"]) as journal:
        [delivery] = await taken(journal, 1)
        await delivery.ack()

    assert (delivery.block.id, delivery.block.count, delivery.block.body) == (one.id, 7, b"")


async def test_no_more_is_taken_than_asked_for(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    for _ in range(6):
        await send(publisher, topology, block(documents=10))
    await until(lambda: len(consumer._ready) == 6)

    assert len(await consumer.take(10**6, 2)) == 2
    assert len(await consumer.take(25, 100)) == 2
    assert len(await consumer.take(1, 100)) == 1, "one block, however large"


async def test_what_is_not_settled_comes_again_with_its_attempt(
    bus: Bus, publisher: Publisher, topology: Topology, hasty: Settings
) -> None:
    one = block()
    await send(publisher, topology, one)
    async with open_consumer(bus, hasty, REFINE) as dying:
        await taken(dying, 1)
    async with open_consumer(bus, hasty, REFINE) as heir:
        [delivery] = await taken(heir, 1)
        await delivery.ack()

    assert (delivery.block.id, delivery.attempt) == (one.id, 2)


async def test_what_is_given_back_comes_again_after_the_delay(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    one = block()
    await send(publisher, topology, one)
    [delivery] = await taken(consumer, 1)
    before = asyncio.get_running_loop().time()
    await delivery.nak(0.4)
    [again] = await taken(consumer, 1)
    await again.ack()

    assert asyncio.get_running_loop().time() - before >= 0.39
    assert (again.block, again.attempt, again.stored_at) == (one, 2, delivery.stored_at)


async def test_a_slow_block_stays_with_its_worker(
    bus: Bus, publisher: Publisher, topology: Topology, hasty: Settings
) -> None:
    await send(publisher, topology, block())
    async with open_consumer(bus, hasty, REFINE) as slow, open_consumer(bus, hasty, REFINE) as idle:
        await until(lambda: bool(slow._ready or idle._ready))
        holder, other = (slow, idle) if slow._ready else (idle, slow)
        [delivery] = await taken(holder, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.take(1, 1), 3 * hasty.workers.ack_wait_seconds)
        await delivery.ack()
        await settled(bus, topology)

        assert (await info(bus, topology)).delivered.consumer_seq == 1


async def test_a_block_that_came_again_comes_alone(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    blocks = [block() for _ in range(5)]
    for one in blocks:
        await send(publisher, topology, one)
    for delivery in await taken(consumer, 5):
        await delivery.nak(0.01)
    await until(lambda: len(consumer._ready) == 5)
    fresh = block()
    await send(publisher, topology, fresh)
    await until(lambda: len(consumer._ready) == 6)
    takes = [await consumer.take(10**6, 100) for _ in range(6)]

    assert [len(one) for one in takes] == [1] * 6
    assert takes[-1][0].block == fresh


async def test_fresh_blocks_before_one_that_came_again_come_without_it(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    await send(publisher, topology, block())
    [first] = await taken(consumer, 1)
    for _ in range(3):
        await send(publisher, topology, block())
    await until(lambda: len(consumer._ready) == 3)
    await first.nak(0.01)
    await until(lambda: len(consumer._ready) == 4)

    assert [len(await consumer.take(10**6, 100)) for _ in range(2)] == [3, 1]


async def test_a_stop_gives_what_is_on_its_way_and_leaves_nothing_unsettled(
    bus: Bus, publisher: Publisher, topology: Topology, settings: Settings
) -> None:
    async def publish() -> int:
        sent = 0
        while not stopped.is_set():
            await asyncio.gather(*(send(publisher, topology, block()) for _ in range(20)))
            sent += 20
        return sent

    stopped = asyncio.Event()
    got = 0
    publishing = asyncio.create_task(publish())
    async with open_consumer(bus, settings, REFINE) as consumer:
        while deliveries := await consumer.take(100, 10):
            got += len(deliveries)
            if got > 300:
                consumer.stop()
            for delivery in deliveries:
                await delivery.ack()
    stopped.set()
    sent = await publishing
    after = await info(bus, topology)

    assert 300 < got <= sent
    assert (after.num_ack_pending, after.num_redelivered) == (0, 0)
    assert after.delivered.consumer_seq == got, "each was delivered once"
    stream = await bus.client.jetstream().stream_info(topology.stream(RAW))
    assert stream.state.messages == sent


async def test_a_consumer_that_somebody_deleted_is_made_again(
    bus: Bus, publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    with capture_logs() as logs:
        await bus.client.jetstream().delete_consumer(topology.stream(RAW), "refine")
        one = block()
        await send(publisher, topology, one)
        [delivery] = await taken(consumer, 1)
        await delivery.ack()
        await settled(bus, topology)

    assert delivery.block == one
    assert len(logs) < 20, "it does not ask without a pause"


async def test_a_stream_that_somebody_deleted_is_made_again_and_said(
    bus: Bus, publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    one = block()
    with capture_logs() as logs:
        await bus.client.jetstream().delete_stream(topology.stream(RAW))
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(UnavailableError):
                    await send(publisher, topology, one)
                    break
                await asyncio.sleep(0.05)
        [delivery] = await taken(consumer, 1)
        await delivery.ack()
        await settled(bus, topology)

    assert delivery.block == one
    assert "stream_missing" in [entry["event"] for entry in logs]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Headrace-Block": "no uuid", "Headrace-Count": "7"},
        {"Headrace-Block": "", "Headrace-Count": ""},
        {"Headrace-Count": "-1"},
    ],
)
async def test_a_block_without_an_id_is_always_called_the_same(
    bus: Bus, publisher: Publisher, topology: Topology, settings: Settings, headers: Mapping[str, str]
) -> None:
    await publisher.publish(topology.raw("things"), b"{}", headers)
    await publisher.publish(topology.raw("things"), b"{}", headers)
    async with (
        open_consumer(bus, settings, REFINE) as refine,
        open_consumer(bus, settings, STAGES["journal"]) as journal,
    ):
        refined, noted = await taken(refine, 2), await taken(journal, 2)
        await refined[0].nak(0.01)
        [again] = await taken(refine, 1)

    assert [d.block.id for d in refined] == [d.block.id for d in noted]
    assert refined[0].block.id != refined[1].block.id
    assert again.block.id == refined[0].block.id
    assert {d.block.count for d in (*refined, *noted)} == {1}


async def test_a_count_that_cannot_be_true_is_not_believed(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    ids = {}
    for count in ("x", "-1", "1e3", "9" * 400, "²", "3", "999999999"):
        ids[await _publish_counted(publisher, topology, count)] = count
    found = {ids[d.block.id]: d.block.count for d in await taken(consumer, 7)}

    assert found == {"x": 1, "-1": 1, "1e3": 1, "9" * 400: 1, "²": 1, "3": 3, "999999999": 4}


async def _publish_counted(publisher: Publisher, topology: Topology, count: str) -> str:
    one = new_id()
    await publisher.publish(topology.raw("things"), b" " * 300, {"Headrace-Block": one, "Headrace-Count": count})
    return one


async def test_a_bare_document_cannot_take_the_name_of_a_block(
    publisher: Publisher, topology: Topology, consumer: BlockConsumer
) -> None:
    one = block(documents=5)
    await send(publisher, topology, one)
    await publisher.publish(topology.ingest("things"), b"{}", {"Headrace-Block": one.id, "Headrace-Count": "9"})
    made, bare = await taken(consumer, 2)

    assert (made.bare, made.block.count) == (False, 5)
    assert (bare.bare, bare.block.count, bare.block.pipeline) == (True, 1, "things")
    assert bare.block.id != one.id


async def test_it_goes_on_after_the_server_was_away(harmed: Settings, nats_server: Servers) -> None:
    async with (
        connect(harmed, "test") as bus,
        open_publisher(bus, 5) as publisher,
    ):
        await ensure(bus, harmed)
        topology = Topology(harmed.namespace)
        async with open_consumer(bus, with_workers(harmed, ack_wait_seconds=0.6), REFINE) as consumer:
            first = block()
            await send(publisher, topology, first)
            [held] = await taken(consumer, 1)
            await nats_server.kill("nats")
            await until(lambda: bus.connected)
            second = block()
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(Exception):
                        await send(publisher, topology, second)
                        break
            await held.ack()
            seen = {second.id} - {d.block.id for d in await taken(consumer, 1)}
            while seen:
                seen -= {d.block.id for d in await taken(consumer, 1)}
