"""Pages of documents: filters, sorts and cursors, and what they refuse."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.cursor import cursor_of, place_of
from analytics.listing import Place, field_named, parsed
from headrace.errors import DocumentError, RequestError
from headrace.fields import Field
from tests.analytics.pipelines.orders import orders
from tests.analytics.system import System


async def test_filters_find_the_values_of_every_type(system: System) -> None:
    customer = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
    ids = await system.submit(
        "orders",
        {"product": "tea", "shop": "north", "price": "1.10", "quantity": 3, "paid": True, "tags": ["hot", "new"]},
        {"product": "tea", "shop": "south", "day": "2026-02-03", "score": 2.5, "at": "2026-01-01T12:00:00+02:00"},
        {"product": "mug", "customer": customer, "price": "1.1"},
        {"product": "$ne", "shop": '{"$gt": ""}'},
    )
    await system.work()
    stored = (await system.ask("document", pipeline="orders", id=ids[0]))["received_at"]

    async def found(**filters: str) -> set[int]:
        answer = await system.ask("documents", pipeline="orders", filters=filters)
        assert answer["next"] is None
        return {ids.index(one["id"]) for one in answer["items"]}

    assert await found() == {0, 1, 2, 3}
    assert await found(product="tea") == {0, 1}
    assert await found(product="tea", shop="south") == {1}
    assert await found(price="1.100") == {0, 2}
    assert await found(quantity="3") == {0}
    assert await found(paid="true") == {0}
    assert await found(paid="false") == {1, 2, 3}
    assert await found(tags="new") == {0}
    assert await found(day="2026-02-03") == {1}
    assert await found(score="2.50") == {1}
    assert await found(at="2026-01-01T10:00:00Z") == {1}
    assert await found(at="2026-01-01T11:00:00 01:00") == {1}
    assert await found(customer=customer.lower()) == {2}
    assert await found(product="$ne") == {3}
    assert await found(shop='{"$gt": ""}') == {3}
    assert 0 in await found(received_at=f"{stored[:23]}Z")
    items = (await system.ask("documents", pipeline="orders", filters={"product": "mug"}))["items"]
    assert items[0]["document"]["price"] == "1.1"
    assert items[0].keys() == {"id", "received_at", "document"}


async def test_pages_hold_every_document_once_in_order(system: System) -> None:
    shops = [None, "b", "a", None, "c", "b", None]
    for shop in shops:
        await system.submit("orders", {"product": "tea", "shop": shop, "price": f"{len(shop or '')}.5"})
    await system.work()

    for sort in ("-received_at", "received_at", "shop", "-shop", "price", "-price", "-at", "score"):
        pages = await _pages(system, sort)

        assert [len(page) for page in pages] == [2, 2, 2, 1], sort
        items = [item for page in pages for item in page]
        assert len({item["id"] for item in items}) == len(shops), sort
        name = sort.removeprefix("-")
        values = [item["received_at"] if name == "received_at" else item["document"][name] for item in items]
        ordered = sorted(values, key=lambda value: (value is not None, value or ""), reverse=sort.startswith("-"))
        assert values == ordered, sort


async def _pages(system: System, sort: str) -> list[list[dict[str, Any]]]:
    pages = []
    cursor = None
    while True:
        page = await system.ask("documents", pipeline="orders", sort=sort, limit=2, cursor=cursor)
        pages.append(page["items"])
        cursor = page["next"]
        if cursor is None:
            return pages


async def test_entities_are_listed_by_their_newest_versions(system: System) -> None:
    await system.submit("members", *({"number": number, "status": "new"} for number in range(5)))
    await system.work()
    await system.submit("members", {"number": 3, "status": "old"})
    await system.work()

    first = await system.ask("documents", pipeline="members", sort="number", limit=4)
    second = await system.ask("documents", pipeline="members", sort="number", limit=4, cursor=first["next"])

    documents = [item["document"] for item in first["items"] + second["items"]]
    assert [document["number"] for document in documents] == [0, 1, 2, 3, 4]
    assert [document["status"] for document in documents] == ["new", "new", "new", "old", "new"]


async def test_a_cursor_is_good_for_its_own_list_only(system: System) -> None:
    await system.submit("orders", *({"product": "tea"} for _ in range(3)))
    await system.work()
    cursor = (await system.ask("documents", pipeline="orders", limit=1))["next"]
    assert (await system.ask("documents", pipeline="orders", limit=1, cursor=cursor))["items"]

    known = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    sort, filters, value, identity = known

    def forged(*parts: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")

    assert forged(*known) == cursor
    for wrong in (
        {"cursor": cursor, "sort": "product"},
        {"cursor": cursor, "filters": {"product": "tea"}},
        {"cursor": ""},
        {"cursor": "%%%"},
        {"cursor": cursor + "="},
        {"cursor": cursor[:-2]},
        {"cursor": forged(sort, filters, value, "no id")},
        {"cursor": forged(sort, filters, {"$gt": ""}, identity)},
        {"cursor": forged(sort, filters, "yesterday", identity)},
        {"cursor": forged(sort, filters, value, identity, 1)},
        {"cursor": forged(sort, filters, value)},
    ):
        with pytest.raises(DocumentError) as refused:
            await system.ask("documents", pipeline="orders", **wrong)
        assert (refused.value.code, refused.value.status) == ("invalid_cursor", 422), wrong


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"filters": {"nothing": "1"}}, "unknown_field", "/nothing"),
        ({"filters": {"$where": "1"}}, "unknown_field", "/$where"),
        ({"filters": {"_id": "1"}}, "unknown_field", "/_id"),
        ({"filters": {"quantity": "three"}}, "invalid_value", "/quantity"),
        ({"sort": "nothing"}, "unknown_field", "/nothing"),
        ({"sort": "-tags"}, "invalid_value", "/sort"),
        ({"limit": 1001}, "invalid_value", "/limit"),
        ({"limit": 0}, "invalid_value", "/limit"),
        ({"filters": {"quantity": {"$gt": 1}}}, "invalid_value", "/filters"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    system: System, payload: dict[str, object], code: str, pointer: str
) -> None:
    with pytest.raises(RequestError) as refused:
        await system.ask("documents", pipeline="orders", **payload)

    assert (refused.value.status, refused.value.code) == (422, code)
    assert refused.value.errors[0].pointer == pointer


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("quantity", "1_000"),
        ("quantity", " 1"),
        ("quantity", "9223372036854775808"),
        ("quantity", "١"),
        ("price", "NaN"),
        ("price", "1e7000"),
        ("price", "0.12345678901234567890123456789012345"),
        ("score", "inf"),
        ("score", "1e999"),
        ("paid", "yes"),
        ("at", "yesterday"),
        ("at", "10:00"),
        ("day", "2026-02-30"),
        ("customer", "no uuid"),
        ("product", "a\x00b"),
    ],
)
def test_a_text_that_is_no_value_of_the_field_is_refused(name: str, text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parsed(field_named(orders, name), text)

    assert refused.value.code == "invalid_value"
    assert refused.value.errors[0].pointer == f"/{name}"


@given(st.builds(Place, sort=st.text(), filters=st.text(), value=st.none() | st.text(), id=st.text()))
def test_a_cursor_names_the_place_it_was_made_from(place: Place) -> None:
    assert place_of(cursor_of(place), Place) == place


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_text_is_a_cursor_of_ours_or_is_refused(text: str) -> None:
    try:
        place = place_of(text, Place)
    except DocumentError:
        return
    assert cursor_of(place) == text


@given(st.text())
def test_any_text_is_a_value_or_is_refused(text: str) -> None:
    for sql_type in (
        "boolean",
        "bigint",
        "double precision",
        "numeric",
        "timestamptz",
        "date",
        "uuid",
        "text",
        "jsonb",
    ):
        try:
            value = parsed(Field("x", "x", sql_type), text)
        except DocumentError:
            continue
        assert not isinstance(value, Decimal) or value.is_finite()


async def test_rows_are_paged_in_a_stable_order_with_their_identities_as_text(system: System) -> None:
    await system.submit(
        "members", *({"number": n, "city": f"c{n % 3}", "status": "s" if n % 2 else None} for n in range(12))
    )
    await system.work()

    async def rows(**asked: Any) -> list[dict[str, Any]]:
        found = await system.ask("documents.rows", pipeline="members", **{"limit": 5, "sort": "city", **asked})
        assert isinstance(found, list)
        return found

    pages = [await rows(skip=skip) for skip in (0, 5, 10, 15)]
    assert [len(page) for page in pages] == [5, 5, 2, 0]
    order = [one["_id"] for page in pages for one in page]
    assert order == sorted(map(str, range(12)), key=lambda n: (int(n) % 3, n))
    assert pages[0][0] == {"_id": "0", "number": 0, "status": None, "city": "c0", "active": True}
    there = await rows(limit=100, present=["status"], fields=["status", "number"], sort="-number")
    assert there == [{"_id": str(n), "status": "s", "number": n} for n in (11, 9, 7, 5, 3, 1)]
    assert await rows(filters={"active": "false"}) == []
    for wrong in ({"sort": "nothing"}, {"present": ["nothing"]}, {"fields": ["nothing"]}, {"filters": {"x": "1"}}):
        with pytest.raises(DocumentError) as refused:
            await rows(**wrong)
        assert refused.value.code == "unknown_field"
