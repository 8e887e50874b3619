"""What the streams hold of some minutes, document by document, and how far the stages are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, cast

import msgspec
import nats.errors
from nats.js.errors import APIError

from headrace.document import ACCEPTED_HEADER, BLOCK_HEADER, COUNT_HEADER, Block, derived_id, parse_time
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.messaging.consumer import BlockConsumer, Delivery
from headrace.messaging.retained import Retained, next_retained, retained
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.tally import is_whole
from headrace.topology import CLEAN, DEAD, RAW, STAGES, Topology
from workers.outcome import Item
from workers.unpack import unpack

# Clocks of the gateway's machine and of the broker's need not agree.
_SKEW: Final = timedelta(minutes=1)
_INDEX_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2

Occurrence = tuple[int, Item]


@dataclass(frozen=True)
class Progress:
    """How far the stages were at one moment.

    Attributes:
        floors: by stage, the sequence up to which everything is settled.
        horizon: what was accepted from here on may be on its way.
    """

    floors: Mapping[str, int]
    horizon: datetime


@dataclass
class Held:
    """What RAW and CLEAN hold of some minutes.

    Attributes:
        raw, clean: where each document stands, by its id.
        raw_blocks: every block of RAW in that time, whatever its minutes; clean ones are of CLEAN.
        corrupt: blocks of RAW with other bytes than were accepted: (sequence, block, documents, minute).
        whole: whether both streams go back to before these minutes.
    """

    raw: dict[str, list[Occurrence]] = field(default_factory=dict)
    clean: dict[str, list[Occurrence]] = field(default_factory=dict)
    raw_blocks: set[str] = field(default_factory=set)
    clean_blocks: set[str] = field(default_factory=set)
    corrupt: list[tuple[int, str, int, datetime]] = field(default_factory=list)
    whole: bool = True


def minute_of(moment: str) -> datetime:
    return parse_time(moment).astimezone(UTC).replace(second=0, microsecond=0)


class Streams:
    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._topology = Topology(settings.namespace)
        self._js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)

    async def progress(self) -> Progress:
        """Return how far the stages are. The dead letters up to then are in their index, or it is said that not.

        Raises:
            UnavailableError: JetStream is away, or the index of dead letters is far behind.
        """
        try:
            floors = {}
            horizon = datetime.max.replace(tzinfo=UTC)
            for stage in STAGES.values():
                stream = self._topology.stream(stage.stream)
                info = await self._js.consumer_info(stream, stage.name)
                floors[stage.name] = info.ack_floor.stream_seq if info.ack_floor else 0
                if stage.name != DEAD.lower() and ((info.num_pending or 0) or (info.num_ack_pending or 0)):
                    horizon = min(horizon, await self._first_waiting(stage.stream, floors[stage.name]))
            await self._indexed()
        except (APIError, nats.errors.Error, TimeoutError) as error:
            raise UnavailableError(
                f"JetStream cannot say how far the stages are ({type(error).__name__}).", code="jetstream_unavailable"
            ) from error
        return Progress(floors, horizon.replace(second=0, microsecond=0))

    async def _first_waiting(self, name: str, floor: int) -> datetime:
        """Return when the first block that is not settled was accepted."""
        found = await next_retained(self._bus, self._topology.stream(name), floor + 1)
        if found is None:
            return datetime.now(UTC)
        stored_at = parse_time(found.stored_at)
        # The time stands at the same place in every line of ours; a bare one is accepted when it is stored.
        try:
            return min([stored_at, *(parse_time(line[53:80].decode()) for line in found.data.splitlines())])
        except (ValueError, TypeError):
            return stored_at

    async def _indexed(self) -> None:
        stream = self._topology.stream(DEAD)
        last = (await self._js.stream_info(stream)).state.last_seq
        patience = time.monotonic() + _INDEX_SECONDS
        while True:
            info = await self._js.consumer_info(stream, "dead")
            if not (info.num_pending or info.num_ack_pending) or (info.ack_floor and info.ack_floor.stream_seq >= last):
                return
            if time.monotonic() > patience:
                raise UnavailableError(
                    "The index of dead letters is behind, so that nobody can say what is missing; is stage dead"
                    " running?",
                    code="reconcile_pending",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def held(self, pipeline: Pipeline, minutes: Set[datetime]) -> Held:
        """Return what the streams hold of some minutes.

        Raises:
            UnavailableError: they cannot be read.
        """
        since = min(minutes) - _SKEW
        held = Held(whole=await self._goes_back(RAW, since) and await self._goes_back(CLEAN, since))
        for subject in (self._topology.raw(pipeline.name), self._topology.ingest(pipeline.name)):
            async for message in retained(self._bus, self._topology.stream(RAW), subject=subject, since=since):
                self._raw(held, pipeline, minutes, message)
        clean = self._topology.clean(pipeline.name)
        async for message in retained(self._bus, self._topology.stream(CLEAN), subject=clean, since=since):
            delivery = self._delivery(message, pipeline)
            held.clean_blocks.add(delivery.block.id)
            _keep(held.clean, unpack(pipeline, delivery), message.sequence, minutes)
        return held

    def _raw(self, held: Held, pipeline: Pipeline, minutes: Set[datetime], message: Retained) -> None:
        delivery = self._delivery(message, pipeline)
        held.raw_blocks.add(delivery.block.id)
        if not delivery.bare and not is_whole(message.headers.get(ACCEPTED_HEADER, ""), message.data):
            minute = minute_of(message.stored_at)
            held.corrupt.append((message.sequence, delivery.block.id, delivery.block.count, minute))
            return
        _keep(held.raw, unpack(pipeline, delivery), message.sequence, minutes)

    async def _goes_back(self, name: str, since: datetime) -> bool:
        found = await next_retained(self._bus, self._topology.stream(name), 1)
        if found is None:
            try:
                return (await self._js.stream_info(self._topology.stream(name))).state.last_seq == 0
            except (APIError, nats.errors.Error, TimeoutError) as error:
                raise UnavailableError(f"{name} cannot be read.", code="jetstream_unavailable") from error
        return found.sequence <= 1 or parse_time(found.stored_at) <= since

    def _delivery(self, message: Retained, pipeline: Pipeline) -> Delivery:
        """Return a message as its stage was given it."""
        bare = self._topology.is_bare(message.subject)
        block = "" if bare else message.headers.get(BLOCK_HEADER, "")
        block = block or derived_id("bare", str(message.sequence), message.stored_at)
        count = message.headers.get(COUNT_HEADER, "1")
        return Delivery(
            Block(block, pipeline.name, message.data, int(count) if count.isdecimal() else 1),
            bare,
            1,
            message.stored_at,
            dict(message.headers),
            "",
            cast("BlockConsumer", None),
        )


def _keep(places: dict[str, list[Occurrence]], items: list[Item], sequence: int, minutes: Set[datetime]) -> None:
    for item in items:
        if minute_of(item.envelope.time) in minutes:
            # A copy, or the whole block would stay in memory for it.
            item.envelope.data = msgspec.Raw(bytes(item.envelope.data))
            places.setdefault(item.envelope.id, []).append((sequence, item))
