"""A store that is away or silent is said to be, in time, and is used again when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.errors import UnavailableError
from headrace.storage.mongo import open_documents
from headrace.storage.postgres import open_facts
from headrace.storage.redis import Projected, open_projection
from tests.servers import DEADLINE_SECONDS, Servers
from tests.storage.contract import THINGS, row
from tests.storage.test_postgres import record

_TIMEOUT_SECONDS = 1.0


@dataclass
class Writing:
    """A store that is in use.

    Attributes:
        write: writes something new.
        stored: returns how much was written.
    """

    write: Callable[[], Awaitable[object]]
    stored: Callable[[], Awaitable[int]]
    ping: Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def writing(servers: Servers, name: str) -> AsyncIterator[Writing]:
    version = 0
    match name:
        case "mongo":
            async with open_documents(servers.mongo_url, _TIMEOUT_SECONDS) as documents:
                await documents.prepare(THINGS)
                yield Writing(
                    lambda: documents.insert(THINGS, [row({"name": "a"})]),
                    lambda: documents.count(THINGS),
                    documents.ping,
                )
        case "postgres":
            async with open_facts(servers.postgres_url, _TIMEOUT_SECONDS) as facts:
                await facts.prepare([THINGS])
                yield Writing(
                    lambda: record(facts, THINGS, [row({"name": "a"})]), lambda: facts.count(THINGS), facts.ping
                )
        case _:
            async with open_projection(servers.redis_url, "", _TIMEOUT_SECONDS) as projection:

                def write() -> Awaitable[None]:
                    nonlocal version
                    version += 1
                    return projection.project("p", [Projected("m", f"[{version}]", 0, 1, None, None, None, 1)])

                yield Writing(write, lambda: projection.size("p", "m"), projection.ping)


async def away(attempt: Callable[[], Awaitable[object]], code: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(UnavailableError) as caught:
            await attempt()
    assert caught.value.code == code


async def again(attempt: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            with contextlib.suppress(UnavailableError):
                await attempt()
                return
            await asyncio.sleep(0.05)


def signal_all(pid: int, number: signal.Signals) -> None:
    """Signal a process and its children: each backend of Postgres is one, in a group of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        os.kill(one, number)


CODES = {"mongo": "mongo_unavailable", "postgres": "postgres_unavailable", "valkey": "redis_unavailable"}


@pytest.mark.parametrize("name", sorted(CODES))
async def test_a_store_that_is_stopped_is_away_and_comes_back(own_servers: Servers, name: str) -> None:
    async with writing(own_servers, name) as store:
        await store.write()
        before = await store.stored()
        await own_servers.stop(name)
        try:
            await away(store.write, CODES[name])
            await away(store.ping, CODES[name])
        finally:
            await own_servers.start(name)
        await again(store.write)

        assert await store.stored() == before + 1


@pytest.mark.parametrize("name", sorted(CODES))
async def test_a_store_that_is_silent_is_away_in_time_and_comes_back(own_servers: Servers, name: str) -> None:
    async with writing(own_servers, name) as store:
        await store.write()
        before = await store.stored()
        signal_all(own_servers.pids[name], signal.SIGSTOP)
        started = asyncio.get_running_loop().time()
        try:
            await away(store.write, CODES[name])
            took = asyncio.get_running_loop().time() - started
        finally:
            signal_all(own_servers.pids[name], signal.SIGCONT)
        await again(store.write)

        assert took < 10 * _TIMEOUT_SECONDS
        assert await store.stored() in (before + 1, before + 2), "the write that met no answer may have been done"
