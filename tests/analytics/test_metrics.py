"""Metrics as answered by the service, of documents that went all the way."""

from __future__ import annotations

import asyncio
import json

import pytest

from headrace.errors import RequestError
from headrace.storage.postgres import open_facts
from tests.analytics.system import System

ORDERS = [
    {
        "product": "tea",
        "shop": "north",
        "price": "10.10",
        "quantity": 2,
        "tags": ["hot", "green"],
        "at": "2026-01-01T10:00:10Z",
    },
    {"product": "tea", "shop": "north", "price": "9.90", "quantity": 1, "tags": ["hot"], "at": "2026-01-01T10:00:50Z"},
    {"product": "mug", "shop": "south", "price": "3.333333", "quantity": 5, "at": "2026-01-01T10:02:00Z"},
    {"product": "mug", "shop": None, "price": "4.00", "quantity": -1, "at": "2026-01-01T09:59:00Z"},
    {"product": "tea", "shop": "", "price": "11.00", "quantity": 1, "at": "2026-01-01T09:00:00Z"},
]


async def test_every_kind_of_metric_is_counted_exactly(system: System) -> None:
    await system.submit("orders", *ORDERS[:2])
    await system.submit("orders", *ORDERS[2:])
    await system.work()

    async def answer(metric: str) -> object:
        found = await system.metric("orders", metric)
        assert found.pop("metric") == metric
        return found

    assert await answer("total") == {"kind": "count", "count": 1, "data": {}, "value": 5}
    # A null and an empty text are both "no value".
    assert await answer("shops") == {"kind": "count", "count": 3, "data": {"north": 2, "": 2, "south": 1}}
    assert await answer("tags") == {"kind": "count", "count": 2, "data": {"hot": 2, "green": 1}}
    assert await answer("products_by_shop") == {
        "kind": "count",
        "count": 4,
        "data": {"": {"mug": 1, "tea": 1}, "north": {"tea": 2}, "south": {"mug": 1}},
    }
    assert await answer("revenue") == {"kind": "sum", "count": 3, "data": {"north": 20.0, "": 15.0, "south": 3.333333}}
    assert await answer("items") == {"kind": "sum", "count": 1, "data": {}, "value": 8}
    assert await answer("cheapest") == {
        "kind": "minimum",
        "count": 4,
        "data": {"south": {"mug": 3.333333}, "": {"mug": 4.0, "tea": 11.0}, "north": {"tea": 9.9}},
    }
    assert await answer("dearest") == {"kind": "maximum", "count": 2, "data": {"tea": 11.0, "mug": 4.0}}
    assert await answer("per_minute") == {
        "kind": "trend",
        "count": 4,
        "data": [
            {"at": "2026-01-01T09:00:00.000000Z", "count": 1, "sum": 11.0},
            {"at": "2026-01-01T09:59:00.000000Z", "count": 1, "sum": 4.0},
            {"at": "2026-01-01T10:00:00.000000Z", "count": 2, "sum": 20.0},
            {"at": "2026-01-01T10:02:00.000000Z", "count": 1, "sum": 3.333333},
        ],
    }
    by_hour = await system.metric("orders", "by_hour")
    assert by_hour["data"][-2:] == [
        {"at": "2026-01-01T10:00:00.000000Z", "key": "north", "count": 2},
        {"at": "2026-01-01T10:00:00.000000Z", "key": "south", "count": 1},
    ]
    assert await answer("last") == {
        "kind": "latest",
        "count": 2,
        "data": {
            "mug": {"at": "2026-01-01T10:02:00.000000Z", "price": "3.333333", "shop": "south"},
            "tea": {"at": "2026-01-01T10:00:50.000000Z", "price": "9.90", "shop": "north"},
        },
    }
    assert await answer("newest") == {
        "kind": "latest",
        "count": 1,
        "data": {},
        "value": {"at": "2026-01-01T10:02:00.000000Z", "product": "mug"},
    }


