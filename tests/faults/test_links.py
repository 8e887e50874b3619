"""What is between the processes fails: no answers, silence, half a connection; and what is full or gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from nats.js.api import StreamConfig

from headrace.topology import DEAD, RAW, STAGES
from tests.faults.conftest import Books
from tests.faults.journal import FAIL, OK, UNKNOWN, Outcome, read
from tests.faults.producer import Producer, sending
from tests.faults.proxy import BLACK_HOLE, DEAF, FAIR, MUTE, Weather
from tests.faults.stack import Stack
from tests.servers import until

# Twice the probe's period, the time to connect again, and a busy machine.
STALE_SECONDS = 15


def answers(producer: Producer) -> list[Outcome]:
    return [line for line in read([producer.journal.path]) if isinstance(line, Outcome)]


@pytest.mark.parametrize("weather", [MUTE, BLACK_HOLE, DEAF], ids=["answers lost", "black hole", "requests lost"])
async def test_without_word_from_nats_the_outcome_is_unknown_and_the_same_key_makes_one_copy(
    stack: Stack, books: Books, weather: Weather
) -> None:
    proxy = stack.proxies["gateway-nats"]
    async with books.producers() as [producer]:
        assert await producer.send() == OK
        proxy.turn(weather)
        sent = asyncio.create_task(producer.send())
        await until(lambda: len(answers(producer)) >= 2)
        proxy.turn(FAIR)
        async with asyncio.timeout(STALE_SECONDS):
            assert await sent == OK
        first = answers(producer)[1]

    assert (first.status, first.code, first.result) == (503, "outcome_unknown", UNKNOWN)
    assert first.retry_after_seconds
    await books.hold()


async def test_after_half_a_connection_no_ghost_is_stored_and_the_door_opens_again(stack: Stack, books: Books) -> None:
    proxy = stack.proxies["gateway-nats"]
    async with books.producers() as [producer]:
        assert await producer.send() == OK
        proxy.half_open()
        refused = []
        # Until the gateway knows that nobody listens: what it refuses then must never appear.
        async with asyncio.timeout(STALE_SECONDS):
            while FAIL not in refused:
                refused.append(await producer.send(deadline_seconds=0))
        proxy.turn(FAIR)
        async with asyncio.timeout(STALE_SECONDS):
            assert await producer.send() == OK
    await books.hold()


@pytest.mark.parametrize(
    ("link", "weather"),
    [
        ("documents-mongo", BLACK_HOLE),
        ("documents-mongo", Weather(reset_after_bytes=300)),
        ("facts-postgres", Weather(delay_seconds=1.5)),
        ("facts-postgres", Weather(reset_after_bytes=300)),
        ("facts-valkey", Weather(reset_after_bytes=300)),
        ("journal-postgres", MUTE),
    ],
    ids=["mongo is silent", "mongo resets", "postgres is slow", "postgres resets", "redis resets", "postgres is mute"],
)
async def test_a_store_that_is_silent_slow_or_breaks_off_costs_no_delivery(
    stack: Stack, books: Books, link: str, weather: Weather
) -> None:
    before = await stack.redelivered()
    proxy = stack.proxies[link]
    async with books.producers(singles=2) as producers:
        async with sending(producers):
            proxy.turn(weather)
            # Longer than the silence after which JetStream gives a block to another.
            await asyncio.sleep(1.6)
            proxy.turn(FAIR)
        await books.hold()

    assert await stack.redelivered() == before


async def test_a_gateway_that_is_asked_to_end_breaks_no_request_off(stack: Stack, books: Books) -> None:
    before = stack.pids["gateway"]
    async with books.producers(singles=4) as producers:
        async with sending(producers, per_second=100):
            await asyncio.sleep(0.3)
            os.kill(before, signal.SIGTERM)
            since = time.monotonic()
            await until(lambda: stack.pids.get("gateway", before) != before)
            await until(lambda: max(one.last_accepted_begun for one in producers) > since)
        broken = [one for producer in producers for one in answers(producer) if one.result == UNKNOWN]

    assert broken == []
    await books.hold()


async def test_a_key_is_one_document_though_nats_and_the_gateway_have_forgotten_it(stack: Stack, books: Books) -> None:
    async with books.producers() as [producer]:
        assert await producer.send() == OK
        assert await stack.caught_up(60) is not None
        # Its memory of message ids, and the gateway's of keys, are gone.
        for name in ("nats", "gateway"):
            stack.signal(name, signal.SIGKILL)
        assert await producer.again() == OK
        first, *_, last = [one for one in answers(producer) if one.result == OK]
    await books.hold()

    assert first.ids == last.ids


@contextlib.asynccontextmanager
async def full(stack: Stack, stream: str) -> AsyncIterator[None]:
    """Leave a stream no room while the body runs."""
    config: StreamConfig = (await stack.js.stream_info(stream)).config
    size = (await stack.js.stream_info(stream)).state.bytes
    await stack.js.update_stream(config.evolve(max_bytes=max(1, size)))
    try:
        yield
    finally:
        await stack.js.update_stream(config)


async def test_a_full_stream_is_an_honest_503_until_there_is_room(stack: Stack, books: Books) -> None:
    async with books.producers(singles=1) as [producer]:
        assert await producer.send() == OK
        async with full(stack, RAW):
            waiting = asyncio.create_task(producer.send())
            await until(lambda: len(answers(producer)) >= 2)
            refused = answers(producer)[1]
        assert await waiting == OK

    assert (refused.status, refused.code, refused.result) == (503, "stream_full", FAIL)
    assert refused.retry_after_seconds
    await books.hold()


async def test_while_dead_letters_have_no_room_their_block_is_not_given_up(stack: Stack, books: Books) -> None:
    async with books.producers(singles=0, bulks=1) as [producer], full(stack, DEAD):
        # Of so many, some are refused by their transform.
        await producer.send()
        await asyncio.sleep(2)
        assert (await stack.backlog())["refine"], "it was acknowledged with its dead letters nowhere"
    await books.hold()


async def test_a_consumer_that_is_deleted_under_load_is_made_again(stack: Stack, books: Books) -> None:
    async with books.producers(singles=2) as producers, sending(producers):
        for stage in STAGES.values():
            await stack.js.delete_consumer(stage.stream, stage.name)
        await asyncio.sleep(0.5)
    await books.hold()
