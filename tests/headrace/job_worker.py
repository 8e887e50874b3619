"""A process that runs one job each second, for a test to kill: it notes when each attempt began and ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import asyncpg

from headrace.job import Job, Run
from headrace.job_runner import run_jobs
from headrace.messaging.connection import connect
from headrace.settings import Settings

SERVICE = "mill"
WORK_SECONDS = 0.4


async def main(settings: Settings) -> None:
    pool = await asyncpg.create_pool(settings.postgres_url.get_secret_value(), min_size=1, max_size=2)

    async def work(run: Run) -> Mapping[str, Any]:
        begun = "INSERT INTO attempts (run, attempt, began) VALUES ($1, $2, clock_timestamp())"
        await pool.execute(begun, run.id, run.attempt)
        await asyncio.sleep(WORK_SECONDS)
        await pool.execute(
            "UPDATE attempts SET ended = clock_timestamp() WHERE run = $1 AND attempt = $2", run.id, run.attempt
        )
        return {"attempt": run.attempt}

    job = Job(name="grind", about="Grinds.", when="@every 1s", work=work)
    async with connect(settings, "test") as bus:
        await run_jobs(bus, settings, SERVICE, [job], asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(Settings.model_validate_json(sys.stdin.read())))
