"""What holds when everything is settled, whatever happened before; every fault test ends with it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.rollup import Aggregator
from headrace.settings import Settings
from headrace.storage.mongo import META
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import open_projection

_SINKS = ("documents", "facts")
_CONFLICT = "idempotency_conflict"


async def assert_balanced(settings: Settings) -> None:
    """Assert, for every pipeline, that the books are closed and that every count is a recount of what is stored.

    accepted = stored + repeats + dead in each store, the stores hold the same documents, none twice; and
    Redis = Postgres = what one pass over MongoDB's documents gives.
    """
    client: AsyncMongoClient[dict[str, Any]]
    async with (
        AsyncMongoClient(settings.mongo_url.get_secret_value(), tz_aware=True, uuidRepresentation="standard") as client,
        open_facts(settings.postgres_url.get_secret_value(), 20) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, 20) as projection,
    ):
        database: AsyncDatabase[dict[str, Any]] = client.get_default_database()
        for pipeline in load_pipelines(settings.pipelines).values():
            name = f"{pipeline.name}.versions" if pipeline.entity else pipeline.name
            found = [one async for one in database[name].find({})]
            await _books_are_closed(facts, pipeline, {one["_id"]: one[META]["sha256"] for one in found})
            await _counts_are_recounts(facts, pipeline, found)
            for metric in pipeline.metrics:
                counted = [row async for portion in facts.all_rollups(pipeline.name, metric.name) for row in portion]
                projected = await projection.read(pipeline.name, metric.name)
                assert sorted(map(_comparable, projected)) == sorted(map(_comparable, counted)), (
                    f"Redis is not Postgres: {pipeline.name}.{metric.name}"
                )


async def _books_are_closed(facts: Facts, pipeline: Pipeline, documents: dict[Any, str]) -> None:
    ledger = f'facts."{pipeline.name}{"_versions" if pipeline.entity else ""}"'
    rows = await facts.fetch(f"SELECT id, sha256 FROM {ledger}")
    facts_stored = {row["id"]: row["sha256"].hex() for row in rows}
    [accepted] = await facts.fetch(
        "SELECT coalesce(sum(documents), 0)::bigint AS n FROM journal WHERE pipeline = $1", pipeline.name
    )
    repeats = {tuple(row) for row in await facts.fetch(
        "SELECT block, id, ordinal FROM repeats WHERE pipeline = $1", pipeline.name
    )}  # fmt: skip
    letters = await facts.fetch(
        # What a sink had refused and was given back to it stands where it is now. Refine's was accepted anew.
        "SELECT block, document_id, ordinal, stage, code FROM dead_letters"
        " WHERE pipeline = $1 AND (stage = 'refine' OR state IN ('dead', 'discarded'))",
        pipeline.name,
    )
    refused = {
        sink: {
            (letter["block"], letter["document_id"], letter["ordinal"])
            for letter in letters
            if letter["stage"] in ("refine", sink)
        }
        for sink in _SINKS
    }
    own = {sink: {letter["document_id"] for letter in letters if letter["stage"] == sink} for sink in _SINKS}
    stored = {"documents": documents, "facts": facts_stored}
    for sink in _SINKS:
        total = len(stored[sink]) + len(repeats | refused[sink])
        assert accepted["n"] == total, (
            f"{pipeline.name}: {accepted['n']} were accepted; {sink} has {len(stored[sink])} stored, "
            f"{len(repeats)} repeats, {Counter((letter['stage'], letter['code']) for letter in letters)} dead"
        )
    only_here = {one for one in documents if facts_stored.get(one) != documents[one]}
    only_there = {one for one in facts_stored if documents.get(one) != facts_stored[one]}
    assert only_here <= own["facts"] | own["documents"], f"{pipeline.name}: MongoDB alone has {only_here}"
    assert only_there <= own["documents"] | own["facts"], f"{pipeline.name}: Postgres alone has {only_there}"


async def _counts_are_recounts(facts: Facts, pipeline: Pipeline, documents: list[dict[str, Any]]) -> None:
    if pipeline.entity:
        return
    rows = await facts.fetch(f'SELECT * FROM facts."{pipeline.name}"')
    rollups = {
        (row.metric, row.key, row.bucket): (row.count, row.value, row.at, row.data)
        async for portion in facts.all_rollups(pipeline.name)
        for row in portion
    }
    assert rollups == _recount(pipeline, [(_of_columns(pipeline, row), row["received_at"]) for row in rows]), (
        f"The rollups of {pipeline.name} are no recount of its facts"
    )
    counted = {row["id"] for row in rows}
    there = [one for one in documents if one["_id"] in counted]
    if len(there) == len(counted):
        assert rollups == _recount(pipeline, [(_json(one), one[META]["received_at"]) for one in there]), (
            f"The rollups of {pipeline.name} are no recount of MongoDB"
        )


def _recount(pipeline: Pipeline, documents: list[tuple[Any, datetime]]) -> dict[Any, Any]:
    return {
        (row.metric, row.key, int(row.bucket.timestamp())): (row.count, row.value, row.at, row.data)
        for row in Aggregator(pipeline).rows(documents).values()
    }


def _of_columns(pipeline: Pipeline, row: Any) -> dict[str, Any]:
    """Return the stored form of a document, from its columns."""
    document: dict[str, Any] = {}
    for field in pipeline.fields:
        value = row[field.column]
        place = document
        for part in field.parts[:-1]:
            place = place.setdefault(part, {})
        place[field.parts[-1]] = json.loads(value) if field.sql_type == "jsonb" and value is not None else _json(value)
    return document


def _comparable(row: Any) -> tuple[Any, ...]:
    value = None if row.value is None else str(Decimal(row.value).normalize())
    return (row.metric, row.key, row.bucket, row.count, str(value), str(row.at), str(row.data), row.version)


def _json(value: Any) -> Any:
    """Return BSON values in the JSON types that the workers counted."""
    match value:
        case dict():
            return {key: _json(item) for key, item in value.items()}
        case list():
            return [_json(item) for item in value]
        case datetime():
            return value.isoformat()
        case bool() | int() | float() | str() | None:
            return value
    return str(value)
