"""The mesh at a glance: who is alive, how far the stages are, how full the streams; and everybody's metrics.

All of it is dear to ask for, so it is asked for once a second at most, however many look.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from gateway.door import Door
from headrace import telemetry
from headrace.document import now, rfc3339
from headrace.errors import UnavailableError
from headrace.topology import STAGES, StageTopology, Topology, stream_fills

OPENMETRICS: Final = "application/openmetrics-text"


class _Whose(msgspec.Struct):
    """The first line of a process's metrics: whose they are."""

    service: str
    instance: str


async def look(door: Door) -> bytes:
    """Return {services, consumers, streams, at} as JSON.

    Raises:
        UnavailableError: NATS or JetStream is away.
    """
    if not door.bus.connected:
        raise UnavailableError("The message bus is away.", code="nats_unavailable", retry_after_seconds=2)
    try:
        answers, consumers, fills = await asyncio.gather(
            door.statuses.ask(),
            _consumers(door),
            stream_fills(door.bus, door.settings),
        )
    except (nats.errors.Error, APIError, TimeoutError) as error:
        raise UnavailableError(
            f"JetStream does not answer ({type(error).__name__}).", code="jetstream_unavailable", retry_after_seconds=2
        ) from error
    seen = {
        "services": sorted((_service(answer) for answer in answers), key=lambda one: (one["name"], one["id"])),
        "consumers": consumers,
        "streams": [{"name": name, "fill": fill} for name, fill in fills.items()],
        "at": now(),
    }
    return msgspec.json.encode(seen)


async def metrics(door: Door) -> Exposition:
    """Return the metrics of every live process, told apart by the labels `service` and `instance`.

    While NATS is away, or this process was too slow to answer itself, this process's own are there all the same.
    """
    found: dict[tuple[str, str], bytes] = {}
    if door.bus.connected:
        try:
            for answer in await door.metrics.ask():
                first, _, rest = answer.partition(b"\n")
                whose = msgspec.json.decode(first, type=_Whose)
                found[whose.service, whose.instance] = rest
        except nats.errors.Error:
            found.clear()
    if not any(service == "gateway" for service, _ in found):
        found["gateway", "this"] = telemetry.snapshot()
    labelled = [
        ({"service": service, "instance": instance}, body) for (service, instance), body in sorted(found.items())
    ]
    # In a thread, since it takes some milliseconds, and the hot route shares this loop.
    return await asyncio.to_thread(exposed, telemetry.Merged(labelled))


@dataclass(frozen=True, slots=True)
class Exposition:
    """Metrics as text, in both of the formats that scrapers ask for."""

    openmetrics: bytes
    prometheus: bytes

    def for_accept(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its media type for an Accept header."""
        if OPENMETRICS in accept:
            return self.openmetrics, openmetrics.CONTENT_TYPE_LATEST
        return self.prometheus, exposition.CONTENT_TYPE_PLAIN_0_0_4


def exposed(merged: telemetry.Merged) -> Exposition:
    return Exposition(
        openmetrics=openmetrics.generate_latest(merged),  # type: ignore[no-untyped-call]
        prometheus=exposition.generate_latest(merged),
    )


def _service(answer: bytes) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode(answer)
    return {**told, "since": rfc3339(datetime.fromtimestamp(told["since"], UTC))}


async def _consumers(door: Door) -> list[dict[str, Any]]:
    js = door.bus.client.jetstream(timeout=door.settings.nats.request_timeout_seconds)
    topology = Topology(door.settings.namespace)
    return list(await asyncio.gather(*(_consumer(js, topology, stage) for stage in STAGES.values())))


async def _consumer(js: JetStreamContext, topology: Topology, stage: StageTopology) -> dict[str, Any]:
    stream = topology.stream(stage.stream)
    told: dict[str, Any] = {
        "name": stage.name,
        "stream": stage.stream,
        "pending_blocks": None,
        "ack_pending_blocks": None,
        "oldest_pending_seconds": None,
    }
    try:
        info = await js.consumer_info(stream, stage.name)
    except NotFoundError:
        return told
    pending, ack_pending = info.num_pending or 0, info.num_ack_pending or 0
    floor = info.ack_floor.stream_seq if info.ack_floor else 0
    age = await _age_seconds(js, stream, floor + 1) if pending or ack_pending else 0.0
    return {**told, "pending_blocks": pending, "ack_pending_blocks": ack_pending, "oldest_pending_seconds": age}


async def _age_seconds(js: JetStreamContext, stream: str, sequence: int) -> float:
    """Return the age of the first block from a sequence on; 0 where there is none."""
    try:
        block = await js.get_msg(stream, seq=sequence, subject=">", direct=True, next=True)
    except NotFoundError:
        return 0.0
    assert block.time is not None
    return round(max(0.0, (datetime.now(UTC) - block.time).total_seconds()), 3)
