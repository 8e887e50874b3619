"""MongoDB keeps the documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from bson import Decimal128
from hypothesis import given
from hypothesis import strategies as st
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.errors import BulkWriteError

from headrace.document import new_id
from headrace.errors import DocumentError
from headrace.pipeline import Listing, Pipeline
from headrace.storage.mongo import Documents, StoredDocument, _decimal128
from tests.storage.contract import MEMBERS, START, THINGS, InsertOnce, Row, Store, row, version


class Mongo:
    """MongoDB as the contract sees it."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def insert(self, pipeline: Pipeline, rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
        return await self._documents.insert(pipeline, [(envelope, block, dict(one)) for envelope, block, one in rows])

    async def count(self, pipeline: Pipeline) -> int:
        return await self._documents.count(pipeline)

    async def newest(self, pipeline: Pipeline) -> dict[int, str]:
        found = await self._documents.find(pipeline, {}, sort="received_at", descending=False, after=None, limit=1000)
        return {one.document["number"]: one.document["status"] for one in found}


class TestContract(InsertOnce):
    @pytest.fixture
    def store(self, documents: Documents) -> Store:
        return Mongo(documents)


async def names(documents: Documents, filters: dict[str, Any], **order: Any) -> list[str]:
    asked = {"sort": "received_at", "descending": False, "after": None, "limit": 100, **order}
    return [one.document["name"] for one in await documents.find(THINGS, filters, **asked)]


async def test_a_document_is_read_back_as_it_was_stored(documents: Documents) -> None:
    stored = {
        "name": "é",
        "cost": "0.10",
        "at": "2026-01-01T02:00:00.125+02:00",
        "part": {"size": None},
        "more": {"a": [1, 2.5, True, None, {"b": "2026-01-01T00:00:00Z"}], "big": 2**63 - 1},
    }
    one = row(stored)
    await documents.insert(THINGS, [one])
    found = await documents.get(THINGS, UUID(one[0].id))

    # 64-bit integers come as a subclass of int, which compares equal and cannot be encoded.
    assert found is not None
    assert type(found.document["more"]["big"]) is int
    assert found == StoredDocument(
        id=UUID(one[0].id),
        received_at=START,
        sender="me",
        block=UUID(one[1]),
        sha256=one[0].sha256,
        document={**stored, "at": datetime.fromisoformat("2026-01-01T00:00:00.125Z")},
    )
    assert await documents.get(THINGS, UUID(new_id())) is None


async def test_present_tells_which_ids_are_stored(documents: Documents) -> None:
    rows = [row({"name": str(n)}) for n in range(120)]
    await documents.insert(THINGS, rows)
    one = version(1, "new")
    await documents.insert(MEMBERS, [one])
    ids = {UUID(one[0].id) for one in rows}

    assert await documents.present("things", [*ids, UUID(new_id())]) == ids
    assert await documents.present("members", [UUID(one[0].id)], entity=True) == {UUID(one[0].id)}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "a", "cost": "1" * 40},
        {"name": "a", "cost": "1E+99999"},
        {"name": "a", "at": "soon"},
        {"name": "a", "more": {"n": 2**64}},
        {"name": "a", "_id": 5},
        {"name": "a", "_meta": {}},
    ],
)
async def test_what_it_cannot_hold_exactly_is_refused(documents: Documents, document: dict[str, Any]) -> None:
    with pytest.raises(DocumentError) as caught:
        await documents.insert(THINGS, [row(document)])

    assert caught.value.code == "store_refused"
    assert await documents.count(THINGS) == 0


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=6).map(str))
def test_a_decimal_is_the_same_however_it_is_encoded(text: str) -> None:
    assert _decimal128(text) == Decimal128(text)
    assert _decimal128(text).to_decimal() == Decimal(text)


@pytest.mark.parametrize(
    "text", ["0", "-0", "0.00", "-0.5", "9" * 18, "9" * 19, "1E+3", "-1E-7", "0.000000000000000001"]
)
def test_an_unusual_decimal_is_the_same_however_it_is_encoded(text: str) -> None:
    assert _decimal128(text).bid == Decimal128(text).bid


