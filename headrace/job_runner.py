"""Runs the jobs of a service: takes what is due, holds it while it works, notes how it ended, and only then acks.

One run of a job is at work at a time, across all processes: the broker hands out the next only when the one before is
settled, and Postgres gives each run to one worker, under a lease that the worker extends. A worker that dies extends
nothing, so broker and lease give the run to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace import telemetry
from headrace.errors import HeadraceError, UnavailableError
from headrace.job import FAILED, MISSED, SUCCEEDED, Job, JobDeclarationError, JobFailedError, Run
from headrace.messaging.connection import Bus
from headrace.messaging.schedules import Due, ensure_schedules, mend_schedules, open_ticks
from headrace.settings import JobSettings, Settings
from headrace.storage.job_runs import Claimed, JobRuns, Over, Wait, open_job_runs
from headrace.tasks import end

log = telemetry.logger(__name__)

_START_SECONDS: Final = 1.0
_AWAY_SECONDS: Final = 2.0
_MEND_SECONDS: Final = 30.0
_STORE_SECONDS: Final = 5.0
_MOST_ERROR: Final = 500


@contextlib.asynccontextmanager
async def jobs_running(
    bus: Bus, settings: Settings, service: str, jobs: Sequence[Job], stop: asyncio.Event
) -> AsyncIterator[None]:
    """Run the jobs of a service while the body runs, once Postgres and JetStream are there.

    What is at work when `stop` is set has `jobs.drain_seconds` to end; then it is given to another process.

    Raises:
        JobDeclarationError: a job cannot be as it is declared; later, in the body, as part of a group, when it is the
            broker that refuses it.
    """
    jobs = adjusted(jobs, settings.jobs)
    if not settings.jobs.enabled:
        yield
        return
    async with asyncio.TaskGroup() as tasks:
        runner = tasks.create_task(run_jobs(bus, settings, service, jobs, stop))
        try:
            yield
        finally:
            # Until `stop` only where the body failed: then nothing more can be done.
            if not stop.is_set():
                await end(runner)


def adjusted(jobs: Sequence[Job], settings: JobSettings) -> list[Job]:
    """Return the jobs with the schedules and the zone that the settings give them.

    Raises:
        JobDeclarationError: a schedule or the zone in the settings is none.
    """
    try:
        return [
            replace(
                job,
                when=settings.schedules.get(job.name, job.when),
                zone=settings.zone if job.zone == "UTC" else job.zone,
            )
            for job in jobs
        ]
    except JobDeclarationError as error:
        raise JobDeclarationError(
            f"{error.detail} (HEADRACE_JOBS__SCHEDULES and HEADRACE_JOBS__ZONE set schedules.)"
        ) from None


async def run_jobs(bus: Bus, settings: Settings, service: str, jobs: Sequence[Job], stop: asyncio.Event) -> None:
    """Run the jobs of a service until `stop` is set.

    Raises:
        JobDeclarationError: the broker does not take a schedule.
    """
    async with open_job_runs(settings.postgres_url.get_secret_value(), _STORE_SECONDS) as history:

        async def prepare() -> None:
            await history.prepare()
            await history.register(service, jobs)
            await ensure_schedules(bus, settings, service, jobs)

        if not await _until_there(prepare, stop):
            return
        log.info("jobs_started", jobs=[job.name for job in jobs if job.off is None])
        async with asyncio.TaskGroup() as tasks:
            mender = tasks.create_task(_mend(bus, settings, service, jobs))
            worker = f"{socket.gethostname()}:{os.getpid()}:{service}"
            at_work = [
                tasks.create_task(_Hands(bus, settings, service, job, history, worker, stop).work())
                for job in jobs
                if job.off is None
            ]
            await stop.wait()
            for task in at_work:
                await task
            await end(mender)


async def _until_there(prepare: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
    """Return True when all is prepared, False when told to stop before."""
    waited = False
    while not stop.is_set():
        try:
            await prepare()
            return True
        except UnavailableError as error:
            if not waited:
                log.warning("jobs_wait", reason=error.detail)
            waited = True
        await _sleep(_START_SECONDS, stop)
    return False


async def _mend(bus: Bus, settings: Settings, service: str, jobs: Sequence[Job]) -> None:
    while True:
        await asyncio.sleep(_MEND_SECONDS)
        try:
            await mend_schedules(bus, settings, service, jobs)
        except UnavailableError as error:
            log.warning("schedules_unavailable", reason=error.detail)


class _Lost(Exception):
    """The run is no longer ours, or may not be."""


class _Stopped(Exception):
    """The process is to end, and the run did not in time."""


@dataclass
class _Hands:
    """What one process does for one job."""

    bus: Bus
    settings: Settings
    service: str
    job: Job
    history: JobRuns
    worker: str
    stop: asyncio.Event

    async def work(self) -> None:
        """Take up what is due until told to stop."""
        while not self.stop.is_set():
            try:
                async with open_ticks(self.bus, self.settings, self.service, self.job) as ticks:
                    while (due := await _first(ticks.next(), self.stop)) is not None:
                        await self._take_up(due)
            except Exception:
                # A bug of ours in one job must not end the service, nor its other jobs.
                log.exception("job_hands_failed", job=self.job.name)
                await _sleep(_AWAY_SECONDS, self.stop)

    async def _take_up(self, due: Due) -> None:
        try:
            found = await self.history.claim(self.job, due.tick, self.worker, self.settings.jobs.lease_seconds)
        except UnavailableError as error:
            log.warning("job_history_away", job=self.job.name, reason=error.detail)
            await due.nak(_AWAY_SECONDS)
            return
        match found:
            case Over(why):
                if why in (FAILED, MISSED):
                    log.warning("job_run_let_go", job=self.job.name, run=due.tick.run_id, outcome=why)
                    telemetry.job_runs.labels(self.job.name, why).inc()
                if why == MISSED:
                    telemetry.job_missed.labels(self.job.name).inc()
                await due.ack()
            case Wait(seconds):
                await due.nak(seconds + 0.05)
            case Claimed(run, missed_before):
                if run.attempt == 1 and missed_before:
                    telemetry.job_missed.labels(self.job.name).inc(missed_before)
                    log.warning("job_was_missed", job=self.job.name, times=missed_before)
                await self._carry_out(run, due)

    async def _carry_out(self, run: Run, due: Due) -> None:
        """Do a run's work, and note how it ended."""
        about = {"job": run.job, "run": run.id, "attempt": run.attempt}
        log.debug("job_started", scheduled_at=run.scheduled_at.isoformat(), cause=run.cause, **about)
        began = time.monotonic()
        try:
            result = await self._result(run, due)
            error: str | None = None
        except _Lost:
            log.error("job_run_lost", **about)
            return
        except _Stopped:
            log.warning("job_interrupted", **about)
            with contextlib.suppress(UnavailableError):
                await self.history.release(run, self.worker)
            await due.nak(0)
            return
        except Exception as failure:
            result = failure.result if isinstance(failure, JobFailedError) else None
            error = self._error(failure, about)
        seconds = time.monotonic() - began
        telemetry.job_seconds.labels(run.job).observe(seconds)
        wait = await self._note(run, due, result, error)
        if wait is not None:
            telemetry.job_retries.labels(run.job).inc()
            log.warning("job_retries", error=error, retry_in_seconds=wait, **about)
            await due.nak(wait)
            return
        outcome = SUCCEEDED if error is None else FAILED
        telemetry.job_runs.labels(run.job, outcome).inc()
        say = log.info if error is None else log.error
        say("job_ended", outcome=outcome, error=error, seconds=round(seconds, 3), **about)
        await due.ack()

    async def _result(self, run: Run, due: Due) -> Mapping[str, Any] | None:
        """Do a run's work while its lease holds.

        Raises:
            _Lost, _Stopped: it has been cut short.
            Exception: it failed.
        """
        work = asyncio.ensure_future(self.job.work(run))
        keeper = asyncio.create_task(self._keep(run, due))
        stopper = asyncio.create_task(self._drained())
        try:
            await asyncio.wait(
                {work, keeper, stopper}, timeout=self.job.timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                if work.cancelled():
                    raise JobFailedError("its work was cancelled")
                return work.result()
            if keeper.done():
                raise _Lost
            if stopper.done():
                raise _Stopped
            raise JobFailedError(f"did not end within {self.job.timeout_seconds:g} s")
        finally:
            await end(*(task for task in (work, keeper, stopper) if not task.done()))

    async def _keep(self, run: Run, due: Due) -> None:
        """Extend lease and delivery; return when the lease is lost, or may be."""
        lease = self.settings.jobs.lease_seconds
        held_until = time.monotonic() + lease
        while time.monotonic() < held_until - lease / 6:
            await asyncio.sleep(lease / 6)
            await due.in_progress()
            with contextlib.suppress(UnavailableError):
                asked = time.monotonic()
                if not await self.history.extend(run, self.worker, lease):
                    return
                held_until = asked + lease

    async def _drained(self) -> None:
        await self.stop.wait()
        await asyncio.sleep(self.settings.jobs.drain_seconds)

    async def _note(self, run: Run, due: Due, result: Mapping[str, Any] | None, error: str | None) -> float | None:
        """Write into the history how an attempt ended, however long Postgres is away; return the wait before the next.

        The work is done, and would be done again if nobody heard of it.
        """
        while True:
            try:
                if error is not None:
                    return await self.history.failed(self.job, run, self.worker, error, result)
                await self.history.succeeded(run, self.worker, result)
                return None
            except UnavailableError as away:
                if self.stop.is_set():
                    return _AWAY_SECONDS
                log.warning("job_history_away", job=run.job, run=run.id, reason=away.detail)
            await due.in_progress()
            await _sleep(min(_AWAY_SECONDS, self.settings.jobs.lease_seconds / 3), self.stop)

    def _error(self, failure: Exception, about: Mapping[str, Any]) -> str:
        """Return what the history may say of a failure; a bug's own words may quote anything, so they go to the log."""
        if isinstance(failure, HeadraceError):
            return failure.detail[:_MOST_ERROR]
        log.error("job_broke", exc_info=failure, **about)
        return f"{type(failure).__name__}; the log of {self.service} has it"


async def _first(coming: Any, stop: asyncio.Event) -> Due | None:
    """Return what comes, or None when told to stop before."""
    task, stopped = asyncio.ensure_future(coming), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            due: Due = task.result()
            if stop.is_set():
                await due.nak(0)
                return None
            return due
        return None
    finally:
        await end(*(one for one in (task, stopped) if not one.done()))


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
