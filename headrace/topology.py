"""Streams, subjects and consumers: the only file that spells them. Made and checked at start; drift is reported.

Every stream is on disk, keeps limits retention and refuses when full (`discard: new`), so nothing
that was accepted is ever dropped. A namespace prefixes all names, so several Headraces can share a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError

from headrace import telemetry
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.settings import MAX_BLOCK_BYTES, Settings

log = telemetry.logger(__name__)

RAW: Final = "RAW"
CLEAN: Final = "CLEAN"
DEAD: Final = "DEAD"
STREAMS: Final = (RAW, CLEAN, DEAD)
# The jobs' schedules, and what is due by them; not among STREAMS, since no document passes through it.
JOBS: Final = "JOBS"
# Of one job; what a service that was away for longer missed is told from the history.
_MOST_TICKS: Final = 1000
# Of RAW, headers and envelope included; what it takes can be refused later, by whoever it was sent.
MAX_RAW_BYTES: Final = MAX_BLOCK_BYTES + (40 << 10)


@dataclass(frozen=True)
class StageTopology:
    """Which stream a stage reads, under which durable name."""

    name: str
    stream: str
    headers_only: bool = False


STAGES: Final[Mapping[str, StageTopology]] = {
    stage.name: stage
    for stage in (
        StageTopology("refine", RAW),
        StageTopology("journal", RAW, headers_only=True),
        StageTopology("documents", CLEAN),
        StageTopology("facts", CLEAN),
        StageTopology("dead", DEAD),
    )
}


@dataclass(frozen=True)
class Topology:
    """All names, for one namespace."""

    namespace: str = ""

    def stream(self, name: str) -> str:
        return f"{self.namespace.upper()}_{name}" if self.namespace else name

    def raw(self, pipeline: str) -> str:
        return f"{self.namespace}raw.{pipeline}"

    def ingest(self, pipeline: str) -> str:
        return f"{self.namespace}ingest.{pipeline}"

    def ingest_topic(self, pipeline: str) -> str:
        """Return the MQTT topic that the server's own listener maps to `ingest`."""
        return self.ingest(pipeline).replace(".", "/")

    def clean(self, pipeline: str) -> str:
        return f"{self.namespace}clean.{pipeline}"

    def dead(self, pipeline: str) -> str:
        return f"{self.namespace}dead.{pipeline}"

    def stored(self, sink: str, pipeline: str) -> str:
        """Return the core NATS subject on which a sink says which documents it has stored."""
        return f"{self.namespace}events.{sink}.{pipeline}"

    # What a service may do with these is in roles.py: keep the schedules of its own jobs, take what is due of them;
    # analytics publishes what somebody asks to be run, too.
    def job_schedule(self, service: str, job: str) -> str:
        """Return the subject whose last message is a job's schedule."""
        return f"{self.namespace}jobs.schedule.{service}.{job}"

    def job_due(self, service: str, job: str) -> str:
        """Return the subject on which a job is told to run, by the broker's clock or by somebody."""
        return f"{self.namespace}jobs.due.{service}.{job}"

    def stream_subjects(self, name: str) -> list[str]:
        """Return the subjects of a stream."""
        ns = self.namespace
        return [f"{ns}raw.*", f"{ns}ingest.*"] if name == RAW else [f"{ns}{name.lower()}.*"]

    def pipeline_of(self, subject: str) -> str:
        return subject.rpartition(".")[2]

    def is_bare(self, subject: str) -> bool:
        """Return whether a message holds a bare document, from a publisher that is not the gateway."""
        return subject.startswith(f"{self.namespace}ingest.")

    def stream_configs(self, settings: Settings) -> list[StreamConfig]:
        sizes = settings.streams
        subjects = {
            RAW: (self.stream_subjects(RAW), sizes.raw_max_bytes, MAX_RAW_BYTES),
            CLEAN: (self.stream_subjects(CLEAN), sizes.clean_max_bytes, -1),
            DEAD: (self.stream_subjects(DEAD), sizes.dead_max_bytes, -1),
        }
        return [
            StreamConfig(
                name=self.stream(name),
                subjects=names,
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                max_bytes=max_bytes,
                max_msg_size=max_msg_size,
                num_replicas=settings.nats.replicas,
                duplicate_window=sizes.duplicate_window_seconds,
                allow_direct=True,
            )
            for name, (names, max_bytes, max_msg_size) in subjects.items()
        ]

    def jobs_config(self, settings: Settings) -> StreamConfig:
        return StreamConfig(
            name=self.stream(JOBS),
            subjects=[f"{self.namespace}jobs.schedule.*.*", f"{self.namespace}jobs.due.*.*"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            # A stream with schedules cannot refuse when full (the broker says so), and one that drops its oldest
            # would drop the schedules themselves. So no size is set: what bounds it is messages per subject.
            discard=DiscardPolicy.OLD,
            max_bytes=-1,
            max_msgs_per_subject=_MOST_TICKS,
            max_msg_size=4096,
            num_replicas=settings.nats.replicas,
            duplicate_window=settings.streams.duplicate_window_seconds,
            allow_direct=True,
            allow_msg_schedules=True,
        )

    def job_consumer_config(self, service: str, job: str, settings: Settings) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=job_consumer(service, job),
            filter_subject=self.job_due(service, job),
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=settings.jobs.lease_seconds,
            max_deliver=-1,
            # One run of a job at a time, in order, whoever asks.
            max_ack_pending=1,
        )

    def consumer_config(self, stage: StageTopology, settings: Settings) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=stage.name,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=settings.workers.ack_wait_seconds,
            # The worker counts attempts itself; past max_deliver JetStream would drop the matter without a word.
            max_deliver=-1,
            max_ack_pending=4096,
            max_waiting=512,
            headers_only=stage.headers_only or None,
        )


