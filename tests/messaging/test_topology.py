"""Streams and consumers: made once, compared afterwards, purged only of what every stage has settled."""

from __future__ import annotations

import asyncio

import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.publisher import Publisher
from headrace.settings import Settings
from headrace.topology import CLEAN, DEAD, RAW, STAGES, STREAMS, Topology, ensure, purge_settled, stream_fills
from tests.messaging.blocks import block, send


async def settle(bus: Bus, topology: Topology, stage: str, *, blocks: int) -> None:
    """Take blocks for a stage and acknowledge them."""
    js = bus.client.jetstream()
    stream = topology.stream(STAGES[stage].stream)
    subscription = await js.pull_subscribe_bind(stage, stream)
    for _ in range(blocks):
        [message] = await subscription.fetch(1)
        await message.ack_sync()
    await subscription.unsubscribe()


async def first_and_last(bus: Bus, topology: Topology, stream: str) -> tuple[int, int]:
    state = (await bus.client.jetstream().stream_info(topology.stream(stream))).state
    return state.first_seq, state.last_seq


async def test_all_is_durable_and_nothing_is_dropped(bus: Bus, topology: Topology) -> None:
    for name in STREAMS:
        config = (await bus.client.jetstream().stream_info(topology.stream(name))).config
        assert (config.storage, config.discard) == (StorageType.FILE, DiscardPolicy.NEW)
        assert config.retention == RetentionPolicy.LIMITS
        assert not config.max_age


async def test_making_it_again_changes_nothing(bus: Bus, settings: Settings, topology: Topology) -> None:
    before = [await bus.client.jetstream().stream_info(topology.stream(name)) for name in STREAMS]

    assert await ensure(bus, settings) == []
    after = [await bus.client.jetstream().stream_info(topology.stream(name)) for name in STREAMS]
    assert [one.config for one in after] == [one.config for one in before]


async def test_several_processes_may_make_it_at_once(settings: Settings) -> None:
    async with connect(settings, "one") as one, connect(settings, "other") as other:
        drifts = await asyncio.gather(ensure(one, settings), ensure(other, settings), ensure(one, settings))

    assert not any(drifts)


async def test_a_new_size_is_taken_over_in_place(
    bus: Bus, publisher: Publisher, settings: Settings, topology: Topology
) -> None:
    await send(publisher, topology, block())
    larger = settings.model_copy(update={"streams": settings.streams.model_copy(update={"raw_max_bytes": 1 << 27})})

    assert await ensure(bus, larger) == []
    info = await bus.client.jetstream().stream_info(topology.stream(RAW))
    assert (info.config.max_bytes, info.state.messages) == (1 << 27, 1)


async def test_what_cannot_change_in_place_is_reported(settings: Settings, topology: Topology) -> None:
    async with connect(settings, "test") as bus:
        js = bus.client.jetstream()
        name = topology.stream(DEAD)
        await js.add_stream(StreamConfig(name, subjects=[topology.dead("*")], storage=StorageType.MEMORY, max_bytes=1))

        [drift] = [one for one in await ensure(bus, settings) if "storage" in one]
        assert name in drift
        assert (await js.stream_info(name)).config.storage == StorageType.MEMORY


async def test_subjects_that_another_stream_has_are_an_error(settings: Settings, topology: Topology) -> None:
    async with connect(settings, "test") as bus:
        js = bus.client.jetstream()
        await js.add_stream(StreamConfig(f"{settings.namespace}-other", subjects=[topology.raw("*")]))
        with pytest.raises(UnavailableError) as caught:
            await ensure(bus, settings)
        await js.delete_stream(f"{settings.namespace}-other")

    assert caught.value.code == "jetstream_unavailable"


async def test_the_fill_of_a_stream_is_told(
    bus: Bus, publisher: Publisher, settings: Settings, topology: Topology
) -> None:
    assert await stream_fills(bus, settings) == {RAW: 0.0, CLEAN: 0.0, DEAD: 0.0}
    await send(publisher, topology, block(size_bytes=500_000))

    fills = await stream_fills(bus, settings)
    assert 500_000 / settings.streams.raw_max_bytes < fills[RAW] < 600_000 / settings.streams.raw_max_bytes
    assert (fills[CLEAN], fills[DEAD]) == (0, 0)


async def test_only_what_every_stage_has_settled_is_purged(
    bus: Bus, publisher: Publisher, settings: Settings, topology: Topology
) -> None:
    for _ in range(10):
        await send(publisher, topology, block())
    assert await purge_settled(bus, settings, RAW) == 0
    await settle(bus, topology, "refine", blocks=10)
    assert await purge_settled(bus, settings, RAW) == 0, "the journal has not noted them"
    await settle(bus, topology, "journal", blocks=6)

    assert await purge_settled(bus, settings, RAW) == 3
    assert await first_and_last(bus, topology, RAW) == (4, 10)
    for _ in range(5):
        await purge_settled(bus, settings, RAW)
    assert (await first_and_last(bus, topology, RAW))[0] <= 7


async def test_what_was_taken_and_not_settled_is_kept(
    bus: Bus, publisher: Publisher, settings: Settings, topology: Topology
) -> None:
    for _ in range(4):
        await send(publisher, topology, block())
    await settle(bus, topology, "journal", blocks=4)
    subscription = await bus.client.jetstream().pull_subscribe_bind("refine", topology.stream(RAW))
    first, *rest = await subscription.fetch(4)
    for message in rest:
        await message.ack_sync()

    assert await purge_settled(bus, settings, RAW) == 0
    await first.ack_sync()
    assert await purge_settled(bus, settings, RAW) == 2


async def test_dead_letters_are_never_purged(
    bus: Bus, publisher: Publisher, settings: Settings, topology: Topology
) -> None:
    for _ in range(3):
        one = block()
        await publisher.publish(topology.dead("things"), one.body, one.headers(one.id))
    await settle(bus, topology, "dead", blocks=3)

    assert await purge_settled(bus, settings, DEAD) == 0
    assert await first_and_last(bus, topology, DEAD) == (1, 3)
