"""The jobs of auth, by the broker's clock: one row of users_count a tick, however many instances there are."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import asyncpg

from auth.database import migrate, open_database
from auth.jobs import jobs
from headrace.document import new_id
from headrace.job import MANUAL, Run
from headrace.messaging.schedules import request_run
from headrace.settings import JobSettings, Settings
from headrace.storage.job_runs import Tick
from tests.auth.system import client, eventually, instance

COUNTS = "SELECT id, count, timestamp FROM users_count ORDER BY timestamp"


async def test_users_are_counted_once_a_tick_by_two_instances_and_the_cleaner_removes_the_rows(
    settings: Settings,
) -> None:
    jobs = JobSettings(schedules={"users_count": "@every 1s", "users_count_cleaner": "0 0 29 2 *"})
    settings = settings.model_copy(update={"jobs": jobs})
    async with client(settings) as auth, instance(settings), instance(settings):

        async def counted(users: int) -> bool:
            try:
                return any(row["count"] == users for row in await auth.rows(COUNTS))
            except asyncpg.UndefinedTableError:
                return False

        await eventually(lambda: counted(0))
        await auth.register("ada")
        await eventually(lambda: counted(1))
        rows = await auth.rows(COUNTS)
        runs = await auth.rows("SELECT id FROM job_runs WHERE job = 'users_count' AND outcome = 'succeeded'")

        before = datetime.now(UTC)
        tick = Tick(new_id(), MANUAL, before)
        await request_run(auth.bus, settings, "auth", "users_count_cleaner", tick)

        async def cleaned() -> bool:
            ended = await auth.rows(f"SELECT outcome FROM job_runs WHERE id = '{tick.run_id}'")
            return any(row["outcome"] == "succeeded" for row in ended)

        await eventually(cleaned)
        left = await auth.rows(COUNTS)

    steps = {later["timestamp"] - earlier["timestamp"] for earlier, later in itertools.pairwise(rows)}
    assert steps == {timedelta(seconds=1)}
    assert {row["id"] for row in rows} <= {row["id"] for row in runs}
    assert all(row["timestamp"] >= before for row in left)


async def test_a_run_that_is_begun_twice_writes_one_row(settings: Settings) -> None:
    url = settings.postgres_url.get_secret_value()
    await migrate(url)
    async with open_database(url) as database, client(settings) as auth:
        count = next(job for job in jobs(database, settings.jobs) if job.name == "users_count")
        run = Run(new_id(), count.name, "schedule", datetime.now(UTC), 1)
        await asyncio.gather(count.work(run), count.work(run))

        assert len(await auth.rows(COUNTS)) == 1
