"""Reads everything that the checker judges, past Headrace: the stores by their own clients, the journals from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import asyncpg
import redis.asyncio
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection

from tests.faults.checker import Counts, Letter, Observed, Stored
from tests.faults.journal import Fate, Line, Outcome, fates
from tests.faults.payload import PIPELINE, content_of, payload

# By an arithmetic that is not the product's: what each metric of `ticks` must say, of the rows that are there.
_LEDGER = """
SELECT 'by_group' AS metric, "group" AS key, 0::bigint AS bucket, count(*) AS n, NULL::numeric AS v
  FROM facts.ticks GROUP BY 2
UNION ALL SELECT 'sizes', "group", 0, count(*), sum(size) FROM facts.ticks GROUP BY 2
UNION ALL SELECT 'least', "group", 0, count(*), min(size) FROM facts.ticks GROUP BY 2
UNION ALL SELECT 'per_minute', NULL, extract(epoch FROM date_trunc('minute', received_at))::bigint, count(*), NULL
  FROM facts.ticks GROUP BY 3
"""
_ROLLUPS = """
SELECT metric, key, extract(epoch FROM bucket)::bigint AS bucket, count AS n, value AS v
FROM rollups WHERE pipeline = 'ticks'
"""
METRICS = ("by_group", "sizes", "least", "per_minute")


@dataclass(frozen=True)
class Stores:
    """Where the stores are."""

    mongo_url: str
    postgres_url: str
    redis_url: str
    namespace: str = ""


async def observe(stores: Stores, seed: int, lines: Sequence[Line], **more: Any) -> Observed:
    """Return all that there is to judge; `more` are attributes of it that only the caller knows."""
    broken = ""
    try:
        known = fates(lines)
    except ValueError as error:
        known, broken = {}, str(error)
    answers = [line for line in lines if isinstance(line, Outcome)]
    return await observe_stores(stores, seed, known, answers=answers, broken_journal=broken, **more)


async def observe_stores(stores: Stores, seed: int, known: Mapping[str, Fate], **more: Any) -> Observed:
    connection = await asyncpg.connect(stores.postgres_url)
    try:
        rows = await connection.fetch(
            f"SELECT id, encode(sha256, 'hex') AS sha256, name, \"group\", size, filler, refused FROM facts.{PIPELINE}"
        )
        facts = [Stored(str(r["id"]), r["name"], r["sha256"], _content(dict(r))) for r in rows]
        letters = [
            _letter(row)
            for row in await connection.fetch(
                "SELECT document_id, stage, code, body FROM dead_letters WHERE pipeline = $1", PIPELINE
            )
        ]
        ledger = {
            (
                row["metric"],
                "[]" if row["key"] is None else json.dumps([row["key"]], ensure_ascii=False),
                row["bucket"],
            ): (
                row["n"],
                None if row["v"] is None else int(row["v"]),
            )
            for row in await connection.fetch(_LEDGER)
        }
        rollups = {
            (row["metric"], row["key"], row["bucket"]): (row["n"], None if row["v"] is None else int(row["v"]))
            for row in await connection.fetch(_ROLLUPS)
        }
    finally:
        await connection.close()
    return Observed(
        fates=known,
        payloads=lru_cache(maxsize=None)(lambda name: payload(seed, name)),
        documents=await _documents(stores.mongo_url),
        facts=facts,
        letters=letters,
        redis=await _projected(stores),
        rollups=rollups,
        ledger=ledger,
        **more,
    )


def _content(fields: Mapping[str, Any]) -> str:
    """Return the digest of a tick's own fields, whatever else stands beside them."""
    return content_of({name: fields.get(name) for name in ("name", "group", "size", "filler", "refused")})


async def _documents(url: str) -> list[Stored]:
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(url, uuidRepresentation="standard") as client:
        collection: AsyncCollection[dict[str, Any]] = client.get_default_database()[PIPELINE]
        found = collection.find({}).batch_size(5000)
        return [Stored(str(one["_id"]), one["name"], one["_meta"]["sha256"], _content(one)) async for one in found]


def _letter(row: asyncpg.Record) -> Letter:
    body: bytes = row["body"]
    try:
        name = str(json.loads(body)["name"])
    except (ValueError, KeyError, TypeError):
        name = f"no tick: {body[:40]!r}"
    return Letter(str(row["document_id"]), name, row["stage"], row["code"], hashlib.sha256(body).hexdigest())


async def _projected(stores: Stores) -> Counts:
    """Return what Redis holds; a field is `<bucket><key>`, a value `<version> [count, value, …]`."""
    counts: dict[tuple[str, str, int], tuple[int, int | None]] = {}
    async with redis.asyncio.from_url(stores.redis_url, decode_responses=True) as client:
        for metric in METRICS:
            key = f"headrace:{stores.namespace}{PIPELINE}:{metric}"
            for place, text in cast(dict[str, str], await client.hgetall(key)).items():
                bucket, bracket, rest = place.partition("[")
                count, value, *_ = json.loads(text.partition(" ")[2])
                counts[metric, bracket + rest, int(bucket)] = (count, None if value is None else int(Decimal(value)))
    return counts
