"""Reads CLEAN for those who make a store anew: every document that a sink would store, in the stream's order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from headrace.document import BLOCK_HEADER, envelopes, id_bytes
from headrace.errors import HeadraceError, UnavailableError
from headrace.messaging.connection import Bus
from headrace.pipeline import Pipeline
from headrace.settings import Settings
from headrace.storage.postgres import Facts
from headrace.topology import CLEAN, Topology
from workers.outcome import Item, Stage

_BLOCKS: Final = 64
_FETCH_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 300.0
_REFUSED: Final = """
SELECT block, document_id, ordinal FROM dead_letters
WHERE pipeline = $1 AND stage = $2 AND state IN ('dead', 'discarded')
"""

Place = tuple[str, str, int]


class RebuildError(HeadraceError):
    """The store cannot be made anew; nothing was changed."""

    default_code = "rebuild_failed"


async def refused_by(facts: Facts, pipeline: Pipeline, sink: str) -> set[Place]:
    """Return what a sink has refused for good: it stays a dead letter, whatever the sink would say today."""
    found = await facts.fetch(_REFUSED, pipeline.name, sink)
    return {(str(row["block"]), str(row["document_id"]), row["ordinal"]) for row in found}


def purged(pipeline: Pipeline, foreign: int) -> RebuildError:
    return RebuildError(
        f"CLEAN has been purged and does not hold {foreign} documents of {pipeline.name} any more, so they cannot be"
        " made from it; nothing was changed."
    )


class Reading:
    """The clean blocks of a pipeline, read once and on, as one sink gets them."""

    def __init__(self, bus: Bus, settings: Settings, pipeline: Pipeline, sink: str, refused: set[Place]) -> None:
        self._js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
        topology = Topology(settings.namespace)
        self._stream = topology.stream(CLEAN)
        self._subject = topology.clean(pipeline.name)
        self._pipeline = pipeline
        self._sink = sink
        self._refused = refused
        self._next = 1
        self._blocks: list[tuple[int, list[bytes]]] = []

    async def settled(self) -> int:
        """Return the sequence up to which the sink has settled everything."""
        floor = (await self._js.consumer_info(self._stream, self._sink)).ack_floor
        return floor.stream_seq if floor else 0

    async def purged(self) -> bool:
        return (await self._js.stream_info(self._stream)).state.first_seq > 1

    def later_than(self, sequence: int) -> set[bytes]:
        """Return the ids that were read from blocks behind a sequence."""
        return {one for seq, ids in self._blocks if seq > sequence for one in ids}

    async def to_the_end(self, sink: Stage) -> None:
        """Store what is read from where the reading before ended to where the stream ends now.

        Raises:
            UnavailableError: NATS or the store is away.
        """
        try:
            async for message in self._messages():
                items = self._items(message)
                if items:
                    await sink.apply(self._pipeline, items)
                sequence = message.metadata.sequence.stream
                self._blocks.append((sequence, [id_bytes(item.envelope.id) for item in items]))
                self._next = sequence + 1
        except (nats.errors.Error, TimeoutError) as error:
            raise UnavailableError(
                f"CLEAN cannot be read ({type(error).__name__}).", code="nats_unavailable"
            ) from error

    async def _messages(self) -> AsyncIterator[Msg]:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._next,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_IDLE_SECONDS,
        )
        subscription = await self._js.pull_subscribe(self._subject, stream=self._stream, config=config)
        try:
            pending = (await subscription.consumer_info()).num_pending or 0
            while pending:
                for message in await subscription.fetch(min(_BLOCKS, pending), timeout=_FETCH_SECONDS):
                    yield message
                    pending = message.metadata.num_pending
        finally:
            await subscription.unsubscribe()

    def _items(self, message: Msg) -> list[Item]:
        """Return the documents that the stage would store: not those that it has refused, or that are not for it."""
        block = (message.headers or {}).get(BLOCK_HEADER, "")
        try:
            found = envelopes(message.data)
        except (msgspec.DecodeError, ValueError):
            # What is no block the stage has refused as a whole.
            return []
        items = [Item(one, one.block or block) for one in found if one.sink in ("", self._sink)]
        return [item for item in items if (item.block, item.envelope.id, item.envelope.ordinal) not in self._refused]
