"""What every store of documents does: each id once, repeats told, the newest version of an entity kept.

A module's tests take the suite by subclassing `InsertOnce` and giving it the fixture `store`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Protocol

import msgspec
import pytest
from pydantic import BaseModel

from headrace.document import Envelope, digest, json_text, new_id, rfc3339
from headrace.errors import DocumentError
from headrace.pipeline import Count, Distinct, GroupBy, Pipeline


class Part(BaseModel):
    size: int | None = None


class Thing(BaseModel):
    name: str
    cost: Decimal | None = None
    at: datetime | None = None
    part: Part | None = None
    more: dict[str, Any] = {}


class Member(BaseModel):
    number: int
    branch: str = "x"
    status: str = "new"


THINGS = Pipeline(name="things", accepts=Thing, example={"name": "a"}, metrics=[Count("names", by="name")])
MEMBERS = Pipeline(
    name="members",
    accepts=Member,
    example={"number": 1},
    key=("number", "branch"),
    entity=True,
    metrics=[GroupBy("statuses", by="status")],
)


class Ticket(BaseModel):
    number: int
    status: str
    step: int | None = None
    note: str | None = None
    score: float | None = None
    at: datetime | None = None
    seat: str | None = None


TICKETS = Pipeline(
    name="tickets",
    accepts=Ticket,
    example={"number": 1, "status": "new"},
    key=("number",),
    entity=True,
    newest_by=("step", "note", "score", "at", "seat?"),
    metrics=[GroupBy("statuses", by="status"), Distinct("notes", of="note")],
)
# Versions of a ticket, from the oldest to the newest by what they say themselves.
LADDER: Sequence[dict[str, Any]] = [
    {},
    {"seat": "z"},
    {"at": "2026-01-01T10:00:00.000001Z"},
    {"at": "2026-01-01T12:00:00.000002+02:00"},
    {"score": -2.5},
    {"score": -1e-300},
    {"score": 0.0},
    {"score": 1.5},
    {"score": 12.0, "seat": "a"},
    {"note": ""},
    {"note": "a"},
    {"note": "a\x01b"},
    {"note": "a b"},
    {"note": "ab"},
    {"note": "é"},
    {"note": "\U0001f600"},
    {"step": -(2**63)},
    {"step": -7},
    {"step": 0},
    {"step": 0, "note": "a"},
    {"step": 9},
    {"step": 10},
    {"step": 2**63 - 1, "seat": "b"},
]
START = datetime(2026, 1, 1, tzinfo=UTC)

Row = tuple[Envelope, str, dict[str, Any]]


class Store(Protocol):
    """A store as this suite sees it."""

    async def insert(self, pipeline: Pipeline, rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
        """Insert what is new; return (digest, block) as stored of the ids that were there before."""
        ...

    async def count(self, pipeline: Pipeline) -> int: ...

    async def newest(self, pipeline: Pipeline) -> dict[int, str]:
        """Return the status of each entity, by its number."""
        ...


def row(
    document: dict[str, Any],
    *,
    document_id: str | None = None,
    block: str | None = None,
    after: timedelta = timedelta(),
    ordinal: int = 0,
) -> Row:
    """Return a document as a sink gets it; `after` is how long after `START` it was accepted."""
    data = json_text(document)
    envelope = Envelope(document_id or new_id(), rfc3339(START + after), "me", msgspec.Raw(data), digest(data), ordinal)
    return envelope, block or new_id(), dict(document)


def version(number: int, status: str, **about: Any) -> Row:
    """Return a version of a member, `about` as for `row`."""
    return row({"number": number, "branch": "x", "status": status}, **about)


class InsertOnce:
    async def test_what_is_new_is_stored(self, store: Store) -> None:
        rows = [row({"name": str(n)}) for n in range(100)]

        assert await store.insert(THINGS, rows) == {}
        assert await store.count(THINGS) == 100

    async def test_what_was_there_is_told_with_what_is_stored(self, store: Store) -> None:
        first, second = row({"name": "a"}), row({"name": "b"})
        await store.insert(THINGS, [first])
        again = row({"name": "other"}, document_id=first[0].id)

        assert await store.insert(THINGS, [again, second]) == {first[0].id: (first[0].sha256, first[1])}
        assert await store.count(THINGS) == 2

    async def test_the_same_again_changes_nothing(self, store: Store) -> None:
        rows = [row({"name": str(n)}) for n in range(10)]
        known = {envelope.id: (envelope.sha256, block) for envelope, block, _ in rows}
        for _ in range(3):
            assert (await store.insert(THINGS, rows)) in ({}, known)

        assert await store.count(THINGS) == 10

    async def test_writers_with_the_same_ids_neither_lose_nor_double_nor_block(self, store: Store) -> None:
        rows = [row({"name": str(n % 3)}) for n in range(60)]
        orders = [rows, rows[::-1], rows[20:] + rows[:20], rows[::2] + rows[1::2]]
        async with asyncio.timeout(30):
            known = await asyncio.gather(*(store.insert(THINGS, order) for order in orders))

        assert await store.count(THINGS) == 60
        assert sum(map(len, known)) == 3 * 60, "each id was new to one of them"

    async def test_one_document_that_cannot_be_stored_is_the_document_s_fault(self, store: Store) -> None:
        bad = row({"name": "b", "at": "2026-99-99T00:00:00Z"})
        with pytest.raises(DocumentError) as caught:
            await store.insert(THINGS, [row({"name": "a"}), bad])

        assert caught.value.code == "store_refused"

    async def test_an_entity_is_its_newest_version_in_whatever_order_they_come(self, store: Store) -> None:
        hour = timedelta(hours=1)
        for number, order in enumerate(itertools.permutations(range(3))):
            for age in order:
                await store.insert(MEMBERS, [version(number, f"v{age}", after=age * hour)])

        assert await store.newest(MEMBERS) == dict.fromkeys(range(6), "v2")
        assert await store.count(MEMBERS) == 18, "every version is counted"

    async def test_versions_of_one_batch_are_told_apart_too(self, store: Store) -> None:
        rows = [version(1, f"v{n}", after=timedelta(microseconds=n)) for n in (1, 3, 0, 2)]
        await store.insert(MEMBERS, rows)

        assert await store.newest(MEMBERS) == {1: "v3"}

    async def test_a_microsecond_decides(self, store: Store) -> None:
        ids = sorted(new_id() for _ in range(2))
        older = version(1, "older", document_id=ids[1], after=timedelta(microseconds=1))
        newer = version(1, "newer", document_id=ids[0], after=timedelta(microseconds=2))
        await store.insert(MEMBERS, [older])
        await store.insert(MEMBERS, [newer])

        assert await store.newest(MEMBERS) == {1: "newer"}

    async def test_of_versions_of_one_moment_the_id_decides(self, store: Store) -> None:
        ids = sorted(new_id() for _ in range(2))
        for number, order in enumerate((ids, ids[::-1])):
            for one in order:
                await store.insert(MEMBERS, [version(number, str(ids.index(one)), document_id=f"{one[:-1]}{number}")])

        assert await store.newest(MEMBERS) == {0: "1", 1: "1"}

    async def test_a_version_whose_id_belongs_to_other_bytes_changes_nothing(self, store: Store) -> None:
        first = version(1, "first")
        await store.insert(MEMBERS, [first])
        other = version(1, "other", document_id=first[0].id, after=timedelta(hours=1))
        await store.insert(MEMBERS, [other])

        assert await store.newest(MEMBERS) == {1: "first"}

    async def test_an_entity_that_changes_back_is_followed(self, store: Store) -> None:
        first = version(1, "there")
        await store.insert(MEMBERS, [first])
        await store.insert(MEMBERS, [version(1, "elsewhere", after=timedelta(hours=1))])
        await store.insert(MEMBERS, [version(1, "there", document_id=first[0].id, after=timedelta(hours=2))])

        assert await store.newest(MEMBERS) == {1: "there"}
        assert await store.count(MEMBERS) == 2

    async def test_of_versions_that_race_the_newest_wins(self, store: Store) -> None:
        for number in range(5):
            rows = [version(number, f"v{n}", after=timedelta(seconds=n)) for n in range(6)]
            await asyncio.gather(*(store.insert(MEMBERS, [one]) for one in rows))

        assert await store.newest(MEMBERS) == dict.fromkeys(range(5), "v5")

    async def test_an_entity_follows_what_its_versions_say_themselves(self, store: Store) -> None:
        rows = [
            row({**Ticket(number=number, status=str(place)).model_dump(mode="json"), **one})
            for number in range(4)
            for place, one in enumerate(LADDER)
        ]
        times = Random(7)
        rows = [
            (msgspec.structs.replace(envelope, time=rfc3339(START + times.random() * timedelta(days=1))), block, one)
            for envelope, block, one in rows
        ]
        for shuffle in range(3):
            Random(shuffle).shuffle(rows)
            # One by one, in tens and all at once: what is met in a batch and what is met in the store.
            for size in (1, 10, 100)[shuffle : shuffle + 1]:
                for start in range(0, len(rows), size):
                    await store.insert(TICKETS, rows[start : start + size])

        assert await store.newest(TICKETS) == dict.fromkeys(range(4), str(len(LADDER) - 1))

    async def test_neighbours_are_told_apart_in_either_order(self, store: Store) -> None:
        for place, (older, newer) in enumerate(itertools.pairwise(LADDER)):
            blank = {"step": None, "note": None, "score": None, "at": None, "seat": None}
            pair = [row({"number": place, "status": "older", **blank, **older}, after=timedelta(hours=2))]
            pair.append(row({"number": place, "status": "newer", **blank, **newer}, after=timedelta(hours=1)))
            await store.insert(TICKETS, pair[:1])
            await store.insert(TICKETS, pair[1:])
            await store.insert(TICKETS, pair[::-1])

        assert set((await store.newest(TICKETS)).values()) == {"newer"}

    async def test_versions_that_say_the_same_are_told_apart_by_when_they_came(self, store: Store) -> None:
        for number, order in enumerate(itertools.permutations(range(3))):
            for age in order:
                one = {**Ticket(number=number, status=f"v{age}", step=1, seat=str(-age)).model_dump(mode="json")}
                await store.insert(TICKETS, [row(one, after=timedelta(microseconds=age))])

        assert await store.newest(TICKETS) == dict.fromkeys(range(6), "v2")
