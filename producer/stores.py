"""The stores themselves, asked for ids by their own drivers: what the proof after a run rests on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from headrace.errors import UnavailableError
from headrace.storage.mongo import Documents, open_documents
from producer.prove import Stores

_TIMEOUT_SECONDS: Final = 20.0
# The embedded server's time for a list of ids grows with its square: 20 at once take three quarters of the time for
# each that 50 do, and 200 take three times as long.
_MONGO_AT_ONCE: Final = 20
# While it looks for some, we make the next question.
_MONGO_SIDE_BY_SIDE: Final = 3


@dataclass(frozen=True, slots=True)
class _MongoCollection:
    documents: Documents
    pipeline: str
    entity: bool
    name: str = "documents"

    async def rows(self, ids: Sequence[bytes]) -> list[bytes]:
        # MongoDB has an id once or not at all: `_id` is unique.
        turns = asyncio.Semaphore(_MONGO_SIDE_BY_SIDE)

        async def look(start: int) -> set[UUID]:
            asked = [UUID(bytes=one) for one in ids[start : start + _MONGO_AT_ONCE]]
            async with turns:
                return await self.documents.present(self.pipeline, asked, entity=self.entity)

        found = await asyncio.gather(*(look(start) for start in range(0, len(ids), _MONGO_AT_ONCE)))
        return [one.bytes for there in found for one in there]


@dataclass(frozen=True, slots=True)
class _PostgresTable:
    pool: asyncpg.Pool
    name: str
    query: str

    async def rows(self, ids: Sequence[bytes]) -> list[bytes]:
        try:
            found = await self.pool.fetch(self.query, [UUID(bytes=one) for one in ids])
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise UnavailableError(f"Postgres cannot say what it stored ({type(error).__name__}).") from error
        return [UUID(str(row["id"])).bytes for row in found]


@asynccontextmanager
async def open_stores(mongo_url: str, postgres_url: str, pipeline: str, *, entity: bool) -> AsyncIterator[Stores]:
    """Open both stores for reading.

    Args:
        pipeline: its name, which is a plain lower-case word.
        entity: whether the pipeline keeps newest versions; all versions then lie apart.

    Raises:
        UnavailableError: a store is away.
    """
    table = f'facts."{pipeline}_versions"' if entity else f'facts."{pipeline}"'
    async with open_documents(mongo_url, _TIMEOUT_SECONDS) as documents:
        try:
            pool = await asyncpg.create_pool(postgres_url, min_size=1, max_size=2, command_timeout=_TIMEOUT_SECONDS)
        except (asyncpg.PostgresError, OSError, TimeoutError) as error:
            raise UnavailableError(f"Postgres is away ({type(error).__name__}).") from error
        try:
            yield Stores(
                sinks=(
                    _MongoCollection(documents, pipeline, entity),
                    _PostgresTable(pool, "facts", f"SELECT id FROM {table} WHERE id = ANY($1::uuid[])"),
                ),
                # A letter that was replayed lives on as the document it became.
                dead=_PostgresTable(
                    pool,
                    "dead",
                    "SELECT document_id AS id FROM dead_letters"
                    " WHERE document_id = ANY($1::uuid[]) AND state <> 'replayed'",
                ),
            )
        finally:
            await pool.close()
