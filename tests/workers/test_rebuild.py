"""Stores made anew: what was wrong is told and mended, and what goes on meanwhile is not lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis

from headrace.document import new_id
from headrace.registry import load_pipelines
from headrace.storage.mongo import Documents, open_documents
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import Projection, open_projection
from tests.invariants import assert_balanced
from tests.workers.plant import Plant
from workers.clean_reading import RebuildError
from workers.rebuild import Difference, rebuild_redis
from workers.rebuild_documents import DocumentsDifference, rebuild_documents
from workers.rebuild_facts import FactsDifference, rebuild_facts
from workers.rebuild_lock import alone


@pytest.fixture
async def stores(plant: Plant) -> AsyncIterator[tuple[Facts, Projection]]:
    settings = plant.settings
    async with (
        open_facts(settings.postgres_url.get_secret_value(), 10) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, 10) as projection,
    ):
        yield facts, projection


async def test_what_is_missing_wrong_or_foreign_is_told_and_mended(
    plant: Plant, stores: tuple[Facts, Projection]
) -> None:
    facts, projection = stores
    things = load_pipelines(plant.settings.pipelines)["things"]
    await plant.submit("things", *({"name": "a", "group": group, "tags": ["x"]} for group in "abc"))
    await plant.work()
    assert all(one.none for one in await rebuild_redis(facts, projection, things, swap=False))
    groups = sorted(await projection.read("things", "groups"), key=lambda row: row.key)
    await projection.clear("things", ["groups", "tags"])
    await projection.project("things", [replace(groups[0], count=99), replace(groups[1], key='["nobody"]')])

    told = await rebuild_redis(facts, projection, things, swap=False)
    again = await rebuild_redis(facts, projection, things, swap=True)

    assert told == again
    assert [one for one in told if not one.none] == [
        Difference("things", "groups", rows=3, missing=2, wrong=1, foreign=1),
        Difference("things", "tags", rows=1, missing=1, wrong=0, foreign=0),
    ]
    assert sorted(await projection.read("things", "groups"), key=lambda row: row.key) == groups
    assert all(one.none for one in await rebuild_redis(facts, projection, things, swap=False))
    await assert_balanced(plant.settings)
    async with Redis.from_url(plant.settings.redis_url.get_secret_value()) as client:
        assert [key async for key in client.scan_iter(f"*{plant.settings.namespace}shadow*")] == []


async def test_what_is_counted_while_it_is_swapped_is_not_lost(plant: Plant, stores: tuple[Facts, Projection]) -> None:
    facts, projection = stores
    things = load_pipelines(plant.settings.pipelines)["things"]
    async with plant.workers():
        await plant.submit("things", {"name": "a"})
        await plant.drained()

        async def traffic() -> None:
            for number in range(40):
                await plant.submit("things", {"name": "a", "group": str(number % 5), "tags": [str(number)]})

        async def rebuilds() -> None:
            for _ in range(5):
                await rebuild_redis(facts, projection, things, swap=True)

        await asyncio.gather(traffic(), rebuilds())
        await plant.drained()
        # Whatever was projected in the last moment of a swap had been committed before its repair.
        await assert_balanced(plant.settings)


@pytest.mark.parametrize("name", ["things", "members"])
async def test_documents_are_made_anew_from_the_stream(
    plant: Plant, stores: tuple[Facts, Projection], name: str
) -> None:
    facts, _ = stores
    pipeline = load_pipelines(plant.settings.pipelines)[name]
    document: dict[str, Any] = {"name": "a"} if name == "things" else {"number": 1}
    async with _documents(plant) as (documents, database), plant.workers():
        same = new_id()
        ids = await plant.submit(name, document, document, document, document)
        await plant.submit(name, document, ids=[same])
        await plant.submit(name, {**document, "name" if name == "things" else "number": "7"}, ids=[same])
        await plant.drained()
        assert (await rebuild_documents(plant.bus, plant.settings, facts, documents, pipeline, swap=False)).none
        history = database[f"{name}.versions" if pipeline.entity else name]
        await history.delete_one({"_id": UUID(ids[0])})
        await history.update_one({"_id": UUID(ids[1])}, {"$set": {"_meta.sha256": "ab"}})
        copy = await history.find_one({"_id": UUID(ids[2])})
        assert copy
        await history.insert_one({**copy, "_id": UUID(new_id())})

        told = await rebuild_documents(plant.bus, plant.settings, facts, documents, pipeline, swap=False)
        assert told == DocumentsDifference(name, 5, missing=1, wrong=1, foreign=1)

        async def traffic() -> None:
            for _ in range(10):
                await plant.submit(name, document)

        again, _ = await asyncio.gather(
            rebuild_documents(plant.bus, plant.settings, facts, documents, pipeline, swap=True), traffic()
        )
        assert (again.missing, again.wrong, again.foreign) == (1, 1, 1)
        await plant.drained()
        assert (await rebuild_documents(plant.bus, plant.settings, facts, documents, pipeline, swap=False)).none
        await assert_balanced(plant.settings)
        assert [one for one in await database.list_collection_names() if one.startswith("shadow")] == []


@pytest.mark.parametrize("name", ["things", "members"])
async def test_facts_and_counts_are_made_anew_from_the_stream(
    plant: Plant, stores: tuple[Facts, Projection], name: str
) -> None:
    facts, projection = stores
    pipeline = load_pipelines(plant.settings.pipelines)[name]
    document: dict[str, Any] = {"name": "a", "group": "g"} if name == "things" else {"number": 1}
    ledger = f'facts."{name}{"_versions" if pipeline.entity else ""}"'

    async def rebuild(*, swap: bool) -> FactsDifference:
        return await rebuild_facts(plant.bus, plant.settings, facts, projection, pipeline, 10, swap=swap)

    async with plant.workers():
        same = new_id()
        ids = await plant.submit(name, document, document, document)
        await plant.submit(name, document, document, ids=[same, same])
        await plant.submit(name, {**document, "name" if name == "things" else "number": "7"}, ids=[same])
        await plant.submit(name, {"bad": 1})
        await plant.drained()
        assert (await rebuild(swap=False)).none
        # A fact is lost and its counts are not; another has other bytes; a third nobody has sent.
        await facts.fetch(f"DELETE FROM {ledger} WHERE id = $1", UUID(ids[0]))
        await facts.fetch(f"UPDATE {ledger} SET sha256 = 'x' WHERE id = $1", UUID(ids[1]))
        await facts.fetch(f"UPDATE {ledger} SET id = $2 WHERE id = $1", UUID(ids[2]), UUID(new_id()))
        counts = await facts.fetch(
            "UPDATE rollups SET count = count + 5 WHERE pipeline = $1 AND metric IN ('total', 'groups') RETURNING 1",
            name,
        )

        told = await rebuild(swap=False)
        assert told == FactsDifference(name, 4, missing=2, wrong=1, foreign=1, counts=len(counts))

        async def traffic() -> None:
            for _ in range(10):
                await plant.submit(name, document)

        again, _ = await asyncio.gather(rebuild(swap=True), traffic())
        assert (again.missing, again.wrong, again.foreign) == (2, 1, 1)
        await plant.drained()
        assert (await rebuild(swap=False)).none
        await assert_balanced(plant.settings)
        [schemas] = await facts.fetch("SELECT count(*) AS n FROM pg_namespace WHERE nspname LIKE 'headrace%'")
        assert schemas["n"] == 0


async def test_after_facts_were_made_anew_a_version_that_is_older_by_its_own_word_does_not_win(
    plant: Plant, stores: tuple[Facts, Projection]
) -> None:
    facts, projection = stores
    licenses = load_pipelines(plant.settings.pipelines)["licenses"]
    newest, older = ({**licenses.example, "lic_expir_dd": f"{year}-12-31"} for year in (2030, 2020))
    async with plant.workers():
        await plant.submit("licenses", newest)
        await plant.drained()
        await rebuild_facts(plant.bus, plant.settings, facts, projection, licenses, 10, swap=True)
        await plant.submit("licenses", older)
        await plant.drained()
        [row] = await facts.fetch("SELECT lic_expir_dd::text AS expires FROM facts.licenses")

    assert row["expires"].startswith("2030-12-31")


async def test_a_purged_stream_makes_no_store_anew(plant: Plant, stores: tuple[Facts, Projection]) -> None:
    facts, _ = stores
    things = load_pipelines(plant.settings.pipelines)["things"]
    async with _documents(plant) as (documents, _), plant.workers():
        await plant.submit("things", {"name": "a"})
        await plant.submit("things", {"name": "b"})
        await plant.drained()
        await plant.bus.client.jetstream().purge_stream(plant.topology.stream("CLEAN"), seq=2)

        with pytest.raises(RebuildError, match="purged"):
            await rebuild_documents(plant.bus, plant.settings, facts, documents, things, swap=True)

        assert await documents.count(things) == 2
        with pytest.raises(RebuildError, match="purged"):
            await rebuild_facts(plant.bus, plant.settings, facts, stores[1], things, 10, swap=True)
        assert await facts.count(things) == 2


async def test_two_rebuilds_do_not_share_a_shadow(plant: Plant, stores: tuple[Facts, Projection]) -> None:
    facts, _ = stores
    async with alone(facts):
        with pytest.raises(RebuildError, match="running"):
            async with alone(facts):
                pass
    async with alone(facts):
        pass


@contextlib.asynccontextmanager
async def _documents(plant: Plant) -> AsyncIterator[tuple[Documents, AsyncDatabase[dict[str, Any]]]]:
    url = plant.settings.mongo_url.get_secret_value()
    client: AsyncMongoClient[dict[str, Any]]
    async with (
        AsyncMongoClient(url, tz_aware=True, uuidRepresentation="standard") as client,
        open_documents(url, 10) as documents,
    ):
        yield documents, client.get_default_database()
