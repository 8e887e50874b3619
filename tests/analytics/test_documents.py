"""Where one document is, at every point of its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from headrace.document import Block, new_id, now, raw_line
from headrace.errors import RequestError, UnavailableError
from headrace.settings import AnalyticsSettings, NatsSettings, Settings
from tests.analytics.system import System, open_system

TEA = {"product": "tea", "price": "1.50", "at": "2026-01-01T10:00:00Z", "tags": ["hot"]}
STORED_TEA = {
    "product": "tea",
    "shop": None,
    "price": "1.50",
    "quantity": 1,
    "paid": False,
    "at": "2026-01-01T10:00:00Z",
    "day": None,
    "score": None,
    "customer": None,
    "tags": ["hot"],
}
NOWHERE = "127.0.0.1:1"


async def test_a_document_is_known_from_its_acceptance_to_its_storage(system: System) -> None:
    document_id = (await system.submit("orders", {"product": "mug"}, TEA, {"product": "pot"}))[1]

    async def state() -> dict[str, object]:
        found: dict[str, object] = await system.ask("document", pipeline="orders", id=document_id.upper())
        assert found["id"] == document_id
        assert found["pipeline"] == "orders"
        assert str(found["received_at"]).endswith("Z")
        return found

    in_raw = await state()
    assert (in_raw["status"], in_raw["sinks"]) == ("accepted", {"documents": "pending", "facts": "pending"})
    assert (in_raw["document"], in_raw["problem"]) == (None, None)
    await system.work("refine")
    in_clean = await state()
    assert in_clean == in_raw
    await system.work("facts")
    counted = await state()
    assert (counted["status"], counted["sinks"]) == ("accepted", {"documents": "pending", "facts": "stored"})
    await system.work("documents")
    stored = await state()
    assert stored == {
        "id": document_id,
        "pipeline": "orders",
        "status": "stored",
        "received_at": in_raw["received_at"],
        "sinks": {"documents": "stored", "facts": "stored"},
        "document": STORED_TEA,
        "problem": None,
    }


async def test_a_refused_document_is_dead_with_the_reason_before_and_after_it_is_indexed(system: System) -> None:
    [document_id] = await system.submit("orders", {"product": 7})
    await system.work("refine")
    before = await system.ask("document", pipeline="orders", id=document_id)
    await system.work("dead")
    after = await system.ask("document", pipeline="orders", id=document_id)

    assert before == after
    assert (after["status"], after["document"]) == ("dead", None)
    assert after["sinks"] == {"documents": "pending", "facts": "pending"}
    problem = after["problem"]
    assert (problem["code"], problem["status"], problem["stage"]) == ("invalid_document", 422, "refine")
    assert problem["errors"][0]["pointer"] == "/product"


async def test_another_body_under_the_same_key_is_told_beside_the_document_that_is_stored(system: System) -> None:
    document_id = new_id()
    await system.submit("orders", TEA, ids=[document_id])
    await system.work()
    await system.submit("orders", {"product": "mug"}, ids=[document_id])
    await system.work()

    state = await system.ask("document", pipeline="orders", id=document_id)

    assert state["status"] == "stored"
    assert state["document"] == STORED_TEA
    assert (state["problem"]["code"], state["problem"]["status"]) == ("idempotency_conflict", 409)


async def test_an_id_that_nobody_was_given_is_not_found(system: System) -> None:
    quoted = new_id()
    await system.submit("orders", {"product": f'{{"id":"{quoted}"'})
    [of_another] = await system.submit("members", {"number": 1})

    for document_id in (new_id(), quoted, of_another, "no id", ""):
        with pytest.raises(RequestError) as refused:
            await system.ask("document", pipeline="orders", id=document_id)
        assert (refused.value.status, refused.value.code) == (404, "document_not_found")
    # A text inside a document is no id of one.
    await system.submit("orders", f'{{"product":"x","nested":[\n{{"id":"{quoted}"}}]}}'.replace("\n", "").encode())
    with pytest.raises(RequestError):
        await system.ask("document", pipeline="orders", id=quoted)


async def test_a_document_deep_in_a_long_backlog_is_found(system: System) -> None:
    padding = "x" * 300
    for _ in range(30):
        await system.submit("orders", *({"product": padding} for _ in range(1000)))
    ids = await system.submit("orders", *({"product": padding} for _ in range(1000)))

    assert (await system.ask("document", pipeline="orders", id=ids[500]))["status"] == "accepted"
    with pytest.raises(RequestError):
        await system.ask("document", pipeline="orders", id=new_id())


async def test_a_backlog_that_takes_too_long_to_search_leaves_the_state_unknown(own_settings: Settings) -> None:
    hurried = own_settings.model_copy(update={"analytics": AnalyticsSettings(scan_seconds=0.001)})
    async with open_system(own_settings, hurried) as system:
        for _ in range(20):
            await system.submit("orders", *({"product": "x" * 300} for _ in range(1000)))

        with pytest.raises(UnavailableError) as unknown:
            await system.ask("document", pipeline="orders", id=new_id())

    assert (unknown.value.code, unknown.value.retry_after_seconds) == ("state_unknown", 1)


async def test_bare_documents_in_the_backlog_leave_the_state_unknown_until_they_are_refined(system: System) -> None:
    await system.bus.client.jetstream().publish(system.topology.ingest("orders"), b'{"product":"tea"}')

    with pytest.raises(UnavailableError) as unknown:
        await system.ask("document", pipeline="orders", id=new_id())
    assert unknown.value.code == "state_unknown"
    await system.work("refine")
    await system.until("ledger", {"backlog": {"refine": {"pending": 0, "ack_pending": 0}}})
    with pytest.raises(RequestError):
        await system.ask("document", pipeline="orders", id=new_id())


async def test_a_store_that_is_away_is_named_unless_it_is_not_needed(own_settings: Settings) -> None:
    quick = own_settings.model_copy(update={"nats": NatsSettings(request_timeout_seconds=2)})
    no_mongo = quick.model_copy(update={"mongo_url": SecretStr(f"mongodb://{NOWHERE}/x")})
    async with open_system(quick, no_mongo) as system:
        [good] = await system.submit("orders", TEA)
        [bad] = await system.submit("orders", {})
        await system.work()

        assert (await system.ask("document", pipeline="orders", id=bad))["status"] == "dead"
        with pytest.raises(UnavailableError) as away:
            await system.ask("document", pipeline="orders", id=good)
        assert away.value.code == "mongo_unavailable"
        assert (await system.metric("orders", "total"))["value"] == 1
        with pytest.raises(UnavailableError) as away:
            await system.ask("documents", pipeline="orders")
        assert away.value.code == "mongo_unavailable"
        with pytest.raises(UnavailableError) as away:
            await system.ask("ledger")
        assert away.value.code == "mongo_unavailable"
        await system.until("health", {"postgres": "ok", "redis": "ok"})
        assert "MongoDB" in (await system.ask("health"))["mongo"]


async def test_postgres_away_is_named_and_redis_goes_on_answering(own_settings: Settings) -> None:
    no_postgres = own_settings.model_copy(update={"postgres_url": SecretStr(f"postgresql://x@{NOWHERE}/x")})
    async with open_system(own_settings, no_postgres) as system:
        [good] = await system.submit("orders", TEA)
        await system.work()

        for endpoint, payload in (("document", {"pipeline": "orders", "id": good}), ("dead.list", {}), ("ledger", {})):
            with pytest.raises(UnavailableError) as away:
                await system.ask(endpoint, **payload)
            assert away.value.code == "postgres_unavailable", endpoint
        assert [one["id"] for one in (await system.ask("documents", pipeline="orders"))["items"]] == [good]


async def test_redis_away_is_answered_from_postgres(own_settings: Settings) -> None:
    no_redis = own_settings.model_copy(update={"redis_url": SecretStr(f"redis://{NOWHERE}/0")})
    async with open_system(own_settings, no_redis) as system:
        await system.submit("orders", TEA)
        await system.work()

        reply = await system.reply("metric", pipeline="orders", metric="total")

    assert reply.headers["Headrace-Source"] == "postgres"
    assert b'"value":1' in reply.body


async def test_stores_that_hang_are_answered_for_in_time(own_settings: Settings) -> None:
    async with _black_hole() as address:
        hanging = own_settings.model_copy(
            update={
                "mongo_url": SecretStr(f"mongodb://{address}/x"),
                "postgres_url": SecretStr(f"postgresql://x@{address}/x"),
                "redis_url": SecretStr(f"redis://{address}/0"),
                "nats": NatsSettings(request_timeout_seconds=2),
            }
        )
        patient = own_settings.model_copy(update={"nats": NatsSettings(request_timeout_seconds=2)})
        async with open_system(patient, hanging) as system:
            for endpoint, payload in (
                ("metric", {"pipeline": "orders", "metric": "total"}),
                ("metrics", {"pipeline": "orders"}),
                ("document", {"pipeline": "orders", "id": new_id()}),
                ("documents", {"pipeline": "orders"}),
                ("dead.list", {}),
                ("dead.groups", {}),
                ("ledger", {}),
            ):
                with pytest.raises(UnavailableError) as away:
                    await system.ask(endpoint, **payload)
                # Said by the service itself, before the caller lost its patience.
                assert away.value.code != "analytics_unavailable", endpoint


async def test_a_block_that_came_before_the_service_is_found(own_settings: Settings) -> None:
    async with open_system(own_settings) as system:
        document_id = new_id()
        line = raw_line(document_id, now(), b'"me"', b'{"product":"tea"}')
        await system.publish(Block(new_id(), "orders", line, 1))
    async with open_system(own_settings) as system:
        assert (await system.ask("document", pipeline="orders", id=document_id))["status"] == "accepted"


@asynccontextmanager
async def _black_hole() -> AsyncIterator[str]:
    """Listen, and never answer."""
    over = asyncio.Event()

    async def swallow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        over.set()
        server.close()
