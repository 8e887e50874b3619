"""The old invoices test: a file, one authenticated POST a row, and every number recounted from the file."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from tests.servers import reachable_directory, seed
from tests.system.stores import mongo_ids, once_each, postgres_ids, redis_counts, rollup_counts, rollup_sums
from tests.system.system import ROOT, System, up

REAL = ROOT.parent / "shared" / "data" / "invoices" / "OnlineRetail_semicolon.csv"
SAMPLE = ROOT / "producer" / "samples" / "invoices.csv"
# The sample stands for the real file where that is not on this machine.
SOURCE = REAL if REAL.exists() else SAMPLE
ROWS = 5000


def first_rows(source: Path, target: Path) -> None:
    with source.open(encoding="utf-8-sig", newline="") as lines:
        target.write_text("".join(islice(lines, ROWS + 1)), encoding="utf-8")


def rows(path: Path) -> Iterator[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    yield from csv.DictReader(text.splitlines(), delimiter=";" if ";" in text.splitlines()[0] else ",")


def broken(row: dict[str, str]) -> set[str]:
    """Return the pointers that a row must be refused for; a row in the wrong shape as a whole breaks the whole."""
    if None in row.values() or None in row:
        return {""}
    return {f"/{name}" for name, value in row.items() if not value.strip()}


async def test_every_row_of_a_file_is_stored_and_counted_once_or_refused_by_its_rule(tmp_path: Path) -> None:
    file, report, refused = tmp_path / "rows.csv", tmp_path / "report.json", tmp_path / "refused.jsonl"
    first_rows(SOURCE, file)
    with reachable_directory() as directory:
        await seed(directory / "data")
        async with up(directory) as system:
            await _load(system, file, report, refused)
            await system.drained("invoices")
            await _proven(system, file, json_lines(report)[0], json_lines(refused))


async def _load(system: System, file: Path, report: Path, refused: Path) -> None:
    arguments = ["load", "invoices", "--file", str(file), "--json", str(report), "--refused", str(refused)]
    target = ["--url", system.url, "--token", str(system.facts["token"])]
    stores = ["--mongo-url", str(system.facts["mongo_url"]), "--postgres-url", str(system.facts["postgres_url"])]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cli", *arguments, *target, *stores, cwd=ROOT)
    assert await process.wait() == 0


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON values of a file, one after the other, on one line each or many."""
    text, decoder, found = path.read_text().strip(), json.JSONDecoder(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


async def _proven(system: System, file: Path, result: dict[str, Any], told: list[dict[str, Any]]) -> None:
    all_rows = list(rows(file))
    expected = {number: broken(row) for number, row in enumerate(all_rows, 1) if broken(row)}
    good = [row for row in all_rows if not broken(row)]
    counts = result["counts"]

    unreadable = {number for number, pointers in expected.items() if pointers == {""}}
    assert counts["sent"] == len(all_rows) - len(unreadable)
    assert (counts["accepted"], counts["refused"]) == (len(good), len(expected) - len(unreadable))
    assert {one["row"]: {error["pointer"] for error in one["errors"]} for one in told} == {
        number: pointers for number, pointers in expected.items() if number not in unreadable
    }
    assert once_each(await mongo_ids(system.facts, "invoices")) == set(await postgres_ids(system.facts, "invoices"))
    assert len(await postgres_ids(system.facts, "invoices")) == len(good)
    assert (result["proof"]["lost"], result["proof"]["duplicated"]) == (0, 0)

    by_country = Counter(json.dumps([row["Country"].strip()]) for row in good)
    assert await rollup_counts(system.facts, "invoices", "lines_by_country") == by_country
    assert await redis_counts(system.facts, "invoices", "lines_by_country") == by_country
    revenue: dict[str, Decimal] = {}
    for row in good:
        key = json.dumps([row["Country"].strip()])
        amount = int(row["Quantity"]) * Decimal(row["UnitPrice"].replace(",", "."))
        revenue[key] = revenue.get(key, Decimal(0)) + amount
    assert await rollup_sums(system.facts, "invoices", "revenue_by_country") == revenue
