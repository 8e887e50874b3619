"""Postgres: the jobs there are, and every run of them. Who runs what is decided here, so that no run is doubled."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.errors import RequestError
from headrace.job import (
    ENDED,
    FAILED,
    MISSED,
    MOST_DEATHS,
    QUEUED,
    RUNNING,
    SCHEDULED,
    WAITING,
    Cause,
    Job,
    Run,
    is_missed,
    retry_after,
)
from headrace.storage.pool import AWAY, away, open_pool

if TYPE_CHECKING:
    from headrace.storage.pool import Connection

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    name text PRIMARY KEY, service text NOT NULL, about text NOT NULL, schedule text NOT NULL, cron text NOT NULL,
    zone text NOT NULL, retries integer NOT NULL, backoff_seconds double precision NOT NULL, missed text NOT NULL,
    timeout_seconds double precision NOT NULL, off text, paused_at timestamptz, paused_by text,
    -- Missed runs are counted from here: not those of another schedule, nor of a pause.
    counts_from timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS job_runs (
    id uuid PRIMARY KEY, job text NOT NULL, cause text NOT NULL, scheduled_at timestamptz NOT NULL,
    requested_by text, outcome text NOT NULL, attempt integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0, deaths integer NOT NULL DEFAULT 0, missed_before integer NOT NULL DEFAULT 0,
    started_at timestamptz, ended_at timestamptz, retry_at timestamptz, lease_until timestamptz, worker text,
    result jsonb, error text
);
CREATE INDEX IF NOT EXISTS job_runs_by_job ON job_runs (job, scheduled_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS job_runs_by_end ON job_runs (ended_at);
-- Whatever else may go wrong, no two runs of a job are at work at once.
CREATE UNIQUE INDEX IF NOT EXISTS job_runs_one_at_work ON job_runs (job) WHERE outcome = 'running';
"""
# Any number will do, so long as all processes use the same.
_MIGRATION_LOCK: Final = 0x4A4F4253

_REGISTER: Final = """
INSERT INTO jobs AS j (name, service, about, schedule, cron, zone, retries, backoff_seconds, missed, timeout_seconds,
                       off)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (name) DO UPDATE SET
    service = excluded.service, about = excluded.about, schedule = excluded.schedule, cron = excluded.cron,
    zone = excluded.zone, retries = excluded.retries, backoff_seconds = excluded.backoff_seconds,
    missed = excluded.missed, timeout_seconds = excluded.timeout_seconds, off = excluded.off,
    counts_from = CASE WHEN (j.cron, j.zone, j.off IS NULL) = (excluded.cron, excluded.zone, excluded.off IS NULL)
                  THEN j.counts_from ELSE clock_timestamp() END
"""
_INSERT: Final = """
INSERT INTO job_runs (id, job, cause, scheduled_at, requested_by, outcome, missed_before)
VALUES ($1, $2, $3, $4, $5, 'queued', $6) ON CONFLICT DO NOTHING
"""
_RUN: Final = """
id, job, cause, scheduled_at, requested_by, outcome, attempt, missed_before, started_at, ended_at, retry_at, worker,
result, error
"""
_JOBS: Final = f"""
SELECT j.*, l.last FROM jobs j LEFT JOIN LATERAL (
    SELECT to_jsonb(r) AS last FROM (
        SELECT {_RUN} FROM job_runs WHERE job = j.name ORDER BY scheduled_at DESC, id DESC LIMIT 1
    ) r
) l ON true
WHERE $1::text IS NULL OR j.name = $1 ORDER BY j.name
"""


@dataclass(frozen=True, slots=True)
class Tick:
    """The broker's word that a run is due.

    Attributes:
        requested_by: who asked for it, where it was not the schedule.
    """

    run_id: str
    cause: Cause
    scheduled_at: datetime
    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The run is the caller's, for as long as it extends its lease."""

    run: Run
    missed_before: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: it, or another run of its job, is at work elsewhere, or waits for its next attempt."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Over:
    """There is nothing to do: the run has ended, was let go, or its job is paused."""

    why: str


