"""Looks for one document among the blocks that are not settled yet, in the order of their way: RAW, CLEAN, DEAD."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import nats.errors

from analytics.consumers import Consumers
from headrace.document import DeadLetter, dead_letters, envelopes
from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.messaging.retained import Retained, retained
from headrace.topology import CLEAN, DEAD, RAW, STAGES, Topology

_SCANS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class InFlight:
    """A document that is on its way.

    Attributes:
        received_at: when it was accepted, RFC 3339.
        letter: where a stage has refused it already, and only the index of dead letters does not know.
    """

    received_at: str
    letter: DeadLetter | None = None


class Backlog:
    def __init__(self, bus: Bus, topology: Topology, consumers: Consumers, scan_seconds: float) -> None:
        self._bus = bus
        self._topology = topology
        self._consumers = consumers
        self._scan_seconds = scan_seconds
        self._scans = asyncio.Semaphore(_SCANS_AT_ONCE)

    async def find(self, pipeline: str, document_id: str) -> InFlight | None:
        """Return a document that is on its way, or None where surely none of that id was when the scan began.

        Args:
            document_id: in its canonical form.

        Raises:
            UnavailableError: the backlog could not be read to its end in time (503 `state_unknown`).
        """
        try:
            async with asyncio.timeout(self._scan_seconds), self._scans:
                return await self._scan(pipeline, document_id)
        except (TimeoutError, nats.errors.Error):
            raise _unknown("The document is in no store, and the backlog is too long to be searched now.") from None

    async def _scan(self, pipeline: str, document_id: str) -> InFlight | None:
        lags = self._consumers.lags or await self._consumers.sample()
        # A line starts with its id; the same text inside of a document is told apart when the block is decoded.
        needle = b'{"id":"%b"' % document_id.encode()
        bare = False
        for stream in (RAW, CLEAN, DEAD):
            # The journal reads headers alone and is no stop on a document's way.
            stops = [stage.name for stage in STAGES.values() if stage.stream == stream and not stage.headers_only]
            first = min(lags[stop].settled for stop in stops) + 1
            async with contextlib.aclosing(self._blocks(stream, first, pipeline)) as blocks:
                async for message in blocks:
                    bare = bare or self._topology.is_bare(message.subject)
                    if needle in message.data and (found := _found(stream, message.data, document_id)):
                        return found
        if bare:
            raise _unknown("The backlog holds bare documents, whose ids are not known before they are refined.")
        return None

    async def _blocks(self, stream: str, first: int, pipeline: str) -> AsyncGenerator[Retained, None]:
        try:
            async with contextlib.aclosing(retained(self._bus, self._topology.stream(stream), first=first)) as messages:
                async for message in messages:
                    if self._topology.pipeline_of(message.subject) == pipeline:
                        yield message
        except UnavailableError:
            raise _unknown("The document is in no store, and the backlog cannot be read now.") from None


def _found(stream: str, block: bytes, document_id: str) -> InFlight | None:
    if stream == DEAD:
        letters = (letter for letter in dead_letters(block) if letter.id == document_id)
        return next((InFlight(letter.time, letter) for letter in letters), None)
    return next((InFlight(envelope.time) for envelope in envelopes(block) if envelope.id == document_id), None)


def _unknown(why: str) -> UnavailableError:
    return UnavailableError(f"{why} Ask again.", code="state_unknown", retry_after_seconds=1)
