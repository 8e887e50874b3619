"""Finds the document that kills its worker, across the deaths.

What is being tried is written to a key-value bucket before it is tried. A block that comes again is first
tried whole and alone; if its worker dies at that, document by document; a document at which a worker
died twice is the poison. Everything else of the block goes on.

Only deaths count: a try that ended in an error, as when a store is away, is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec
import nats.errors
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue

from headrace.errors import UnavailableError
from headrace.messaging.connection import Bus
from headrace.settings import Settings

# Stands where a document's place in its block would, for all of them at once.
WHOLE: Final = -1
_DEATHS_AT_ONE_DOCUMENT = 2
_KEPT_SECONDS = 7 * 86400


class Marker(msgspec.Struct):
    """What a worker was doing with a block.

    Attributes:
        attempt: the delivery it wrote this at; one that died there never meets that number again.
        trying: place of the document that is being tried by itself, or `WHOLE`.
        deaths: {place or `WHOLE`: times a worker died}.
    """

    attempt: int = 0
    trying: int | None = None
    deaths: dict[int, int] = {}

    def found_at(self, attempt: int) -> Marker:
        """Return what a worker at this delivery makes of it: a try that an earlier one left unfinished was a death."""
        deaths = dict(self.deaths)
        if self.trying is not None and self.attempt != attempt:
            deaths[self.trying] = deaths.get(self.trying, 0) + 1
        return Marker(attempt, None, deaths)

    def died_whole(self) -> bool:
        return WHOLE in self.deaths

    def poison(self) -> set[int]:
        """Return the places of the documents that are given up."""
        return {p for p, times in self.deaths.items() if p != WHOLE and times >= _DEATHS_AT_ONE_DOCUMENT}


class Probes:
    """Use `open_probes`.

    Attributes:
        one_by_one: held by who tries the documents of a block by themselves. One block at a time in a process:
            of two, the innocent one would share the blame for its worker's death.
    """

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket
        self.one_by_one = asyncio.Lock()

    async def find(self, stage: str, block: str, attempt: int) -> Marker:
        """Return the marker that an earlier worker left, as found at this delivery."""
        with _translated():
            try:
                entry = await self._bucket.get(_key(stage, block))
            except KeyNotFoundError:
                return Marker(attempt)
        return msgspec.json.decode(entry.value or b"{}", type=Marker).found_at(attempt)

    @contextlib.asynccontextmanager
    async def trying(self, stage: str, block: str, marker: Marker, place: int) -> AsyncIterator[None]:
        """Try something in the body: its worker's death there will be known, an error is taken back."""
        await self._write(stage, block, msgspec.structs.replace(marker, trying=place))
        try:
            yield
        except Exception:
            with contextlib.suppress(UnavailableError):
                await self._write(stage, block, marker)
            raise

    async def _write(self, stage: str, block: str, marker: Marker) -> None:
        with _translated():
            await self._bucket.put(_key(stage, block), msgspec.json.encode(marker))

    async def forget(self, stage: str, block: str) -> None:
        # The block is settled; a marker that stays is never looked for again, and expires.
        with contextlib.suppress(UnavailableError), _translated():
            await self._bucket.purge(_key(stage, block))


async def open_probes(bus: Bus, settings: Settings) -> Probes:
    js = bus.client.jetstream(timeout=settings.nats.request_timeout_seconds)
    name = f"{settings.namespace}probes"
    with _translated():
        try:
            return Probes(await js.key_value(name))
        except BucketNotFoundError:
            config = KeyValueConfig(bucket=name, ttl=_KEPT_SECONDS, history=1, replicas=settings.nats.replicas)
            return Probes(await js.create_key_value(config))


def _key(stage: str, block: str) -> str:
    return f"{stage}.{block}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (APIError, nats.errors.Error, TimeoutError) as error:
        raise UnavailableError(f"JetStream is away ({type(error).__name__}).", code="jetstream_unavailable") from error
