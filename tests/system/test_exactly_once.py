"""One document, one row, one count: whatever is sent again, together, or by somebody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.system.stores import mongo_ids, postgres_ids, query
from tests.system.system import System


def line(number: str, **changes: Any) -> dict[str, Any]:
    return {
        "InvoiceNo": number,
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART",
        "Quantity": 6,
        "InvoiceDate": "1/12/2010 08:26",
        "UnitPrice": 2.55,
        "CustomerID": "17850",
        "Country": "United Kingdom",
        **changes,
    }


def body(number: str, **changes: Any) -> bytes:
    return json.dumps(line(number, **changes)).encode()


async def test_a_key_sent_fifty_times_at_once_is_stored_and_counted_once(system: System) -> None:
    country = "Fiftyland"
    answers = await asyncio.gather(
        *(system.post("invoices", body("F-1", Country=country), key="fifty") for _ in range(50))
    )
    books = await system.drained("invoices")

    assert {status for status, _ in answers} == {202}
    ids = {answer["id"] for _, answer in answers}
    assert len(ids) == 1
    assert (await mongo_ids(system.facts, "invoices")).count(*ids) == 1
    assert (await postgres_ids(system.facts, "invoices")).count(*ids) == 1
    counted = await system.get("/v1/analytics/invoices/lines_by_country?limit=1000")
    assert counted["data"][country] == 1
    assert books["balanced"]


async def test_a_bulk_with_repeats_stores_each_document_once(system: System) -> None:
    country = "Bulkland"
    many = b"\n".join(body(f"B-{n}", Country=country) for n in range(40))
    first, second = await asyncio.gather(
        system.post("invoices", many, key="bulk", bulk=True), system.post("invoices", many, key="bulk", bulk=True)
    )
    third = await system.post("invoices", many, key="bulk", bulk=True)
    books = await system.drained("invoices")

    assert first == second == third
    assert first[0] == 202
    assert len({item["id"] for item in first[1]["items"]}) == 40
    counted = await system.get("/v1/analytics/invoices/lines_by_country?limit=1000")
    assert counted["data"][country] == 40
    assert books["balanced"]


async def test_another_document_under_a_used_key_is_a_conflict_and_changes_nothing(system: System) -> None:
    status, first = await system.post("invoices", body("C-1", Country="Conflictland"), key="conflict")
    assert status == 202
    status, problem = await system.post("invoices", body("C-2", Country="Conflictland"), key="conflict")
    await system.drained("invoices")

    assert (status, problem["code"]) == (409, "idempotency_conflict")
    state = await system.get(f"/v1/documents/invoices/{first['id']}")
    assert state["document"]["invoice_no"] == "C-1"


async def test_the_same_key_of_two_senders_is_two_documents(system: System) -> None:
    credentials = {"username": "another-sender", "password": "correct horse battery staple"}
    async with system.session.post(f"{system.url}/v1/auth/register", json=credentials) as answer:
        assert answer.status == 201, await answer.text()
    async with system.session.post(f"{system.url}/v1/auth/token", json=credentials) as answer:
        token = (await answer.json())["access_token"]
    mine = await system.submit("invoices", body("S-1"), key="shared")
    async with system.session.post(
        f"{system.url}/v1/documents/invoices",
        json=line("S-2"),
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "shared"},
    ) as answer:
        assert answer.status == 202
        theirs = await answer.json()
    await system.drained("invoices")

    assert mine["id"] != theirs["id"]
    for number, document in (("S-1", mine), ("S-2", theirs)):
        state = await system.get(f"/v1/documents/invoices/{document['id']}")
        assert state["document"]["invoice_no"] == number


async def test_waiting_answers_with_the_stored_document(system: System) -> None:
    status, state = await system.post("invoices", body("W-1"), wait=30)

    assert status == 200
    assert (state["status"], state["sinks"]) == ("stored", {"documents": "stored", "facts": "stored"})
    assert state["document"]["amount"] == "15.30"
    rows = await query(system.facts, "SELECT amount FROM facts.invoices WHERE id = $1", state["id"])
    assert [str(row["amount"]) for row in rows] == ["15.30"]


async def test_a_document_that_its_transform_refuses_is_dead_with_its_reason(system: System) -> None:
    search = {
        "user_id": "001adddd-6a55-4cd0-a1a1-9ca20e20d488",
        "hotel_id": "6036",
        "search_timestamp": 1620224528,
        "hotel_advertisers": {"Amoma": []},
    }
    status, state = await system.post("searches", json.dumps(search).encode(), wait=30)
    books = await system.drained("searches")

    assert (status, state["status"]) == (200, "dead")
    assert state["problem"]["code"] == "transform_refused"
    assert books["dead"] >= 1
    letter = await system.get(f"/v1/dead-letters/{state['id']}")
    assert json.loads(letter["body"]) == search
