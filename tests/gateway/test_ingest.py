"""The hot route: what is accepted, what is refused and how it is said, and what is on disk afterwards."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from headrace.document import Envelope, envelopes
from headrace.errors import UnavailableError
from headrace.registry import Pipelines
from headrace.topology import RAW, Topology
from tests.gateway.system import Gateway, gateway_settings, running
from tests.servers import Servers, until
from tests.waiting import eventually

PATH = "/v1/documents/invoices"
JSON = {"Content-Type": "application/json"}
LINE: dict[str, Any] = {
    "InvoiceNo": "1",
    "StockCode": "85123A",
    "Description": "HEART",
    "Quantity": 6,
    "InvoiceDate": "1/12/2010 08:26",
    "UnitPrice": 2.55,
    "CustomerID": "17850",
    "Country": "Norway",
}


def body(**changes: Any) -> bytes:
    return json.dumps({**LINE, **changes}).encode()


async def on_disk(gateway: Gateway) -> list[Envelope]:
    """Return every envelope of RAW, oldest first."""
    topology = Topology(gateway.door.settings.namespace)
    js = gateway.door.bus.client.jetstream()
    state = (await js.stream_info(topology.stream(RAW))).state
    found: list[Envelope] = []
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await js.get_msg(topology.stream(RAW), sequence)
        found += envelopes(message.data or b"")
    return found


async def stored(gateway: Gateway, document_id: str) -> list[Envelope]:
    return [one for one in await on_disk(gateway) if one.id == document_id]


async def test_a_document_is_on_disk_with_its_sender_when_it_is_accepted(gateway: Gateway) -> None:
    key = gateway.key("documents:write", subject="ada")
    sent = b'{\n  "InvoiceNo": "nl",' + body()[1:]
    status, answer, headers = await gateway.ask("POST", PATH, key=key, data=sent, headers=JSON)

    found = msgspec.json.decode(answer)
    assert (status, found["status"]) == (202, "accepted")
    assert headers["Location"] == found["links"]["self"] == f"{PATH}/{found['id']}"
    [envelope] = await stored(gateway, found["id"])
    assert envelope.subject == "ada"
    assert msgspec.json.decode(envelope.data) == LINE


@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "malformed_json"),
        (b"", JSON, 400, "malformed_json"),
        (body(Quantity=None), JSON, 422, "invalid_document"),
        (body(Quantity=2**63), JSON, 422, "invalid_document"),
        (body(Description="a" * 300_000), JSON, 413, "too_large"),
        (body(), {"Content-Type": "text/csv"}, 415, "unsupported_media_type"),
        (body(), {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (body(), {**JSON, "Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
        (body(), {**JSON, "Idempotency-Key": "é"}, 400, "invalid_header"),
        (body(), {**JSON, "Idempotency-Key": "k" * 256}, 400, "invalid_header"),
        (b"[]", JSON, 422, "invalid_document"),
        (b"[{}]", JSON, 422, "all_refused"),
        (b"\n\n", {"Content-Type": "application/x-ndjson"}, 400, "malformed_json"),
        (body(), {**JSON, "ce-specversion": "1.0", "ce-id": "1"}, 422, "invalid_cloudevent"),
        (b'{"specversion":"1.0"}', {"Content-Type": "application/cloudevents+json"}, 422, "invalid_cloudevent"),
    ],
)
async def test_what_is_wrong_is_refused_by_a_problem_that_says_how(
    gateway: Gateway, data: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    key = gateway.key("documents:write")
    answered, problem, _ = await gateway.problem("POST", PATH, key=key, data=data, headers=headers)

    assert (answered, problem["code"]) == (status, code)


async def test_without_a_token_a_scope_or_a_pipeline_nothing_is_read(gateway: Gateway) -> None:
    narrow = gateway.key("documents:write:searches")
    answers = [
        await gateway.problem("POST", PATH, data=body(), headers=JSON),
        await gateway.problem("POST", PATH, key="hr_nonsense", data=body(), headers=JSON),
        await gateway.problem("POST", PATH, key=narrow, data=body(), headers=JSON),
        await gateway.problem("POST", "/v1/documents/nosuch", key=gateway.key("admin"), data=body(), headers=JSON),
    ]

    assert [status for status, _, _ in answers] == [401, 401, 403, 404]


async def test_a_bulk_names_each_refused_item_at_its_place(gateway: Gateway) -> None:
    key = gateway.key("documents:write")
    many = b"\n".join([body(InvoiceNo="b1"), b"{", body(Country=None), b"", body(InvoiceNo="b2")])
    status, answer, _ = await gateway.ask(
        "POST", PATH, key=key, data=many, headers={"Content-Type": "application/x-ndjson"}
    )

    found = msgspec.json.decode(answer)
    assert (status, found["accepted"], found["rejected"]) == (207, 2, 2)
    assert [item.get("status") for item in found["items"]] == [None, 422, 422, None]
    assert found["items"][2]["errors"][0]["pointer"] == "/Country"
    for place, number in ((0, "b1"), (3, "b2")):
        [envelope] = await stored(gateway, found["items"][place]["id"])
        assert msgspec.json.decode(envelope.data)["InvoiceNo"] == number


async def test_a_key_makes_the_id_and_a_repeat_is_not_written_again(gateway: Gateway) -> None:
    key, name = gateway.key("documents:write"), secrets.token_hex(8)
    headers = {**JSON, "Idempotency-Key": name}
    first, again = [await gateway.ask("POST", PATH, key=key, data=body(), headers=headers) for _ in range(2)]
    other, problem, _ = await gateway.problem("POST", PATH, key=key, data=body(Quantity=7), headers=headers)

    assert first[:2] == again[:2]
    assert len(await stored(gateway, msgspec.json.decode(first[1])["id"])) == 1
    assert (other, problem["code"]) == (409, "idempotency_conflict")


async def test_an_event_has_one_id_in_every_mode(gateway: Gateway) -> None:
    key, name = gateway.key("documents:write"), secrets.token_hex(8)
    attributes = {"specversion": "1.0", "id": name, "source": "/tests", "type": "line"}
    event = json.dumps({**attributes, "data": LINE}).encode()
    binary = {**JSON, **{f"ce-{attribute}": value for attribute, value in attributes.items()}}
    one = await gateway.ask("POST", PATH, key=key, data=body(), headers=binary)
    two = await gateway.ask("POST", PATH, key=key, data=event, headers={"Content-Type": "application/cloudevents+json"})
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    three = await gateway.ask("POST", PATH, key=key, data=b"[%b]" % event, headers=batch)

    ids = {msgspec.json.decode(answer)["id"] for _, answer, _ in (one, two)}
    assert {msgspec.json.decode(three[1])["items"][0]["id"]} == ids
    assert len(ids) == 1


async def test_a_sane_request_id_comes_back_and_another_is_replaced(gateway: Gateway) -> None:
    key = gateway.key("documents:write")
    answers = [
        (await gateway.ask("POST", PATH, key=key, data=body(), headers={**JSON, "X-Request-Id": given}))[2]
        for given in ("req-1", "two words", "x" * 200)
    ]

    assert answers[0]["X-Request-Id"] == "req-1"
    assert all(one["X-Request-Id"] not in ("two words", "x" * 200) for one in answers[1:])


async def test_a_rate_is_429_and_says_when_there_is_room(
    servers: Servers, pipelines: Pipelines, namespace: str
) -> None:
    settings = gateway_settings(servers.nats_url, namespace)
    limits = settings.gateway.model_copy(update={"documents_per_second": 1.0, "burst_seconds": 2.0})
    async with running(settings.model_copy(update={"gateway": limits}), pipelines) as gateway:
        key, other = gateway.key("documents:write"), gateway.key("documents:write", subject="bea")
        answers = [await gateway.ask("POST", PATH, key=key, data=body(), headers=JSON) for _ in range(3)]
        theirs, _, _ = await gateway.ask("POST", PATH, key=other, data=body(), headers=JSON)

        assert [status for status, _, _ in answers] == [202, 202, 429]
        assert 1 <= int(answers[2][2]["Retry-After"]) <= 2
        assert theirs == 202


async def test_what_there_is_no_room_for_is_refused_before_its_body_is_read(gateway: Gateway) -> None:
    key = gateway.key("documents:write")
    address, before = urlsplit(gateway.url), len(await on_disk(gateway))
    with gateway.door.committer.hold(10**9, 0):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n{".encode()
        )
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        writer.close()
        whole, _, _ = await gateway.problem("POST", PATH, key=key, data=body(), headers=JSON)

    assert head.startswith("http/1.1 503")
    assert "retry-after: " in head
    assert whole == 503
    assert len(await on_disk(gateway)) == before
    accepted, _, _ = await gateway.ask("POST", PATH, key=key, data=body(), headers=JSON)
    assert accepted == 202


async def test_a_bulk_that_waits_for_the_stores_takes_no_room(gateway: Gateway) -> None:
    key = gateway.key("documents:write")
    headers, before = {"Content-Type": "application/x-ndjson", "Prefer": "wait=30"}, len(await on_disk(gateway))
    waits = asyncio.create_task(gateway.ask("POST", PATH, key=key, data=body() + b"\n" + body(), headers=headers))

    async def on_its_way() -> bool:
        return len(await on_disk(gateway)) > before

    await eventually(on_its_way)
    await until(lambda: gateway.door.committer.in_flight == 0)
    still_waits = not waits.done()
    topology = Topology(gateway.door.settings.namespace)
    for document in list(gateway.door.receipts._waiting):
        for sink in ("documents", "facts"):
            await gateway.door.bus.client.publish(topology.stored(sink, "invoices"), document)
    status, _, _ = await waits

    assert still_waits
    assert status == 200


async def test_a_full_stream_refuses_the_new_and_knows_the_old(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, name = gateway.key("documents:write"), secrets.token_hex(8)
    headers = {**JSON, "Idempotency-Key": name}
    await gateway.ask("POST", PATH, key=key, data=body(), headers=headers)
    monkeypatch.setitem(gateway.door.admission.fills, RAW, 0.99)
    known, _, _ = await gateway.ask("POST", PATH, key=key, data=body(), headers=headers)
    new = [
        await gateway.problem("POST", PATH, key=key, data=body(), headers={**JSON, **extra})
        for extra in ({}, {"Idempotency-Key": secrets.token_hex(8)})
    ]

    assert known == 202
    assert [(status, problem["code"]) for status, problem, _ in new] == [(503, "stream_full")] * 2
    assert all(int(answered["Retry-After"]) >= 1 for _, _, answered in new)


async def test_an_unknown_outcome_says_so_and_a_retry_with_its_key_is_taken(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, name = gateway.key("documents:write"), secrets.token_hex(8)
    headers = {**JSON, "Idempotency-Key": name}

    async def lost(_pipeline: str, _line: bytes) -> None:
        raise UnavailableError("no PubAck", code="outcome_unknown", retry_after_seconds=2)

    with monkeypatch.context() as patched:
        patched.setattr(gateway.door.committer, "commit", lost)
        status, problem, _ = await gateway.problem("POST", PATH, key=key, data=body(), headers=headers)
    again, answer, _ = await gateway.ask("POST", PATH, key=key, data=body(), headers=headers)

    assert (status, problem["code"]) == (503, "outcome_unknown")
    assert again == 202
    assert len(await stored(gateway, msgspec.json.decode(answer)["id"])) == 1


async def test_waiting_ends_with_the_news_of_every_sink_or_with_the_time(gateway: Gateway) -> None:
    key, name = gateway.key("documents:write"), secrets.token_hex(8)
    topology = Topology(gateway.door.settings.namespace)
    gateway.analytics.says("document", {"status": "stored"})
    headers = {**JSON, "Idempotency-Key": name, "Prefer": "wait=20"}
    waiting = asyncio.create_task(gateway.ask("POST", PATH, key=key, data=body(), headers=headers))
    await until(lambda: bool(gateway.door.receipts._waiting))
    [document] = list(gateway.door.receipts._waiting)
    for sink in ("documents", "facts"):
        await gateway.door.bus.client.publish(topology.stored(sink, "invoices"), document)
    status, answer, answered = await waiting
    late, _, _ = await gateway.ask("POST", PATH, key=key, data=body(), headers={**JSON, "Prefer": "wait=0.05"})

    assert (status, msgspec.json.decode(answer)) == (200, {"status": "stored"})
    assert answered["Preference-Applied"] == "wait"
    assert late == 202


async def test_what_is_on_disk_is_202_where_nobody_can_tell_what_became_of_it(gateway: Gateway) -> None:
    key = gateway.key("documents:write")
    topology = Topology(gateway.door.settings.namespace)
    gateway.analytics.answers["document"] = UnavailableError("No instance of the analytics service is alive.")
    headers = {**JSON, "Idempotency-Key": secrets.token_hex(8), "Prefer": "wait=20"}
    waiting = asyncio.create_task(gateway.ask("POST", PATH, key=key, data=body(), headers=headers))
    await until(lambda: bool(gateway.door.receipts._waiting))
    [document] = list(gateway.door.receipts._waiting)
    for sink in ("documents", "facts"):
        await gateway.door.bus.client.publish(topology.stored(sink, "invoices"), document)
    status, answer, answered = await waiting

    receipt = msgspec.json.decode(answer)
    assert (status, receipt["status"]) == (202, "accepted")
    assert answered["Location"] == receipt["links"]["self"]
    assert len(await stored(gateway, receipt["id"])) == 1
