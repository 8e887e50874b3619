"""Postgres keeps the facts, and counts each of them once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, create_model

from headrace.document import DeadLetter, new_id, parse_time, rfc3339
from headrace.errors import DocumentError, HeadraceError, UnavailableError
from headrace.pipeline import Count, Latest, Maximum, Minimum, Pipeline, Sum, Trend
from headrace.rollup import Aggregator, RowKey
from headrace.rollup import Row as Rollup
from headrace.settings import Settings
from headrace.storage.facts_table import Fact, Known
from headrace.storage.postgres import Facts, open_facts
from headrace.storage.redis import Projected
from tests.storage.contract import MEMBERS, START, THINGS, InsertOnce, Row, Store, row, version


def facts_of(rows: Sequence[Row]) -> list[Fact]:
    return [Fact(envelope, block, document) for envelope, block, document in rows]


def counting(pipeline: Pipeline, facts: Sequence[Fact]) -> Any:
    def counted(new: set[str]) -> Mapping[RowKey, Rollup]:
        return Aggregator(pipeline).rows(
            (fact.document, parse_time(fact.envelope.time)) for fact in facts if fact.envelope.id in new
        )

    return counted


async def record(facts: Facts, pipeline: Pipeline, rows: Sequence[Row]) -> tuple[list[Projected], dict[str, Known]]:
    found = facts_of(rows)
    return await facts.record(pipeline, found, counting(pipeline, found))


async def rollups(facts: Facts, pipeline: str, metric: str | None = None) -> dict[tuple[str, str, int], Projected]:
    return {
        (one.metric, one.key, one.bucket): one
        async for portion in facts.all_rollups(pipeline, metric)
        for one in portion
    }


class Postgres:
    """Postgres as the contract sees it."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def insert(self, pipeline: Pipeline, rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
        _, known = await record(self._facts, pipeline, rows)
        return {document_id: (one.sha256, one.block) for document_id, one in known.items()}

    async def count(self, pipeline: Pipeline) -> int:
        return await self._facts.count(pipeline)

    async def newest(self, pipeline: Pipeline) -> dict[int, str]:
        found = await self._facts.fetch(f"SELECT number, status FROM facts.{pipeline.name}")
        return {one["number"]: one["status"] for one in found}


class TestContract(InsertOnce):
    @pytest.fixture
    def store(self, facts: Facts) -> Store:
        return Postgres(facts)


async def test_a_fact_is_a_typed_row(facts: Facts) -> None:
    one = row(
        {
            "name": "é",
            "cost": "0.10",
            "at": "2026-01-01T02:00:00+02:00",
            "part": {"size": 3},
            "more": {"a": [1, "x"]},
        },
        ordinal=4,
    )
    await record(facts, THINGS, [one])
    [found] = await facts.fetch("SELECT *, more->'a'->>1 AS x, pg_typeof(cost)::text AS kind FROM facts.things")

    assert (str(found["id"]), str(found["block"]), found["sender"]) == (one[0].id, one[1], "me")
    assert (found["received_at"], found["ordinal"], found["sha256"].hex()) == (START, 4, one[0].sha256)
    assert (found["name"], found["cost"], found["kind"]) == ("é", Decimal("0.10"), "numeric")
    assert (found["at"], found["part_size"], found["x"]) == (START, 3, "x")


class Kinds(BaseModel):
    at: datetime | None = None
    day: date | None = None
    free: Any = None
    whole: int | None = None
    ratio: float | None = None
    sure: bool | None = None
    ref: UUID | None = None
    note: str | None = None