async def test_redis_and_postgres_give_the_same_answer_byte_for_byte(system: System) -> None:
    await system.submit("orders", *ORDERS)
    names = [f"shop {n}" for n in range(40)]
    await system.submit("orders", *({"product": f"p{n % 7}", "shop": shop} for n, shop in enumerate(names)))
    async with system.workers():
        await system.drained()
        await _projected(system)
        from_redis = {limit: await system.reply("metrics", pipeline="orders", limit=limit) for limit in (3, 1000)}
    await _without_redis(system)
    from_postgres = {limit: await system.reply("metrics", pipeline="orders", limit=limit) for limit in (3, 1000)}

    for limit, reply in from_redis.items():
        assert reply.headers["Headrace-Source"] == "redis"
        assert from_postgres[limit].headers["Headrace-Source"] == "postgres"
        assert json.loads(reply.body) == json.loads(from_postgres[limit].body)
        assert reply.body == from_postgres[limit].body


async def test_an_answer_is_ordered_and_limited_and_counts_all_keys(system: System) -> None:
    shops = ["b", "b", "b", "c", "c", "a", "a", "d"]
    await system.submit(
        "orders", *({"product": "tea", "shop": shop, "at": f"2026-01-01T10:0{n}:00Z"} for n, shop in enumerate(shops))
    )
    await system.work()

    answer = await system.metric("orders", "shops", limit=3)
    assert answer["count"] == 4
    assert list(answer["data"].items()) == [("b", 3), ("a", 2), ("c", 2)]
    trend = await system.metric("orders", "per_minute", limit=2)
    assert [point["at"][14:16] for point in trend["data"]] == ["06", "07"]
    assert trend["count"] == 8
    summary = await system.ask("metrics", pipeline="orders", limit=2)
    assert summary["pipeline"] == "orders"
    assert {one["metric"]: len(one["data"]) for one in summary["metrics"]}["shops"] == 2


async def test_decimals_keep_all_their_digits(system: System) -> None:
    await system.submit("orders", *({"product": "tea", "shop": "north", "price": "0.1"} for _ in range(3)))
    await system.submit("orders", {"product": "tea", "shop": "south", "price": "12345678901234567.89"})
    await system.work()

    reply = await system.reply("metric", pipeline="orders", metric="revenue")

    assert b'"data":{"south":12345678901234567.89,"north":0.3}' in reply.body


async def test_a_metric_with_many_keys_is_read_from_postgres_whole_or_in_part(system: System) -> None:
    many = 10_050
    for start in range(0, many, 1000):
        await system.submit(
            "orders", *({"product": f"p{n:05}", "shop": "s"} for n in range(start, min(many, start + 1000)))
        )
    await system.submit("orders", {"product": "p00777"})
    await system.work()

    reply = await system.reply("metric", pipeline="orders", metric="dearest", limit=5)
    first = await system.metric("orders", "products_by_shop", limit=2)
    whole = await system.metric("orders", "products_by_shop")

    assert reply.headers["Headrace-Source"] == "postgres"
    assert json.loads(reply.body)["count"] == many
    assert first["data"] == {"s": {"p00000": 1, "p00001": 1}}
    assert whole["count"] == many + 1
    assert sum(len(products) for products in whole["data"].values()) == many + 1


async def test_entities_are_grouped_by_their_newest_versions(system: System) -> None:
    await system.submit("members", {"number": 1, "status": "new"}, {"number": 2, "status": "new"}, {"number": 3})
    await system.work()
    await system.submit("members", {"number": 2, "status": "old", "city": "Linz", "active": False})
    await system.work()

    assert await system.metric("members", "members") == {
        "metric": "members",
        "kind": "group_by",
        "count": 1,
        "data": {},
        "value": 3,
    }
    statuses = await system.metric("members", "statuses")
    assert statuses["data"] == {"new": 1, "old": 1, "": 1}
    assert statuses["count"] == 3
    # Null is no value, so it is no different one.
    assert (await system.metric("members", "kinds"))["value"] == 2
    assert await system.metric("members", "cities") == {
        "metric": "cities",
        "kind": "distinct",
        "count": 1,
        "data": {},
        "value": 2,
    }
    assert (await system.metric("members", "activity_by_city"))["data"] == {"Graz": {"true": 2}, "Linz": {"false": 1}}


async def test_before_the_first_document_every_metric_is_empty(system: System) -> None:
    await system.until("metrics", {"pipeline": "orders"}, pipeline="orders")
    summary = await system.ask("metrics", pipeline="orders")

    assert {one["metric"]: one.get("value", one["data"]) for one in summary["metrics"]} == {
        "total": 0,
        "shops": {},
        "tags": {},
        "products_by_shop": {},
        "revenue": {},
        "items": 0,
        "cheapest": {},
        "dearest": {},
        "per_minute": [],
        "by_hour": [],
        "last": {},
        "newest": None,
    }


