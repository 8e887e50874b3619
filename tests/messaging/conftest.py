"""Fixtures of the messaging tests: a bus on the shared server, and a server of one's own that may be harmed."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import nats
import pytest
from nats.js.errors import NotFoundError
from pydantic import SecretStr

from headrace.messaging.connection import Bus, connect
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.settings import Settings
from headrace.topology import STREAMS, Topology, ensure
from tests.conftest import SMALL_STREAMS
from tests.servers import Servers, in_own_task, reachable_directory, running


@pytest.fixture
async def settings(servers: Servers) -> AsyncIterator[Settings]:
    """Settings of a Headrace of the test's own, which only talks: without databases it is made in no time."""
    settings = on(servers)
    yield settings
    await forget(settings)


def on(servers: Servers) -> Settings:
    return Settings(nats_url=SecretStr(servers.nats_url), namespace=f"t{secrets.token_hex(5)}", streams=SMALL_STREAMS)


async def forget(settings: Settings) -> None:
    """Delete the streams: the server sets their size aside."""
    client = await nats.connect(settings.nats_url.get_secret_value())
    try:
        streams = [*map(Topology(settings.namespace).stream, STREAMS), f"KV_{settings.namespace}schemas"]
        for name in streams:
            with contextlib.suppress(NotFoundError):
                await client.jetstream().delete_stream(name)
    finally:
        await client.close()


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    """A connection, with the streams made."""
    async with in_own_task(connect(settings, "test")) as bus:
        await ensure(bus, settings)
        yield bus


@pytest.fixture
async def publisher(bus: Bus) -> AsyncIterator[Publisher]:
    async with open_publisher(bus, 5) as publisher:
        yield publisher


@pytest.fixture
def topology(settings: Settings) -> Topology:
    return Topology(settings.namespace)


@pytest.fixture(scope="module")
async def nats_server() -> AsyncIterator[Servers]:
    """A NATS server of this module's own."""
    with reachable_directory() as directory:
        async with in_own_task(running(directory, ("nats_url",))) as servers:
            yield servers


@pytest.fixture
async def harmed(nats_server: Servers) -> AsyncIterator[Settings]:
    """Settings on that server; it serves again when the test is over."""
    settings = on(nats_server)
    yield settings
    if "nats" not in nats_server.pids:
        await nats_server.start("nats")
    await forget(settings)
