"""Workers and an analytics service on real servers, in the verbs of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analytics import service as analytics_service
from headrace.document import Block, json_text, new_id, now, raw_line
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus, connect
from headrace.messaging.mesh import Reply, ask
from headrace.messaging.publisher import Publisher, open_publisher
from headrace.settings import Settings
from headrace.topology import STAGES, Topology, ensure
from tests.servers import DEADLINE_SECONDS
from tests.waiting import eventually
from workers import service as workers_service

PIPELINES = Path(__file__).parent / "pipelines"
ALL_STAGES = tuple(STAGES)


class System:
    """Use `open_system`. Its namespace and databases are the test's own."""

    def __init__(self, settings: Settings, bus: Bus, publisher: Publisher) -> None:
        self.settings = settings
        self.topology = Topology(settings.namespace)
        self.bus = bus
        self._publisher = publisher

    async def submit(
        self, pipeline: str, *documents: Any, ids: Sequence[str] | None = None, sender: str = "me"
    ) -> list[str]:
        """Accept documents as one block, as the gateway does but without looking at them; return their ids."""
        ids = ids or [new_id() for _ in documents]
        subject = json_text(sender)
        lines = [
            raw_line(one, now(), subject, document if isinstance(document, bytes) else json.dumps(document).encode())
            for one, document in zip(ids, documents, strict=True)
        ]
        block = Block(new_id(), pipeline, b"".join(lines), len(lines))
        await self.publish(block)
        return list(ids)

    async def publish(self, block: Block, message_id: str | None = None) -> None:
        headers = block.headers(message_id or block.id)
        await self._publisher.publish(self.topology.raw(block.pipeline), block.body, headers)

    async def reply(self, endpoint: str, headers: Mapping[str, str] | None = None, **payload: Any) -> Reply:
        """Ask the analytics service.

        Raises:
            HeadraceError: what it answered.
        """
        return await ask(
            self.bus,
            self.settings.namespace,
            "analytics",
            endpoint,
            json.dumps(payload).encode(),
            headers=headers,
            timeout_seconds=self.settings.nats.request_timeout_seconds,
        )

    async def ask(self, endpoint: str, **payload: Any) -> Any:
        return json.loads((await self.reply(endpoint, **payload)).body)

    async def metric(self, pipeline: str, metric: str, limit: int | None = None) -> Any:
        return await self.ask("metric", pipeline=pipeline, metric=metric, limit=limit)

    async def line(self, pipeline: str) -> dict[str, Any]:
        """Return a pipeline's line of the ledger."""
        line: dict[str, Any] = (await self.ask("ledger"))["pipelines"][pipeline]
        return line

    async def lags(self) -> dict[str, int]:
        """Return the blocks that each stage has before it."""
        js = self.bus.client.jetstream()
        lags = {}
        for stage in STAGES.values():
            info = await js.consumer_info(self.topology.stream(stage.stream), stage.name)
            lags[stage.name] = (info.num_pending or 0) + (info.num_ack_pending or 0)
        return lags

    async def drained(self, *stages: str) -> None:
        """Return when these stages, all by default, have settled everything."""
        # Whole files may have come in, and the embedded servers are not quick everywhere.
        await eventually(
            self.lags, lambda lags: not any(lags[stage] for stage in stages or ALL_STAGES), seconds=2 * DEADLINE_SECONDS
        )

    async def until(self, endpoint: str, expected: Any, **payload: Any) -> None:
        """Return when the service's answer holds all of `expected`, a subset of its fields.

        Raises:
            AssertionError: it did not in time; with the last answer.
        """
        await eventually(
            lambda: self.ask(endpoint, **payload),
            lambda answer: _holds(answer, expected),
            passing=(UnavailableError,),
        )

    @contextlib.asynccontextmanager
    async def workers(self, *stages: str) -> AsyncIterator[None]:
        """Run stages, all by default, while the body runs."""
        async with _running(workers_service.run(self.settings, stop := asyncio.Event(), stages or ALL_STAGES), stop):
            yield

    async def work(self, *stages: str) -> None:
        """Let stages, all by default, work until everything in their streams is settled."""
        async with self.workers(*stages):
            await self.drained(*stages)


def _holds(answer: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(
            key in answer and _holds(answer[key], value) for key, value in expected.items()
        )
    return bool(answer == expected)


@contextlib.asynccontextmanager
async def _running(service: Any, stop: asyncio.Event) -> AsyncIterator[None]:
    task = asyncio.create_task(service)
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await task


@contextlib.asynccontextmanager
async def open_system(settings: Settings, analytics: Settings | None = None) -> AsyncIterator[System]:
    """Run an analytics service; workers run when a test says so.

    Args:
        analytics: settings of the analytics service, where its servers are others than the workers'.
    """
    async with (
        connect(settings, "test") as bus,
        open_publisher(bus, settings.nats.publish_timeout_seconds) as publisher,
    ):
        await ensure(bus, settings)
        system = System(settings, bus, publisher)
        async with _running(analytics_service.run(analytics or settings, stop := asyncio.Event()), stop):
            await system.until("health", {})
            yield system