KINDS = Pipeline(name="kinds", accepts=Kinds, example={})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"at": "2026-01-01T02:00:00"}, datetime(2026, 1, 1, 2, tzinfo=UTC)),
        ({"at": "2026-01-01T02:00:00.5-05:00"}, datetime(2026, 1, 1, 7, 0, 0, 500_000, UTC)),
        ({"at": "9998-12-31T23:59:59Z"}, datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ({"at": "2026-01-01T12:00:00+16:00"}, datetime(2025, 12, 31, 20, tzinfo=UTC)),
        ({"at": "2026-01-01"}, datetime(2026, 1, 1, tzinfo=UTC)),
        ({"day": "2026-02-01"}, date(2026, 2, 1)),
        ({"free": "2"}, '"2"'),
        ({"free": 2.5}, "2.5"),
        ({"free": [None, {"a": None}]}, '[null, {"a": null}]'),
        ({"free": None}, None),
        ({"whole": -(2**63)}, -(2**63)),
        ({"ratio": 1e-300}, 1e-300),
        ({"sure": False}, False),
        ({"ref": "01890a5d-ac96-774b-bcce-b302099a8057"}, UUID("01890a5d-ac96-774b-bcce-b302099a8057")),
    ],
)
async def test_each_type_is_read_alike_whatever_the_server_s_time_zone(
    facts: Facts, settings: Settings, document: dict[str, Any], expected: Any
) -> None:
    await facts.prepare([KINDS])
    url = f"{settings.postgres_url.get_secret_value()}?timezone=America/New_York&datestyle=German"
    async with open_facts(url, 10) as elsewhere:
        [session] = await elsewhere.fetch("SHOW timezone")
        assert session["TimeZone"] == "America/New_York"
        await record(elsewhere, KINDS, [row(document)])
    [name] = document
    [found] = await facts.fetch("SELECT * FROM facts.kinds")

    assert found[name] == expected
    assert [value for column, value in found.items() if column in Kinds.model_fields and column != name] == [None] * 7


@pytest.mark.parametrize(
    "document",
    [
        {"at": "now"},
        {"at": "infinity"},
        {"at": 5},
        {"at": "0001-01-01T00:00:00+05:00"},
        {"at": "9999-12-31T23:59:59-05:00"},
        {"day": "today"},
        {"sure": "yes"},
        {"whole": "0x10"},
        {"note": 5},
        {"note": ["a"]},
    ],
)
async def test_what_postgres_alone_would_take_for_a_value_is_none(facts: Facts, document: dict[str, Any]) -> None:
    await facts.prepare([KINDS])
    [name] = document
    with pytest.raises(DocumentError, match=f"field {name}"):
        await record(facts, KINDS, [row(document)])

    assert await facts.count(KINDS) == 0


async def test_only_new_rows_count(facts: Facts) -> None:
    rows = [row({"name": name}) for name in "aab"]
    changed, known = await record(facts, THINGS, rows)
    assert {one.key: (one.count, one.version) for one in changed} == {'["a"]': (2, 1), '["b"]': (1, 1)}
    assert known == {}

    again, known = await record(facts, THINGS, rows)
    assert again == []
    assert known == {e.id: Known(e.sha256, block, e.ordinal) for e, block, _ in rows}

    more, known = await record(facts, THINGS, [*rows, row({"name": "b"})])
    assert {one.key: (one.count, one.version) for one in more} == {'["b"]': (2, 2)}
    assert len(known) == 3


async def test_transactions_that_overlap_neither_lock_each_other_out_nor_count_twice(facts: Facts) -> None:
    chance = random.Random(7)
    rows = [row({"name": str(n % 7)}) for n in range(300)]
    batches = [chance.sample(rows, 200) for _ in range(16)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(record(facts, THINGS, batch) for batch in batches))
    stored = {one[0].id for batch in batches for one in batch}
    found = await rollups(facts, "things")

    assert await facts.count(THINGS) == len(stored)
    assert sum(one.count for one in found.values()) == len(stored)


async def test_a_failed_transaction_leaves_nothing(facts: Facts) -> None:
    rows = [row({"name": "a"}), row({"name": "b\x00"})]
    with pytest.raises(DocumentError):
        await record(facts, THINGS, rows)

    def fail(_new: set[str]) -> Mapping[RowKey, Rollup]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await facts.record(THINGS, facts_of(rows[:1]), fail)

    assert await facts.count(THINGS) == 0
    assert await rollups(facts, "things") == {}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "a\x00b"},
        {"name": "a", "cost": "many"},
        {"name": "a", "part": {"size": 2**63}},
        {"name": "a", "part": {"size": "x"}},
        {"name": "a", "more": {"a": "\x00"}},
    ],
)
async def test_what_it_cannot_hold_is_the_document_s_fault(facts: Facts, document: dict[str, Any]) -> None:
    with pytest.raises(DocumentError) as caught:
        await record(facts, THINGS, [row(document)])

    assert caught.value.code == "store_refused"


async def test_a_key_too_long_for_an_index_is_the_document_s_fault(facts: Facts) -> None:
    name = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    with pytest.raises(DocumentError):
        await record(facts, THINGS, [row({"name": name})])

    await record(facts, THINGS, [row({"name": "a"})])
    assert await facts.count(THINGS) == 1


