"""What the stores themselves hold, read past Headrace: the other half of every proof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import asyncpg
import redis.asyncio
from pymongo import AsyncMongoClient


async def mongo_ids(facts: Mapping[str, Any], pipeline: str) -> list[str]:
    """Return the id of every document in MongoDB."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(facts["mongo_url"], uuidRepresentation="standard")
    async with client:
        found = client.get_default_database()[pipeline].find({}, {"_id": 1})
        return [str(one["_id"]) async for one in found]


async def postgres_ids(facts: Mapping[str, Any], pipeline: str) -> list[str]:
    """Return the id of every fact in Postgres."""
    return [str(row["id"]) for row in await query(facts, f'SELECT id FROM facts."{pipeline}"')]


async def query(facts: Mapping[str, Any], text: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(facts["postgres_url"])
    try:
        return list(await connection.fetch(text, *arguments))
    finally:
        await connection.close()


async def redis_counts(facts: Mapping[str, Any], pipeline: str, metric: str) -> dict[str, int]:
    """Return {key: count} of a metric as Redis has it; a field is `<bucket><key>`, a value `<version> [count, …]`."""
    async with redis.asyncio.from_url(facts["redis_url"], decode_responses=True) as client:
        found = cast(dict[str, str], await client.hgetall(f"headrace:{pipeline}:{metric}"))
    return {field[field.index("[") :]: int(text.split("[", 1)[1].split(",", 1)[0]) for field, text in found.items()}


async def rollup_counts(facts: Mapping[str, Any], pipeline: str, metric: str) -> dict[str, int]:
    """Return {key: count} of a metric as the rollups in Postgres have it."""
    rows = await query(
        facts,
        "SELECT key, sum(count) AS n FROM rollups WHERE pipeline = $1 AND metric = $2 GROUP BY key",
        pipeline,
        metric,
    )
    return {row["key"]: int(row["n"]) for row in rows}


async def rollup_sums(facts: Mapping[str, Any], pipeline: str, metric: str) -> dict[str, Decimal]:
    rows = await query(facts, "SELECT key, value FROM rollups WHERE pipeline = $1 AND metric = $2", pipeline, metric)
    return {row["key"]: row["value"] for row in rows}


def once_each(ids: list[str]) -> set[str]:
    """Return the ids as a set; fails where one is there twice."""
    twice = [found for found, times in Counter(ids).items() if times > 1]
    assert not twice, f"stored twice: {twice[:5]}"
    for found in ids:
        UUID(found)
    return set(ids)
