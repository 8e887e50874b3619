"""Licences from file to the old API's routes: the city's real files, recounted by pandas, in any order and again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from headrace.registry import load_pipelines
from headrace.settings import Settings
from headrace.storage.postgres import open_facts
from producer.samples import sample
from producer.sources import read
from tests.analytics.system import System, open_system
from tests.gateway.system import Gateway, running

# Brings no types.
pd: Any = pytest.importorskip("pandas", reason="the recount needs the extra `analysis`")

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "licenses"
GROUPS = {"status": "license_status", "category": "business_category", "borough": "address_borough"}
# As the files call them, so that the recount shares no name table with the product.
COLUMNS: Mapping[str, Sequence[str]] = {
    "license_nbr": ("license_nbr", "DCA License Number", "License Number"),
    "license_status": ("license_status", "License Status"),
    "business_category": ("industry", "business_category", "Industry", "Business Category"),
    "address_borough": ("address_borough", "Address Borough", "Borough"),
    "business_unique_id": ("business_unique_id", "Business Unique ID"),
    "business_name": ("business_name", "Business Name"),
    "latitude": ("latitude", "Latitude"),
    "longitude": ("longitude", "Longitude"),
    "created": ("license_creation_date", "License Creation Date", "Initial Issuance Date"),
    "expires": ("lic_expir_dd", "License Expiration Date", "Expiration Date"),
}


@contextlib.asynccontextmanager
async def whole(settings: Settings, analytics: Settings | None = None) -> AsyncIterator[tuple[System, Gateway]]:
    """Run a door, its analytics and all workers in this process."""
    async with (
        open_system(settings, analytics) as system,
        running(settings, load_pipelines(), services=("auth",)) as gateway,
        system.workers(),
    ):
        yield system, gateway


def files() -> list[Path]:
    found = sorted(DATA.glob("*.*")) if DATA.is_dir() else []
    if not found:
        pytest.skip("the real files are not beside this repository")
    return found


def recounted(paths: Sequence[Path]) -> Any:
    """Return the newest version of each licence, straight from the files."""
    tables = []
    for path in paths:
        raw = pd.read_json(path, dtype=False) if path.suffix == ".json" else pd.read_csv(path, dtype=str)
        table = pd.DataFrame(index=raw.index, columns=list(COLUMNS), dtype=object)
        for name, names in COLUMNS.items():
            for one in names:
                if one in raw:
                    table[name] = raw[one]
        for name in ("created", "expires"):
            month_first = table[name].astype(str).str.contains("/")
            day = pd.to_datetime(table[name], format="%m/%d/%Y" if month_first.any() else "ISO8601")
            table[name] = day.dt.strftime("%Y-%m-%d")
        tables.append(table)
    every = pd.concat(tables, ignore_index=True)
    every["known"] = every["address_borough"].notna()
    every["placed"] = every["latitude"].notna()
    order = ["expires", "created", "known", "placed"]
    return every.sort_values(order, na_position="first", kind="stable").groupby("license_nbr").tail(1)


def text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value).strip()


class Client:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._key = gateway.key("documents:write", "documents:read", "analytics:read")

    async def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for start in range(0, len(rows), 500):
            body = b"\n".join(msgspec.json.encode(row) for row in rows[start : start + 500])
            headers = {"Content-Type": "application/x-ndjson"}
            status, answer, _ = await self._gateway.ask(
                "POST", "/v1/documents/licenses", key=self._key, data=body, headers=headers
            )
            assert status == 202, answer

    async def stored(self, row: Mapping[str, Any]) -> None:
        """Send one and return when both stores have it."""
        status, answer, _ = await self._gateway.ask(
            "POST", "/v1/documents/licenses", key=self._key, json=row, headers={"Prefer": "wait=30"}
        )
        assert status == 200, answer

    async def get(self, path: str, status: int = 200) -> Any:
        found, body, headers = await self._gateway.ask("GET", path, key=self._key)
        assert found == status, body
        assert headers["Content-Type"] == "application/json"
        return msgspec.json.decode(body)

    async def everything(self) -> dict[str, Any]:
        """Return every answer of the old API, with all pages of licences as one list."""
        names = ["analytics", "licenses/by-status", "licenses/by-category", "licenses/by-borough"]
        found = {name: await self.get(f"/api/{name}") for name in (*names, "licenses/locations", "licenses/trend")}
        every: list[Any] = []
        for number in itertools.count(1):
            page = await self.get(f"/api/licenses?page={number}&per_page=1000")
            every += page
            if len(page) < 1000:
                return {**found, "licenses": every}
        raise AssertionError


def grouped(table: Any, column: str) -> list[tuple[str | None, int]]:
    counts = table[column].map(text).value_counts(dropna=False)
    return [(text(value), int(count)) for value, count in counts.items()]


@pytest.mark.long
async def test_the_real_files_in_any_order_and_again_are_what_pandas_counts(settings: Settings) -> None:
    paths = files()
    rows = [row.document for path in paths for row in read("licenses", path)]
    sent = [row for row in rows if row is not None]
    assert len(sent) == len(rows) == 4736, "every row is read"
    expected = recounted(paths)
    async with whole(settings) as (system, gateway):
        client = Client(gateway)
        shuffled = [*sent, *sent[::10]]
        random.Random(5).shuffle(shuffled)
        await client.send(shuffled)
        await system.drained()
        first = await client.everything()

        for name, column in GROUPS.items():
            answer = first[f"licenses/by-{name}"]
            assert sorted([(one["_id"], one["count"]) for one in answer], key=str) == sorted(
                grouped(expected, column), key=str
            )
            assert [one["count"] for one in answer] == sorted((one["count"] for one in answer), reverse=True)
        status = expected["license_status"]
        assert first["analytics"] == {
            "total_licenses": len(expected),
            "active_licenses": int((status == "Active").sum()),
            "expired_licenses": int((status == "Expired").sum()),
            "unique_businesses": int(expected["business_unique_id"].nunique()),
        }
        assert {one["license_nbr"]: seen(one) for one in first["licenses"]} == {
            row["license_nbr"]: wanted(row) for row in expected.to_dict("records")
        }
        numbers = [one["_id"] for one in first["licenses"]]
        assert numbers == sorted(set(numbers)) == [one["license_nbr"] for one in first["licenses"]]
        placed = expected[expected["latitude"].notna()].sort_values("license_nbr")
        fields = ["business_name", "license_nbr", "latitude", "longitude"]
        assert first["licenses/locations"] == [
            {"_id": row["license_nbr"], **{name: located(name, row[name]) for name in fields}}
            for row in placed.to_dict("records")
        ]

        again = sent[-1000:]
        await client.send(again)
        await system.drained()
        assert await client.everything() == first
        line = await system.line("licenses")
        assert line["accepted"] == len(shuffled) + len(again)
        assert line["balanced"]


def seen(one: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("license_status", "business_category", "address_borough", "business_name")
    return (*(one[name] for name in names), one["license_creation_date"], one["lic_expir_dd"])


def located(name: str, value: Any) -> Any:
    return float(value) if name in ("latitude", "longitude") else text(value)


def wanted(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("license_status", "business_category", "address_borough", "business_name", "created", "expires")
    return tuple(text(row[name]) for name in names)


async def test_an_answer_is_kept_and_dropped_when_a_new_licence_is_stored(settings: Settings) -> None:
    path = sample("licenses")
    assert path is not None
    async with whole(settings) as (_system, gateway):
        client = Client(gateway)
        for document in [row.document for row in read("licenses", path)][:5]:
            assert document is not None
            await client.stored(document)
        before = await client.everything()
        # Behind everybody's back: no sink tells of it.
        async with open_facts(settings.postgres_url.get_secret_value(), 10) as facts:
            await facts.fetch("DELETE FROM facts.licenses")
            assert await client.everything() == before
            await client.stored({"license_nbr": "0000001-DCA", "license_status": "Expired"})
        after = await client.get("/api/analytics")

    assert after == {"total_licenses": 1, "active_licenses": 0, "expired_licenses": 1, "unique_businesses": 0}


async def test_with_the_stores_away_every_route_says_so_in_its_old_shape(settings: Settings) -> None:
    nowhere = {
        "mongo_url": SecretStr("mongodb://127.0.0.1:1/x"),
        "postgres_url": SecretStr("postgresql://127.0.0.1:1/x"),
    }
    async with whole(settings, settings.model_copy(update=nowhere)) as (_system, gateway):
        client = Client(gateway)
        promised = {
            "/api/analytics": "Error calculating analytics: Postgres",
            "/api/licenses/by-status": "Error retrieving licenses by status: Postgres",
            "/api/licenses/by-category": "Error retrieving licenses by category: Postgres",
            "/api/licenses/by-borough": "Error retrieving licenses by borough: Postgres",
            "/api/licenses/trend": "Error retrieving license trend: Postgres",
            "/api/licenses/locations": "Error retrieving license locations: MongoDB",
            "/api/licenses": "Error retrieving licenses: MongoDB",
        }
        answers = await asyncio.gather(*(client.get(path, 500) for path in promised))

    for said, answer in zip(promised.values(), answers, strict=True):
        assert list(answer) == ["error"]
        assert answer["error"].startswith(said)
        assert "127.0.0.1" not in answer["error"]
