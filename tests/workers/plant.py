"""Workers on real servers, in the verbs of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nats.errors
from nats.js.errors import APIError

from headrace.document import Block, json_text, new_id, now, raw_line
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.settings import RetrySettings, Settings
from headrace.storage.postgres import open_facts
from headrace.tally import accepted
from headrace.topology import STAGES, Topology, ensure
from tests.invariants import assert_balanced
from tests.servers import DEADLINE_SECONDS
from tests.waiting import eventually
from workers import service

PIPELINES = Path(__file__).parent / "pipelines"
_ROOT = Path(__file__).parents[2]
_SERVICE = """
import sys
from functools import partial
from headrace.process import run_service
from headrace.settings import Settings
from workers.service import run
sys.exit(run_service("workers", Settings(), partial(run, stages=sys.argv[1].split(","))))
"""


def quick(settings: Settings, **workers: Any) -> Settings:
    """Return settings with the tests' pipelines, that wait little."""
    return settings.model_copy(
        update={
            "pipelines": PIPELINES,
            "retry": RetrySettings(max_attempts=3, base_seconds=0.05, ceiling_seconds=0.5),
            "workers": settings.workers.model_copy(update={"store_timeout_seconds": 2.0, **workers}),
        }
    )


class Plant:
    """Use `open_plant`. Its namespace and databases are the test's own."""

    def __init__(self, settings: Settings, bus: Bus, publisher: Publisher) -> None:
        self.settings = settings
        self.topology = Topology(settings.namespace)
        self.bus = bus
        self._publisher = publisher
        self._spawned: list[asyncio.subprocess.Process] = []

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings as a process of its own reads them."""
        urls = {name: getattr(self.settings, name).get_secret_value() for name in _URLS}
        groups = {name: json.dumps(getattr(self.settings, name).model_dump(mode="json")) for name in _GROUPS}
        named = {**urls, **groups, "namespace": self.settings.namespace, "pipelines": str(self.settings.pipelines)}
        return {f"HEADRACE_{name.upper()}": value for name, value in named.items()}

    async def submit(
        self, pipeline: str, *documents: Any, ids: Sequence[str] | None = None, times: Sequence[str] | None = None
    ) -> list[str]:
        """Accept documents as one block, as a gateway does but without looking at them; return their ids."""
        ids = ids or [new_id() for _ in documents]
        times = times or [now()] * len(documents)
        lines = [
            raw_line(one, time, b'"me"', document if isinstance(document, bytes) else json_text(document))
            for one, time, document in zip(ids, times, documents, strict=True)
        ]
        await self.publish(sealed(pipeline, lines))
        return list(ids)

    async def publish(self, block: Block) -> None:
        await self._publisher.publish(self.topology.raw(block.pipeline), block.body, block.headers(block.id))

    async def publish_clean(self, block: Block, message_id: str) -> None:
        """Publish a block as refine does."""
        await self._publisher.publish(self.topology.clean(block.pipeline), block.body, block.headers(message_id))

    async def bare(self, pipeline: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish one document as a NATS client does."""
        await self._publisher.publish(self.topology.ingest(pipeline), body, headers or {})

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with open_facts(self.settings.postgres_url.get_secret_value(), 10) as facts:
            return await facts.fetch(query, *arguments)

    async def stored(self, pipeline: str) -> list[str]:
        """Return the ids of the facts."""
        return [str(row["id"]) for row in await self.fetch(f'SELECT id FROM facts."{pipeline}"')]

    async def letters(self) -> list[tuple[str, str]]:
        """Return stage and code of every dead letter."""
        found = await self.fetch("SELECT stage, code FROM dead_letters ORDER BY stage, code")
        return [(row["stage"], row["code"]) for row in found]

    async def lags(self) -> dict[str, int]:
        """Return the blocks that each stage has before it or in its hands."""
        js = self.bus.client.jetstream()
        lags = {}
        for stage in STAGES.values():
            info = await js.consumer_info(self.topology.stream(stage.stream), stage.name)
            lags[stage.name] = (info.num_pending or 0) + (info.num_ack_pending or 0)
        return lags

    async def until_lags(self, hold: Callable[[dict[str, int]], bool]) -> None:
        """Return when the stages' lags are so."""

        async def holds() -> bool:
            return hold(await self.lags())

        await until(holds)

    async def drained(self, *stages: str) -> None:
        """Return when these stages, all by default, have settled everything."""
        await self.until_lags(lambda lags: not any(lags[stage] for stage in stages or STAGES))

    async def deliver_everything_again(self) -> None:
        """Let every stage begin again at the start of its stream, as if all were redelivered."""
        js = self.bus.client.jetstream()
        for stage in STAGES.values():
            await js.delete_consumer(self.topology.stream(stage.stream), stage.name)
        await ensure(self.bus, self.settings)

    @contextlib.asynccontextmanager
    async def workers(self, *stages: str) -> AsyncIterator[None]:
        """Run stages, all by default, while the body runs."""
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(self.settings, stop, stages or tuple(STAGES)))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await task

    async def work(self, *stages: str) -> None:
        """Let stages, all by default, work until everything before them is settled."""
        async with self.workers(*stages):
            await self.drained(*stages)

    async def spawn(self, *stages: str) -> asyncio.subprocess.Process:
        """Run stages in a process of their own, until the plant closes at the latest."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SERVICE, ",".join(stages)),
            cwd=_ROOT,
            env={**os.environ, **self.environment},
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._spawned.append(process)
        return process

    async def close(self) -> None:
        """End the processes that a test has left behind where it failed."""
        for process in self._spawned:
            await ended(process, signal.SIGKILL)


def sealed(pipeline: str, lines: Sequence[bytes]) -> Block:
    """Return a raw block as a gateway makes it."""
    block, body = new_id(), b"".join(lines)
    return Block(block, pipeline, body, len(lines), accepted(block, lines, body))


_URLS = ("nats_url", "mongo_url", "postgres_url", "redis_url")
_GROUPS = ("streams", "workers", "retry")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; a server that is away cannot say."""
    await eventually(holds, passing=(UnavailableError, nats.errors.Error, APIError))


async def until_projected(plant: Plant) -> None:
    """Return when Redis is known to equal Postgres, and everything is balanced."""

    async def balanced() -> bool:
        [projection] = await plant.fetch("SELECT run_id, dirty, clean FROM projection")
        if not projection["run_id"] or projection["dirty"] != projection["clean"]:
            return False
        try:
            await assert_balanced(plant.settings)
        except AssertionError:
            return False
        return True

    await until(balanced)


async def ended(process: asyncio.subprocess.Process, number: signal.Signals | None = None) -> int:
    """Return the exit code of a process, after a signal if one is given."""
    if number is not None and process.returncode is None:
        process.send_signal(number)
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await process.wait()


@contextlib.asynccontextmanager
async def open_plant(settings: Settings) -> AsyncIterator[Plant]:
    """Make the streams; workers run when a test says so."""
    async with (
        connect(settings, "test") as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
    ):
        await ensure(bus, settings)
        plant = Plant(settings, bus, publisher)
        try:
            yield plant
        finally:
            await plant.close()
