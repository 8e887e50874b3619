"""The connection of a process: found at the start, kept through short outages, given up after long ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr

from headrace.errors import RequestError, UnavailableError
from headrace.messaging.connection import BusLostError, connect
from headrace.settings import Settings
from tests.servers import Servers, until


def impatient(settings: Settings, *, down_seconds: float, ping_seconds: float = 0.2) -> Settings:
    limits = settings.nats.model_copy(update={"down_seconds": down_seconds, "ping_seconds": ping_seconds})
    return settings.model_copy(update={"nats": limits})


async def test_without_a_server_the_start_fails_with_advice(settings: Settings) -> None:
    nowhere = impatient(settings, down_seconds=0.5).model_copy(update={"nats_url": SecretStr("nats://127.0.0.1:1")})
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError, match="Check HEADRACE_NATS_URL") as caught:
            async with connect(nowhere, "test"):
                pass

    assert caught.value.code == "nats_unavailable"


async def test_a_server_that_starts_late_is_waited_for(harmed: Settings, nats_server: Servers) -> None:
    await nats_server.stop("nats")
    late = asyncio.create_task(_connected(harmed))
    await asyncio.sleep(0.3)
    assert not late.done()
    await nats_server.start("nats")

    assert await asyncio.wait_for(late, 20)


async def _connected(settings: Settings) -> bool:
    async with connect(settings, "test") as bus:
        return bus.connected


def _fail() -> None:
    raise RuntimeError("a listener's own bug")


async def test_a_short_outage_is_lived_through(harmed: Settings, nats_server: Servers) -> None:
    told: list[str] = []
    async with connect(impatient(harmed, down_seconds=60), "test") as bus:
        bus.on_disconnect.append(lambda: told.append("away"))
        bus.on_disconnect.append(_fail)
        bus.on_reconnect.append(lambda: told.append("back"))
        await nats_server.kill("nats")
        await until(lambda: told == ["away", "back"])
        await bus.client.flush()

        assert bus.connected


async def _lose(settings: Settings, harm: Callable[[], Awaitable[None]]) -> None:
    async with connect(impatient(settings, down_seconds=0.5), "test"):
        await harm()
        await asyncio.Event().wait()


async def test_a_server_that_is_gone_ends_the_body(harmed: Settings, nats_server: Servers) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(BusLostError):
            await _lose(harmed, lambda: nats_server.supervisor.stop("nats"))


async def test_a_server_that_is_silent_ends_the_body_too(harmed: Settings, nats_server: Servers) -> None:
    pid = nats_server.pids["nats"]
    try:
        async with asyncio.timeout(20):
            with pytest.raises(BusLostError):
                await _lose(harmed, lambda: asyncio.to_thread(os.kill, pid, signal.SIGSTOP))
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_what_the_body_raises_comes_out_as_it_is(settings: Settings) -> None:
    with pytest.raises(RequestError, match="mine"):
        async with connect(settings, "test"):
            raise RequestError("mine")