async def test_an_answer_changes_as_soon_as_something_is_stored(system: System) -> None:
    patient = system.settings.analytics.cache_seconds
    assert patient > 0
    async with system.workers():
        for number in range(1, 6):
            subscription = await system.bus.client.subscribe(system.topology.stored("facts", "orders"))
            await system.submit("orders", {"product": "tea"})
            await subscription.next_msg(timeout=20)
            # One turn of the bus, so that the service has heard of it too.
            await system.ask("health")
            assert (await system.metric("orders", "total"))["value"] == number
            await subscription.unsubscribe()


async def test_who_has_the_answer_already_gets_304(system: System) -> None:
    await system.submit("orders", *ORDERS)
    await system.work()

    first = await system.reply("metric", pipeline="orders", metric="shops")
    tag = first.headers["ETag"]
    again = await system.reply(
        "metric", headers={"If-None-Match": f'"other", W/{tag}'}, pipeline="orders", metric="shops"
    )
    other = await system.reply("metric", headers={"If-None-Match": tag}, pipeline="orders", metric="tags")

    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert other.status == 200
    await system.submit("orders", *ORDERS)
    await system.work()
    changed = await system.reply("metric", headers={"If-None-Match": tag}, pipeline="orders", metric="shops")
    assert changed.status == 200
    assert changed.headers["ETag"] != tag


@pytest.mark.parametrize(
    ("payload", "status", "code"),
    [
        ({"pipeline": "nothing", "metric": "total"}, 404, "unknown_pipeline"),
        ({"pipeline": "orders", "metric": "nothing"}, 404, "unknown_metric"),
        ({"pipeline": "orders", "metric": "total", "limit": 0}, 422, "invalid_value"),
        ({"pipeline": "orders", "metric": "total", "limit": 100_001}, 422, "invalid_value"),
        ({"metric": "total"}, 422, "invalid_value"),
    ],
)
async def test_a_wrong_question_is_refused(system: System, payload: dict[str, object], status: int, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        await system.ask("metric", **payload)

    assert (refused.value.status, refused.value.code) == (status, code)


async def _projected(system: System) -> None:
    """Return when the service knows that Redis holds everything."""
    async with asyncio.timeout(20):
        while True:
            reply = await system.reply("metric", pipeline="orders", metric="total", limit=7)
            if reply.headers["Headrace-Source"] == "redis":
                return
            await asyncio.sleep(0.05)


async def _without_redis(system: System) -> None:
    """Let Redis forget what it holds for the test, as after a restart without its data."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(system.settings.redis_url.get_secret_value()) as client:
        async for key in client.scan_iter(match=f"*{system.settings.namespace}*"):
            await client.delete(key)
    await asyncio.sleep(system.settings.analytics.cache_seconds)


async def test_one_key_of_a_metric_is_the_same_from_redis_and_from_postgres(system: System) -> None:
    await system.submit("orders", *ORDERS)
    asked: list[tuple[str, list[str | None], object]] = [
        ("last", ["tea"], {"at": "2026-01-01T10:00:50.000000Z", "price": "9.90", "shop": "north"}),
        ("last", ["cup"], None),
        ("shops", [None], 1),
        ("shops", [""], 1),
        ("cheapest", ["south", "mug"], 3.333333),
    ]

    async def found() -> list[object]:
        return [(await system.ask("metric.key", pipeline="orders", metric=m, key=k))["found"] for m, k, _ in asked]

    async with system.workers():
        await system.drained()
        await _projected(system)
        assert await found() == [value for _, _, value in asked]
    await _without_redis(system)
    assert await found() == [value for _, _, value in asked]


async def test_a_fresh_answer_holds_what_was_committed_before_it_was_asked_for(system: System) -> None:
    await system.submit("orders", {"product": "tea"})
    await system.work()
    await system.until("metric", {"value": 1}, pipeline="orders", metric="total")
    # Behind the back of the service: no event tells of it, and Redis has it not.
    async with open_facts(system.settings.postgres_url.get_secret_value(), 10) as facts:
        await facts.fetch("UPDATE rollups SET count = 7 WHERE metric = 'total'")

    assert (await system.ask("metric", pipeline="orders", metric="total"))["value"] == 1
    assert (await system.ask("metric", pipeline="orders", metric="total", fresh=True))["value"] == 7
