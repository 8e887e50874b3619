"""Postgres for the auth service: transactions that answer or fail in seconds, and the schema brought up to date."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from auth.models import SCHEMA
from headrace.errors import UnavailableError

# Shorter than the deadline of a mesh request, so the caller hears why.
_POOL_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 2.0
_COMMAND_SECONDS: Final = 2.0
_MIGRATION_SECONDS: Final = 60.0
_CONNECTIONS: Final = 8

# Any number will do, as long as every instance takes the same.
_LOCK: Final = 0x68656164_61757468


class Database:
    """The pool; connections are made when they are needed and replaced when they break."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @contextlib.asynccontextmanager
    async def transaction(self, *, lock: bool = False) -> AsyncIterator[AsyncSession]:
        """Run the body in one transaction, committed at its end.

        Args:
            lock: let only one instance of the service run such a body at a time.

        Raises:
            UnavailableError: Postgres is away, slow or starting.
        """
        with _unavailable_if_away():
            async with self._sessions.begin() as session:
                if lock:
                    await session.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
                yield session


@contextlib.asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Open the pool on a `postgresql://` URL; needs no server yet."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=_connector(url, _COMMAND_SECONDS),
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_pre_ping=True,
    )
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


async def migrate(url: str) -> None:
    """Bring the schema up to date; several instances may do so at once, and one of them does it.

    Raises:
        UnavailableError: Postgres is away.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=_connector(url, _MIGRATION_SECONDS), poolclass=NullPool
    )
    with _unavailable_if_away():
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
            await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _connector(url: str, command_seconds: float) -> Callable[[], Awaitable[asyncpg.Connection]]:
    # asyncpg reads the URL itself, so every option that libpq knows, such as sslmode, works.
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            url,
            timeout=_CONNECT_SECONDS,
            command_timeout=command_seconds,
            server_settings={"application_name": "headrace-auth", "statement_timeout": f"{command_seconds:.0f}s"},
        )

    return connect


@contextlib.contextmanager
def _unavailable_if_away() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        # Our own mistakes.
        raise
    except (OSError, DBAPIError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UnavailableError(
            f"The user database is away ({type(error).__name__}).", code="postgres_unavailable", retry_after_seconds=2
        ) from error