class Sale(BaseModel):
    shop: str = "x"
    price: Decimal | None = None
    at: datetime | None = None
    note: str = ""


SALES = Pipeline(
    name="sales",
    accepts=Sale,
    example={},
    metrics=[
        Count("count", by="shop"),
        Sum("sum", of="price", by="shop"),
        Minimum("minimum", of="price"),
        Maximum("maximum", of="price"),
        Latest("latest", at="at", of=("note",), by="shop"),
        Trend("trend", every="1m"),
        Trend("worth", every="1h", of="price", at="at", by="shop"),
    ],
)


async def test_every_kind_of_metric_adds_up_in_any_blocks_and_order(facts: Facts) -> None:
    await facts.prepare([SALES])
    chance = random.Random(3)
    rows = [
        row(
            {
                "shop": chance.choice("ab"),
                "price": chance.choice([None, "0.1", "-3", "2.50", "1E+20", "1E-20"]),
                "at": chance.choice([None, rfc3339(START + timedelta(minutes=chance.randrange(0, 180, 30)))]),
                "note": chance.choice(["é", "z", "a", "Z", "𝒳", "\uffff"]),
            },
            after=timedelta(seconds=chance.randrange(300)),
        )
        for _ in range(120)
    ]
    expected = Aggregator(SALES).rows((document, parse_time(envelope.time)) for envelope, _, document in rows)
    chance.shuffle(rows)
    blocks = [rows[start : start + 17] for start in range(0, len(rows), 17)]
    await asyncio.gather(*(record(facts, SALES, block) for block in [*blocks, *blocks[:3]]))
    found = await rollups(facts, "sales")

    assert {place: (one.count, one.value, one.at, one.data) for place, one in found.items()} == {
        (one.metric, one.key, int(one.bucket.timestamp())): (one.count, one.value, one.at, one.data)
        for one in expected.values()
    }
    assert len({place[0] for place in found}) == len(SALES.metrics)


async def test_what_is_read_at_some_places_is_what_is_there(facts: Facts) -> None:
    await record(facts, THINGS, [row({"name": name}) for name in "abc"])
    everything = await rollups(facts, "things")
    places = list(Aggregator(THINGS).rows([({"name": "a"}, START), ({"name": "nope"}, START)]))

    assert await facts.rollups("things", places) == [everything["names", '["a"]', 0]]


def variant(**fields: Any) -> Pipeline:
    return Pipeline(name="things", accepts=create_model("Thing", **fields), example={})


async def test_a_new_field_becomes_a_column(settings: Settings, facts: Facts) -> None:
    old = row({"name": "a"})
    await record(facts, THINGS, [old])
    async with open_facts(settings.postgres_url.get_secret_value(), 10) as later:
        wider = variant(name=(str, ""), colour=(str | None, None), flat=(float, 0.0))
        await later.prepare([wider])
        await later.record(wider, facts_of([row({"name": "b", "colour": "red", "flat": 1})]), lambda _new: {})
        found = await later.fetch("SELECT name, colour, flat FROM facts.things ORDER BY name")

    assert [tuple(one) for one in found] == [("a", None, None), ("b", "red", 1.0)]


async def test_a_field_that_is_dropped_leaves_its_column(settings: Settings, facts: Facts) -> None:
    async with open_facts(settings.postgres_url.get_secret_value(), 10) as later:
        narrower = variant(name=(str, ""))
        await later.prepare([narrower])
        await later.record(narrower, facts_of([row({"name": "b"})]), lambda _new: {})

    await record(facts, THINGS, [row({"name": "c", "cost": "1"})])
    assert await facts.count(THINGS) == 2


async def test_a_changed_type_is_refused_by_name(settings: Settings, facts: Facts) -> None:
    async with open_facts(settings.postgres_url.get_secret_value(), 10) as later:
        with pytest.raises(HeadraceError, match=r"column 'cost' of facts.\"things\" is numeric; the schema") as caught:
            await later.prepare([variant(name=(str, ""), cost=(int, 0))])

    assert caught.value.code == "schema_conflict"


