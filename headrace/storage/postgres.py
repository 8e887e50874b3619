"""Postgres: the typed facts, the rollups counted from them in the same transaction, and the ledger's books."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

import asyncpg

from headrace.document import DeadLetter, parse_time, rfc3339
from headrace.pipeline import Pipeline
from headrace.rollup import Row, RowKey
from headrace.storage import dead_letters
from headrace.storage.facts_table import Fact, FactsTable, Known, column_of, quoted, refused
from headrace.storage.pool import AWAY, away, open_pool
from headrace.storage.redis import Projected
from headrace.tally import Tally

if TYPE_CHECKING:
    from headrace.storage.pool import Connection

_SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS facts;
CREATE TABLE IF NOT EXISTS rollups (
    pipeline text NOT NULL, metric text NOT NULL, key text NOT NULL, bucket timestamptz NOT NULL,
    kind text NOT NULL, count bigint NOT NULL, value numeric, at timestamptz, data text, version bigint NOT NULL,
    PRIMARY KEY (pipeline, metric, key, bucket)
) WITH (fillfactor = 80);
CREATE TABLE IF NOT EXISTS journal (
    block uuid PRIMARY KEY, pipeline text NOT NULL, documents integer NOT NULL, stored_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS repeats (
    block uuid NOT NULL, id uuid NOT NULL, ordinal integer NOT NULL, pipeline text NOT NULL,
    PRIMARY KEY (block, id, ordinal)
);
ALTER TABLE repeats ADD COLUMN IF NOT EXISTS received_at timestamptz, ADD COLUMN IF NOT EXISTS sender text;
CREATE INDEX IF NOT EXISTS repeats_by_received_at ON repeats USING brin (received_at);
CREATE TABLE IF NOT EXISTS journal_minutes (
    pipeline text NOT NULL, minute timestamptz NOT NULL, documents bigint NOT NULL, digest numeric NOT NULL,
    untold bigint NOT NULL, PRIMARY KEY (pipeline, minute)
);
CREATE TABLE IF NOT EXISTS projection (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), run_id text NOT NULL DEFAULT '',
    dirty bigint NOT NULL DEFAULT 0, clean bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS reconciled (
    pipeline text PRIMARY KEY, at timestamptz NOT NULL, since timestamptz NOT NULL, until timestamptz NOT NULL,
    findings bigint NOT NULL, repaired bigint NOT NULL
);
INSERT INTO projection DEFAULT VALUES ON CONFLICT DO NOTHING;
"""
# Any number will do, so long as all processes use the same.
_MIGRATION_LOCK: Final = 0x48454144

_UPSERT_ROLLUPS: Final = """
INSERT INTO rollups AS r (pipeline, metric, key, bucket, kind, count, value, at, data, version)
SELECT $1, m, k, b, kd, c, v, a, d, 1
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[], $7::numeric[],
            $8::timestamptz[], $9::text[]) AS t(m, k, b, kd, c, v, a, d)
ON CONFLICT (pipeline, metric, key, bucket) DO UPDATE SET
    count = r.count + excluded.count,
    value = CASE r.kind WHEN 'minimum' THEN least(r.value, excluded.value)
                        WHEN 'maximum' THEN greatest(r.value, excluded.value)
                        ELSE coalesce(r.value + excluded.value, r.value, excluded.value) END,
    at = greatest(r.at, excluded.at),
    data = CASE WHEN excluded.at > r.at OR (excluded.at = r.at AND excluded.data COLLATE "C" > r.data COLLATE "C")
                THEN excluded.data ELSE r.data END,
    version = r.version + 1
RETURNING metric, key, bucket, count, value, at, data, version
"""
_SELECT_ROLLUPS: Final = """
SELECT r.metric, r.key, r.bucket, r.count, r.value, r.at, r.data, r.version
FROM rollups r JOIN unnest($2::text[], $3::text[], $4::timestamptz[]) AS t(m, k, b)
  ON r.pipeline = $1 AND r.metric = t.m AND r.key = t.k AND r.bucket = t.b
"""


