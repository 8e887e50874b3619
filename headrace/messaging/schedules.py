"""The jobs' schedules in JetStream: made and checked at start; what is due comes as messages, one run at a time.

A schedule is the last message of `jobs.schedule.<service>.<job>`; by its headers the broker itself publishes to
`jobs.due.<service>.<job>`, by its own clock, once however many processes there are. After a downtime of its own it
publishes once, late, however often the job was due meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import APIError, NotFoundError

from headrace import telemetry
from headrace.document import derived_id, parse_id, parse_time, rfc3339
from headrace.errors import UnavailableError
from headrace.job import MANUAL, SCHEDULED, Job, JobDeclarationError, run_id
from headrace.messaging.connection import Bus
from headrace.settings import Settings
from headrace.storage.job_runs import Tick
from headrace.topology import JOBS, Topology, ensure_jobs, job_consumer

log = telemetry.logger(__name__)

_CRON: Final = "Nats-Schedule"
_ZONE: Final = "Nats-Schedule-Time-Zone"
_TARGET: Final = "Nats-Schedule-Target"
_NEXT: Final = "Nats-Schedule-Next"
_LAST_OF_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence"
_RUN: Final = "Headrace-Run"
_AT: Final = "Headrace-Run-At"
_BY: Final = "Headrace-Run-By"
# The broker's numbers for: the last message of a subject is another one; no such cron; no such time zone.
_ANOTHER: Final = 10071
_REFUSED: Final = {10189: "schedule", 10223: "time zone"}

# Also how long a pull that a dead broker took with it is waited for.
_PULL_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 1.0


async def ensure_schedules(bus: Bus, settings: Settings, service: str, jobs: Sequence[Job]) -> None:
    """Make the stream, a consumer for each job, and schedules that are missing or differ; drop those of no job.

    Raises:
        JobDeclarationError: the broker does not take a schedule.
        UnavailableError: JetStream is away or refuses.
    """
    await ensure_jobs(bus, settings)
    topology = Topology(settings.namespace)
    stream = topology.stream(JOBS)
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    on = {job.name: job for job in jobs if job.off is None}
    with _translated():
        for job in on.values():
            await js.add_consumer(stream, topology.job_consumer_config(service, job.name, settings))
            await _ensure_schedule(js, topology, service, job)
        for name in await _of_service(js, topology, stream, service):
            if name not in on:
                await js.purge_stream(stream, subject=topology.job_schedule(service, name))
                await js.purge_stream(stream, subject=topology.job_due(service, name))
                with contextlib.suppress(NotFoundError):
                    await js.delete_consumer(stream, job_consumer(service, name))
                log.info("job_schedule_dropped", job=name)


async def mend_schedules(bus: Bus, settings: Settings, service: str, jobs: Sequence[Job]) -> None:
    """Make anew what is gone, such as by a purge; a schedule that differs may be a newer version's, and stays.

    Raises:
        UnavailableError: JetStream is away or refuses.
    """
    await ensure_jobs(bus, settings)
    topology = Topology(settings.namespace)
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    with _translated():
        for job in jobs:
            if job.off is None:
                config = topology.job_consumer_config(service, job.name, settings)
                await js.add_consumer(topology.stream(JOBS), config)
                if await _schedule(js, topology, service, job.name) is None:
                    log.warning("job_schedule_missing", job=job.name)
                    await _ensure_schedule(js, topology, service, job)


async def _of_service(js: Any, topology: Topology, stream: str, service: str) -> list[str]:
    """Return the jobs of which a service has schedules."""
    info = await js.stream_info(stream, subjects_filter=topology.job_schedule(service, "*"))
    return [subject.rpartition(".")[2] for subject in info.state.subjects or {}]


async def _schedule(js: Any, topology: Topology, service: str, name: str) -> Any:
    """Return the message that is a job's schedule, or None."""
    with contextlib.suppress(NotFoundError):
        return await js.get_last_msg(topology.stream(JOBS), topology.job_schedule(service, name))
    return None


async def _ensure_schedule(js: Any, topology: Topology, service: str, job: Job) -> None:
    wanted = {_CRON: job.schedule.cron, _TARGET: topology.job_due(service, job.name)}
    if job.zone != "UTC":
        wanted[_ZONE] = job.zone
    found = await _schedule(js, topology, service, job.name)
    has = (found.headers or {}) if found else {}
    if all(has.get(name) == wanted.get(name) for name in (_CRON, _ZONE, _TARGET)):
        # To publish it again would put off what is due just now.
        return
    headers = {**wanted, _LAST_OF_SUBJECT: str(found.seq if found else 0)}
    try:
        await js.publish(topology.job_schedule(service, job.name), b"", headers=headers)
    except APIError as error:
        if error.err_code in _REFUSED:
            raise JobDeclarationError(
                f"Job {job.name}: the broker does not take its {_REFUSED[error.err_code]} "
                f"({job.schedule.cron!r} in {job.zone}): {error.description}."
            ) from None
        # Another instance was first.
        if error.err_code != _ANOTHER:
            raise
        return
    log.info("job_scheduled", job=job.name, cron=job.schedule.cron, zone=job.zone)


