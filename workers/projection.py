"""Keeps Redis equal to Postgres: after Redis was away, or has restarted and may have lost its last writes."""

from __future__ import annotations

import asyncio
import contextlib

from headrace import failpoints, telemetry
from headrace.errors import UnavailableError
from headrace.registry import Pipelines
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projection

log = telemetry.logger(__name__)

_CHECK_SECONDS = 1.0


async def repair(facts: Facts, projection: Projection, pipelines: Pipelines) -> bool:
    """Project every rollup if Redis may lack some; return whether that was so.

    The projection's version guard makes it safe beside workers that go on.

    Raises:
        UnavailableError: Postgres or Redis is away.
    """
    run_id = await projection.run_id()
    known_run, dirty, clean = await facts.projection()
    if known_run == run_id and dirty == clean:
        return False
    for name in pipelines:
        async for rows in facts.all_rollups(name):
            await projection.project(name, rows)
    failpoints.hit("projection.repaired")
    # Failures after we read `dirty` are above it, and bring us back.
    await facts.projection_made(run_id, dirty)
    log.info("projection_repaired", run_changed=known_run != run_id, failures=dirty - clean)
    return True


async def keep_repaired(facts: Facts, projection: Projection, pipelines: Pipelines) -> None:
    while True:
        with contextlib.suppress(UnavailableError):
            await repair(facts, projection, pipelines)
            telemetry.store_up.labels("redis").set(1)
        await asyncio.sleep(_CHECK_SECONDS)