class JobRuns:
    """Use `open_job_runs`. Postgres' clock alone decides what is late and whose lease is over."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def prepare(self) -> None:
        """Make the tables that are missing."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_SCHEMA)

    async def register(self, service: str, jobs: Sequence[Job]) -> None:
        """Make the jobs of a service known, and forget those that it no longer has; their history stays."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(
                "DELETE FROM jobs WHERE service = $1 AND name <> ALL($2::text[])", service, [job.name for job in jobs]
            )
            for job in jobs:
                await connection.execute(
                    _REGISTER,
                    *(job.name, service, job.about, job.when, job.schedule.cron, job.zone, job.retries),
                    *(job.backoff_seconds, job.missed, job.timeout_seconds, job.off),
                )

    async def claim(self, job: Job, tick: Tick, worker: str, lease_seconds: float) -> Claimed | Wait | Over:
        """Take a run that is due, or say why not."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            # One claim of a job at a time.
            about = await connection.fetchrow("SELECT * FROM jobs WHERE name = $1 FOR UPDATE", job.name)
            if about is None:
                return Over("unknown")
            now = await connection.fetchval("SELECT clock_timestamp()")
            run = await _found(connection, tick.run_id)
            if run is None:
                if tick.cause == SCHEDULED and about["paused_at"] is not None:
                    return Over("paused")
                missed = await _missed_before(connection, job, tick, about["counts_from"])
                await connection.execute(
                    _INSERT,
                    *(UUID(tick.run_id), job.name, tick.cause, tick.scheduled_at, tick.requested_by, missed),
                )
                run = await _found(connection, tick.run_id)
                assert run
            return await _decide(connection, job, run, now, worker, lease_seconds)

    async def extend(self, run: Run, worker: str, lease_seconds: float) -> bool:
        """Hold a run longer; False when it is no longer the caller's."""
        async with _translated():
            done = await self._pool.execute(
                "UPDATE job_runs SET lease_until = clock_timestamp() + $4"
                " WHERE id = $1 AND worker = $2 AND attempt = $3 AND outcome = 'running'",
                *(UUID(run.id), worker, run.attempt, timedelta(seconds=lease_seconds)),
            )
        return bool(done == "UPDATE 1")

    async def succeeded(self, run: Run, worker: str, result: Mapping[str, Any] | None) -> bool:
        """Note how a run ended; False when it was no longer the caller's."""
        async with _translated():
            done = await self._pool.execute(
                "UPDATE job_runs SET outcome = 'succeeded', result = $4::jsonb, error = NULL,"
                " ended_at = clock_timestamp(), lease_until = NULL"
                " WHERE id = $1 AND worker = $2 AND attempt = $3 AND outcome = 'running'",
                *(UUID(run.id), worker, run.attempt, _json(result)),
            )
        return bool(done == "UPDATE 1")

    async def failed(
        self, job: Job, run: Run, worker: str, error: str, result: Mapping[str, Any] | None
    ) -> float | None:
        """Note that an attempt failed; return the seconds until the next, or None when there is none."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            failures = await connection.fetchval(
                "UPDATE job_runs SET failures = failures + 1, error = $4, result = $5::jsonb, lease_until = NULL,"
                " outcome = 'waiting', retry_at = clock_timestamp()"
                " WHERE id = $1 AND worker = $2 AND attempt = $3 AND outcome = 'running' RETURNING failures",
                *(UUID(run.id), worker, run.attempt, error, _json(result)),
            )
            if failures is None:
                return None
            wait = retry_after(job, failures)
            if wait is None:
                await _end(connection, run.id, FAILED, error)
            else:
                await connection.execute(
                    "UPDATE job_runs SET retry_at = clock_timestamp() + $2 WHERE id = $1",
                    *(UUID(run.id), timedelta(seconds=wait)),
                )
        return wait

    async def release(self, run: Run, worker: str) -> None:
        """Give a run back that the worker cannot go on with, for another to take up at once."""
        async with _translated():
            await self._pool.execute(
                "UPDATE job_runs SET outcome = 'waiting', retry_at = clock_timestamp(), lease_until = NULL,"
                " error = 'interrupted: its worker was told to stop'"
                " WHERE id = $1 AND worker = $2 AND attempt = $3 AND outcome = 'running'",
                *(UUID(run.id), worker, run.attempt),
            )

    async def request(self, job: str, tick: Tick) -> None:
        """Note a run that somebody asked for, unless it is known already."""
        async with _translated():
            await self._pool.execute(
                _INSERT, UUID(tick.run_id), job, tick.cause, tick.scheduled_at, tick.requested_by, 0
            )

    async def jobs(self, name: str | None = None) -> list[Mapping[str, Any]]:
        """Return every job, or one, each with its last run as `last`."""
        async with _translated():
            found = await self._pool.fetch(_JOBS, name)
        return [{**row, "last": msgspec.json.decode(row["last"]) if row["last"] else None} for row in found]

    async def runs(self, job: str, limit: int, before: tuple[datetime, UUID] | None = None) -> list[Mapping[str, Any]]:
        """Return the newest runs of a job, or those before one."""
        async with _translated():
            found = await self._pool.fetch(
                f"SELECT {_RUN} FROM job_runs WHERE job = $1"
                " AND ($3::timestamptz IS NULL OR (scheduled_at, id) < ($3, $4::uuid))"
                " ORDER BY scheduled_at DESC, id DESC LIMIT $2",
                *(job, limit, *(before or (None, None))),
            )
        return [_run_row(row) for row in found]

    async def run(self, job: str, run_id: str) -> Mapping[str, Any] | None:
        async with _translated():
            row = await self._pool.fetchrow(
                f"SELECT {_RUN} FROM job_runs WHERE job = $1 AND id = $2", job, UUID(run_id)
            )
        return _run_row(row) if row else None

    async def pause(self, job: str, by: str | None) -> None:
        async with _translated():
            await self._pool.execute(
                "UPDATE jobs SET paused_at = coalesce(paused_at, clock_timestamp()),"
                " paused_by = coalesce(paused_by, $2) WHERE name = $1",
                *(job, by),
            )

    async def resume(self, job: str) -> None:
        async with _translated():
            await self._pool.execute(
                "UPDATE jobs SET paused_at = NULL, paused_by = NULL, counts_from = clock_timestamp()"
                " WHERE name = $1 AND paused_at IS NOT NULL",
                job,
            )

    async def trim(self, before: datetime) -> int:
        """Delete runs that ended before a time; return how many. Each job's last stays: it tells what is missed."""
        async with _translated():
            done = await self._pool.execute(
                "DELETE FROM job_runs r WHERE ended_at < $1 AND EXISTS ("
                " SELECT FROM job_runs n WHERE n.job = r.job AND (n.scheduled_at, n.id) > (r.scheduled_at, r.id))",
                before,
            )
        return int(done.split()[-1])