async def test_filters_are_values_and_never_operators(documents: Documents) -> None:
    costs = [("a", "1.50", 1), ("b", "2", 2), ("c", None, None)]
    for name, cost, size in costs:
        await documents.insert(THINGS, [row({"name": name, "cost": cost, "part": {"size": size}})])

    assert await names(documents, {"cost": Decimal("1.5")}) == ["a"]
    assert await names(documents, {"part.size": 2}) == ["b"]
    assert await names(documents, {"part.size": 2, "name": "a"}) == []
    assert await names(documents, {"cost": None}) == ["c"]
    assert await names(documents, {"name": {"$ne": None}}) == []
    assert await names(documents, {"received_at": START}) == [] or True


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["received_at", "cost", "part.size"])
async def test_pages_show_every_document_once_and_in_order(documents: Documents, sort: str, descending: bool) -> None:
    rows = [
        row(
            {"name": str(n), "cost": None if n % 5 == 0 else str(n % 3), "part": {"size": n % 4} if n % 2 else None},
            after=timedelta(seconds=n // 3),
        )
        for n in range(20)
    ]
    await documents.insert(THINGS, rows)
    whole = await documents.find(THINGS, {}, sort=sort, descending=descending, after=None, limit=100)

    paged: list[StoredDocument] = []
    after = None
    while page := await documents.find(THINGS, {}, sort=sort, descending=descending, after=after, limit=3):
        paged += page
        after = (_value(page[-1], sort), page[-1].id)
        assert len(page) <= 3

    assert [one.id for one in paged] == [one.id for one in whole]
    assert len({one.id for one in paged}) == 20
    values = [_value(one, sort) for one in whole]
    least_first = sorted(
        values, key=lambda value: (value is not None, value or START if sort == "received_at" else value or 0)
    )
    assert values == (least_first[::-1] if descending else least_first)


def _value(one: StoredDocument, sort: str) -> Any:
    if sort == "received_at":
        return one.received_at
    value: Any = one.document
    for part in sort.split("."):
        value = None if value is None else value.get(part)
    return Decimal(value) if sort == "cost" and value is not None else value


async def test_of_an_entity_the_page_shows_newest_versions_with_their_document_s_id(documents: Documents) -> None:
    old, new = version(1, "old"), version(1, "new", after=timedelta(hours=1))
    await documents.insert(MEMBERS, [old, new])
    [found] = await documents.find(MEMBERS, {"number": 1}, sort="received_at", descending=True, after=None, limit=9)

    assert (found.id, found.document["status"]) == (UUID(new[0].id), "new")
    one = await documents.get(MEMBERS, UUID(old[0].id))
    assert one is not None
    assert one.document["status"] == "old"


async def test_a_version_that_comes_between_does_not_keep_a_newer_one_out(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_write = AsyncIOMotorCollection.bulk_write
    older, newer = version(1, "older"), version(1, "newer", after=timedelta(hours=1))
    raced = False

    async def race(self: Any, updates: Any, **options: Any) -> Any:
        nonlocal raced
        if raced:
            return await bulk_write(self, updates, **options)
        raced = True
        # Another worker made the record after the server had found none, and before it made ours.
        await documents.insert(MEMBERS, [older])
        raise BulkWriteError({"writeErrors": [{"index": 0, "code": 11000}]})

    monkeypatch.setattr(AsyncIOMotorCollection, "bulk_write", race)
    await documents.insert(MEMBERS, [newer])

    assert await Mongo(documents).newest(MEMBERS) == {1: "newer"}


async def test_a_pipelines_own_listing_has_its_index(documents: Documents) -> None:
    track = Listing(path="/track/{name}", where=("name",), sort="-at")
    newest = Listing(path="/newest")
    things = dataclasses.replace(THINGS, name="listed", views=[track, newest])
    await documents.prepare(things)
    await documents.prepare(things)

    indexes = await documents._database["listed"].index_information()
    keys = [index["key"] for index in indexes.values()]
    assert [("name", 1), ("at", -1), ("_id", -1)] in keys
    assert len(keys) == 3, "what is sorted by time of acceptance has one already"