async def test_several_processes_may_prepare_at_once(settings: Settings) -> None:
    url = settings.postgres_url.get_secret_value()
    async with open_facts(url, 10) as one, open_facts(url, 10) as other:
        await asyncio.gather(*(facts.prepare([THINGS, MEMBERS, SALES]) for facts in (one, other, one, other)))
        await record(one, THINGS, [row({"name": "a"})])

        assert await other.count(THINGS) == 1


async def test_names_that_need_quotes_are_quoted(facts: Facts) -> None:
    odd = create_model("Odd", **{"order": (int, 1), "xmin": (int, 2), "a\"b'c; --": (int, 3)})  # type: ignore[call-overload]
    pipeline = Pipeline(name="select", accepts=odd, example={})
    await facts.prepare([pipeline])
    await facts.record(pipeline, facts_of([row({"order": 5, "xmin": 6, "a\"b'c; --": 7})]), lambda _new: {})
    [found] = await facts.fetch('SELECT "order", xmin_, "a""b\'c; --" FROM facts."select"')

    assert tuple(found) == (5, 6, 7)


async def test_blocks_repeats_and_dead_letters_are_noted_once(facts: Facts) -> None:
    block, document = new_id(), new_id()
    letter = DeadLetter(
        document, "things", "refine", "c", "r", 1, rfc3339(START), "me", block, 0, rfc3339(START), b"\x00\xff",
        [{"pointer": "/a", "code": "c", "message": "m"}],
    )  # fmt: skip
    for _ in range(2):
        await facts.record_journal(
            [(block, "things", 7, rfc3339(START), {}), (new_id(), "things", 1, rfc3339(START), {})][:1]
        )
        await facts.record_repeats(
            "things", [(block, document, 0, rfc3339(START), "me"), (block, document, 1, rfc3339(START), "me")]
        )
        await facts.record_dead([letter, letter])
    books = (await facts.books([THINGS]))["things"]
    [found] = await facts.fetch("SELECT body, pointer, errors::text AS errors, state FROM dead_letters")

    assert (books.accepted, books.stored, books.repeats) == (7, 0, 2)
    assert [one.count for one in books.letters] == [1]
    assert (found["body"], found["pointer"], found["state"]) == (b"\x00\xff", "/a", "dead")
    assert '"pointer": "/a"' in found["errors"]


async def test_a_letter_that_cannot_be_noted_is_no_outage(facts: Facts) -> None:
    with pytest.raises(DocumentError):
        await facts.record_journal([("no uuid", "things", 1, rfc3339(START), {})])


async def test_a_table_that_is_missing_is_an_outage_that_a_hand_can_mend(settings: Settings) -> None:
    async with open_facts(settings.postgres_url.get_secret_value(), 10) as facts:
        with pytest.raises(UnavailableError) as caught:
            await record(facts, THINGS, [row({"name": "a"})])
        assert caught.value.code == "postgres_unavailable"
        await facts.prepare([THINGS])
        await record(facts, THINGS, [row({"name": "a"})])


async def test_the_projection_s_state_is_kept(facts: Facts) -> None:
    assert await facts.projection() == ("", 0, 0)
    await facts.projection_failed()
    await facts.projection_failed()
    await facts.projection_made("run", 1)

    assert await facts.projection() == ("run", 2, 1)


async def test_entities_are_counted_by_their_newest_versions(facts: Facts) -> None:
    for number, status in ((1, "a"), (2, "a"), (3, "b"), (4, "a")):
        await record(facts, MEMBERS, [version(number, status)])
    await record(facts, MEMBERS, [version(4, "b", after=timedelta(seconds=1))])

    assert await facts.grouped(MEMBERS, ["status"], 10) == [(["a"], 2), (["b"], 2)]
    assert await facts.grouped(MEMBERS, [], 10) == [([], 4)]


async def test_a_table_from_before_there_was_a_precedence_goes_on(facts: Facts) -> None:
    await facts.fetch("ALTER TABLE facts.members DROP COLUMN precedence")
    await facts.fetch(
        "INSERT INTO facts.members (id, received_at, sender, block, ordinal, sha256, number, branch, status)"
        " VALUES (gen_random_uuid(), '2026-01-01', 'me', gen_random_uuid(), 0, 'x', 1, 'x', 'old')"
    )
    await facts.prepare([MEMBERS])
    for after, status in ((timedelta(hours=1), "newer"), (-timedelta(hours=1), "older")):
        await record(facts, MEMBERS, [version(1, status, after=after)])

    assert await Postgres(facts).newest(MEMBERS) == {1: "newer"}