_COUNT_LETTERS: Final = """
SELECT pipeline, stage, state, code = 'idempotency_conflict' AS conflict,
       stage = 'documents' AND code <> 'idempotency_conflict' AND (
           EXISTS (SELECT FROM repeats r WHERE (r.block, r.id, r.ordinal) = (d.block, d.document_id, d.ordinal))
           OR EXISTS (SELECT FROM dead_letters f
                      WHERE (f.block, f.document_id, f.ordinal) = (d.block, d.document_id, d.ordinal)
                      AND f.stage = 'facts' AND f.code = 'idempotency_conflict')
       ) AS known,
       again IS NOT NULL AND EXISTS (SELECT FROM journal j WHERE j.block = d.again) AS back,
       count(*) AS n
FROM dead_letters d GROUP BY 1, 2, 3, 4, 5, 6
"""
# The minutes take only what blocks add that the journal did not have, in the same statement: each block counts once.
_NOTE_BLOCKS: Final = """
WITH new AS (
    INSERT INTO journal (block, pipeline, documents, stored_at)
    SELECT b, p, d, s FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::timestamptz[]) AS t(b, p, d, s)
    ON CONFLICT DO NOTHING RETURNING block
)
INSERT INTO journal_minutes AS m (pipeline, minute, documents, digest, untold)
SELECT p, minute, sum(n), mod(sum(g), 2::numeric ^ 128), sum(u)
FROM unnest($5::uuid[], $6::text[], $7::timestamptz[], $8::bigint[], $9::numeric[], $10::bigint[])
    AS t(b, p, minute, n, g, u)
WHERE b IN (SELECT block FROM new) GROUP BY p, minute ORDER BY p, minute
ON CONFLICT (pipeline, minute) DO UPDATE SET documents = m.documents + excluded.documents,
    digest = mod(m.digest + excluded.digest, 2::numeric ^ 128), untold = m.untold + excluded.untold
"""
# How the rows of a metric can be put in order.
RANKINGS: Final[Mapping[str, str]] = {
    "count": "count DESC",
    "greatest": "value DESC NULLS LAST",
    "least": "value ASC NULLS LAST",
    "newest": "at DESC NULLS LAST",
    "last": "bucket DESC",
}


@dataclass(frozen=True, slots=True)
class Letters:
    """How many dead letters of a pipeline are alike.

    Attributes:
        conflict: refused since its id belongs to other bytes.
        known: refused by the documents sink for another reason, while the facts sink had its id already.
        back: given back, and the journal has the new block.
    """

    stage: str
    state: str
    conflict: bool
    known: bool
    count: int
    back: bool = False


@dataclass(slots=True)
class Books:
    """What Postgres has noted of one pipeline: documents accepted, stored there, sent again, and refused."""

    accepted: int = 0
    stored: int = 0
    repeats: int = 0
    letters: tuple[Letters, ...] = ()


Counting = Callable[[set[str]], Mapping[RowKey, Row]]


