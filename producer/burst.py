"""A burst of delivery apps in real time: each worker drives its orders one after the other, a location every interval.

What is sent, and when, is planned before the first is sent; where it goes is an outlet's matter, as for any source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import msgspec

from producer.generators.deliveries import Way, along, location, straight
from producer.upload import Chunk, Outlet, Progress, RefusedRow, UploadError

_encode = msgspec.json.Encoder().encode

OpenOutlet = Callable[[], AbstractAsyncContextManager[Outlet]]


@dataclass(frozen=True, slots=True)
class Burst:
    """What is imitated.

    Attributes:
        locations: of each order.
        interval_seconds: between two locations of an order, give or take `jitter_seconds`.
        workers: apps at the same time, and so the orders that are on their way at the same time.
    """

    orders: int
    locations: int = 15
    interval_seconds: float = 1.0
    jitter_seconds: float = 0.0
    workers: int = 8


class Planned(NamedTuple):
    """A location: its number in the burst from 1, when it is due after the beginning, and its JSON."""

    number: int
    due_seconds: float
    body: bytes


def plan(
    burst: Burst, random: Random, *, start: float, first_order: int, ways: Sequence[Way] = ()
) -> list[list[Planned]]:
    """Return what each worker sends. A location's own time is when it is due, however late it is sent.

    Args:
        start: time of the beginning, seconds since 1970.
        first_order: number of the first order; the others follow.
        ways: those that the orders take, each in turn; made up where there are none.
    """
    interval = round(burst.interval_seconds * 1000)
    jitter = round(burst.jitter_seconds * 1000)
    began = round(start * 1000)
    workers = min(burst.workers, burst.orders)
    clocks = [random.randint(0, max(interval, jitter)) for _ in range(workers)]
    plans: list[list[Planned]] = [[] for _ in range(workers)]
    number = 0
    for order in range(burst.orders):
        worker = order % workers
        way = ways[order % len(ways)] if ways else straight(random)
        for index in range(burst.locations):
            number += 1
            made = location(first_order + order, worker + 1, way, index, burst.locations, began + clocks[worker])
            plans[worker].append(Planned(number, clocks[worker] / 1000, _encode(made)))
            # No two locations of an order are of one moment, or nobody could say which was first.
            clocks[worker] += max(1, interval + random.randint(-jitter, jitter))
    return plans


def ways_of(tracks: Mapping[str, Sequence[tuple[float, float]]], random: Random) -> list[Way]:
    """Return the ways of real tracks in an order of chance."""
    names = sorted(tracks)
    random.shuffle(names)
    return [along(tracks[name]) for name in names]


async def send(
    plans: Sequence[Sequence[Planned]],
    open_outlet: OpenOutlet,
    *,
    progress: Progress,
    refuse: Callable[[RefusedRow], None],
    advance: Callable[[], None],
) -> None:
    """Send every location when it is due, each worker by an outlet of its own; one that is late is sent at once.

    Raises:
        UploadError: a worker could not send; the others are stopped.
    """

    async def drive(planned: Sequence[Planned]) -> None:
        async with open_outlet() as outlet:
            opened.append(None)
            if len(opened) == len(plans):
                all_opened.set_result(loop.time())
            began = await all_opened
            for number, due_seconds, body in planned:
                await asyncio.sleep(began + due_seconds - loop.time())
                refused = await outlet.send(Chunk([number], [str(number)], [body], size_bytes=len(body)), progress)
                progress.rows += 1
                progress.refused += len(refused)
                progress.accepted += 1 - len(refused)
                for row in refused:
                    refuse(row)
                advance()

    loop = asyncio.get_running_loop()
    opened: list[None] = []
    # The beginning of the burst: nobody is late because somebody else had yet to connect.
    all_opened: asyncio.Future[float] = loop.create_future()
    try:
        async with asyncio.TaskGroup() as workers:
            for planned in plans:
                workers.create_task(drive(planned))
    except* UploadError as group:
        raise group.exceptions[0] from None
