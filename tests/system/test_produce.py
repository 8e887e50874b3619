"""`headrace produce` into a running Headrace: a file through the door, and a portal past it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from producer.samples import sample
from producer.sources import read
from tests.producer.portal_stand_in import portal
from tests.system.stores import once_each, query
from tests.system.system import ROOT, System


async def produce(system: System, *arguments: str, cwd: Path) -> tuple[int, dict[str, Any], str]:
    """Run the command as its user does; return exit code, summary and what it said."""
    facts = system.facts
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HEADRACE_URL": system.url,
        "HEADRACE_TOKEN": str(facts["token"]),
        "HEADRACE_NATS_URL": str(facts["nats_url"]),
        "HEADRACE_REDIS_URL": str(facts["redis_url"]),
        "NO_PROXY": "*",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "produce", *arguments, "--json"),
        cwd=cwd,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out), said.decode()


async def test_a_portal_that_fails_now_and_then_is_stored_row_by_row_and_once_whatever_the_way(
    system: System, tmp_path: Path
) -> None:
    """Its rows are made-up invoice lines, sent past the door twice: the second time from Redis, all repeats."""
    from aiohttp import web

    from producer.generators import documents
    from tests.producer.portal_stand_in import refusal

    made = documents("invoices", 11, bad_share=0.1)

    async def fault(number: int, _: web.Request) -> web.StreamResponse | None:
        return refusal(503, "Our bad", **{"Retry-After": "0"}) if number % 2 else None

    async with portal(2300, fault) as server:
        server.rows = [{":id": f"row-{n:05}", **next(made)} for n in range(2300)]
        source = ["invoices", "--socrata", server.url, "--direct", "--sender", "job:portal"]
        code, first, said = await produce(system, *source, cwd=tmp_path)
        asked = server.requests
        again_code, again, _ = await produce(system, *source, cwd=tmp_path)
    books = await system.drained("invoices")

    assert (code, again_code) == (0, 0), said
    assert first["rows"] == first["accepted"] + first["refused"] == 2300
    assert 150 < first["refused"] < 320
    assert first["reading"]["retries"] > 0
    assert (again["accepted"], again["refused"]) == (first["accepted"], first["refused"])
    assert again["reading"]["from_cache"]
    assert server.requests == asked
    rows = await query(system.facts, "SELECT id, country FROM facts.invoices WHERE sender = 'job:portal'")
    assert len(once_each([str(row["id"]) for row in rows])) == first["accepted"]
    expected = Counter(row["Country"] for row in server.rows if _good(row))
    assert Counter(row["country"] for row in rows) == expected
    assert books["balanced"]


async def test_licences_of_a_portal_are_each_stored_once_and_listed_by_their_number(
    system: System, tmp_path: Path
) -> None:
    path = sample("licenses")
    assert path is not None
    rows = [row.document for row in read("licenses", path) if row.document]
    async with portal(0) as server:
        server.rows = [{":id": f"row-{n:05}", **row} for n, row in enumerate(rows)]
        code, summary, said = await produce(
            system, "licenses", "--socrata", server.url, "--direct", "--no-cache", cwd=tmp_path
        )
    await system.drained("licenses")

    assert (code, summary["rows"], summary["accepted"], summary["refused"]) == (0, 120, 117, 3)
    assert "row 78 refused: /license_nbr missing" in said
    good = [row for n, row in enumerate(rows, start=1) if n not in (45, 78, 102)]
    numbers = [str(row["license_nbr"]) for row in good]
    found = await query(
        system.facts, "SELECT license_nbr, updated_at FROM facts.licenses WHERE license_nbr = ANY($1)", numbers
    )
    assert sorted(row["license_nbr"] for row in found) == sorted(set(numbers))
    # What the portal keeps about its rows says which version is the newest.
    assert {row["license_nbr"] for row in found if row["updated_at"]} == {
        row["license_nbr"] for row in good if ":updated_at" in row
    }


def _good(row: dict[str, Any]) -> bool:
    from headrace.errors import RequestError
    from headrace.schema import validate
    from pipelines.invoices import invoices

    try:
        invoices.apply(validate(invoices, json.dumps({k: v for k, v in row.items() if k != ":id"}).encode()))
    except (RequestError, ValueError):
        return False
    return True