async def request_run(bus: Bus, settings: Settings, service: str, job: str, tick: Tick) -> None:
    """Have a job run as soon as it can; the same run asked for twice is one.

    Raises:
        UnavailableError: it is not known to be on disk; ask again with the same id.
    """
    headers = {_RUN: tick.run_id, _AT: rfc3339(tick.scheduled_at), "Nats-Msg-Id": tick.run_id}
    if tick.requested_by:
        headers[_BY] = tick.requested_by
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds / 2)
    with _translated():
        await js.publish(Topology(settings.namespace).job_due(service, job), b"", headers=headers)


@dataclass(frozen=True, slots=True)
class Due:
    """A tick in a worker's hands; until it is settled nothing more of its job comes, to nobody."""

    tick: Tick
    _bus: Bus
    _reply: str

    async def ack(self) -> None:
        # An ack that is lost brings the tick again, and the history says that it is done.
        with contextlib.suppress(nats.errors.Error):
            await self._bus.client.publish(self._reply, b"+ACK")

    async def nak(self, delay_seconds: float) -> None:
        with contextlib.suppress(nats.errors.Error):
            await self._bus.client.publish(self._reply, b'-NAK {"delay": %d}' % max(1, int(delay_seconds * 1e9)))

    async def in_progress(self) -> None:
        with contextlib.suppress(nats.errors.Error):
            await self._bus.client.publish(self._reply, b"+WPI")


class Ticks:
    """Use `open_ticks`."""

    def __init__(self, bus: Bus, settings: Settings, service: str, job: Job) -> None:
        topology = Topology(settings.namespace)
        self._bus = bus
        self._job = job
        self.inbox = bus.client.new_inbox()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{topology.stream(JOBS)}.{job_consumer(service, job.name)}"
        self._pulls = 0
        self._answers: asyncio.Queue[Msg] = asyncio.Queue()
        self._deaf = False

    async def next(self) -> Due:
        """Return the next run that is due, whenever that is; cancelling it loses nothing."""
        while True:
            over = False
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                answer = await self._pull()
                if isinstance(answer, Due):
                    return answer
                over = answer
            if not over:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _pull(self) -> Due | bool:
        """Return what is due; True when nothing was for a while, False when the broker cannot say."""
        self._pulls += 1
        reply = f"{self.inbox}.{self._pulls}"
        request = json.dumps({"batch": 1, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        await self._bus.client.publish(self._next, request, reply=reply)
        async with asyncio.timeout(_PULL_SECONDS + _AGAIN_SECONDS):
            while True:
                message = await self._answers.get()
                if message.reply.startswith("$JS.ACK."):
                    return Due(tick_of(self._job, message), self._bus, message.reply)
                # The end of an earlier pull, which we gave up before it, is none of this one's.
                if message.subject == reply:
                    return (message.headers or {}).get("Status") in ("404", "408")

    async def _received(self, message: Msg) -> None:
        if self._deaf and message.reply.startswith("$JS.ACK."):
            with contextlib.suppress(nats.errors.Error):
                await self._bus.client.publish(message.reply, b"-NAK")
            return
        self._answers.put_nowait(message)

    async def _close(self) -> None:
        """Give back what came and nobody took."""
        self._deaf = True
        while not self._answers.empty():
            await self._received(self._answers.get_nowait())


@contextlib.asynccontextmanager
async def open_ticks(bus: Bus, settings: Settings, service: str, job: Job) -> AsyncIterator[Ticks]:
    """Be told of the runs of a job that are due while the body runs."""
    ticks = Ticks(bus, settings, service, job)
    subscription = await bus.client.subscribe(f"{ticks.inbox}.*", cb=ticks._received)
    try:
        yield ticks
    finally:
        await ticks._close()
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


def tick_of(job: Job, message: Msg) -> Tick:
    """Return which run a message means; who published it may have been anybody with the right to."""
    headers = message.headers or {}
    fired_at = message.metadata.timestamp
    if _RUN in headers:
        return Tick(_id(headers[_RUN]), MANUAL, _time(headers.get(_AT)) or fired_at, headers.get(_BY))
    scheduled_at = job.schedule.due_at(fired_at, _time(headers.get(_NEXT)))
    return Tick(run_id(job.name, scheduled_at), SCHEDULED, scheduled_at)


def _id(text: str) -> str:
    try:
        return str(parse_id(text))
    except ValueError:
        return derived_id("job", text)


def _time(text: str | None) -> datetime | None:
    with contextlib.suppress(ValueError):
        moment = parse_time(text or "")
        return moment if moment.tzinfo else None
    return None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(
            f"JetStream cannot keep the jobs' schedules: {type(error).__name__}.",
            code="jetstream_unavailable",
            retry_after_seconds=2,
        ) from error