async def ensure(bus: Bus, settings: Settings) -> list[str]:
    """Make the streams and consumers that are missing; return what differs from what we would make.

    A difference is reported and left alone, but for sizes and limits that can change in place.

    Raises:
        UnavailableError: JetStream is away or refuses.
    """
    topology = Topology(settings.namespace)
    drift: list[str] = []
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    try:
        for config in topology.stream_configs(settings):
            drift += await _ensure_stream(js, config)
        for stage in STAGES.values():
            await ensure_consumer(bus, settings, stage)
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(f"JetStream cannot make the streams: {error}.", code="jetstream_unavailable") from error
    for difference in drift:
        log.warning("topology_drift", difference=difference)
    return drift


async def ensure_jobs(bus: Bus, settings: Settings) -> None:
    """Make the stream of the jobs' schedules, or bring what can change in it up to date.

    Raises:
        UnavailableError: JetStream is away or refuses.
    """
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    try:
        drift = await _ensure_stream(js, Topology(settings.namespace).jobs_config(settings))
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(f"JetStream cannot make {JOBS}: {error}.", code="jetstream_unavailable") from error
    for difference in drift:
        log.warning("topology_drift", difference=difference)


def job_consumer(service: str, job: str) -> str:
    """Return the name of the durable consumer that hands a service the runs of one of its jobs."""
    return f"{service}-{job}"


async def ensure_streams(bus: Bus, settings: Settings) -> None:
    """Make the streams that are missing, and leave those that are there as they are; the workers tend them.

    Raises:
        UnavailableError: JetStream is away or refuses.
    """
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    try:
        for config in Topology(settings.namespace).stream_configs(settings):
            await _made_stream(js, config)
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(f"JetStream cannot make the streams: {error}.", code="jetstream_unavailable") from error


async def ensure_consumer(bus: Bus, settings: Settings, stage: StageTopology) -> ConsumerInfo:
    """Make or update the durable consumer of a stage."""
    topology = Topology(settings.namespace)
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    stream = topology.stream(stage.stream)
    return await js.add_consumer(stream, topology.consumer_config(stage, settings))


async def _made_stream(js: Any, wanted: StreamConfig) -> StreamInfo | None:
    """Return how a stream is that was there already; make it, and return None, where it was not."""
    try:
        return await js.stream_info(wanted.name)  # type: ignore[no-any-return]
    except NotFoundError:
        try:
            await js.add_stream(wanted)
        except APIError as error:
            # 10058: another process made it between our two requests.
            if error.err_code != 10058:
                raise
        return None


async def _ensure_stream(js: Any, wanted: StreamConfig) -> list[str]:
    info = await _made_stream(js, wanted)
    if info is None:
        return []
    found = info.config
    changeable = ("max_bytes", "max_msg_size", "max_msgs_per_subject", "duplicate_window", "num_replicas", "subjects")
    fixed = ("retention", "storage", "discard")
    drift = [
        f"stream {wanted.name}: {name} is {getattr(found, name)!r}, not {getattr(wanted, name)!r}"
        for name in fixed
        if getattr(found, name) != getattr(wanted, name)
    ]
    if not drift and any(_differs(getattr(found, name), getattr(wanted, name)) for name in changeable):
        await js.update_stream(wanted)
        log.info("stream_updated", stream=wanted.name)
    return drift


def _differs(found: Any, wanted: Any) -> bool:
    return sorted(found) != sorted(wanted) if isinstance(wanted, list) else found != wanted


async def stream_fills(bus: Bus, settings: Settings) -> dict[str, float]:
    """Return bytes over limit for each stream that is there, by its short name."""
    topology = Topology(settings.namespace)
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    infos = await asyncio.gather(*(js.stream_info(topology.stream(name)) for name in STREAMS))
    fills: dict[str, float] = {}
    for name, info in zip(STREAMS, infos, strict=True):
        limit = info.config.max_bytes or 0
        fills[name] = info.state.bytes / limit if limit > 0 else 0.0
        telemetry.stream_bytes.labels(name).set(info.state.bytes)
        telemetry.stream_fill.labels(name).set(fills[name])
    return fills


async def purge_settled(bus: Bus, settings: Settings, stream: str) -> int:
    """Purge the oldest blocks of a stream, half of those that every stage has settled; return how many.

    DEAD is never purged: dead letters stay until somebody resolves them.
    """
    if stream == DEAD:
        return 0
    topology = Topology(settings.namespace)
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    name = topology.stream(stream)
    floors = [
        (await js.consumer_info(name, stage.name)).ack_floor for stage in STAGES.values() if stage.stream == stream
    ]
    first = (await js.stream_info(name)).state.first_seq
    settled = min((floor.stream_seq if floor else 0) for floor in floors)
    keep_from = first + (settled - first + 1) // 2
    if keep_from <= first:
        return 0
    await js.purge_stream(name, seq=keep_from)
    log.info("stream_purged", stream=stream, blocks=keep_from - first)
    return keep_from - first
