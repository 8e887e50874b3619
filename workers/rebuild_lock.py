"""One rebuild at a time: two would fill and swap in the same shadow."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from headrace.storage.postgres import Facts
from workers.clean_reading import RebuildError

# Any number will do, so long as all rebuilds use the same.
_LOCK: Final = 0x48454145


@contextlib.asynccontextmanager
async def alone(facts: Facts) -> AsyncIterator[None]:
    """Be the only rebuild on this database while the body runs; it ends with the connection, whatever happens.

    Raises:
        RebuildError: another one runs.
    """
    async with facts.transaction() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            raise RebuildError(
                "Another rebuild or reconciliation is running; let it end first.", code="rebuild_running"
            )
        yield
