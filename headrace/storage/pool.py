"""Connections to Postgres, for the modules that know its tables."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg

from headrace.errors import UnavailableError

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


class Database(Protocol):
    """What runs statements, and tells what fails in them as `away` does."""

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]: ...

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


# What is the server's fault, or the way's to it. A missing table or right is among it: an operator can mend it, and
# nothing is dropped meanwhile.
AWAY: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A connection that broke in the middle of an operation.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@contextlib.asynccontextmanager
async def open_pool(
    url: str, timeout_seconds: float, *, max_connections: int, name: str, search_path: str | None = None
) -> AsyncIterator[Pool]:
    """Open a pool; the first connection is made when it is needed.

    Args:
        name: what Postgres calls its connections.
        search_path: where tables are looked for, if not where the server says.
    """
    settings = {"application_name": name, "statement_timeout": str(int(timeout_seconds * 1000))}
    if search_path is not None:
        settings["search_path"] = search_path
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_connections,
        timeout=min(timeout_seconds, 5),
        command_timeout=timeout_seconds,
        max_inactive_connection_lifetime=60,
        server_settings=settings,
    )
    await pool
    try:
        yield pool
    finally:
        pool.terminate()


def away(error: BaseException) -> UnavailableError:
    """Return what to tell of an error that is one of AWAY."""
    what = "refuses" if isinstance(error, asyncpg.SyntaxOrAccessError) else "is away"
    return UnavailableError(
        f"Postgres {what} ({type(error).__name__}).", code="postgres_unavailable", retry_after_seconds=2
    )
