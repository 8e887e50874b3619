"""Whole data sets kept in Redis for a while: got from there, or else fetched and put there.

A data set is one hash of its pages, put in place only when all of it was read. It is a copy that may vanish at any
time: where Redis is away or full, that is said and the source is asked.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headrace.document import new_id
from headrace.settings import Settings
from producer.formats import SourceError
from producer.origins.portal import Page

T = TypeVar("T")

_ROWS: Final = b"rows"
_TIMEOUT_SECONDS: Final = 5.0
# What is about to expire would do so while it is read.
_LEAST_LIFE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Kept:
    """A data set that is on the shelf: how many rows it has, and where its pages begin."""

    rows: int
    offsets: list[int]
    page: Callable[[int], Awaitable[Page]]


class Shelf:
    """Use `open_shelf`."""

    def __init__(self, client: Any, namespace: str, life_seconds: int, say: Callable[[str], object]) -> None:
        self._client = client
        self._namespace = namespace
        self._life_seconds = life_seconds
        self._usable = True
        self._say = say

    async def take(self, dataset: str, max_rows: int) -> Kept | None:
        """Return a data set that was read not too long ago. An empty one is no answer and is removed."""
        name = self._name(dataset, max_rows)
        life, rows, fields = await self._attempt(self._look(name), (0, None, []))
        offsets = sorted(int(field) for field in fields if field != _ROWS)
        if rows is None or life < min(_LEAST_LIFE_SECONDS, self._life_seconds // 2):
            return None
        if not int(rows) or not offsets:
            await self._attempt(self._client.delete(name), None)
            return None

        async def page(offset: int) -> Page:
            found = await self._attempt(self._client.hget(name, str(offset)), None)
            if found is None:
                raise SourceError("The copy in Redis went away while it was read; repeat the command.")
            return Page(offset, msgspec.json.decode(zlib.decompress(found)))

        return Kept(int(rows), offsets, page)

    def begin(self, dataset: str, max_rows: int) -> Keeping:
        """Begin to keep a data set; until it is finished, what is there stays there."""
        return Keeping(self, self._name(dataset, max_rows), time.time() + self._life_seconds)

    async def put(self, name: str, field: bytes, value: bytes, expires_at: float) -> None:
        await self._attempt(self._store(name, field, value, expires_at), None)

    async def replace(self, name: str, by: str) -> None:
        await self._attempt(self._client.rename(by, name), None)

    async def remove(self, *names: str) -> None:
        await self._attempt(self._client.delete(*names), None)

    @property
    def usable(self) -> bool:
        return self._usable

    async def _look(self, name: str) -> tuple[int, bytes | None, list[bytes]]:
        async with self._client.pipeline(transaction=True) as batch:
            life, rows, fields = await batch.ttl(name).hget(name, _ROWS).hkeys(name).execute()
        return life, rows, fields

    async def _store(self, name: str, field: bytes, value: bytes, expires_at: float) -> None:
        async with self._client.pipeline(transaction=True) as batch:
            await batch.hset(name, field, value).expireat(name, int(expires_at)).execute()

    async def _attempt(self, doing: Awaitable[T], otherwise: T) -> T:
        if not self._usable:
            cast(Any, doing).close()
            return otherwise
        try:
            return await doing
        except (RedisError, OSError, TimeoutError) as error:
            self._usable = False
            self._say(f"Redis cannot keep the data set ({type(error).__name__}); the source was asked instead.")
            return otherwise

    def _name(self, dataset: str, max_rows: int) -> str:
        return f"headrace:{self._namespace}dataset:{dataset}:{max_rows}"


class Keeping:
    """A data set on its way to the shelf."""

    def __init__(self, shelf: Shelf, name: str, expires_at: float) -> None:
        self._shelf = shelf
        self._name = name
        self._draft = f"{name}:{new_id()}"
        self._expires_at = expires_at

    async def add(self, page: Page) -> None:
        packed = zlib.compress(msgspec.json.encode(page.rows), 1)
        await self._shelf.put(self._draft, str(page.offset).encode(), packed, self._expires_at)

    async def finish(self, rows: int) -> None:
        """Put it in the place of what was there."""
        if not rows:
            await self._shelf.remove(self._name)
            return
        await self._shelf.put(self._draft, _ROWS, str(rows).encode(), self._expires_at)
        if self._shelf.usable:
            await self._shelf.replace(self._name, self._draft)


@contextlib.asynccontextmanager
async def open_shelf(settings: Settings, say: Callable[[str], object]) -> AsyncIterator[Shelf]:
    """Give the shelf; `say` is told once when Redis cannot be used."""
    client = redis.asyncio.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        yield Shelf(client, settings.namespace, settings.producer.cache_seconds, say)
    finally:
        await client.aclose()
