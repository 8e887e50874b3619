"""A shadow of one pipeline's facts: tables beside those that are served, to be made anew and swapped in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from headrace.pipeline import Pipeline
from headrace.storage.facts_table import FactsTable
from headrace.storage.pool import open_pool
from headrace.storage.postgres import Facts

if TYPE_CHECKING:
    from headrace.storage.pool import Connection

# What stands in the first is found there before the tables of the same names that are served.
_BOOKS: Final = "headrace_shadow"
_FACTS: Final = "headrace_shadow_facts"
_COUNTED: Final = ("count", "value", "at", "data")


class Shadow:
    """Use `open_shadow`.

    Attributes:
        facts: what to fill; it counts and notes repeats beside what is served.
    """

    def __init__(self, facts: Facts, pipeline: Pipeline) -> None:
        self.facts = facts
        self._pipeline = pipeline
        self._made = FactsTable(pipeline, _FACTS)
        self._served = FactsTable(pipeline)

    async def lock(self, connection: Connection) -> None:
        """Let nobody store facts of the pipeline until the transaction ends."""
        await connection.execute(f"LOCK TABLE {self._served.ledger}, {self._served.name} IN SHARE ROW EXCLUSIVE MODE")

    async def difference(self, connection: Connection, late: Sequence[bytes]) -> tuple[int, int, int, int, int]:
        """Return how many facts there are in the shadow, how many of them are missing, wrong, foreign; wrong counts.

        Args:
            late: ids that the stage need not have stored yet.
        """
        made, served = self._made.ledger, self._served.ledger
        row = await connection.fetchrow(
            f"SELECT (SELECT count(*) FROM {made}) AS n,"
            f" (SELECT count(*) FROM {made} m WHERE NOT EXISTS (SELECT FROM {served} s WHERE s.id = m.id)"
            "   AND NOT m.id = ANY($1::uuid[])) AS missing,"
            f" (SELECT count(*) FROM {made} m JOIN {served} s USING (id) WHERE m.sha256 <> s.sha256) AS wrong,"
            f" (SELECT count(*) FROM {served} s WHERE NOT EXISTS (SELECT FROM {made} m WHERE m.id = s.id)) AS foreign_",
            [bytes(one).hex() for one in late],
        )
        same = " AND ".join(f"m.{name} IS NOT DISTINCT FROM s.{name}" for name in _COUNTED)
        counts = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT * FROM {_BOOKS}.rollups WHERE pipeline = $1) m"
            " FULL JOIN (SELECT * FROM rollups WHERE pipeline = $1) s USING (metric, key, bucket)"
            f" WHERE m.pipeline IS NULL OR s.pipeline IS NULL OR NOT ({same})",
            self._pipeline.name,
        )
        assert row
        return row["n"], row["missing"], row["wrong"], row["foreign_"], int(counts)

    async def swap(self, connection: Connection) -> None:
        """Put what was made in the place of what is served: facts, counts and repeats, in this transaction."""
        name = self._pipeline.name
        await self._served.copy(connection, self._made)
        # Redis takes newer versions only.
        await connection.execute(
            f"UPDATE {_BOOKS}.rollups m SET version = m.version + s.version FROM rollups s"
            " WHERE (m.pipeline, m.metric, m.key, m.bucket) = (s.pipeline, s.metric, s.key, s.bucket)"
        )
        for table in ("rollups", "repeats"):
            await connection.execute(f"DELETE FROM {table} WHERE pipeline = $1", name)
            await connection.execute(f"INSERT INTO {table} SELECT * FROM {_BOOKS}.{table} WHERE pipeline = $1", name)
        await connection.execute("UPDATE projection SET dirty = dirty + 1")


@contextlib.asynccontextmanager
async def open_shadow(facts: Facts, url: str, pipeline: Pipeline, timeout_seconds: float) -> AsyncIterator[Shadow]:
    """Make an empty shadow; it is gone at the end."""
    [row] = await facts.fetch("SELECT current_schema() AS here")
    here = row["here"]
    async with facts.transaction() as connection:
        await _drop(connection)
        await connection.execute(f"CREATE SCHEMA {_BOOKS}")
        await connection.execute(f"CREATE SCHEMA {_FACTS}")
        for table in ("rollups", "repeats"):
            await connection.execute(f"CREATE TABLE {_BOOKS}.{table} (LIKE {table} INCLUDING ALL)")
        await FactsTable(pipeline, _FACTS).prepare(connection)
    try:
        books_first = f"{_BOOKS}, {here}"
        async with open_pool(
            url, timeout_seconds, max_connections=2, name="headrace rebuild", search_path=books_first
        ) as pool:
            yield Shadow(Facts(pool, _FACTS), pipeline)
    finally:
        async with facts.transaction() as connection:
            await _drop(connection)


async def forget_shadow(facts: Facts) -> None:
    """Drop what a rebuild has left that was killed."""
    async with facts.transaction() as connection:
        await _drop(connection)


async def _drop(connection: Connection) -> None:
    await connection.execute(f"DROP SCHEMA IF EXISTS {_BOOKS} CASCADE")
    await connection.execute(f"DROP SCHEMA IF EXISTS {_FACTS} CASCADE")
