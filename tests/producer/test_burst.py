"""A burst of delivery apps: the plan, which a seed decides, and sending it through any outlet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from headrace.schema import validate
from pipelines.deliveries import deliveries, track_of
from producer.burst import Burst, Planned, plan, send, ways_of
from producer.upload import Chunk, Outlet, Progress, RefusedRow, UploadError

START = 1706698800.0
SMALL = Burst(orders=7, locations=4, interval_seconds=0.2, jitter_seconds=0.05, workers=3)


def planned(burst: Burst = SMALL, seed: int = 1, **options: Any) -> list[list[Planned]]:
    return plan(burst, Random(seed), start=START, first_order=101, **options)


def documents(plans: Sequence[Sequence[Planned]]) -> list[dict[str, Any]]:
    return [json.loads(one.body) for worker in plans for one in worker]


def test_each_worker_drives_its_orders_one_after_another() -> None:
    plans = planned()

    assert [len(worker) for worker in plans] == [12, 8, 8]
    for number, worker in enumerate(plans, 1):
        found = documents([worker])
        assert {one["deliverer_id"] for one in found} == {number}
        assert [one["order_id"] for one in found] == sorted(one["order_id"] for one in found)
        assert all(0.15 <= later.due_seconds - one.due_seconds <= 0.25 for one, later in pairwise(worker))


def test_a_location_is_of_the_time_it_is_due() -> None:
    for one in planned()[1]:
        moment = datetime.fromisoformat(json.loads(one.body)["timestamp"]).timestamp()
        assert moment == pytest.approx(START + one.due_seconds, abs=0.0005)


@pytest.mark.parametrize("locations", [1, 2, 15])
@pytest.mark.parametrize("jitter", [0.0, 3.0])
def test_every_order_is_a_sound_track_however_close_its_locations_are(locations: int, jitter: float) -> None:
    found = documents(planned(Burst(5, locations, 0.0, jitter, 2)))
    stored = [deliveries.apply(validate(deliveries, json.dumps(one).encode())).model_dump(mode="json") for one in found]

    for order in range(101, 106):
        track = track_of(one for one in stored if one["order_id"] == str(order))
        assert (track["count"], track["anomalies"]) == (locations, [])
        assert track["state"] == ("arrived" if locations > 1 else "start")


def test_a_seed_decides_everything() -> None:
    assert planned() == planned()
    assert planned() != planned(seed=2)


def test_locations_are_numbered_order_by_order() -> None:
    assert sorted(one.number for worker in planned() for one in worker) == list(range(1, 29))


def test_orders_follow_real_tracks_from_end_to_end() -> None:
    tracks = {"1": [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0)], "2": [(5.0, 5.0)]}

    found = documents(planned(Burst(2, 5, 1, 0, 1), ways=ways_of(tracks, Random(1))))

    ways = {
        order: [(one["latitude"], one["longitude"]) for one in found if one["order_id"] == order]
        for order in (101, 102)
    }
    assert sorted(ways.values()) == [
        [(1.0, 1.0), (1.5, 1.0), (2.0, 1.0), (2.0, 1.5), (2.0, 2.0)],
        [(5.0, 5.0)] * 5,
    ]


class Recorder:
    """An outlet that remembers, refuses the second order, and fails when told."""

    def __init__(self, fails: bool) -> None:
        self.sent: list[dict[str, Any]] = []
        self._fails = fails

    async def send(self, chunk: Chunk, progress: Progress) -> list[RefusedRow]:
        [document] = [json.loads(body) for body in chunk.bodies]
        self.sent.append(document)
        if self._fails and document["deliverer_id"] == 2:
            raise UploadError("nobody is there")
        if document["order_id"] == 102:
            return [RefusedRow(chunk.numbers[0], [{"pointer": "/order_id", "code": "refused", "message": "No."}])]
        return []


async def sent(plans: list[list[Planned]], *, fails: bool = False) -> tuple[list[Recorder], Progress, list[RefusedRow]]:
    opened: list[Recorder] = []
    refused: list[RefusedRow] = []
    progress = Progress()

    @asynccontextmanager
    async def open_outlet() -> AsyncIterator[Outlet]:
        opened.append(Recorder(fails))
        yield opened[-1]

    await send(plans, open_outlet, progress=progress, refuse=refused.append, advance=lambda: None)
    return opened, progress, refused


async def test_every_location_is_sent_by_its_workers_own_outlet_in_order() -> None:
    plans = planned(Burst(5, 4, 0.0, 0.0, 2))

    opened, progress, refused = await sent(plans)

    assert [recorder.sent for recorder in opened] == [documents([worker]) for worker in plans]
    assert (progress.rows, progress.accepted, progress.refused) == (20, 16, 4)
    assert sorted(row.row for row in refused) == [5, 6, 7, 8]
    assert refused[0].errors == [{"pointer": "/order_id", "code": "refused", "message": "No."}]


async def test_a_worker_that_cannot_send_ends_the_burst() -> None:
    with pytest.raises(UploadError, match="nobody is there"):
        await sent(planned(Burst(5, 4, 0.0, 0.0, 2)), fails=True)