class Facts:
    """Use `open_facts`."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], schema: str = "facts") -> None:
        self._pool = pool
        self._schema = schema
        self._tables: dict[str, FactsTable] = {}

    async def prepare(self, pipelines: Sequence[Pipeline]) -> None:
        """Make the tables that are missing and add new columns.

        Raises:
            HeadraceError: a column has another type than the pipeline's schema now gives it.
            UnavailableError: Postgres is away.
        """
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(_SCHEMA)
            await connection.execute(dead_letters.SCHEMA)
            for pipeline in pipelines:
                await self._table(pipeline).prepare(connection)

    async def record(
        self, pipeline: Pipeline, facts: Sequence[Fact], counted: Counting
    ) -> tuple[list[Projected], dict[str, Known]]:
        """Insert what is new, and count it, in one transaction.

        Args:
            facts: with different ids.
            counted: given the ids that are new, returns the rollup rows they add.

        Returns:
            The rollups that changed, with their new values, and what is known of the ids that were there before.

        Raises:
            DocumentError: one of the facts cannot be stored, and so none was.
            UnavailableError: Postgres is away, or the transaction must be tried again.
        """
        # One order for all transactions, or two with the same ids could lock each other out.
        facts = sorted(facts, key=lambda fact: fact.envelope.id)
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            table = self._table(pipeline)
            new = await table.insert(connection, facts)
            changed = await _upsert_rollups(connection, pipeline.name, list(counted(new).values()))
            rest = [fact.envelope.id for fact in facts if fact.envelope.id not in new]
            known = await table.known(connection, rest) if rest else {}
            if pipeline.entity:
                await table.keep_newest(connection, [fact for fact in facts if not _conflicts(fact, known)])
        return changed, known

    async def rollups(self, pipeline: str, places: Sequence[RowKey]) -> list[Projected]:
        """Return the rollups at these places as they are now."""
        async with _translated():
            found = await self._pool.fetch(
                _SELECT_ROLLUPS, pipeline, [p[0] for p in places], [p[1] for p in places], [p[2] for p in places]
            )
        return [_projected(row) for row in found]

    async def all_rollups(self, pipeline: str, metric: str | None = None) -> AsyncIterator[list[Projected]]:
        """Yield every rollup of a pipeline, or of one metric, in portions."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction(readonly=True):
            cursor = await connection.cursor(
                "SELECT metric, key, bucket, count, value, at, data, version FROM rollups"
                " WHERE pipeline = $1 AND ($2::text IS NULL OR metric = $2)",
                pipeline,
                metric,
            )
            while portion := await cursor.fetch(5000):
                yield [_projected(row) for row in portion]

    async def ranked_rollups(self, pipeline: str, metric: str, order: str, limit: int) -> tuple[int, list[Projected]]:
        """Return how many rows a metric has, and the first of them.

        Args:
            order: a name in `RANKINGS`; ties are in order of the key.
        """
        async with _translated():
            total = await self._pool.fetchval(
                "SELECT count(*) FROM rollups WHERE pipeline = $1 AND metric = $2", pipeline, metric
            )
            found = await self._pool.fetch(
                "SELECT metric, key, bucket, count, value, at, data, version FROM rollups"
                # Without the closing quote and bracket, so that a key comes before the keys that it begins.
                f" WHERE pipeline = $1 AND metric = $2 ORDER BY {RANKINGS[order]},"
                ' left(key, -2) COLLATE "C" LIMIT $3',
                pipeline,
                metric,
                limit,
            )
        return int(total), [_projected(row) for row in found]

    async def grouped(self, pipeline: Pipeline, paths: Sequence[str], limit: int) -> list[tuple[list[Any], int]]:
        """Return how many entities there are per value of these fields, most first; without fields, how many in all."""
        table = self._table(pipeline).name
        picked = ", ".join(quoted(column_of(pipeline, path)) for path in paths)
        query = (
            f"SELECT {picked}, count(*) AS n FROM {table} GROUP BY {picked} ORDER BY n DESC, {picked} LIMIT $1"
            if paths
            else f"SELECT count(*) AS n FROM {table} LIMIT $1"
        )
        async with _translated():
            found = await self._pool.fetch(query, limit)
        return [(list(row)[:-1], int(row["n"])) for row in found]

    async def distinct(self, pipeline: Pipeline, path: str) -> int:
        """Return how many different values a field of the entities has, null aside."""
        column = quoted(column_of(pipeline, path))
        async with _translated():
            return int(await self._pool.fetchval(f"SELECT count(DISTINCT {column}) FROM {self._table(pipeline).name}"))

    async def record_repeats(self, pipeline: str, repeats: Sequence[tuple[str, str, int, str, str]]) -> None:
        """Note documents a client sent again, each once however often it is delivered.

        Args:
            repeats: raw block, id, ordinal, when accepted, sender.
        """
        async with _translated():
            await self._pool.execute(
                "INSERT INTO repeats (pipeline, block, id, ordinal, received_at, sender)"
                " SELECT $1, b, i, o, r, s FROM unnest($2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[],"
                " $6::text[]) AS t(b, i, o, r, s) ON CONFLICT DO NOTHING",
                pipeline,
                [r[0] for r in repeats],
                [r[1] for r in repeats],
                [r[2] for r in repeats],
                [parse_time(r[3]) for r in repeats],
                [r[4] for r in repeats],
            )

    async def record_journal(self, blocks: Sequence[tuple[str, str, int, str, Mapping[str, Tally]]]) -> None:
        """Note accepted blocks, each once, and what they add to their minutes.

        Args:
            blocks: id, pipeline, documents, when stored, and the documents by minute; none where that is not known.
        """
        once = {block[0]: block for block in blocks}.values()
        minutes: list[tuple[str, str, datetime, int, Decimal, int]] = []
        for block, pipeline, documents, stored_at, tallies in once:
            for minute, tally in tallies.items():
                minutes.append((block, pipeline, parse_time(f"{minute}Z"), tally.count, Decimal(tally.digest), 0))
            if not tallies:
                minute_of_it = parse_time(f"{stored_at[:16]}Z")
                minutes.append((block, pipeline, minute_of_it, 0, Decimal(0), documents))
        async with _translated():
            await self._pool.execute(
                _NOTE_BLOCKS,
                [one[0] for one in once],
                [one[1] for one in once],
                [one[2] for one in once],
                [parse_time(one[3]) for one in once],
                *([one[place] for one in minutes] for place in range(6)),
            )

    async def record_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Index dead letters, each once."""
        await dead_letters.record(self, letters)

    async def projection(self) -> tuple[str, int, int]:
        """Return which run of Redis holds the projection, and the counters of its failures and repairs."""
        async with _translated():
            row = await self._pool.fetchrow("SELECT run_id, dirty, clean FROM projection")
        assert row, "the one row is made with the table"
        return row["run_id"], row["dirty"], row["clean"]

    async def projection_failed(self) -> None:
        async with _translated():
            await self._pool.execute("UPDATE projection SET dirty = dirty + 1")

    async def projection_made(self, run_id: str, dirty: int) -> None:
        """Note that Redis holds everything up to the failure numbered `dirty`."""
        async with _translated():
            await self._pool.execute("UPDATE projection SET run_id = $1, clean = $2", run_id, dirty)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a query of the services' own; never with text from a client in it."""
        async with _translated():
            return list(await self._pool.fetch(query, *arguments))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Run several statements as one; what fails in it is told as everywhere here."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            yield connection

    async def known(self, pipeline: Pipeline, ids: Sequence[str]) -> dict[str, Known]:
        """Return what is known of those of these ids that are stored."""
        async with _translated(), self._pool.acquire() as connection:
            return await self._table(pipeline).known(connection, ids)

    async def received_at(self, pipeline: Pipeline, document_id: UUID) -> datetime | None:
        """Return when a stored document was accepted; None where it is not stored."""
        async with _translated():
            table = self._table(pipeline).ledger
            found = await self._pool.fetchval(f"SELECT received_at FROM {table} WHERE id = $1", document_id)
        return cast("datetime | None", found)

    async def books(self, pipelines: Sequence[Pipeline]) -> dict[str, Books]:
        """Return what is noted of each pipeline, also of those that are no more; all read at one moment."""
        async with (
            _translated(),
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            accepted = await connection.fetch("SELECT pipeline, sum(documents) AS n FROM journal GROUP BY pipeline")
            repeats = await connection.fetch("SELECT pipeline, count(*) AS n FROM repeats GROUP BY pipeline")
            letters = await connection.fetch(_COUNT_LETTERS)
            names = {row["pipeline"] for row in (*accepted, *repeats, *letters)}
            books = {name: Books() for name in (*(p.name for p in pipelines), *sorted(names))}
            for pipeline in pipelines:
                ledger = self._table(pipeline).ledger
                books[pipeline.name].stored = int(await connection.fetchval(f"SELECT count(*) FROM {ledger}"))
        for row in accepted:
            books[row["pipeline"]].accepted = int(row["n"])
        for row in repeats:
            books[row["pipeline"]].repeats = int(row["n"])
        for row in letters:
            books[row["pipeline"]].letters += (
                Letters(row["stage"], row["state"], row["conflict"], row["known"], int(row["n"]), row["back"]),
            )
        return books

    async def reconciled(self) -> dict[str, dict[str, Any]]:
        """Return, by pipeline, when its last reconciliation was, what it compared, and how much it found."""
        found = await self.fetch("SELECT pipeline, at, since, until, findings, repaired FROM reconciled ORDER BY 1")
        return {
            row["pipeline"]: {
                **{name: rfc3339(row[name]) for name in ("at", "since", "until")},
                "findings": row["findings"],
                "repaired": row["repaired"],
            }
            for row in found
        }

    async def count(self, pipeline: Pipeline) -> int:
        """Return how many documents are stored, each counted."""
        async with _translated():
            return int(await self._pool.fetchval(f"SELECT count(*) FROM {self._table(pipeline).ledger}"))

    async def ping(self) -> None:
        async with _translated():
            await self._pool.fetchval("SELECT 1")

    def _table(self, pipeline: Pipeline) -> FactsTable:
        table = self._tables.get(pipeline.name)
        if table is None:
            table = self._tables[pipeline.name] = FactsTable(pipeline, self._schema)
        return table


@contextlib.asynccontextmanager
async def open_facts(url: str, timeout_seconds: float, *, max_connections: int = 8) -> AsyncIterator[Facts]:
    """Open a pool; the first connection is made when it is needed."""
    async with open_pool(url, timeout_seconds, max_connections=max_connections, name="headrace") as pool:
        yield Facts(pool)


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Say whose fault a failure is: the document's own data, or the server's."""
    try:
        yield
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        # A value too long for an index, such as a key of some kilobytes.
        asyncpg.ProgramLimitExceededError,
    ) as error:
        # Never its text, which quotes the row.
        column = getattr(error, "column_name", None)
        raise refused(f"{type(error).__name__}, column {column}" if column else type(error).__name__) from error
    except AWAY as error:
        raise away(error) from error


async def _upsert_rollups(connection: Connection, pipeline: str, rows: Sequence[Row]) -> list[Projected]:
    if not rows:
        return []
    found = await connection.fetch(
        _UPSERT_ROLLUPS,
        pipeline,
        [row.metric for row in rows],
        [row.key for row in rows],
        [row.bucket for row in rows],
        [row.kind for row in rows],
        [row.count for row in rows],
        [row.value for row in rows],
        [row.at for row in rows],
        [row.data for row in rows],
    )
    return [_projected(row) for row in found]


def _projected(row: asyncpg.Record) -> Projected:
    return Projected(
        row["metric"],
        row["key"],
        int(row["bucket"].timestamp()),
        row["count"],
        row["value"],
        row["at"],
        row["data"],
        row["version"],
    )


def _conflicts(fact: Fact, known: Mapping[str, Known]) -> bool:
    one = known.get(fact.envelope.id)
    return one is not None and one.sha256 != fact.envelope.sha256
