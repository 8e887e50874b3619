"""Deliveries as their users see them: a live burst that can be watched, and real files that can be recounted."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.system.stores import mongo_ids, once_each, postgres_ids, query, rollup_counts
from tests.system.system import ROOT, System
from tests.waiting import eventually

# Of the extra `analysis`; recounts what Headrace has counted.
pandas: Any = pytest.importorskip("pandas")

DATA = ROOT.parent / "shared" / "data" / "deliveries"
SAMPLES = ROOT / "producer" / "samples"


# Of each file; tests/pipelines/test_real_files.py takes them whole through all but the stores.
ROWS = 3000


def first_rows(real: str, sample: str, folder: Path) -> Path:
    """Return the first rows of a real file, or the sample that stands for it, with the table beside it.

    Not both, since an order of one may be one of the other.
    """
    source = DATA / real if (DATA / real).exists() else SAMPLES / sample
    for path in {source, source.with_name(source.name.replace("trackspoints", "tracks"))}:
        with path.open(newline="") as lines:
            (folder / path.name).write_text("".join(islice(lines, ROWS + 1)), newline="")
    return folder / source.name


ROUTES = "/v1/deliverer_location"


@pytest.fixture(scope="module")
async def system(own_system: System) -> System:
    return own_system


async def produce(system: System, *arguments: str) -> dict[str, Any]:
    target = ["--url", system.url, "--token", str(system.facts["token"]), "--json"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "produce", "deliveries", *arguments, *target),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    summary: dict[str, Any] = json.loads(out)
    assert summary["complete"], summary
    return summary


async def test_the_last_location_of_an_order_moves_while_it_is_on_its_way(system: System) -> None:
    burst = ["--orders", "12", "--locations", "8", "--interval", "0.2", "--jitter", "0.05", "--workers", "6"]
    running = asyncio.create_task(produce(system, *burst))
    seen: list[tuple[str, float, float]] = []

    async def moved() -> bool:
        found = (await system.get(f"{ROUTES}/live?minutes=5"))["data"]
        order = watched[0] if watched else next((one["order_id"] for one in found), None)
        if order is None:
            return False
        watched[:] = [order]
        for one in (await system.get(f"{ROUTES}/last/{order}"))["data"]:
            place = (one["timestamp"], one["latitude"], one["longitude"])
            if not seen or seen[-1] != place:
                seen.append(place)
        return len(seen) >= 3

    watched: list[int] = []
    await eventually(moved, seconds=60)
    summary = await running

    assert [time for time, *_ in seen] == sorted(time for time, *_ in seen)
    assert (summary["rows"], summary["accepted"], summary["refused"]) == (96, 96, 0)
    books = await system.drained("deliveries")
    assert books["balanced"]
    counts = await rollup_counts(system.facts, "deliveries", "locations_by_order")
    burst_counts = {key: count for key, count in counts.items() if len(key) > 10}
    assert sorted(burst_counts.values()) == [8] * 12
    for key in burst_counts:
        [order] = json.loads(key)
        track = await system.get(f"{ROUTES}/track/{order}")
        assert (track["state"], track["count"], track["anomalies"]) == ("arrived", 8, [])
        newest = (await system.get(f"{ROUTES}/last/{order}"))["data"]
        assert newest == [track["locations"][-1]]
    assert once_each(await mongo_ids(system.facts, "deliveries")) == set(await postgres_ids(system.facts, "deliveries"))


def location(order: int, second: int, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "order_id": order,
        "deliverer_id": 7,
        "delivery_state": state,
        "timestamp": f"2024-01-31T12:00:{second:02d}Z",
        "latitude": -10.9 + second / 1000,
        "longitude": -37.07,
        **changes,
    }


async def post(system: System, body: Any) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    async with system.session.post(f"{system.url}{ROUTES}/", data=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_the_old_post_answers_in_its_shapes(system: System) -> None:
    good = json.dumps(location(900_001, 1, "start"))
    without = {name: value for name, value in location(900_001, 2, "start").items() if name != "order_id"}

    assert await post(system, good) == (200, {"status": "OK"})
    assert await post(system, json.dumps(good)) == (200, {"status": "OK"})
    assert await post(system, "{") == (400, {"status": "ERROR", "message": "Invalid JSON"})
    status, problem = await post(system, json.dumps(without))
    assert (status, [(one["pointer"], one["code"]) for one in problem["errors"]]) == (422, [("/order_id", "missing")])
    async with system.session.get(f"{system.url}{ROUTES}/last/") as answer:
        assert answer.status == 422
    assert await system.get(f"{ROUTES}/last/nobody-1") == {"data": []}


async def test_the_newest_location_is_so_by_its_own_time_and_not_by_arrival(system: System) -> None:
    order = 900_002
    sent = [location(order, second, state) for second, state in ((3, "arrived"), (1, "start"), (2, "on_the_way"))]
    # The last to arrive contradicts what was before by its own time.
    sent += [location(order, 2, "on_the_way"), location(order, 5, "start")]
    for one in sent:
        assert (await post(system, json.dumps(one)))[0] == 200
    await system.drained("deliveries")

    track = await system.get(f"{ROUTES}/track/{order}")
    [newest] = (await system.get(f"{ROUTES}/last/{order}"))["data"]
    assert [one["delivery_state"] for one in track["locations"]] == ["start", "on_the_way", "arrived", "start"]
    assert [one["code"] for one in track["anomalies"]] == ["goes_back"]
    assert newest == track["locations"][-1]
    assert (newest["order_id"], track["state"]) == (order, "start")


async def sent_twice(system: System, path: Path) -> dict[str, Any]:
    """Send a file, then again in another order and partly repeated, which must change no number."""
    first = await produce(system, "--file", str(path))
    await system.drained("deliveries")
    before = await _numbers(system)
    lines = _shuffle(path)
    again = await produce(system, "--file", str(path))
    await system.drained("deliveries")

    assert first["rows"] == first["accepted"] + first["refused"]
    assert again["rows"] == lines == again["accepted"] + again["refused"]
    assert await _numbers(system) == before
    return first


def _shuffle(path: Path) -> int:
    """Shuffle the rows of a file and repeat some of them; return how many there are now."""
    header, *lines = path.read_text().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    lines += lines[: len(lines) // 4]
    path.write_text(header + "".join(lines), newline="")
    return len(lines)


@pytest.mark.long
async def test_real_tracks_end_where_the_file_says_in_whatever_order_they_come(system: System, tmp_path: Path) -> None:
    path = first_rows("go_track_trackspoints.csv", "deliveries_trackspoints.csv", tmp_path)
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)

    summary = await sent_twice(system, path)

    assert (summary["rows"], summary["refused"]) == (len(table), 0)
    await _tracks_are_as(system, table)


@pytest.mark.long
async def test_real_orders_are_stored_once_each_or_refused_without_a_place_or_time(
    system: System, tmp_path: Path
) -> None:
    path = first_rows("food_delivery_orders.csv", "deliveries_orders.csv", tmp_path)
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    bad = (table.Restaurant_latitude.astype(float) == 0) | table.Time_Order_picked.str.contains("NaN")

    summary = await sent_twice(system, path)

    assert (summary["rows"], summary["refused"]) == (len(table), int(bad.sum()))
    await _orders_are_as(system, table[~bad])


async def _tracks_are_as(system: System, table: Any) -> None:
    points = table.drop_duplicates()
    counts = await rollup_counts(system.facts, "deliveries", "locations_by_order")
    expected = points.groupby("track_id").size()
    assert {track: counts[json.dumps([track])] for track in expected.index} == expected.to_dict()
    last = points.sort_values("time").groupby("track_id").last()
    for track in [*last.index][:5]:
        [newest] = (await system.get(f"{ROUTES}/last/{track}"))["data"]
        row = last.loc[track]
        assert (newest["latitude"], newest["longitude"]) == (float(row.latitude), float(row.longitude))
        assert newest["timestamp"][:19].replace("T", " ") == row.time


async def _orders_are_as(system: System, table: Any) -> None:
    rows = await query(
        system.facts,
        "SELECT deliverer_id, count(*) AS n FROM facts.deliveries WHERE order_id = ANY($1) GROUP BY 1",
        [one.strip() for one in table.ID],
    )
    assert {row["deliverer_id"]: row["n"] for row in rows} == Counter(one.strip() for one in table.Delivery_person_ID)


async def _numbers(system: System) -> list[Any]:
    """Return what is counted and what is newest, of every metric but the one over the time of acceptance."""
    rows = await query(
        system.facts,
        "SELECT metric, key, bucket, count, at, data FROM rollups"
        " WHERE pipeline = 'deliveries' AND metric <> 'per_minute' ORDER BY 1, 2, 3",
    )
    return [tuple(row) for row in rows]
