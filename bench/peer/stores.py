"""The peer's three stores."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bson import Decimal128
from pymongo import AsyncMongoClient
from pymongo.errors import BulkWriteError, DuplicateKeyError
from redis.asyncio import Redis
from sqlalchemy import DateTime, Numeric
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipelines.invoices import StoredInvoiceLine

COLLECTION = "peer_invoices"
_DUPLICATE_KEY = 11000


class Base(DeclarativeBase):
    pass


class InvoiceRow(Base):
    __tablename__ = "peer_invoices"

    id: Mapped[str] = mapped_column(primary_key=True)
    invoice_no: Mapped[str]
    stock_code: Mapped[str]
    description: Mapped[str]
    quantity: Mapped[int]
    invoice_date: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    unit_price: Mapped[Decimal] = mapped_column(Numeric)
    customer_id: Mapped[str]
    country: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(Numeric)
    cancelled: Mapped[bool]


class Stores:
    """Use `open_stores`."""

    def __init__(self, mongo: AsyncMongoClient[dict[str, Any]], sessions: Any, redis: Redis) -> None:
        self._invoices = mongo.get_default_database()[COLLECTION]
        self._sessions: async_sessionmaker[AsyncSession] = sessions
        self._redis = redis

    async def store(self, id_: str, line: StoredInvoiceLine) -> None:
        """Store one invoice line everywhere."""
        with suppress(DuplicateKeyError):
            await self._invoices.insert_one(_document(id_, line))
        await self._insert([{"id": id_, **line.__dict__}])
        await self._count([line])

    async def store_many(self, lines: Sequence[tuple[str, StoredInvoiceLine]]) -> None:
        """Store a batch of invoice lines everywhere."""
        try:
            await self._invoices.insert_many([_document(id_, line) for id_, line in lines], ordered=False)
        except BulkWriteError as error:
            if any(one["code"] != _DUPLICATE_KEY for one in error.details["writeErrors"]):
                raise
        await self._insert([{"id": id_, **line.__dict__} for id_, line in lines])
        await self._count([line for _, line in lines])

    async def _insert(self, rows: list[dict[str, Any]]) -> None:
        async with self._sessions() as session, session.begin():
            await session.execute(insert(InvoiceRow).on_conflict_do_nothing(), rows)

    async def _count(self, lines: Sequence[StoredInvoiceLine]) -> None:
        minute = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M")
        async with self._redis.pipeline(transaction=False) as pipe:
            for line in lines:
                amount = float(line.amount)
                pipe.hincrbyfloat("peer:revenue_by_country", line.country, amount)
                pipe.hincrbyfloat("peer:revenue_by_product", line.stock_code, amount)
                pipe.hincrbyfloat("peer:revenue_by_day", line.invoice_date.date().isoformat(), amount)
                pipe.hincrby("peer:top_products", line.stock_code, line.quantity)
                pipe.hincrby("peer:lines_by_country", line.country, 1)
                pipe.hincrby("peer:per_minute", minute, 1)
            await pipe.execute()


@asynccontextmanager
async def open_stores() -> AsyncIterator[Stores]:
    engine = create_async_engine(
        os.environ["PEER_POSTGRES_URL"].replace("postgresql://", "postgresql+asyncpg://"), pool_size=10
    )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with (
        AsyncMongoClient[dict[str, Any]](os.environ["PEER_MONGO_URL"]) as mongo,
        Redis.from_url(os.environ["PEER_REDIS_URL"]) as redis,
    ):
        yield Stores(mongo, async_sessionmaker(engine, expire_on_commit=False), redis)
    await engine.dispose()


def _document(id_: str, line: StoredInvoiceLine) -> dict[str, Any]:
    document = {"_id": id_, **line.__dict__}
    # BSON has no place for Python's own.
    return document | {name: Decimal128(document[name]) for name in ("unit_price", "amount")}