@contextlib.asynccontextmanager
async def open_job_runs(url: str, timeout_seconds: float, *, max_connections: int = 3) -> AsyncIterator[JobRuns]:
    """Open a pool; the first connection is made when it is needed."""
    async with open_pool(url, timeout_seconds, max_connections=max_connections, name="headrace-jobs") as pool:
        yield JobRuns(pool)


async def _decide(
    connection: Connection, job: Job, run: asyncpg.Record, now: datetime, worker: str, lease_seconds: float
) -> Claimed | Wait | Over:
    """Say what becomes of a run that is due and known; its job is locked."""
    run_id, outcome = str(run["id"]), run["outcome"]
    if outcome in ENDED:
        return Over(outcome)
    if outcome == WAITING and run["retry_at"] > now:
        return Wait((run["retry_at"] - now).total_seconds())
    if outcome == RUNNING:
        if run["lease_until"] > now:
            return Wait((run["lease_until"] - now).total_seconds())
        if run["deaths"] + 1 >= MOST_DEATHS:
            await _end(connection, run_id, FAILED, f"its worker died {MOST_DEATHS} times while it ran")
            return Over(FAILED)
    other = await connection.fetchrow(
        "SELECT id, lease_until FROM job_runs WHERE job = $1 AND outcome = 'running' AND id <> $2", job.name, run["id"]
    )
    if other is not None:
        if other["lease_until"] > now:
            return Wait((other["lease_until"] - now).total_seconds())
        # The broker hands out a job's runs in order, so this one's word was lost with the stream.
        await _end(connection, str(other["id"]), FAILED, "its worker died, and the broker knows of it no more")
    if outcome == QUEUED and run["cause"] == SCHEDULED and is_missed(job, run["scheduled_at"], now):
        late = int((now - run["scheduled_at"]).total_seconds())
        await _end(connection, run_id, MISSED, f"nobody could start it for {late} s; {_POLICIES[job.missed]}")
        return Over(MISSED)
    attempt = await connection.fetchval(
        "UPDATE job_runs SET outcome = 'running', attempt = attempt + 1, deaths = deaths + $4, worker = $2,"
        " lease_until = $5::timestamptz + $3::interval, started_at = coalesce(started_at, $5::timestamptz),"
        " retry_at = NULL WHERE id = $1 RETURNING attempt",
        *(run["id"], worker, timedelta(seconds=lease_seconds), int(outcome == RUNNING), now),
    )
    return Claimed(
        Run(run_id, job.name, run["cause"], run["scheduled_at"].astimezone(UTC), attempt), run["missed_before"]
    )


_POLICIES: Final = {"skip": "the job skips what is late", "once": "a newer run makes up for it"}


async def _missed_before(connection: Connection, job: Job, tick: Tick, counts_from: datetime) -> int:
    """Return how often a job was due since its last run without anybody being told, as when the broker was down."""
    if tick.cause != SCHEDULED:
        return 0
    last = await connection.fetchval(
        "SELECT max(scheduled_at) FROM job_runs WHERE job = $1 AND cause = 'schedule' AND scheduled_at < $2",
        *(job.name, tick.scheduled_at),
    )
    return job.schedule.between(max(last or counts_from, counts_from), tick.scheduled_at)


async def _found(connection: Connection, run_id: str) -> asyncpg.Record | None:
    return await connection.fetchrow("SELECT * FROM job_runs WHERE id = $1 FOR UPDATE", UUID(run_id))


async def _end(connection: Connection, run_id: str, outcome: str, error: str) -> None:
    await connection.execute(
        "UPDATE job_runs SET outcome = $2, error = $3, ended_at = clock_timestamp(), lease_until = NULL,"
        " retry_at = NULL WHERE id = $1",
        *(UUID(run_id), outcome, error),
    )


def _run_row(row: asyncpg.Record) -> Mapping[str, Any]:
    return {**row, "result": msgspec.json.decode(row["result"]) if row["result"] else None}


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def unknown_job(name: str, jobs: Sequence[str]) -> RequestError:
    there = ", ".join(sorted(jobs)) or "none yet"
    return RequestError(f"There is no job {name[:60]!r}; there are: {there}.", code="unknown_job", status=404)


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except AWAY as error:
        raise away(error) from error
