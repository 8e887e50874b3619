"""The counts: Redis held against Postgres, and Postgres' counts against a recount of its facts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from headrace.pipeline import GroupBy, Pipeline
from headrace.rollup import Aggregator, Row, RowKey, merged
from headrace.storage.facts_table import FactsTable, quoted
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projected, Projection
from workers.rebuild import rebuild_redis
from workers.reconcile.findings import COUNTS, Finding

if TYPE_CHECKING:
    from headrace.storage.pool import Connection

_PORTION: Final = 5000
# A commit is in Redis a moment later.
_PROJECTED_SECONDS: Final = 2.0

Counted = tuple[int, Decimal | None]


async def redis_counts(facts: Facts, projection: Projection, pipeline: Pipeline, *, repair: bool) -> list[Finding]:
    """Return what Redis has otherwise than Postgres, by metric; what is committed meanwhile is no difference.

    Raises:
        UnavailableError: Postgres or Redis is away.
    """
    metrics = [metric.name for metric in pipeline.metrics if not isinstance(metric, GroupBy)]
    suspects = {metric: await _differing(facts, projection, pipeline, metric) for metric in metrics}
    if any(suspects.values()):
        # Twice the same row: the commit that came in between is in Redis by now.
        await asyncio.sleep(_PROJECTED_SECONDS)
    found: list[Finding] = []
    for metric, suspected in suspects.items():
        wrong = suspected and suspected & await _differing(facts, projection, pipeline, metric)
        if wrong:
            keys = tuple(f"{metric} {key}" for key, _ in sorted(wrong))
            found.append(Finding(COUNTS, "redis", len(wrong), ids=keys, repair="postgres"))
    if found and repair:
        await rebuild_redis(facts, projection, pipeline, swap=True)
        for one in found:
            one.repaired = True
    return found


async def _differing(facts: Facts, projection: Projection, pipeline: Pipeline, metric: str) -> set[tuple[str, int]]:
    """Return the rows that Redis has not, older, or of another value; and those that only it has."""
    made = {(row.key, row.bucket): row async for rows in facts.all_rollups(pipeline.name, metric) for row in rows}
    live = {(row.key, row.bucket): row for row in await projection.read(pipeline.name, metric)}
    wrong = {place for place, row in made.items() if place not in live or _is_wrong(live[place], row)}
    only = [place for place in live if place not in made]
    there = {
        (row.key, row.bucket)
        for row in await facts.rollups(
            pipeline.name, [(metric, key, datetime.fromtimestamp(bucket, UTC)) for key, bucket in only]
        )
    }
    return wrong | {place for place in only if place not in there}


def _is_wrong(live: Projected, made: Projected) -> bool:
    return live.version < made.version or (live.version == made.version and live != made)


async def recount(facts: Facts, pipeline: Pipeline, *, repair: bool) -> list[Finding]:
    """Count a pipeline's facts once more, and return which counts in Postgres are others.

    Not of entities, whose older versions are in MongoDB alone: `headrace rebuild facts` makes theirs anew. With
    `repair` the pipeline's stage waits until it is counted.

    Raises:
        UnavailableError: Postgres is away.
    """
    if pipeline.entity:
        return []
    async with facts.transaction() as connection:
        if repair:
            await connection.execute(f"LOCK TABLE {FactsTable(pipeline).ledger} IN SHARE ROW EXCLUSIVE MODE")
        else:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        made = await _recounted(connection, pipeline)
        there = {
            (row["metric"], row["key"], row["bucket"]): (row["count"], row["value"])
            for row in await connection.fetch(
                "SELECT metric, key, bucket, count, value FROM rollups WHERE pipeline = $1", pipeline.name
            )
        }
        wrong = sorted(
            place
            for place in {*made, *there}
            if place[0] in _sure(pipeline) and not _same(_of(made.get(place)), there.get(place))
        )
        if repair and wrong:
            await _mend(connection, pipeline, wrong, made)
    if not wrong:
        return []
    keys = tuple(f"{metric} {key}" for metric, key, _ in wrong)
    return [Finding(COUNTS, "rollups", len(wrong), ids=keys, repair="facts", repaired=repair)]


async def _recounted(connection: Connection, pipeline: Pipeline) -> dict[RowKey, Row]:
    aggregator = Aggregator(pipeline)
    total: dict[RowKey, Row] = {}
    async for portion in _documents(connection, pipeline):
        for place, row in aggregator.rows(portion).items():
            so_far = total.get(place)
            total[place] = row if so_far is None else merged(so_far, row)
    return total


async def _documents(
    connection: Connection, pipeline: Pipeline
) -> AsyncIterator[list[tuple[Mapping[str, Any], datetime]]]:
    columns = "".join(f", {quoted(field.column)}" for field in pipeline.fields)
    cursor = await connection.cursor(f"SELECT received_at{columns} FROM {FactsTable(pipeline).ledger}")
    while rows := await cursor.fetch(_PORTION):
        yield [(_stored_form(pipeline, dict(row)), row["received_at"]) for row in rows]


def _stored_form(pipeline: Pipeline, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as the sink had it, from its columns."""
    document: dict[str, Any] = {}
    for field in pipeline.fields:
        value = row[field.column]
        place = document
        for part in field.parts[:-1]:
            place = place.setdefault(part, {})
        if field.sql_type == "jsonb" and value is not None:
            value = json.loads(value)
        place[field.parts[-1]] = _json(value)
    return document


def _json(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _sure(pipeline: Pipeline) -> set[str]:
    """Return the metrics whose keys stand in the columns as they were counted; a time is written in several ways."""
    times = {field.path for field in pipeline.fields if field.sql_type == "timestamptz"}
    return {
        metric.name
        for metric in pipeline.metrics
        if not metric.by_query and not times.intersection(path.removesuffix("[]") for path in metric.key_paths)
    }


def _of(row: Row | None) -> Counted | None:
    return None if row is None else (row.count, row.value)


def _same(one: Counted | None, other: Counted | None) -> bool:
    return one == other


async def _mend(connection: Connection, pipeline: Pipeline, wrong: list[RowKey], made: Mapping[RowKey, Row]) -> None:
    """Write what was counted. Redis takes newer versions only, and is told of all rows again."""
    for metric, key, bucket in wrong:
        row = made.get((metric, key, bucket))
        if row is None:
            await connection.execute(
                "DELETE FROM rollups WHERE (pipeline, metric, key, bucket) = ($1, $2, $3, $4)",
                *(pipeline.name, metric, key, bucket),
            )
            continue
        await connection.execute(
            "INSERT INTO rollups AS r (pipeline, metric, key, bucket, kind, count, value, at, data, version)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1)"
            " ON CONFLICT (pipeline, metric, key, bucket) DO UPDATE SET count = excluded.count,"
            " value = excluded.value, version = r.version + 1",
            *(pipeline.name, metric, key, bucket, row.kind, row.count, row.value, row.at, row.data),
        )
    await connection.execute("UPDATE projection SET dirty = dirty + 1")
