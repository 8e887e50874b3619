"""What is lost, changed or made up behind the pipeline's back is found, named, and made good where it can be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace.document import Block, Envelope, given_back_line, new_id, now, raw_line
from headrace.pipeline import Pipeline
from headrace.registry import load_pipelines
from headrace.storage.mongo import open_documents
from headrace.storage.postgres import open_facts
from headrace.storage.redis import open_projection
from tests.invariants import assert_balanced
from tests.workers.plant import Plant, sealed
from workers.documents import StoreDocuments
from workers.facts import StoreFacts
from workers.reconcile.findings import Finding, Report
from workers.reconcile.run import Reconciler

DOCUMENT: Mapping[str, Mapping[str, Any]] = {
    "things": {"name": "a", "group": "g", "tags": ["t"]},
    "members": {"number": 1},
}


@dataclass
class Bench:
    """A plant, and a reconciler that does not wait for the minute to be over."""

    plant: Plant
    reconciler: Reconciler

    def pipeline(self, name: str) -> Pipeline:
        return load_pipelines(self.plant.settings.pipelines)[name]

    async def run(self, name: str = "things", *, repair: bool = False, counts: bool = False) -> Report:
        later = datetime.now(UTC) + timedelta(minutes=2)
        return await self.reconciler.run(self.pipeline(name), repair=repair, counts=counts, seconds=60, now=later)

    def ledger(self, name: str) -> str:
        return f'facts."{name}{"_versions" if self.pipeline(name).entity else ""}"'

    def history(self, name: str) -> Any:
        return self.reconciler.documents._history(self.pipeline(name))


@pytest.fixture
async def bench(plant: Plant) -> AsyncIterator[Bench]:
    async with open_bench(plant) as bench:
        yield bench


@contextlib.asynccontextmanager
async def open_bench(plant: Plant) -> AsyncIterator[Bench]:
    settings = plant.settings
    async with (
        open_documents(settings.mongo_url.get_secret_value(), 20) as documents,
        open_facts(settings.postgres_url.get_secret_value(), 20) as facts,
        open_projection(settings.redis_url.get_secret_value(), settings.namespace, 10) as projection,
    ):
        yield Bench(plant, Reconciler(plant.bus, settings, documents, facts, projection))


def named(report: Report) -> set[tuple[str, str, tuple[str, ...], str, bool]]:
    return {(one.kind, one.where, one.ids, one.repair, one.repaired) for one in report.findings}


@pytest.mark.parametrize("name", ["things", "members"])
async def test_what_a_store_has_lost_is_named_and_given_back(bench: Bench, name: str) -> None:
    plant = bench.plant
    document = dict(DOCUMENT[name])
    same = new_id()
    async with plant.workers():
        ids = await plant.submit(name, document, document, document, {"bad": 1})
        # Again, with the same bytes and with others; and one that came past the gateway.
        await plant.submit(name, document, ids=[same])
        await plant.submit(name, document, {**document, "number": 7, "name": "b"}, document, ids=[same, same, same])
        await plant.bare(name, b'{"name":"bare","number":9}')
        await plant.drained()
        healthy = await bench.run(name, counts=True)
        assert (healthy.findings, healthy.documents, healthy.in_flight) == ([], 9, 0)

        await plant.fetch(f"DELETE FROM {bench.ledger(name)} WHERE id = $1", UUID(ids[0]))
        await bench.history(name).delete_one({"_id": UUID(ids[1])})
        for table in (bench.ledger(name),):
            await plant.fetch(f"DELETE FROM {table} WHERE id = $1", UUID(ids[2]))
        await bench.history(name).delete_one({"_id": UUID(ids[2])})
        only_facts, only_documents = tuple(sorted([ids[0], ids[2]])), tuple(sorted([ids[1], ids[2]]))

        told = await bench.run(name)
        assert named(told) == {
            ("missing", "facts", only_facts, "CLEAN", False),
            ("missing", "documents", only_documents, "CLEAN", False),
        }
        assert told.open == 2

        repaired = await bench.run(name, repair=True)
        assert {one.kind for one in repaired.findings if not one.repaired} == set()
        assert (await bench.run(name, counts=True)).findings == []
        [noted] = await plant.fetch("SELECT findings, repaired FROM reconciled WHERE pipeline = $1", name)
        assert (noted["findings"], noted["repaired"]) == (0, 0)
    if name == "things":
        await assert_balanced(plant.settings)


async def test_what_all_have_lost_is_made_from_raw_and_what_no_stream_has_is_only_named(bench: Bench) -> None:
    plant = bench.plant
    js = plant.bus.client.jetstream()
    ids = await plant.submit("things", *[dict(DOCUMENT["things"])] * 2)
    await plant.work()
    kept = await plant.submit("things", dict(DOCUMENT["things"]))
    await plant.work()
    await js.delete_msg(plant.topology.stream("CLEAN"), 1)
    await plant.fetch("DELETE FROM facts.things WHERE id = ANY($1::uuid[])", [UUID(one) for one in ids])
    await bench.history("things").delete_many({"_id": {"$in": [UUID(one) for one in ids]}})
    await plant.fetch("DELETE FROM facts.things WHERE id = $1", UUID(kept[0]))

    repaired = await bench.run(repair=True)

    assert named(repaired) >= {
        ("missing", "documents", tuple(sorted(ids)), "RAW", True),
        ("missing", "facts", tuple(sorted(ids)), "RAW", True),
        ("missing", "facts", tuple(kept), "CLEAN", True),
    }
    assert (await bench.run(counts=True)).findings == []
    await assert_balanced(plant.settings)

    for stream in ("RAW", "CLEAN"):
        await js.purge_stream(plant.topology.stream(stream))
    await plant.fetch("DELETE FROM facts.things WHERE id = $1", UUID(kept[0]))
    told = await bench.run(repair=True)
    assert named(told) == {("missing", "facts", tuple(kept), "", False)}


@pytest.mark.parametrize("dies_at", [StoreDocuments, StoreFacts])
async def test_a_repair_that_dies_between_two_stores_is_completed_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, dies_at: type
) -> None:
    plant = bench.plant
    ids = await plant.submit("things", *[dict(DOCUMENT["things"])] * 3)
    await plant.work("refine", "journal")
    js = plant.bus.client.jetstream()
    # In CLEAN, and as if settled by both sinks, which have nothing.
    for sink in ("documents", "facts"):
        consumer = await js.pull_subscribe_bind(sink, stream=plant.topology.stream("CLEAN"))
        for message in await consumer.fetch(1, timeout=10):
            await message.ack_sync()

    async def dies(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(dies_at, "apply", dies)
        with pytest.raises(RuntimeError):
            await bench.run(repair=True)
    repaired = await bench.run(repair=True)

    assert {one for finding in repaired.findings for one in finding.ids} == set(ids)
    assert (await bench.run(counts=True)).findings == []
    await assert_balanced(plant.settings)


async def test_what_was_given_back_or_bridged_is_in_the_books(bench: Bench) -> None:
    plant = bench.plant
    moment = "2026-01-31T12:59:00.000000Z"
    [document_id] = await plant.submit("things", {"bad": 1}, times=[moment])
    await plant.work()
    mended = Envelope(document_id, moment, "me", msgspec.Raw(b'{"name":"a"}'), replays=1)
    again = sealed("things", [given_back_line(mended)])
    await plant.fetch("UPDATE dead_letters SET state = 'replayed', again = $1", UUID(again.id))
    await plant.publish(again)
    # As the bridge sends what comes from another broker: in blocks, and in the name of nobody.
    await plant.publish(sealed("things", [raw_line(new_id(), now(), b'"nats"', b'{"name":"b"}') for _ in range(3)]))
    await plant.work()

    told = await bench.run()

    assert (told.findings, told.documents, told.minutes) == ([], 5, 2)


async def test_what_nobody_has_sent_is_named_and_left_alone(bench: Bench) -> None:
    plant = bench.plant
    ids = await plant.submit("things", *[dict(DOCUMENT["things"])] * 2)
    await plant.work()
    ghost, other = new_id(), new_id()
    columns = "received_at, sender, block, ordinal, sha256, name"
    await plant.fetch(
        f"INSERT INTO facts.things (id, {columns}) SELECT $1, {columns} FROM facts.things WHERE id = $2",
        *(UUID(ghost), UUID(ids[0])),
    )
    copy = await bench.history("things").find_one({"_id": UUID(ids[1])})
    await bench.history("things").insert_one({**copy, "_id": UUID(other)})

    told = await bench.run(repair=True)

    assert named(told) >= {("ghost", "facts", (ghost,), "", False), ("ghost", "documents", (other,), "", False)}
    assert ghost in await plant.stored("things")


async def test_a_block_that_was_gone_before_refine_saw_it_is_named(bench: Bench) -> None:
    plant = bench.plant
    await plant.submit("things", dict(DOCUMENT["things"]))
    block = sealed("things", [raw_line(new_id(), now(), b'"me"', b'{"name":"a"}') for _ in range(3)])
    await plant.publish(block)
    await plant.work("journal")
    await plant.bus.client.jetstream().delete_msg(plant.topology.stream("RAW"), 2)
    await plant.work()

    told = await bench.run(repair=True)

    assert [(one.kind, one.where, one.block, one.count, one.repaired) for one in told.findings] == [
        ("lost", "RAW", block.id, 3, False)
    ]


async def test_a_block_with_a_flipped_bit_is_refused_and_named(bench: Bench) -> None:
    plant = bench.plant
    sound = sealed("things", [raw_line(new_id(), now(), b'"me"', b'{"name":"abc"}') for _ in range(3)])
    flipped = replace(sound, body=sound.body.replace(b"abc", b"abb", 1))
    await plant.publish(flipped)
    await plant.work()

    told = await bench.run(repair=True)

    assert [stage for stage, _ in await plant.letters()] == ["refine"]
    assert await plant.stored("things") == []
    assert [(one.kind, one.block, one.count) for one in told.findings] == [("corrupt", sound.id, 3)]


async def test_counts_that_are_off_by_one_are_made_right(bench: Bench) -> None:
    plant = bench.plant
    async with plant.workers():
        await plant.submit("things", *[dict(DOCUMENT["things"])] * 3)
        await plant.drained()
        projection = bench.reconciler.projection
        [row] = await projection.read("things", "groups")
        await projection.clear("things", ["groups"])
        await projection.project("things", [replace(row, count=row.count + 1)])
        assert [(one.where, one.ids) for one in (await bench.run()).findings] == [("redis", ('groups ["g"]',))]
        assert (await bench.run(repair=True)).open == 0
        assert (await bench.run()).findings == []

        await plant.fetch("UPDATE rollups SET count = count - 1 WHERE metric = 'groups'")
        told = await bench.run(counts=True)
        assert ("counts", "rollups", ('groups ["g"]',), "facts", False) in named(told)
        assert (await bench.run(counts=True, repair=True)).open == 0
        assert (await bench.run(counts=True)).findings == []
        await assert_balanced(plant.settings)


async def test_what_is_on_its_way_is_not_called_missing(bench: Bench) -> None:
    plant = bench.plant
    long_ago = "2026-01-31T12:59:00.000000Z"
    await plant.submit("things", dict(DOCUMENT["things"]), times=[long_ago])
    await plant.work()
    # What waits is in no store; of the one behind it, the minute is over for long.
    await plant.submit("things", dict(DOCUMENT["things"]))
    await plant.submit("things", dict(DOCUMENT["things"]), times=[long_ago])
    await plant.work("journal")
    before_refine = await bench.run()
    await plant.work("refine", "facts")
    before_documents = await bench.run(repair=True)
    await plant.work()
    done = await bench.run()

    assert (before_refine.findings, before_refine.in_flight) == ([], 1)
    assert (before_documents.findings, before_documents.in_flight) == ([], 1)
    assert (done.findings, done.documents, done.in_flight) == ([], 3, 0)


async def test_blocks_that_tell_nothing_are_not_judged(bench: Bench) -> None:
    plant = bench.plant
    line = raw_line(new_id(), now(), b'"me"', b'{"name":"a"}')
    await plant.publish(Block(new_id(), "things", line, 1))
    await plant.work()

    told = await bench.run()

    assert (told.findings, told.documents) == ([], 1)
    [noted] = await plant.fetch("SELECT documents, untold FROM journal_minutes")
    assert tuple(noted) == (0, 1)


async def test_a_block_counts_once_however_often_it_is_delivered(bench: Bench) -> None:
    plant = bench.plant
    await plant.submit("things", dict(DOCUMENT["things"]), dict(DOCUMENT["things"]))
    await plant.bare("things", b'{"name":"a"}')
    await plant.work()
    before = await plant.fetch("SELECT sum(documents) AS n, sum(digest) AS digest FROM journal_minutes")
    await plant.deliver_everything_again()
    await plant.work()

    assert await plant.fetch("SELECT sum(documents) AS n, sum(digest) AS digest FROM journal_minutes") == before
    assert before[0]["n"] == 3
    assert (await bench.run()).findings == []


def test_a_finding_tells_the_range_and_not_all_of_it() -> None:
    ids = tuple(f"{n:04}" for n in range(1000))

    told = Finding("missing", "facts", 1000, ids=ids, repair="CLEAN").told()

    assert (told["first_id"], told["last_id"], len(told["ids"]), told["count"]) == ("0000", "0999", 20, 1000)
