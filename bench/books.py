"""What the stores hold, ours and the peer's: a rate counts only if everything that was accepted arrived."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from pymongo import AsyncMongoClient

from bench.peer.stores import COLLECTION as PEER_COLLECTION
from bench.peer.stores import InvoiceRow
from bench.stack import BenchError, Stack

_OURS = "invoices"


@contextlib.asynccontextmanager
async def balanced(stack: Stack) -> AsyncIterator[Counter[str]]:
    """Give a counter for the body to note what was accepted, as `ours` and `peer`; at the end compare.

    Raises:
        BenchError: a store gained more or fewer documents.
    """
    before = await _stored(stack)
    accepted: Counter[str] = Counter()
    yield accepted
    after = await _stored(stack)
    for (side, store), count in after.items():
        if count - before[side, store] != accepted[side]:
            raise BenchError(f"{side}: {accepted[side]} accepted, {count - before[side, store]} in {store}")


async def _stored(stack: Stack) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    postgres = await asyncpg.connect(stack.urls["postgres_url"])
    try:
        for side, table in (("ours", f"facts.{_OURS}"), ("peer", InvoiceRow.__tablename__)):
            there = await postgres.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
            found[side, "postgres"] = await postgres.fetchval(f"SELECT count(*) FROM {table}") if there else 0
    finally:
        await postgres.close()
    async with AsyncMongoClient[dict[str, Any]](stack.urls["mongo_url"]) as mongo:
        database = mongo.get_default_database()
        for side, collection in (("ours", _OURS), ("peer", PEER_COLLECTION)):
            found[side, "mongo"] = await database[collection].estimated_document_count()
    return found
