"""Documents over MQTT, as a device sends them to a running `headrace up`: judged, stored and counted as over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import urlsplit

import aiomqtt

from tests.system.system import READY_SECONDS, ROOT, System
from tests.system.test_exactly_once import body
from tests.waiting import eventually


def device(system: System) -> aiomqtt.Client:
    url = urlsplit(system.facts["mqtt_url"])
    assert url.hostname is not None
    return aiomqtt.Client(url.hostname, url.port or 0, username=url.username, password=url.password, timeout=10)


async def counted(system: System, country: str) -> int:
    found = await system.get("/v1/analytics/invoices/lines_by_country?limit=1000")
    return int(found["data"].get(country, 0))


async def until_accepted(system: System, documents: int) -> dict[str, Any]:
    """Return the books once this many documents are in them; QoS 0 says nothing itself."""
    while (books := await system.drained("invoices"))["accepted"] < documents:
        pass
    return dict(books)


async def refused_as(system: System, pipeline: str, code: str) -> bool:
    groups = await system.get("/v1/dead-letters/groups")
    return (pipeline, code) in {(group["pipeline"], group["code"]) for group in groups}


async def test_documents_of_a_device_are_judged_stored_and_counted(system: System) -> None:
    before = await system.drained("invoices")
    large = body("M-3", Country="Mqttland", Description="x" * 200)
    wrong = body("M-4", Quantity="many")
    async with device(system) as client:
        await client.publish("ingest/invoices", body("M-1", Country="Mqttland"), qos=0)
        await client.publish("ingest/invoices", body("M-2", Country="Mqttland"), qos=1)
        await client.publish("ingest/invoices", large, qos=1)
        await client.publish("ingest/invoices", wrong, qos=1)
        await client.publish("ingest/invoices", b"\x00 no JSON " + b"x" * 400_000, qos=1)
        await client.publish("ingest/nobody", b"{}", qos=1)
        books = await until_accepted(system, before["accepted"] + 5)

    assert books["dead"] == before["dead"] + 2
    assert books["balanced"]
    assert await counted(system, "Mqttland") == 3
    letters = (await system.get("/v1/dead-letters?pipeline=invoices&limit=100"))["items"]
    told = [(letter["code"], error["pointer"]) for letter in letters for error in letter["errors"]]
    assert ("invalid_document", "/Quantity") in told
    assert ("malformed_json", "") in told
    await eventually(lambda: refused_as(system, "nobody", "unknown_pipeline"), seconds=READY_SECONDS)


async def test_a_burst_of_deliveries_is_stored_once_however_often_it_is_sent(system: System) -> None:
    before = await system.books("deliveries")
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "produce", "deliveries", "--orders", "10", "--locations", "6"),
            *("--interval", "0.02", "--workers", "5", "--seed", "77", "--json", "--mqtt", system.facts["mqtt_url"]),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said = json.loads((await process.communicate())[0])
        assert (said["accepted"], said["complete"]) == (60, True)
    books = await system.drained("deliveries")
    while books["accepted"] < before.get("accepted", 0) + 120:
        books = await system.drained("deliveries")

    stored_before = before.get("stored", {"documents": 0, "facts": 0})
    assert books["stored"] == {store: number + 60 for store, number in stored_before.items()}
    assert books["balanced"]
