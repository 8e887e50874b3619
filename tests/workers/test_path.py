"""The path of a document through the workers: what is stored, what is dead, what is a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from headrace import telemetry
from headrace.document import (
    BLOCK_HEADER,
    COUNT_HEADER,
    Block,
    DeadLetter,
    derived_id,
    new_id,
    now,
    parse_id,
    raw_line,
    rfc3339,
)
from headrace.errors import UnavailableError
from headrace.messaging.commit import Committer
from headrace.messaging.publisher import open_publisher
from headrace.registry import load_pipelines
from headrace.settings import BlockSettings, Settings
from headrace.storage.mongo import Documents, StoredDocument, open_documents
from headrace.storage.postgres import Facts
from headrace.storage.redis import Projection
from headrace.topology import CLEAN
from tests.invariants import assert_balanced
from tests.workers.plant import Plant, open_plant, quick, until, until_projected
from workers.facts import StoreFacts

REFUSED = ("refine", "invalid_document")


async def document(plant: Plant, pipeline: str, document_id: str) -> StoredDocument | None:
    async with open_documents(plant.settings.mongo_url.get_secret_value(), 10) as documents:
        return await documents.get(load_pipelines(plant.settings.pipelines)[pipeline], UUID(document_id))


async def books(plant: Plant) -> dict[str, int]:
    """Return how many rows each book has, and the deliveries noted."""
    tables = ("journal", "repeats", "dead_letters", "rollups", "facts.things", "facts.parcels", "facts.members")
    return {table: (await plant.fetch(f"SELECT count(*) AS n FROM {table}"))[0]["n"] for table in tables}


async def test_valid_documents_are_stored_and_the_others_dead_with_their_reasons(plant: Plant) -> None:
    valid = [{"name": str(n), "group": "ab"[n % 2], "size": n, "price": "0.1", "tags": ["x", "y"]} for n in range(40)]
    ids = await plant.submit("things", *valid)
    bad = await plant.submit("things", {"name": 5}, {"name": "ok"}, {"name": "a", "mode": "refuse"})
    await plant.submit("things", {"name": "a", "mode": "bug"}, {"name": "a", "mode": "nan"})
    await plant.work()

    assert sorted(await plant.stored("things")) == sorted([*ids, bad[1]])
    assert await plant.letters() == [
        REFUSED, REFUSED, ("refine", "transform_failed"), ("refine", "transform_refused"),
    ]  # fmt: skip
    [letter] = await plant.fetch("SELECT * FROM dead_letters WHERE code = 'transform_refused'")
    assert (letter["body"], letter["sender"], letter["attempts"]) == (b'{"name":"a","mode":"refuse"}', "me", 1)
    stored = await document(plant, "things", ids[3])
    assert stored is not None
    assert (stored.document["price"], stored.document["weight"], stored.sender) == ("0.1", 0.5, "me")
    await assert_balanced(plant.settings)


async def test_documents_of_many_requests_are_stored_once_each(plant: Plant) -> None:
    async with plant.workers(), open_publisher(plant.bus, 10) as publisher:
        commits = Committer(publisher, plant.topology, plant.settings.block, max_documents=10_000, max_bytes=1 << 24)
        ids = [new_id() for _ in range(400)]
        lines = [raw_line(one, now(), b'"me"', b'{"name":"a","size":%d}' % n) for n, one in enumerate(ids)]
        await asyncio.gather(*(commits.commit("things", line) for line in lines))
        # Clients that had no answer send again.
        await asyncio.gather(*(commits.commit("things", line) for line in lines[:100]))
        await plant.drained()

    assert sorted(await plant.stored("things")) == sorted(ids)
    [repeats] = await plant.fetch("SELECT count(*) AS n FROM repeats")
    assert repeats["n"] == 100
    await assert_balanced(plant.settings)


async def test_everything_delivered_again_changes_nothing(plant: Plant) -> None:
    same = [new_id() for _ in range(3)]
    await plant.submit("things", {"name": "a"}, {"name": "b"}, {"name": "a"}, ids=[same[0], same[1], same[0]])
    await plant.submit("things", {"name": "b"}, {"name": "c"}, {"name": 5}, ids=[same[1], same[2], new_id()])
    # Of one id: first a document that refine refuses, then one that it takes.
    await plant.submit("things", {"name": 5}, {"name": "d"}, {"name": "d"}, ids=["0" * 8 + new_id()[8:]] * 3)
    await plant.bare("parcels", b'{"number":"1"}')
    await plant.bare("things", b'{"name":"bare"}')
    await plant.submit("members", {"number": 1}, {"number": 1, "status": "old"})
    await plant.work()
    before = await books(plant)
    await assert_balanced(plant.settings)
    for _ in range(2):
        await plant.deliver_everything_again()
        await plant.work()

    assert await books(plant) == before
    await assert_balanced(plant.settings)


async def test_a_repeat_is_told_within_a_block_and_across_blocks(plant: Plant) -> None:
    one, other = new_id(), new_id()
    await plant.submit("things", {"name": "a"}, {"name": "b"}, {"name": "a"}, ids=[one, other, one])
    await plant.submit("things", {"name": "b"}, ids=[other])
    await plant.work()
    await plant.submit("things", {"name": "a"}, {"name": "a"}, ids=[one, one])
    await plant.work()

    assert sorted(await plant.stored("things")) == sorted([one, other])
    found = await plant.fetch("SELECT id, ordinal FROM repeats")
    assert sorted((str(row["id"]), row["ordinal"]) for row in found) == sorted(
        [(one, 0), (one, 1), (one, 1), (other, 0)]
    )
    assert await plant.letters() == []
    await assert_balanced(plant.settings)


async def test_other_bytes_under_a_known_id_are_dead_in_every_store(plant: Plant) -> None:
    one = new_id()
    await plant.submit("things", {"name": "first"}, {"name": "second"}, ids=[one, one])
    await plant.work()
    await plant.submit("things", {"name": "third"}, ids=[one])
    await plant.work()
    stored = await document(plant, "things", one)

    assert stored is not None
    assert stored.document["name"] == "first"
    assert (
        await plant.letters() == [("documents", "idempotency_conflict")] * 2 + [("facts", "idempotency_conflict")] * 2
    )
    await assert_balanced(plant.settings)


async def test_a_raw_block_that_became_two_clean_ones_has_the_letters_of_both(settings: Settings) -> None:
    small = quick(settings).model_copy(update={"block": BlockSettings(max_documents=2)})
    ids = [new_id() for _ in range(4)]
    async with open_plant(small) as plant:
        await plant.submit("things", *({"name": "first"} for _ in ids), ids=ids)
        await plant.work()
        await plant.submit("things", *({"name": "second"} for _ in ids), ids=ids)
        await plant.work()

        assert await plant.letters() == [(sink, "idempotency_conflict") for sink in ("documents", "facts") for _ in ids]
        await assert_balanced(plant.settings)


async def test_a_clean_block_that_is_there_twice_is_no_repeat(plant: Plant) -> None:
    await plant.submit("things", {"name": "a"}, {"name": "b"})
    await plant.work("refine", "journal")
    # The broker's memory of ids ends, by time or with its process, and refine's ack was lost.
    [clean] = await clean_blocks(plant)
    await plant.publish_clean(clean, message_id=new_id())
    await plant.work()

    assert (await books(plant))["repeats"] == 0
    await assert_balanced(plant.settings)


async def clean_blocks(plant: Plant) -> list[Block]:
    """Return what CLEAN holds."""
    stream = plant.topology.stream(CLEAN)
    js = plant.bus.client.jetstream()
    state = (await js.stream_info(stream)).state
    found = [await js.get_msg(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]
    return [
        Block((one.headers or {})[BLOCK_HEADER], "things", one.data or b"", int((one.headers or {})[COUNT_HEADER]))
        for one in found
    ]


async def test_bare_documents_follow_the_same_rules(plant: Plant) -> None:
    await plant.bare("things", b'{"name":\n"a"}')
    await plant.bare("things", b'{"name":"b"}', {"Idempotency-Key": "k"})
    await plant.bare("things", b'{"name":"b"}', {"Idempotency-Key": "k"})
    await plant.bare("things", b'{"name":"c"}', {"Idempotency-Key": "k"})
    await plant.bare("things", b"\x00\n\xff")
    await plant.bare("parcels", b'{"number":"7"}')
    await plant.bare("parcels", b'{"number":"7"}')
    await plant.bare("members", b'{"number":1,"status":"a"}')
    await plant.bare("members", b'{"number":1,"status":"b"}')
    await plant.bare("nobody", b"{}")
    await plant.work()

    assert len(await plant.stored("things")) == 2
    assert derived_id("key", "nats", "things", "k") in await plant.stored("things")
    assert len(await plant.stored("parcels")) == 1
    assert [row["status"] for row in await plant.fetch("SELECT status FROM facts.members")] == ["b"]
    assert await plant.letters() == [
        ("documents", "idempotency_conflict"), ("facts", "idempotency_conflict"),
        ("refine", "malformed_json"), ("refine", "unknown_pipeline"),
    ]  # fmt: skip
    [letter] = await plant.fetch("SELECT body FROM dead_letters WHERE code = 'malformed_json'")
    assert letter["body"] == b"\x00\n\xff"
    await assert_balanced(plant.settings)


async def test_a_block_of_an_unknown_pipeline_is_dead_whole(plant: Plant) -> None:
    await plant.submit("nobody", {"a": 1}, {"a": 2})
    await plant.publish(Block(new_id(), "nobody", b"no json", 1))
    await plant.work()

    assert await plant.letters() == [("refine", "unknown_pipeline")] * 3
    bodies = {row["body"] for row in await plant.fetch("SELECT body FROM dead_letters")}
    assert bodies == {b'{"a":1}', b'{"a":2}', b"no json"}
    assert b'"nobody"' not in telemetry.snapshot(), "metrics do not grow with what publishers call things"


async def test_a_block_that_is_none_is_dead_with_its_bytes(plant: Plant) -> None:
    bodies = [b"", b"\n", b"no json", b"\xff\x00\n", b'{"id":"x","time":"","subject":"","data":{}}\n']
    for body in bodies:
        await plant.publish(Block(new_id(), "things", body, 1))
    await plant.work()
    letters = await plant.fetch("SELECT body, document_id FROM dead_letters")

    assert {letter["body"] for letter in letters} == set(bodies)
    assert len({parse_id(str(letter["document_id"])) for letter in letters}) == len(bodies)
    await assert_balanced(plant.settings)


async def test_what_raw_takes_can_be_refused_however_large(plant: Plant) -> None:
    key = b"k" * 300_000
    bodies = [b"\x01" * 650_000, b'{"name":"a","%b":1,"%b2":1}' % (key, key), b'{"name":"a","mode":"grow"}']
    for body in bodies:
        await plant.bare("things", body)
    await plant.work()

    assert await plant.letters() == [REFUSED, ("refine", "malformed_json"), ("refine", "too_large")]
    assert {row["body"] for row in await plant.fetch("SELECT body FROM dead_letters")} == set(bodies)
    await assert_balanced(plant.settings)


async def test_a_document_that_a_store_cannot_hold_is_dead_there_and_its_neighbours_live(plant: Plant) -> None:
    # Too long for the index of its rollup, and it does not compress.
    group = "".join(chr(0x4E00 + (n * 7919) % 20_000) for n in range(6000))
    rows: list[dict[str, Any]] = [{"name": str(n)} for n in range(9)]
    ids = await plant.submit("things", *rows[:5], {"name": "bad", "group": group}, *rows[5:])
    huge = await plant.submit("things", {"name": "bad", "price": "1E+9000"})
    await plant.work()

    assert await plant.letters() == [("documents", "store_refused"), ("facts", "store_refused")]
    assert set(await plant.stored("things")) == {*ids[:5], *ids[6:], *huge}
    await assert_balanced(plant.settings)


async def test_an_entity_is_its_newest_version_whatever_comes_in_which_batch(plant: Plant) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [rfc3339(start + timedelta(microseconds=n)) for n in range(4)]
    a, b = {"number": 1, "status": "a"}, {"number": 1, "status": "b"}
    ids = [new_id(), new_id()]
    # It changes and changes back within one block; another does so in blocks that come in disorder.
    await plant.submit("members", a, b, a, ids=[ids[0], ids[1], ids[0]], times=moments[:3])
    other = [new_id(), new_id()]
    c, d = {"number": 2, "status": "c"}, {"number": 2, "status": "d"}
    for place, which in ((2, 0), (1, 1), (0, 0)):
        await plant.submit("members", (c, d)[which], ids=[other[which]], times=[moments[place]])
    await plant.submit("members", {"number": 1, "status": "conflict"}, ids=[ids[0]], times=[moments[3]])
    await plant.work()

    found = await plant.fetch("SELECT number, status FROM facts.members ORDER BY number")
    assert [tuple(row) for row in found] == [(1, "a"), (2, "c")]
    async with open_documents(plant.settings.mongo_url.get_secret_value(), 10) as documents:
        members = load_pipelines(plant.settings.pipelines)["members"]
        newest = await documents.find(members, {}, sort="number", descending=False, after=None, limit=9)
    assert [(one.document["number"], one.document["status"]) for one in newest] == [(1, "a"), (2, "c")]
    await assert_balanced(plant.settings)


async def test_a_failure_that_nobody_foresaw_is_retried_and_then_blamed_on_its_document(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    insert = Documents.insert

    async def failing(self: Documents, pipeline: Any, rows: Any) -> Any:
        nonlocal calls
        calls += 1
        if any(row[2]["name"] == "cursed" for row in rows):
            raise RuntimeError("nobody foresaw this")
        return await insert(self, pipeline, rows)

    monkeypatch.setattr(Documents, "insert", failing)
    ids = await plant.submit("things", *({"name": str(n)} for n in range(20)), {"name": "cursed"}, {"name": "z"})
    await plant.work()

    assert calls > plant.settings.retry.max_attempts
    assert await plant.letters() == [("documents", "processing_failed")]
    assert sorted(await plant.stored("things")) == sorted(ids)
    await assert_balanced(plant.settings)


async def test_a_failure_that_passes_blames_nobody(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter(range(plant.settings.retry.max_attempts - 1))
    apply = StoreFacts.apply

    async def failing(self: StoreFacts, pipeline: Any, items: Any) -> Any:
        if next(failures, None) is not None:
            raise RuntimeError("only for now")
        return await apply(self, pipeline, items)

    monkeypatch.setattr(StoreFacts, "apply", failing)
    await plant.submit("things", {"name": "a"}, {"name": "b"})
    await plant.work()

    assert next(failures, None) is None
    assert await plant.letters() == []
    await assert_balanced(plant.settings)


async def test_a_letter_that_cannot_be_noted_holds_no_other_up(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    record_dead = Facts.record_dead

    async def failing(self: Facts, letters: Sequence[DeadLetter]) -> None:
        if any(letter.pipeline == "nobody" for letter in letters):
            raise RuntimeError("nobody foresaw this")
        await record_dead(self, letters)

    monkeypatch.setattr(Facts, "record_dead", failing)
    await plant.submit("nobody", {})
    await plant.submit("things", {"name": 5})
    async with plant.workers():
        await until(lambda: _indexed(plant))
        assert (await plant.lags())["dead"] == 1, "it is not lost in silence"

        monkeypatch.undo()
        await plant.drained()
    assert await plant.letters() == [REFUSED, ("refine", "unknown_pipeline")]


async def _indexed(plant: Plant) -> bool:
    return await plant.letters() == [REFUSED]


async def test_a_write_to_redis_that_failed_is_made_good(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Projection.project
    refusals = iter(range(3))

    async def failing(self: Projection, pipeline: str, rows: Any) -> None:
        if pipeline == "things" and next(refusals, None) is not None:
            raise UnavailableError("Redis is away.", code="redis_unavailable")
        await project(self, pipeline, rows)

    async with plant.workers():
        await plant.submit("things", {"name": "a", "group": "x"})
        await plant.drained()
        await until_projected(plant)
        monkeypatch.setattr(Projection, "project", failing)
        await plant.submit("things", {"name": "b", "group": "x"})
        await plant.drained()
        await until_projected(plant)

    assert next(refusals, None) is None
